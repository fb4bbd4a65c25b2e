"""Gaussian policy: the mean is an MLP of the observation, the log standard deviation a free parameter."""

from __future__ import annotations

import math

import torch

from mamlrl.config import PolicyConfig
from mamlrl.distributions import DiagonalGaussian
from mamlrl.policies.mlp import MLP
from mamlrl.policies.mlp_policy import MLPPolicy
from mamlrl.structs import Params


class GaussianMLP(MLPPolicy):
    """pi(a | o) = N(mlp(o), diag(sigma^2)), sigma the same for every observation.

    Args:
        config: hidden layers, activation, initial and minimum standard deviation.
        observation_dim: O.
        action_dim: A.
    """

    def __init__(self, config: PolicyConfig, observation_dim: int, action_dim: int):
        sizes = (observation_dim, *config.hidden_sizes, action_dim)
        network = MLP(sizes, config.activation, action_dim, config.observation_scale)
        super().__init__(network, DiagonalGaussian(action_dim, config.min_std))
        self._initial_std = config.initial_std

    def init_params(self, generator: torch.Generator) -> Params:
        """Xavier-uniform weights, zero biases, log of the initial standard deviation."""
        params = super().init_params(generator)
        params["free"].fill_(math.log(self._initial_std))
        return params
