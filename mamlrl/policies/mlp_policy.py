"""What policies without memory share whose distribution parameters are the outputs of an MLP."""

from __future__ import annotations

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.policies.mlp import MLP, LinearizedMLP
from mamlrl.structs import Params


class MLPPolicy:
    """pi(a | o) = distribution(mlp(o)).

    Args:
        network: from observations to distribution parameters.
        distribution: of the actions.
    """

    def __init__(self, network: MLP, distribution: Distribution):
        self.network = network
        self.distribution: Distribution = distribution

    def init_params(self, generator: torch.Generator) -> Params:
        """Xavier-uniform weights, zero biases."""
        return self.network.init_params(generator)

    def initial_state(self, num_tasks: int, rollouts: int) -> None:
        """Nothing: the policy has no memory."""

    def step(self, params: Params, observations: Tensor, state: None) -> tuple[Tensor, None]:
        """Distribution parameters [M, B, Z] for observations [M, B, O]."""
        return self.network.forward(params, observations), state

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Distribution parameters [M, R, Z]; differentiable."""
        return self.network.forward(params, observations)

    def linearize(self, params: Params, observations: Tensor) -> LinearizedMLP:
        """Distribution parameters with products of their derivatives."""
        return self.network.linearize(params, observations)
