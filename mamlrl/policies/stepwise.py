"""A policy some of whose parameters have other values after each inner step, all of them meta-learned."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.policies.base import Policy
from mamlrl.policies.linearization import WithIdle
from mamlrl.structs import Params, stack


class StepwisePolicy:
    """A policy with the values beside that some leaves take after inner step 1, 2, ..., as ``leaf.1``, ``leaf.2``, ...

    It is no function of them: whoever adapts puts them into place.

    Args:
        policy: the policy.
        names: the leaves.
        steps: K, inner steps with values of their own; the last serves later steps too.
    """

    def __init__(self, policy: Policy, names: Set[str], steps: int):
        self._policy, self.names, self._steps = policy, frozenset(names), steps
        params = self.init_params(torch.Generator())
        self._idle = {name: tuple(leaf.shape) for name, leaf in params.items() if name.partition(".")[0] != name}

    @property
    def distribution(self) -> Distribution:
        """That of the policy."""
        return self._policy.distribution

    def init_params(self, generator: torch.Generator) -> Params:
        """Those of the policy, and the same values for after each step."""
        params = self._policy.init_params(generator)
        later = range(1, self._steps + 1)
        return {**params, **{f"{name}.{step}": params[name].clone() for name in sorted(self.names) for step in later}}

    def after(self, step: int) -> dict[str, str]:
        """For each leaf the name of what takes its place after inner step `step`, from 0."""
        return {name: f"{name}.{min(step + 1, self._steps)}" for name in self.names}

    def initial_state(self, num_tasks: int, rollouts: int) -> Any:
        """That of the policy."""
        return self._policy.initial_state(num_tasks, rollouts)

    def step(self, params: Params, observations: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Distribution parameters [M, B, Z] for observations [M, B, O], and the new state."""
        return self._policy.step(self._own(params), observations, state)

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Distribution parameters [M, B, T, Z]; differentiable."""
        return self._policy.outputs(self._own(params), observations)

    def linearize(self, params: Params, observations: Tensor) -> WithIdle:
        """Distribution parameters with products of their derivatives."""
        idle = stack(params, len(observations), self._idle)
        return WithIdle(self._policy.linearize(self._own(params), observations), idle)

    def _own(self, params: Params) -> Params:
        return {name: leaf for name, leaf in params.items() if name not in self._idle}
