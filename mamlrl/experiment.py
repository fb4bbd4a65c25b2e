"""What a run works with: environments, policy, learner and random streams."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces.utils import flatdim
from gymnasium.vector import VectorEnv

from mamlrl.config import Config, PolicyConfig
from mamlrl.config.size import check_memory, sampling_memory, training_memory
from mamlrl.envs.making import make_task_envs, registered_horizon
from mamlrl.envs.observe_task import ObserveTaskVector
from mamlrl.envs.workers import num_processors
from mamlrl.errors import ConfigError, UserError, described
from mamlrl.learner_settings import own_settings, resolved
from mamlrl.learners import LearnerRow, find_learner, training_steps
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.named_learner import NamedLearner
from mamlrl.policies import make_policy
from mamlrl.policies.base import Policy
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import Params

DEFAULT_HORIZON = 100
"""Time steps of an episode where neither the settings nor the environment say how many."""
LEARNER_PARTS = ("policy", "init", "start", "adapt", "meta_step")
"""What a learner has, see `learners.base.Learner`."""


class Experiment(NamedTuple):
    """What a meta-iteration works with, all of it the same from the first to the last."""

    config: Config
    """complete: with all of the learner's own settings, and the outer step and inner loss that are taken"""
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
    config = resolved(config, row, own)
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


def make_learner(row: LearnerRow, policy: Policy, config: Config, own: Any) -> Learner:
    """The learner of a row.

    Raises:
        UserError: the learner does not fit the policy, or a user's class cannot be made or is none.
    """
    try:
        learner = row.build(policy, config, own)
    except UserError:
        raise
    except Exception as error:  # whatever a user's class raises
        raise ConfigError(f"learner {config.learner} cannot be made: {described(error)}") from error
    missing = [name for name in LEARNER_PARTS if not hasattr(learner, name)]
    if missing:
        raise ConfigError(
            f"learner {config.learner} has no {', '.join(missing)}; it must have {', '.join(LEARNER_PARTS)}"
        )
    return NamedLearner(learner, config.learner) if ":" in config.learner else learner


def start_learner(learner: Learner, params: Params, config: Config) -> LearnerState:
    """The learner's state before the first meta-iteration.

    Args:
        learner: the learner.
        params: initial parameters of its policy.
        config: names the learner in messages.

    Raises:
        UserError: a user's learner fails, or returns something else.
    """
    try:
        state = learner.init(params)
    except UserError:
        raise
    except Exception as error:  # whatever a user's class raises
        raise ConfigError(f"learner {config.learner}: init failed: {described(error)}") from error
    if not isinstance(state, LearnerState):
        raise ConfigError(
            f"learner {config.learner}: init returned a {type(state).__name__}; it must return a LearnerState"
        )
    return state


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
    return config.threads or num_processors()


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
        raise ConfigError(f"device is {device!r}, but there are {available} CUDA devices here; --device cpu needs none")


def draw_tasks(envs: VectorEnv, num_tasks: int, rng: np.random.Generator) -> np.ndarray:
    """Tasks [M, P] from the environment's distribution."""
    try:
        return envs.sample_tasks(num_tasks, rng)  # type: ignore[attr-defined]
    except ValueError as error:
        raise UserError(str(error)) from error


def initial_state(experiment: Experiment) -> LearnerState:
    """The learner's state before the first meta-iteration, on the device of the run."""
    config, _, policy, learner, streams = experiment
    params = policy.init_params(streams.torch(Stream.INITIALISATION))
    return start_learner(learner, {name: leaf.to(config.device) for name, leaf in params.items()}, config)
