"""Predictions by comparison with examples that are remembered (Vinyals et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.policies.base import Policy
from mamlrl.policies.linearization import AutogradLinearization
from mamlrl.structs import Params, stack

KEYS, VALUES = "keys", "values"
SHARPNESS = 10.0
"""Factor on cosines before the softmax: without it the most alike of five examples gets no more than two thirds."""
LEAST = 1e-4
"""Added to every class's share of the votes."""


class MatchingPolicy:
    """p(y | x) = sum_i a_i(x) y_i over remembered examples, a = softmax of SHARPNESS cos(f(x), f(x_i)).

    Parameters are those of the network but for its last layer, and the remembered features ``keys`` [K, E] and classes
    ``values`` [K, Z]; at first one example of no class, so that all classes are as likely.

    Args:
        policy: classifies, with a last layer ``weight`` [E, Z] and ``bias``.
        features: (params, observations) -> f, [M, B * T, E].
    """

    def __init__(self, policy: Policy, features: Callable[[Params, Tensor], Tensor]):
        self._policy, self._features = policy, features
        self._shapes = {name: tuple(leaf.shape) for name, leaf in self.init_params(torch.Generator()).items()}

    @property
    def distribution(self) -> Distribution:
        """Over classes."""
        return self._policy.distribution

    def init_params(self, generator: torch.Generator) -> Params:
        """Those of the network, and an example of no class."""
        params = self._policy.init_params(generator)
        size, classes = params.pop("weight").shape
        params.pop("bias")
        return {**params, KEYS: torch.zeros(1, size), VALUES: torch.zeros(1, classes)}

    def initial_state(self, num_tasks: int, rollouts: int) -> None:
        """Nothing: no memory of what was predicted."""

    def step(self, params: Params, observations: Tensor, state: None) -> tuple[Tensor, None]:
        """Logits [M, B, Z] for inputs [M, B, O]."""
        return self.outputs(params, observations.unsqueeze(2)).squeeze(2), state

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Logits [M, B, T, Z] on inputs [M, B, T, O]; differentiable."""
        params = stack(params, len(observations), self._shapes)
        network = {name: leaf for name, leaf in params.items() if name not in (KEYS, VALUES)}
        asked, known = (
            torch.nn.functional.normalize(features, dim=-1)
            for features in (self._features(network, observations), params[KEYS])
        )
        votes = (SHARPNESS * asked @ known.mT).softmax(-1) @ params[VALUES]
        return (votes + LEAST).log().unflatten(1, observations.shape[1:3])

    def linearize(self, params: Params, observations: Tensor) -> AutogradLinearization:
        """Logits with products of their derivatives."""
        return AutogradLinearization(self.outputs, stack(params, len(observations), self._shapes), observations)
