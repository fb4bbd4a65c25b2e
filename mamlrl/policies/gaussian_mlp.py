"""Gaussian policy: the mean is an MLP of the observation, the log standard deviation a free parameter."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mamlrl.config import PolicyConfig
from mamlrl.distributions import DiagonalGaussian
from mamlrl.policies.mlp import MLP, LinearizedMLP
from mamlrl.structs import Params


class GaussianMLP:
    """pi(a | o) = N(mlp(o), diag(sigma^2)), sigma the same for every observation.

    Args:
        config: hidden layers, activation, initial and minimum standard deviation.
        observation_dim: O.
        action_dim: A.
    """

    def __init__(self, config: PolicyConfig, observation_dim: int, action_dim: int):
        self.config = config
        self.distribution = DiagonalGaussian(action_dim, config.min_std)
        sizes = (observation_dim, *config.hidden_sizes, action_dim)
        self.network = MLP(sizes, config.activation, action_dim, config.observation_scale)

    def init_params(self, generator: torch.Generator) -> Params:
        """Xavier-uniform weights, zero biases, log of the initial standard deviation."""
        params = self.network.init_params(generator)
        params["free"].fill_(math.log(self.config.initial_std))
        return params

    def initial_state(self, num_tasks: int, rollouts: int) -> None:
        """Nothing: the policy has no memory."""

    def step(self, params: Params, observations: Tensor, state: None) -> tuple[Tensor, None]:
        """Distribution parameters [M, B, 2A] for observations [M, B, O]."""
        return self.network.forward(params, observations), state

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Means and log standard deviations [M, R, 2A]; differentiable."""
        return self.network.forward(params, observations)

    def linearize(self, params: Params, observations: Tensor) -> LinearizedMLP:
        """Means and log standard deviations with products of their derivatives."""
        return self.network.linearize(params, observations)
