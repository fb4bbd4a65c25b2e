"""Categorical policy: the logits of a discrete action are an MLP of the observation."""

from __future__ import annotations

from mamlrl.config import PolicyConfig
from mamlrl.distributions import Categorical
from mamlrl.policies.mlp import MLP
from mamlrl.policies.mlp_policy import MLPPolicy


class CategoricalMLP(MLPPolicy):
    """pi(a | o) = softmax(mlp(o))_a.

    Args:
        config: hidden layers and activation.
        observation_dim: O.
        num_actions: number of actions.
    """

    def __init__(self, config: PolicyConfig, observation_dim: int, num_actions: int):
        sizes = (observation_dim, *config.hidden_sizes, num_actions)
        network = MLP(sizes, config.activation, 0, config.observation_scale)
        super().__init__(network, Categorical(num_actions))
