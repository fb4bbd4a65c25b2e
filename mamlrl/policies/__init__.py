"""Policies. A new one is a new file and a row in POLICIES; a network from outside is named as module:Name."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from mamlrl.config import PolicyConfig
from mamlrl.distributions import Categorical, DiagonalGaussian
from mamlrl.errors import ConfigError, described
from mamlrl.external import load_external, unknown_name
from mamlrl.policies.base import Network, Policy
from mamlrl.policies.cells import CELLS
from mamlrl.policies.conv_recurrent import categorical_conv, gaussian_conv
from mamlrl.policies.mlp_policies import categorical_mlp, gaussian_mlp
from mamlrl.policies.network_policy import NetworkPolicy, WithFreeOutputs
from mamlrl.policies.recurrent import categorical_recurrent, gaussian_recurrent
from mamlrl.policies.tabular import categorical_tabular
from mamlrl.structs import check_shapes


class PolicyRow(NamedTuple):
    """A policy that can be chosen by name."""

    make: Callable[[PolicyConfig, int, int], Policy]
    """(settings, O, number of action components or of discrete actions) -> policy"""
    action_space: type[spaces.Space]
    """what it acts in"""
    recurrent: bool = False
    """whether it has a memory"""
    pictures: bool = False
    """whether it sees pictures, of the shape `policy.picture`"""
    memory_steps: bool = False
    """whether it reads `policy.memory_steps`"""


POLICIES = {
    "gaussian_mlp": PolicyRow(gaussian_mlp, spaces.Box),
    "categorical_mlp": PolicyRow(categorical_mlp, spaces.Discrete),
}
_of_cell = {"recurrent": True, "memory_steps": True}
for _cell in CELLS:
    POLICIES[f"gaussian_{_cell}"] = PolicyRow(partial(gaussian_recurrent, cell=_cell), spaces.Box, **_of_cell)
    POLICIES[f"categorical_{_cell}"] = PolicyRow(
        partial(categorical_recurrent, cell=_cell), spaces.Discrete, **_of_cell
    )
    POLICIES[f"gaussian_conv_{_cell}"] = PolicyRow(
        partial(gaussian_conv, cell=_cell), spaces.Box, pictures=True, **_of_cell
    )
    POLICIES[f"categorical_conv_{_cell}"] = PolicyRow(
        partial(categorical_conv, cell=_cell), spaces.Discrete, pictures=True, **_of_cell
    )
POLICIES["categorical_tabular"] = PolicyRow(categorical_tabular, spaces.Discrete, True)


def make_policy(
    config: PolicyConfig, observation_space: spaces.Space, action_space: spaces.Space, recurrent: bool = False
) -> Policy:
    """The configured policy for an environment's spaces.

    Args:
        config: `network: auto` takes the MLP policy that fits the action space, of recurrent ones the GRU;
            `module:Name` a network from outside, called with the settings, the number of observations and the number of
            outputs (`policies.base.Network`).
        observation_space: a Box, flattened to O numbers.
        action_space: a one-dimensional Box with finite bounds, or a Discrete space.
        recurrent: whether auto takes one with a memory.

    Raises:
        ConfigError: a space that no policy fits, or a policy that does not fit the action space.
    """
    observation_dim, num_actions = _observation_dim(observation_space), _num_actions(action_space)
    if config.observation_scale and len(config.observation_scale) != observation_dim:
        raise ConfigError(
            f"policy.observation_scale has {len(config.observation_scale)} factors; it must have {observation_dim}, one"
            " for each observation, or be empty"
        )
    if ":" in config.network:
        return _with_network(config, observation_dim, num_actions, action_space)
    fitting = next(
        name
        for name, row in POLICIES.items()
        if isinstance(action_space, row.action_space) and row.recurrent == recurrent
    )
    name = fitting if config.network == "auto" else config.network
    if name not in POLICIES:
        raise unknown_name("policy.network", name, ("auto", *POLICIES))
    if not isinstance(action_space, POLICIES[name].action_space):
        kin = f"{fitting.partition('_')[0]}_{name.partition('_')[2]}"  # the same layers, another distribution
        needed = kin if kin in POLICIES else fitting
        raise ConfigError(f"policy.network is {name!r}, but action space {action_space} needs {needed!r}")
    if POLICIES[name].recurrent and not config.hidden_sizes:
        raise ConfigError(f"policy.hidden_sizes is []; of {name} it must hold at least one layer, the recurrent one")
    if config.head != "linear" and not POLICIES[name].recurrent:
        raise ConfigError(f"policy.head is {config.head!r}, which {name} has not; it must be linear")
    if config.activation != "tanh" and POLICIES[name].recurrent:
        raise ConfigError(f"policy.activation is {config.activation!r}, which {name} has not; it must be tanh")
    if config.memory_steps and not POLICIES[name].memory_steps:
        raise ConfigError(f"policy.memory_steps is {config.memory_steps}, which {name} has not; it must be 0")
    if config.picture and not POLICIES[name].pictures:
        raise ConfigError(f"policy.picture is {list(config.picture)}, which {name} has not; it must be []")
    return POLICIES[name].make(config, observation_dim, num_actions)


def _observation_dim(space: spaces.Space) -> int:
    if not isinstance(space, spaces.Box):
        raise ConfigError(f"observation space {space} is not supported; it must be a Box")
    dim = math.prod(space.shape)
    if dim < 1:
        raise ConfigError(f"observation space {space} holds no numbers; it must hold at least one")
    return dim


def _num_actions(space: spaces.Space) -> int:
    """Components of an action, or number of discrete actions."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if not (isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0):
        raise ConfigError(
            f"action space {space} is not supported; it must be a 1-d Box of at least one number, or Discrete"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ConfigError(
            f"action space {space} has no finite bounds, which policy actions are mapped to; give it some, as "
            "gymnasium.wrappers.RescaleAction or a Box with low and high do"
        )
    return space.shape[0]


def _with_network(config: PolicyConfig, observation_dim: int, num_actions: int, space: spaces.Space) -> Policy:
    """A policy with a user's network; a Gaussian one has a free log standard deviation besides."""
    make = load_external("policy.network", config.network)
    try:
        network = make(config, observation_dim, num_actions)
        try_out(network, observation_dim, num_actions)
        if isinstance(space, spaces.Discrete):
            return NetworkPolicy(network, Categorical(num_actions), config.observation_scale)
        network = WithFreeOutputs(network, num_actions, math.log(config.initial_std))
        distribution = DiagonalGaussian(num_actions, config.min_std)
        return NetworkPolicy(network, distribution, config.observation_scale)
    except Exception as error:  # whatever a user's class raises
        raise ConfigError(
            f"policy.network {config.network}, made with (settings, {observation_dim}, {num_actions}), failed: "
            f"{described(error)}"
        ) from error


def try_out(network: Network, observation_dim: int, num_outputs: int) -> None:
    """A user's network gives outputs of the right shape that have a gradient.

    Raises:
        ValueError: it does not. What the network itself raises is passed on.
    """
    params = network.init_params(torch.Generator())
    dtype = next((leaf.dtype for leaf in params.values()), torch.float32)
    with torch.enable_grad():
        stacked = {name: torch.stack([leaf, leaf]).requires_grad_() for name, leaf in params.items()}
        outputs = network.outputs(stacked, torch.zeros(2, 3, 4, observation_dim, dtype=dtype))
    check_shapes(("outputs", outputs, "MBTZ"), M=2, B=3, T=4, Z=num_outputs)
    if not outputs.requires_grad:
        raise ValueError("its outputs have no gradient by its parameters")
