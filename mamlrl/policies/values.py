"""A value function beside a policy with a memory: on the same recurrent layer, or a recurrent network of its own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.policies.base import Linearization
from mamlrl.policies.cells import State
from mamlrl.policies.recurrent import RecurrentPolicy
from mamlrl.structs import Params

PREFIX = "value_"
"""Of the names of the value function's parameters."""


class WithValues:
    """A recurrent policy with a value function, which acting does not need.

    Its parameters are those of the policy, and ``value_weight`` [V, S] and ``value_bias`` [S] of a linear value
    function, as the policy's network has one (`MemoryNetwork.values`); or those of a network of its own, with
    ``value_`` before their names.

    Args:
        policy: the policy.
        kind: "value" on the policy's recurrent layer, "own_value" for a network like the policy's, or "" for none.
    """

    def __init__(self, policy: RecurrentPolicy, kind: Literal["value", "own_value", ""]):
        self._policy, self._kind = policy, kind
        self._own = policy.network.with_one_output(PREFIX) if kind == "own_value" else None

    @property
    def distribution(self) -> Distribution:
        """That of the policy."""
        return self._policy.distribution

    @property
    def inputs(self) -> int:
        """Numbers of an observation, O."""
        return self._policy.inputs

    @property
    def has_values(self) -> bool:
        """Whether there is a value function."""
        return self._kind != ""

    def init_params(self, generator: torch.Generator) -> Params:
        """Those of the policy, and of a value function that begins at zero everywhere."""
        params = self._policy.init_params(generator)
        if self._kind == "value":
            zeros = torch.zeros(self._policy.network.value_shape, dtype=torch.float32)
            return {**params, f"{PREFIX}weight": zeros, f"{PREFIX}bias": zeros[0].clone()}
        if self._own is not None:
            own = self._own.init_params(generator)
            return {**params, **own, f"{PREFIX}head_weight": torch.zeros_like(own[f"{PREFIX}head_weight"])}
        return params

    def initial_state(self, num_tasks: int, rollouts: int) -> State:
        """That of the policy."""
        return self._policy.initial_state(num_tasks, rollouts)

    def step(self, params: Params, observations: Tensor, state: State) -> tuple[Tensor, State]:
        """That of the policy."""
        return self._policy.step(params, observations, state)

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Those of the policy."""
        return self._policy.outputs(params, observations)

    def linearize(self, params: Params, observations: Tensor) -> Linearization:
        """That of the policy."""
        return self._policy.linearize(params, observations)

    def outputs_and_values(
        self, params: Params, observations: Tensor, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distribution parameters [M, B, T, Z], and values [M, B, T], zero without a value function.

        Both are differentiable once.

        Args:
            params: shared by all tasks.
            observations: of rollouts from their start, [M, B, T, O].
            valid: where they are none behind the end of a rollout, [M, B, T], whose outputs may be anything finite;
                None to compute all.
        """
        features = self._policy.features_once(params, observations, valid)
        outputs = self._policy.head(params, features, observations)
        if self._kind == "value":
            weight, bias = (params[f"{PREFIX}{name}"] for name in ("weight", "bias"))
            return outputs, self._policy.network.values(weight, bias, features, self._policy.scaled(observations))
        if self._own is not None:
            seen = self._policy.scaled(observations)
            return outputs, self._own.head(params, self._own.features_once(params, seen, valid), seen).squeeze(-1)
        return outputs, outputs.new_zeros(outputs.shape[:-1])
