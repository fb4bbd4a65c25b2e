"""How much memory a run takes, from its settings alone: said before anything large is allocated.

The numbers were fitted to the peaks of whole meta-iterations of MAML (2D navigation, half-cheetah and ant; 32 to 2000
units in 1 to 4 layers, 1 to 4 gradient steps, up to 80,000 time steps a round), and are right to some 15%; a learner
that differentiates through no adaptation may need two thirds.
"""

from __future__ import annotations

import dataclasses
import math
import os
from itertools import pairwise
from pathlib import Path

from mamlrl.config import Config
from mamlrl.errors import ConfigError, shown

MIB, GIB = 2**20, 2**30
PROGRAM = 300 * MIB
"""Python, torch and the simulator."""
ROW = 8 * 2**10
"""Bytes of one environment."""
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def sampling_memory(config: Config, observation_dim: int = 1, action_outputs: int = 1) -> int:
    """Bytes that a round of rollouts and one gradient step on it take at the least.

    Args:
        config: the settings; `sampling` says how much is sampled.
        observation_dim: numbers of an observation.
        action_outputs: parameters of the action distribution.
    """
    num_envs = config.sampling.tasks * config.sampling.rollouts
    a_step = _data(observation_dim, action_outputs) + 17 * _units(config, action_outputs)
    params = config.sampling.tasks * _params(config, observation_dim, action_outputs)
    return PROGRAM + num_envs * (ROW + max(config.environment.horizon, 1) * a_step) + 2 * params


def training_memory(config: Config, steps: int, observation_dim: int, action_outputs: int) -> int:
    """Bytes at the peak of a meta-iteration with an exact meta-gradient.

    Args:
        config: the run's settings.
        steps: gradient steps in the meta-update.
        observation_dim: numbers of an observation.
        action_outputs: parameters of the action distribution.
    """
    num_envs = config.sampling.tasks * config.sampling.rollouts
    # of a hidden unit: activations and derivatives in the query round, and fewer in each round that is adapted on
    of_units = _units(config, action_outputs) * (40 + 25 * steps)
    a_step = (steps + 1) * _data(observation_dim, action_outputs) + of_units
    params = config.sampling.tasks * _params(config, observation_dim, action_outputs)
    return PROGRAM + num_envs * (ROW + config.environment.horizon * a_step) + (6 + 2 * steps) * params


def _data(observation_dim: int, action_outputs: int) -> int:
    """Bytes of the data of a time step, its features in the baseline included."""
    return 250 + 16 * observation_dim + 8 * action_outputs


def _params(config: Config, observation_dim: int, action_outputs: int) -> int:
    """Bytes of the parameters of a network."""
    sizes = (observation_dim, *_hidden(config), action_outputs)
    return 4 * sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))


def _units(config: Config, action_outputs: int) -> int:
    """Units that are computed in a time step; a memory for each action has more, of which less is kept."""
    units = sum(_hidden(config))
    if config.policy.network == "categorical_tabular":
        return units + units * (action_outputs // 2) // 10
    return units


def _hidden(config: Config) -> tuple[int, ...]:
    """Units of each hidden layer, as far as they are known: a user's network may have any."""
    return () if ":" in config.policy.network else config.policy.hidden_sizes


def check_memory(config: Config, needed: int, section: str = "sampling") -> None:
    """What `config.sampling` needs is there; memory of a GPU is not looked at.

    Args:
        config: the settings.
        needed: bytes.
        section: the one that the user has to change, for the message.

    Raises:
        ConfigError: there is less; names the settings that it depends on.
    """
    available = machine_memory()
    if config.device != "cpu" or needed <= available:
        return
    sampling, hidden_sizes = config.sampling, shown(list(config.policy.hidden_sizes))
    raise ConfigError(
        f"{section}.tasks {sampling.tasks} x {section}.rollouts {sampling.rollouts} x environment.horizon "
        f"{config.environment.horizon} time steps with policy.hidden_sizes {hidden_sizes} and adaptation.steps "
        f"{config.adaptation.steps} need about {needed / GIB:,.1f} GiB of memory; there are "
        f"{available / GIB:,.1f} GiB here"
    )


def check_examples_memory(config: Config, steps: int, inputs: int, outputs: int) -> None:
    """A meta-update and an evaluation on supervised tasks fit into the memory that there is.

    Args:
        config: the settings.
        steps: gradient steps in the meta-update.
        inputs: numbers of an input.
        outputs: numbers that the network gives.

    Raises:
        ConfigError: they do not; names the settings that it depends on.
    """
    held_out, data = config.eval, config.data
    amounts = {
        "sampling.tasks": (config.sampling.tasks, data.shots + data.queries),
        "eval.tasks": (held_out.tasks, (held_out.shots or data.shots) + (held_out.queries or data.queries)),
    }
    available = machine_memory()
    for name, (tasks, examples) in amounts.items():
        at_once = min(tasks, data.chunk or tasks)
        as_rollouts = dataclasses.replace(
            config,
            sampling=dataclasses.replace(config.sampling, tasks=at_once, rollouts=examples),
            environment=dataclasses.replace(config.environment, horizon=1),
        )
        needed = training_memory(as_rollouts, steps, inputs, outputs)
        if config.device == "cpu" and needed > available:
            raise ConfigError(
                f"{name} {tasks} x {examples} examples (shots and queries), {at_once} tasks at a time, with "
                f"policy.hidden_sizes {shown(list(config.policy.hidden_sizes))} and adaptation.steps "
                f"{config.adaptation.steps} need about {needed / GIB:,.1f} GiB of memory; there are "
                f"{available / GIB:,.1f} GiB here; data.chunk takes fewer tasks at a time"
            )


def machine_memory() -> float:
    """Bytes that this process may have: the machine's memory, or a limit of its container; infinite where unknown."""
    limits = []
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in CGROUP_LIMITS:
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits, default=math.inf)
