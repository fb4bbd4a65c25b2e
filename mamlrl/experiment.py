"""What a run works with: environments, policy, learner and random streams."""

from __future__ import annotations

import dataclasses
import difflib
import os
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from mamlrl.config import Config, PolicyConfig
from mamlrl.envs.making import make_task_envs
from mamlrl.envs.observe_task import ObserveTaskVector
from mamlrl.errors import ConfigError, UserError
from mamlrl.learners import LEARNERS, OBSERVE_TASK
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.policies import make_policy
from mamlrl.policies.base import Policy
from mamlrl.seeding import Stream, Streams


class Experiment(NamedTuple):
    """What a meta-iteration works with, all of it the same from the first to the last."""

    config: Config
    envs: VectorEnv
    policy: Policy
    learner: Learner
    streams: Streams


def make_experiment(config: Config) -> Experiment:
    """Environments, policy, learner and streams of a run. Writes nothing.

    Raises:
        UserError: a setting names something that does not exist here or does not fit the environment.
    """
    if config.learner not in LEARNERS:
        nearest = difflib.get_close_matches(config.learner, LEARNERS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ConfigError(f"learner is {config.learner!r}; it must be one of {', '.join(LEARNERS)}{hint}")
    check_device(config.device)
    envs = make_envs(config, config.sampling.tasks * config.sampling.rollouts)
    policy = make_policy(policy_config(config, envs), envs.single_observation_space, envs.single_action_space)
    learner = LEARNERS[config.learner](policy, config)
    return Experiment(config, envs, learner.policy, learner, Streams(config.seed))


def make_envs(config: Config, num_envs: int) -> VectorEnv:
    """The configured environment, `num_envs` times; with the task in the observation for a learner that sees it.

    Raises:
        ConfigError: there is no such environment, or it is no family of tasks.
    """
    settings = config.environment
    try:
        envs = make_task_envs(
            config.env, num_envs, settings.horizon, settings.kwargs, settings.vectorization, num_threads(config)
        )
        return ObserveTaskVector(envs) if config.learner in OBSERVE_TASK else envs
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
