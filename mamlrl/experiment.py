"""What a run works with: environments, policy, learner and random streams."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces.utils import flatdim
from gymnasium.vector import VectorEnv

from mamlrl.config import Config, PolicyConfig
from mamlrl.config.files import make_section, suggestion
from mamlrl.config.size import check_memory, sampling_memory, training_memory
from mamlrl.envs.making import make_task_envs, registered_horizon
from mamlrl.envs.observe_task import ObserveTaskVector
from mamlrl.errors import ConfigError, UserError
from mamlrl.external import describe
from mamlrl.learners import LEARNERS, LearnerRow, find_learner, training_steps
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.policies import make_policy
from mamlrl.policies.base import Policy
from mamlrl.seeding import Stream, Streams

DEFAULT_HORIZON = 100
"""Time steps of an episode where neither the settings nor the environment say how many."""


class Experiment(NamedTuple):
    """What a meta-iteration works with, all of it the same from the first to the last."""

    config: Config
    """complete: with all of the learner's own settings"""
    envs: VectorEnv
    policy: Policy
    learner: Learner
    streams: Streams


def make_experiment(config: Config) -> Experiment:
    """Environments, policy, learner and streams of a run. Writes nothing.

    Raises:
        UserError: a setting names something that does not exist here or does not fit the environment.
    """
    row = find_learner(config.learner)
    own = own_settings(config, row)
    config = dataclasses.replace(config, learner_settings=dataclasses.asdict(own))
    check_device(config.device)
    config = resolve_horizon(config)
    check_memory(config, sampling_memory(config))
    envs = make_envs(config, config.sampling.tasks * config.sampling.rollouts)
    try:
        policy = make_policy(policy_config(config, envs), envs.single_observation_space, envs.single_action_space)
        learner = make_learner(row, policy, config, own)
    except BaseException:
        envs.close()
        raise
    return Experiment(config, envs, learner.policy, learner, Streams(config.seed))


def own_settings(config: Config, row: LearnerRow) -> Any:
    """The learner's own settings, an instance of `row.settings`; fields that are left out take their defaults.

    Raises:
        ConfigError: the learner does not read one of the settings given, or a value is wrong.
    """
    fields = [field.name for field in dataclasses.fields(row.settings)]
    for name in config.learner_settings:
        if name not in fields:
            readers = [
                learner
                for learner, other in LEARNERS.items()
                if name in (field.name for field in dataclasses.fields(other.settings))
            ]
            theirs = f"; learner {', '.join(readers)} reads it" if readers else ""
            ours = f"; it reads {', '.join(fields)}" if fields else ""
            hint = suggestion(name, fields) or ours
            raise ConfigError(f"learner_settings.{name} is not read by learner {config.learner}{theirs}{hint}")
    return make_section(row.settings, config.learner_settings, "learner_settings")


def make_learner(row: LearnerRow, policy: Policy, config: Config, own: Any) -> Learner:
    """The learner of a row.

    Raises:
        UserError: the learner does not fit the policy, or a user's class cannot be made.
    """
    try:
        return row.build(policy, config, own)
    except UserError:
        raise
    except Exception as error:  # whatever a user's class raises
        raise ConfigError(f"learner {config.learner} cannot be made: {describe(error)}") from error


def make_envs(config: Config, num_envs: int) -> VectorEnv:
    """The configured environment, `num_envs` times; with the task in the observation for a learner that sees it.

    Raises:
        ConfigError: there is no such environment, or it is no family of tasks.
    """
    settings = resolve_horizon(config).environment
    try:
        envs = make_task_envs(
            config.env,
            num_envs,
            settings.horizon,
            settings.kwargs,
            settings.vectorization,
            num_threads(config),
            settings.workers,
            settings.timeout,
        )
        return ObserveTaskVector(envs) if find_learner(config.learner).observes_task else envs
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_training_memory(experiment: Experiment) -> None:
    """A meta-iteration and an evaluation fit into the memory that there is.

    Raises:
        ConfigError: it does not; names the settings that it depends on.
    """
    config, envs, *_ = experiment
    observation_dim, action_dim = flatdim(envs.single_observation_space), flatdim(envs.single_action_space)
    check_memory(config, training_memory(config, training_steps(config), observation_dim, 2 * action_dim))
    if config.eval.every:
        held_out = config.eval
        rollouts = max(held_out.rollouts, held_out.min_steps // config.environment.horizon)
        sampling = dataclasses.replace(config.sampling, tasks=held_out.tasks, rollouts=rollouts)
        config = dataclasses.replace(config, sampling=sampling)
        check_memory(config, sampling_memory(config, observation_dim, 2 * action_dim), "eval")


def resolve_horizon(config: Config) -> Config:
    """The config with a horizon: where none is given, the limit that the environment is registered with.

    Raises:
        ConfigError: there is no such environment.
    """
    if config.environment.horizon:
        return config
    environment = dataclasses.replace(config.environment, horizon=_registered_horizon(config) or DEFAULT_HORIZON)
    return dataclasses.replace(config, environment=environment)


def horizon_note(config: Config) -> str | None:
    """What to tell the user where the horizon is beyond the limit that an environment of others is registered with."""
    given, limit = config.environment.horizon, _registered_horizon(config)
    if limit is None or given <= limit or config.env.startswith("mamlrl/"):
        return None
    return f"environment.horizon is {given}, in place of the {limit} time steps that {config.env} is registered with"


def _registered_horizon(config: Config) -> int | None:
    try:
        return registered_horizon(config.env)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def num_threads(config: Config) -> int:
    """The configured number of threads, or one for each processor that this process may use."""
    if config.threads > 0:
        return config.threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def policy_config(config: Config, envs: VectorEnv) -> PolicyConfig:
    """Settings of the policy; a task in the observation is not scaled."""
    scale = config.policy.observation_scale
    if scale and isinstance(envs, ObserveTaskVector):
        scale = (*scale, *[1.0] * envs.task_dim)
    return dataclasses.replace(config.policy, observation_scale=scale)


def check_device(device: str) -> None:
    """A CUDA device, if one is asked for, is there."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device != "cpu" and int(device.partition(":")[2] or 0) >= available:
        raise UserError(f"device is {device!r}, but there are {available} CUDA devices here; --device cpu needs none")


def draw_tasks(envs: VectorEnv, num_tasks: int, rng: np.random.Generator) -> np.ndarray:
    """Tasks [M, P] from the environment's distribution."""
    try:
        return envs.sample_tasks(num_tasks, rng)  # type: ignore[attr-defined]
    except ValueError as error:
        raise UserError(str(error)) from error


def initial_state(experiment: Experiment) -> LearnerState:
    """The learner's state before the first meta-iteration."""
    config, _, policy, learner, streams = experiment
    params = policy.init_params(streams.torch(Stream.INITIALISATION))
    return learner.init({name: leaf.to(config.device) for name, leaf in params.items()})
