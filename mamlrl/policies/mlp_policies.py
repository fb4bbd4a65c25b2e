"""The MLP policies: Gaussian for continuous actions, categorical for discrete ones."""

from __future__ import annotations

import math

from mamlrl.config import PolicyConfig
from mamlrl.distributions import Categorical, DiagonalGaussian
from mamlrl.policies.mlp import MLP
from mamlrl.policies.network_policy import NetworkPolicy


def gaussian_mlp(config: PolicyConfig, observation_dim: int, action_dim: int) -> NetworkPolicy:
    """pi(a | o) = N(mlp(o), diag(sigma^2)), sigma a parameter, the same for every observation.

    Args:
        config: hidden layers, activation, scale of observations, initial and minimum standard deviation.
        observation_dim: O.
        action_dim: A.
    """
    sizes = (observation_dim, *config.hidden_sizes, action_dim)
    network = MLP(sizes, config.activation, action_dim, math.log(config.initial_std))
    return NetworkPolicy(network, DiagonalGaussian(action_dim, config.min_std), config.observation_scale)


def categorical_mlp(config: PolicyConfig, observation_dim: int, num_actions: int) -> NetworkPolicy:
    """pi(a | o) = softmax(mlp(o))_a.

    Args:
        config: hidden layers, activation, scale of observations.
        observation_dim: O.
        num_actions: number of actions.
    """
    network = MLP((observation_dim, *config.hidden_sizes, num_actions), config.activation)
    return NetworkPolicy(network, Categorical(num_actions), config.observation_scale)
