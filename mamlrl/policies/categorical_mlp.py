"""Categorical policy: the logits of a discrete action are an MLP of the observation."""

from __future__ import annotations

import torch
from torch import Tensor

from mamlrl.config import PolicyConfig
from mamlrl.distributions import Categorical
from mamlrl.policies.mlp import MLP, LinearizedMLP
from mamlrl.structs import Params


class CategoricalMLP:
    """pi(a | o) = softmax(mlp(o))_a.

    Args:
        config: hidden layers and activation.
        observation_dim: O.
        num_actions: number of actions.
    """

    def __init__(self, config: PolicyConfig, observation_dim: int, num_actions: int):
        self.config = config
        self.distribution = Categorical(num_actions)
        sizes = (observation_dim, *config.hidden_sizes, num_actions)
        self.network = MLP(sizes, config.activation, 0, config.observation_scale)

    def init_params(self, generator: torch.Generator) -> Params:
        """Xavier-uniform weights, zero biases."""
        return self.network.init_params(generator)

    def initial_state(self, num_tasks: int, rollouts: int) -> None:
        """Nothing: the policy has no memory."""

    def step(self, params: Params, observations: Tensor, state: None) -> tuple[Tensor, None]:
        """Logits [M, B, Z] for observations [M, B, O]."""
        return self.network.forward(params, observations), state

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Logits [M, R, Z]; differentiable."""
        return self.network.forward(params, observations)

    def linearize(self, params: Params, observations: Tensor) -> LinearizedMLP:
        """Logits with products of their derivatives."""
        return self.network.linearize(params, observations)
