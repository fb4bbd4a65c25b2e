"""A value function beside a policy with a memory: on the same recurrent layer, or a recurrent network of its own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.policies.base import Linearization
from mamlrl.policies.recurrent import RecurrentPolicy, State
from mamlrl.structs import Params

PREFIX = "value_"
"""Of the names of the value function's parameters."""


class WithValues:
    """A recurrent policy with a value function, which acting does not need.

    Its parameters are those of the policy, and ``value_weight`` [V, 1] and ``value_bias`` [1] of a linear layer on what
    the policy's network says (`value_inputs`), the recurrent layer of most ([V, S] and [S] where it has one for each
    state); or those of a network of its own, with ``value_`` before their names.

    Args:
        policy: the policy.
        kind: "value" on the policy's recurrent layer, "own_value" for a network like the policy's, or "" for none.
    """

    def __init__(self, policy: RecurrentPolicy, kind: Literal["value", "own_value", ""]):
        self._policy, self._kind = policy, kind
        self._network = policy.network.with_one_output(PREFIX)

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
            shape = self._policy.network.value_units, self._policy.network.heads
            zeros = torch.zeros(shape, dtype=torch.float32)
            return {**params, f"{PREFIX}weight": zeros, f"{PREFIX}bias": zeros[0].clone()}
        if self._kind == "own_value":
            own = self._network.init_params(generator)
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
            network, seen = self._policy.network, self._policy.scaled(observations)
            values = network.value_inputs(features) @ params[f"{PREFIX}weight"] + params[f"{PREFIX}bias"]
            return outputs, network.of_state(values, seen).squeeze(-1)
        if self._kind == "own_value":
            seen = self._policy.scaled(observations)
            own = self._network.features_once(params, seen, valid)
            return outputs, self._network.head(params, own, seen).squeeze(-1)
        return outputs, outputs.new_zeros(outputs.shape[:-1])
