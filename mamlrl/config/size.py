"""How much memory a run takes, from its settings alone: said before anything large is allocated.

The numbers were fitted to the peaks of whole meta-iterations of MAML (2D navigation, half-cheetah and ant; 32 to 2000
units in 1 to 4 layers, 1 to 4 gradient steps, up to 80,000 time steps a round; images of 28 and 84 pixels, 32 and 64
filters, 1 and 5 steps), and are right to some 15%; a learner that differentiates through no adaptation may need two
thirds.
"""

from __future__ import annotations

import dataclasses
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from mamlrl.config import Config
from mamlrl.distributed import local_size
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


def training_memory_of_images(tasks: int, units: int, support: int, query: int, steps: int) -> int:
    """Bytes at the peak of a meta-update with an exact meta-gradient, of a network with layers of convolution.

    Of a unit and an image 50 are kept, by each gradient step on the support images and by the loss on the query images;
    while a step is differentiated twice there are 100.

    Args:
        tasks: that are adapted to at a time.
        units: numbers that its layers compute for an image.
        support: images of a task that it adapts on.
        query: images of a task that the loss is taken on.
        steps: gradient steps; 0 where something is computed from the support images in their place.
    """
    kept = 50 * max(steps, 1) * support
    return PROGRAM + tasks * units * (kept + max(100 * support * (steps > 0), 50 * query))


def evaluation_memory_of_images(tasks: int, units: int, support: int, query: int) -> int:
    """Bytes at the peak of an evaluation, as `training_memory_of_images`.

    Steps keep nothing of each other: 60 of a unit and an image for a gradient, 20 for outputs alone.
    """
    return PROGRAM + tasks * units * max(60 * support, 20 * query)


class Amount(NamedTuple):
    """Examples of a meta-update or of an evaluation."""

    name: str
    """setting of the number of tasks"""
    tasks: int
    at_once: int
    """tasks that are adapted to at a time"""
    support: int
    """of a task"""
    query: int


def amounts_of(config: Config, classes: int) -> tuple[Amount, Amount]:
    """Of a meta-update, and of an evaluation; shots and queries are those of each class."""
    data, held_out, tasks = config.data, config.eval, config.sampling.tasks
    shots, queries = held_out.shots or data.shots, held_out.queries or data.queries
    trained_at_once = min(tasks, local_size() * (data.chunk or tasks))
    measured_at_once = min(held_out.tasks, local_size() * data.measured_at_once)
    return (
        Amount("sampling.tasks", tasks, trained_at_once, classes * data.shots, classes * data.queries),
        Amount("eval.tasks", held_out.tasks, measured_at_once, classes * shots, classes * queries),
    )


def check_examples_memory(config: Config, steps: int, inputs: int, outputs: int, units: int = 0) -> None:
    """A meta-update and an evaluation on supervised tasks fit into the memory that there is.

    Args:
        config: the settings.
        steps: gradient steps in the meta-update.
        inputs: numbers of an input.
        outputs: numbers that the network gives.
        units: numbers that layers of convolution compute for an image; 0 of a network without.

    Raises:
        ConfigError: they do not; names the settings that it depends on.
    """
    available = machine_memory()
    classes = outputs if config.adaptation.inner_loss == "cross_entropy" else 1
    training, evaluation = amounts_of(config, classes)
    for amount in (training, evaluation):
        at_once, examples = amount.at_once, amount.support + amount.query
        if not units:
            needed = training_memory(_as_rollouts(config, at_once, examples), steps, inputs, outputs)
        elif amount is training:
            needed = training_memory_of_images(at_once, units, amount.support, amount.query, steps)
        else:
            needed = evaluation_memory_of_images(at_once, units, amount.support, amount.query)
        # all of them are drawn before; images pass from one array into two others
        needed += 4 * inputs * ((2 if units else 1) * amount.tasks - at_once) * examples
        if config.device == "cpu" and needed > available:
            raise ConfigError(
                f"{amount.name} {amount.tasks} x {examples} examples (support and query), {at_once} tasks at a time, "
                f"with policy.hidden_sizes {shown(list(config.policy.hidden_sizes))} and adaptation.steps "
                f"{config.adaptation.steps} need about {needed / GIB:,.1f} GiB of memory; there are "
                f"{available / GIB:,.1f} GiB here; data.chunk says how many tasks are adapted to at a time"
            )


def _as_rollouts(config: Config, tasks: int, examples: int) -> Config:
    """An example is a rollout of one time step."""
    return dataclasses.replace(
        config,
        sampling=dataclasses.replace(config.sampling, tasks=tasks, rollouts=examples),
        environment=dataclasses.replace(config.environment, horizon=1),
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
