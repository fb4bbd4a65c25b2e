"""Policies. A new one is a new file and a row in POLICIES."""

from __future__ import annotations

import math
from collections.abc import Callable

from gymnasium import spaces

from mamlrl.config import PolicyConfig
from mamlrl.errors import UserError
from mamlrl.policies.base import Policy
from mamlrl.policies.categorical_mlp import CategoricalMLP
from mamlrl.policies.gaussian_mlp import GaussianMLP

POLICIES: dict[str, Callable[[PolicyConfig, int, int], Policy]] = {
    "gaussian_mlp": GaussianMLP,
    "categorical_mlp": CategoricalMLP,
}


def make_policy(config: PolicyConfig, observation_space: spaces.Space, action_space: spaces.Space) -> Policy:
    """The configured policy for an environment's spaces.

    Args:
        config: `network: auto` takes the Gaussian policy for a Box of actions, the categorical one for Discrete.
        observation_space: a Box, flattened to O numbers.
        action_space: a one-dimensional Box or a Discrete space.

    Raises:
        UserError: a space that no policy fits, or a policy that does not fit the action space.
    """
    if not isinstance(observation_space, spaces.Box):
        raise UserError(f"observation space {observation_space} is not supported; it must be a Box")
    observation_dim = math.prod(observation_space.shape)
    if config.observation_scale and len(config.observation_scale) != observation_dim:
        raise UserError(
            f"policy.observation_scale has {len(config.observation_scale)} factors; it must have {observation_dim}, one"
            " for each observation, or be empty"
        )
    if isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
        fitting, num_actions = "gaussian_mlp", action_space.shape[0]
    elif isinstance(action_space, spaces.Discrete):
        fitting, num_actions = "categorical_mlp", int(action_space.n)
    else:
        raise UserError(f"action space {action_space} is not supported; it must be a 1-d Box or Discrete")
    name = fitting if config.network == "auto" else config.network
    if name != fitting:
        raise UserError(f"policy.network is {name!r}, but action space {action_space} needs {fitting!r}")
    return POLICIES[name](config, observation_dim, num_actions)
