"""The evaluation protocol of the MAML paper, and the numbers that were published with it.

Source: Finn, Abbeel, Levine (2017), "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", section 5.3,
tables 4 and 5, and the code and data that its authors released.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mamlrl.config import Config, EvalConfig
from mamlrl.config.files import differences, make_config, shipped_settings, typed
from mamlrl.errors import ConfigError, shown
from mamlrl.evaluation.methods import environment_settings

DEFAULT = EvalConfig()
TASKS = 40


def _goals(rng: np.random.RandomState) -> np.ndarray:
    return rng.uniform(-0.5, 0.5, (TASKS, 2))


def _velocities(rng: np.random.RandomState) -> np.ndarray:
    return rng.uniform(0.0, 2.0, TASKS)[:, None]


def _directions(rng: np.random.RandomState) -> np.ndarray:
    return np.where(_velocities(rng) < 1.0, -1.0, 1.0)


def _ant_velocities(rng: np.random.RandomState) -> np.ndarray:
    return rng.uniform(0.0, 3.0, TASKS)[:, None]


def _ant_directions(rng: np.random.RandomState) -> np.ndarray:
    return np.where(_ant_velocities(rng) < 1.5, -1.0, 1.0)


class Protocol(NamedTuple):
    """How one of the paper's families is evaluated."""

    config: str
    """shipped configuration with the paper's environment"""
    rollouts: int
    """per task and gradient step, if no episode ends early"""
    draw: Callable[[np.random.RandomState], np.ndarray]
    """draws the 40 tasks"""
    published: dict[str, tuple[float, ...]]
    """mean return after 0, 1, 2, 3 gradient steps, by learner; of the oracle before any"""
    min_steps: int = 4000
    """environment steps per task and gradient step"""
    seed: int = 1
    """of the tasks, as `np.random.seed`"""

    def tasks(self) -> np.ndarray:
        """The paper's 40 tasks, [40, P]."""
        return self.draw(np.random.RandomState(self.seed))


PAPER = {
    "mamlrl/Navigation2D-v0": Protocol(
        "navigation-paper",
        40,
        _goals,
        {
            "maml": (-40.41, -11.68, -3.33, -3.23),
            "multitask": (-40.81, -19.73, -11.72, -8.47),
            "random": (-82.66, -57.96, -53.84, -46.81),
            "context": (-42.42, -13.90, -5.17, -3.18),
            "oracle": (-2.29,),
        },
    ),
    "mamlrl/HalfCheetahVel-v0": Protocol(
        "cheetah-vel-paper",
        20,
        _velocities,
        {
            "maml": (-129.53, -78.57, -66.62, -60.78),
            "multitask": (-158.00, -135.39, -128.47, -133.61),
            "random": (-254.83, -254.33, -246.79, -230.83),
            "oracle": (-54.47,),
        },
    ),
    "mamlrl/HalfCheetahDir-v0": Protocol(
        "cheetah-dir-paper",
        20,
        _directions,
        {
            "maml": (-50.69, 293.19, 313.48, 315.65),
            "multitask": (-43.03, -24.75, -12.85, 19.57),
            "random": (-35.73, 21.83, 62.32, 86.18),
            "context": (-40.49, -44.08, -38.27, -42.50),
            "oracle": (442.69,),
        },
    ),
    "mamlrl/AntVel-v0": Protocol(
        "ant-vel-paper",
        20,
        _ant_velocities,
        {"maml": (30.58, 96.74, 100.06, 101.41), "oracle": (107.89,)},
    ),
    "mamlrl/AntDir-v0": Protocol(
        "ant-dir-paper",
        40,
        _ant_directions,
        {"maml": (8.66, 499.15, 500.68, 499.11), "oracle": (524.80,)},
        min_steps=8000,
        seed=2,
    ),
}


NAN = math.nan


class SupervisedProtocol(NamedTuple):
    """How supervised tasks of the paper are evaluated."""

    config: str
    """shipped configuration with the paper's tasks"""
    settings: dict[str, Any]
    """fields of `EvalConfig`"""
    published: dict[str, tuple[float, ...]]
    """mean after 0, 1, ... gradient steps, by learner; NaN where nothing was published"""


SUPERVISED_PAPER = {
    "mamlrl/Sinusoid-v0": SupervisedProtocol(
        "sinusoid",
        # the paper's number of tasks; more query points than its five, for the same mean with less noise
        {"tasks": 600, "shots": 5, "queries": 100, "steps": 10, "step_size_schedule": "constant"},
        {
            "maml": (NAN, 0.67, NAN, NAN, NAN, 0.38, NAN, NAN, NAN, NAN, 0.35),
            "multitask": (NAN, 2.41, NAN, NAN, NAN, 2.23, NAN, NAN, NAN, NAN, 2.19),
        },
    ),
    # Li et al. 2017, Meta-SGD, table 1
    "mamlrl/SinusoidFrequency-v0": SupervisedProtocol(
        "sinusoid-frequency",
        {"tasks": 600, "shots": 10, "queries": 100, "steps": 1, "step_size_schedule": "constant"},
        {"maml": (NAN, 0.77), "metasgd": (NAN, 0.53)},
    ),
    # Finn et al. 2017, table 1: 5 ways, 1 shot; more images are measured on, for the same mean with less noise
    "mamlrl/Omniglot-v0": SupervisedProtocol(
        "omniglot",
        {"tasks": 600, "shots": 1, "queries": 5, "steps": 3, "step_size_schedule": "constant"},
        {"maml": (NAN, NAN, NAN, 98.7)},
    ),
    "mamlrl/MiniImageNet-v0": SupervisedProtocol(
        "mini-imagenet",
        {"tasks": 600, "shots": 1, "queries": 15, "steps": 10, "step_size_schedule": "constant"},
        {"maml": (*[NAN] * 10, 48.70), "fomaml": (*[NAN] * 10, 48.07)},
    ),
}


def paper_settings(config: Config) -> tuple[dict[str, Any], np.ndarray | None, dict[str, tuple[float, ...]]]:
    """What the paper says of the evaluation of a run.

    Returns:
        Fields of `EvalConfig`, the tasks [M, P] or None for drawn ones, and the published means.

    Raises:
        ConfigError: as `paper_protocol`.
    """
    protocol = paper_protocol(config)
    if isinstance(protocol, SupervisedProtocol):
        return protocol.settings, None, protocol.published
    return (
        {"tasks": TASKS, "rollouts": protocol.rollouts, "min_steps": protocol.min_steps},
        protocol.tasks(),
        protocol.published,
    )


def paper_protocol(config: Config) -> Protocol | SupervisedProtocol:
    """The paper's protocol for the environment of a run.

    Raises:
        ConfigError: the paper has no such environment, or its environment of that name differs.
    """
    known = PAPER | SUPERVISED_PAPER
    if config.env not in known:
        raise ConfigError(f"--protocol paper: there is none for {config.env}; it is known for {', '.join(known)}")
    protocol = known[config.env]
    paper = make_config(shipped_settings(protocol.config))
    ours, theirs = (_without_folder(environment_settings(one)) for one in (config, paper))
    changed = differences(ours, theirs)
    if changed:
        listed = "; ".join(f"{name} is {ours!r}, in the paper {theirs!r}" for name, (ours, theirs) in changed.items())
        raise ConfigError(f"--protocol paper: the run's environment is not the paper's ({protocol.config}): {listed}")
    return protocol


def _without_folder(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an environment, but for where its data lie."""
    return {name: value for name, value in settings.items() if name != "environment.kwargs.folder"}


def eval_settings(
    options: Mapping[str, Any], protocol: str | None, prefix: str = "", base: EvalConfig = DEFAULT
) -> EvalConfig:
    """Settings of an evaluation, but for what the protocol says of them.

    Args:
        options: steps, tasks, rollouts, shots, queries, step_size_schedule, seed, device and threads, of which the last
            three are checked here and no more; None where that of the base is wanted.
        protocol: name of one that says what all of the others are but the steps.
        prefix: of their names in messages.
        base: what is not in the options.

    Raises:
        ConfigError: a setting is out of range, or is the protocol's to say.
    """
    if protocol is not None and not (isinstance(protocol, str) and protocol == "paper"):
        raise ConfigError(f"{prefix}protocol is {shown(protocol)}; it must be 'paper'")
    given = {name: value for name, value in options.items() if value is not None}
    general = {name: given.pop(name) for name in ("seed", "device", "threads") if name in given}
    excluded = ", ".join(f"{prefix}{name}" for name in given if name != "steps")
    if protocol and excluded:
        raise ConfigError(f"{prefix}protocol {protocol} excludes {excluded}: the protocol says what they are")
    for name in ("shots", "queries"):
        if given.get(name) == 0:  # which in a run's settings is as many as in training
            raise ConfigError(f"{prefix}{name} is 0; it must be at least 1")
    try:
        typed(general, Config)
        return typed(dataclasses.asdict(base) | given, EvalConfig)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{str(error).removeprefix('eval.')}") from error
