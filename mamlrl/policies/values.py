"""What a policy with a memory learns besides: a value function, and to predict what the environment tells.

Both are linear in its recurrent layer, as the network has it (`MemoryNetwork.values`); a value function may have a
recurrent network of its own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.policies.base import Linearization
from mamlrl.policies.cells import State
from mamlrl.policies.recurrent import RecurrentPolicy
from mamlrl.structs import Params

PREFIX = "value_"
"""Of the names of the value function's parameters."""
PREDICTOR = WEIGHT, BIAS = "predictor_weight", "predictor_bias"
"""Names of the parameters of predictions."""


class Outputs(NamedTuple):
    """All that is computed on rollouts."""

    actions: Tensor
    """parameters of the action distributions, [M, B, T, Z]"""
    values: Tensor
    """[M, B, T], zero without a value function"""
    predictions: Tensor
    """[M, B, T, n]"""


class WithValues:
    """A recurrent policy with a value function and predictions, which acting does not need.

    Its parameters are those of the policy, and ``value_weight`` [V, S] and ``value_bias`` [S] of a linear value
    function, as the policy's network has one (`MemoryNetwork.values`); or those of a network of its own, with
    ``value_`` before their names. Predictions are n further functions like a linear value function:
    ``predictor_weight`` [V, S n] and ``predictor_bias`` [S n].

    Args:
        policy: the policy.
        kind: "value" on the policy's recurrent layer, "own_value" for a network like the policy's, or "" for none.
        predictions: n, numbers that are predicted at each time step.
    """

    def __init__(self, policy: RecurrentPolicy, kind: Literal["value", "own_value", ""], predictions: int = 0):
        self._policy, self._kind, self._predictions = policy, kind, predictions
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
        """Those of the policy, and of a value function and predictions that begin at zero everywhere."""
        params = self._policy.init_params(generator)
        if self._predictions:
            seen, columns = self._policy.network.value_shape
            params[WEIGHT] = torch.zeros(seen, columns * self._predictions, dtype=torch.float32)
            params[BIAS] = torch.zeros(columns * self._predictions, dtype=torch.float32)
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

    def all_outputs(self, params: Params, observations: Tensor, valid: Tensor | None = None) -> Outputs:
        """Distribution parameters, values and predictions on rollouts from their start; differentiable once.

        Args:
            params: shared by all tasks.
            observations: [M, B, T, O].
            valid: where they are none behind the end of a rollout, [M, B, T], whose outputs may be anything finite;
                None to compute all.
        """
        features = self._policy.features_once(params, observations, valid)
        actions, seen = self._policy.head(params, features, observations), self._policy.scaled(observations)
        values, predictions = actions.new_zeros(actions.shape[:-1]), actions.new_zeros(*actions.shape[:-1], 0)
        if self._kind == "value":
            weight, bias = (params[f"{PREFIX}{name}"] for name in ("weight", "bias"))
            values = self._policy.network.values(weight, bias, features, seen).squeeze(-1)
        if self._own is not None:
            values = self._own.head(params, self._own.features_once(params, seen, valid), seen).squeeze(-1)
        if self._predictions:
            predictions = self._policy.network.values(params[WEIGHT], params[BIAS], features, seen)
        return Outputs(actions, values, predictions)


def with_own_predictor(saved: Params, init: Params) -> Params:
    """Parameters of another run, with the predictor of this one, if it has one, in place of theirs."""
    policy = {name: leaf for name, leaf in saved.items() if name not in PREDICTOR}
    return policy | {name: init[name] for name in PREDICTOR if name in init}
