"""Return against the number of the episode within a trial: what one looks at of a policy that learns by its memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.spaces.utils import flatdim
from gymnasium.vector import VectorEnv

from mamlrl.config import Config
from mamlrl.config.schema import require
from mamlrl.errors import ConfigError
from mamlrl.experiment import check_infos, make_envs
from mamlrl.policies.base import Policy
from mamlrl.progress import progress_bar
from mamlrl.sampler import (
    TimeStep,
    action_noise,
    longest_rollout,
    not_finite,
    numbers_or_nan,
    one_math_thread,
    play,
    reset_to_tasks,
)
from mamlrl.seeding import RolloutStreams, Streams
from mamlrl.structs import Params

MOST_ROWS = 10_000
"""Trials that are played side by side."""


class Acting(NamedTuple):
    """A policy with a memory, and how it acts."""

    policy: Policy
    params: Params
    """shared by all tasks"""
    greedy: bool = True
    """take the likeliest actions; else sample, as in training"""
    told: str = ""
    """what is summed up in place of the reward: a number of the environment's info, such as expected_reward"""


def trial_returns(
    config: Config,
    policy: Policy,
    params: Params,
    tasks: np.ndarray,
    episodes: int,
    seed: int,
    rollouts: int = 1,
    greedy: bool = True,
    told: str = "",
) -> np.ndarray:
    """Undiscounted return of every episode of trials on given tasks.

    Args:
        config: settings of the run; its environment is made anew.
        policy: with a memory.
        params: its parameters, `learner.start(meta)`.
        tasks: [M, P].
        episodes: of a trial, as many as in training or others.
        seed: of the environments and of the actions' noise.
        rollouts: B, trials on each task.
        greedy: take the likeliest actions; else sample, as in training.
        told: name of a number in the environment's info that is summed up in place of the reward; expected_reward,
            where it is told, has the same mean and less noise.

    Returns:
        [M, B, E] for E episodes.

    Raises:
        UserError: the environment cannot be made, does not fit the policy, refused a task, or returned a number that is
            not finite.
    """
    return play_tasks(config, Acting(policy, params, greedy, told), tasks, episodes, seed, rollouts).returns


class Played(NamedTuple):
    """What happened in the episodes of trials, [M, B, E] each, or of some of them."""

    returns: np.ndarray
    """undiscounted"""
    lengths: np.ndarray
    """time steps"""
    successes: np.ndarray
    """time steps in which the environment told of success; 0 where it tells nothing of it, or no number"""


@torch.no_grad()
@one_math_thread()
def play_tasks(
    config: Config, acting: Acting, tasks: np.ndarray, episodes: int, seed: int, rollouts: int = 1
) -> Played:
    """Play trials on given tasks; arguments and errors as of `trial_returns`."""
    require(episodes >= 1, "episodes", episodes, "at least 1")
    require(rollouts >= 1, "rollouts", rollouts, "at least 1")
    sampling = dataclasses.replace(config.sampling, episodes=episodes, curriculum=(), curriculum_iterations=())
    config = dataclasses.replace(config, sampling=sampling)
    at_once = max(1, MOST_ROWS // rollouts)
    parts = [tasks[start : start + at_once] for start in range(0, len(tasks), at_once)]
    results = []
    for number, part in enumerate(parts):
        envs = make_envs(config, len(part) * rollouts)
        try:
            _check_fits(acting.policy, envs, config)
            streams = Streams(seed).test().part(number).rollouts(0, 0)
            results.append(play_trials(envs, acting, part, streams, config))
        finally:
            envs.close()
    return Played(*map(np.concatenate, zip(*results, strict=True)))


def _check_fits(policy: Policy, envs: VectorEnv, config: Config) -> None:
    """The policy sees as many numbers as there are: a bandit has as many arms as in its training.

    Raises:
        ConfigError: it was trained on others.
    """
    seen, there = getattr(policy, "inputs", None), flatdim(envs.single_observation_space)
    if seen not in (None, there):
        raise ConfigError(
            f"the policy was trained on observations of {seen} numbers (the environment's, the action before, its "
            f"reward, the end of an episode); in {config.env} with {config.environment.kwargs} there are {there}"
        )


def play_trials(envs: VectorEnv, acting: Acting, tasks: np.ndarray, streams: RolloutStreams, config: Config) -> Played:
    """Play a trial in each row of environments that are there; nothing else of them is kept.

    Args:
        envs: a `TrialVector` of M * B rows.
        acting: the policy.
        tasks: [M, P].
        streams: of seeds and noise.
        config: settings of the run.
    """
    rollouts = envs.num_envs // len(tasks)
    played = Played(*np.zeros((3, envs.num_envs, envs.trial_episodes)))  # type: ignore[attr-defined]
    rows = np.arange(envs.num_envs)
    check_infos(envs, {"told": [acting.told]})
    for step in _steps(envs, acting, tasks, streams, config):
        numbers = step.rewards if not acting.told else numbers_or_nan(step, acting.told)
        now = rows, step.infos["episode"]
        played.returns[now] += np.where(step.alive, numbers, 0.0)
        played.lengths[now] += step.alive
        played.successes[now] += step.alive & (numbers_or_nan(step, "success") > 0)
    finite = np.isfinite(played.returns).all(1)
    if not finite.all():
        raise not_finite(config.env, "step", "rewards", tasks[int(finite.argmin()) // rollouts])
    by_task = (numbers.reshape(len(tasks), rollouts, -1) for numbers in played)
    return Played(*by_task)


def _steps(
    envs: VectorEnv, acting: Acting, tasks: np.ndarray, streams: RolloutStreams, config: Config
) -> Iterator[TimeStep]:
    policy, params, greedy, _ = acting
    rollouts, distribution = envs.num_envs // len(tasks), policy.distribution
    longest = longest_rollout(envs, config.environment)
    drawn = None if greedy else torch.from_numpy(action_noise(distribution, streams, len(tasks), longest, rollouts))

    def choose(outputs: torch.Tensor, t: int) -> torch.Tensor:
        return distribution.mode(outputs) if drawn is None else distribution.sample(outputs, drawn[:, t].to(outputs))

    start = reset_to_tasks(envs, tasks, streams.reset_seeds(len(tasks), rollouts))
    steps = play(envs, policy, params, start, len(tasks), choose, config.environment)
    yield from progress_bar(steps, "time steps", longest)
