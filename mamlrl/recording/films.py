"""Filming a policy before and after gradient steps on a task.

A film shows one rollout for each number of gradient steps side by side, all from the same start state and with the
policy's likeliest actions. The gradient steps themselves are taken on sampled rollouts, as in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from mamlrl.envs.trials import TrialVector
from mamlrl.errors import NonFiniteError
from mamlrl.experiment import Experiment
from mamlrl.learners import step_scale
from mamlrl.policies.base import Policy
from mamlrl.progress import progress_bar
from mamlrl.recording.panels import Panel
from mamlrl.recording.pictures import Picture, fitted
from mamlrl.recording.stage import Stage, draw
from mamlrl.rounds import adaptation_rounds
from mamlrl.sampler import (
    TimeStep,
    collect,
    longest_rollout,
    not_finite,
    numbers_or_nan,
    one_math_thread,
    play,
    reset_to_tasks,
)
from mamlrl.seeding import Streams
from mamlrl.structs import MetaParams, Params, Rollouts

HOLD = 1.0  # s, for which a last picture stays that says how an episode has ended
SPEED_WINDOW = 0.5  # s, over which the speed in the caption is a mean


class Subject(NamedTuple):
    """What one film is of: a task, and the policy after each of some numbers of gradient steps on it."""

    task: np.ndarray
    """[P]"""
    steps: list[int]
    """numbers of gradient steps, N of them, ascending"""
    params: Params
    """stacked, [N, ...]"""
    seed: int
    """of the start state, the same for all"""


class Film(NamedTuple):
    """What happened in a film of N rollouts; its pictures are shown while it is made, and not kept."""

    description: str
    """the task in words"""
    task: np.ndarray
    """[P]"""
    steps: list[int]
    """gradient steps, N of them"""
    observations: np.ndarray
    """[T + 1, N, O]"""
    returns: np.ndarray
    """undiscounted, [N]; of all episodes of a trial"""
    speeds: np.ndarray | None
    """along x, m/s, [T, N]; None where the environment tells none"""
    lengths: np.ndarray
    """time steps of the episodes, [N]"""
    time_step: float
    """seconds"""
    still: str | None
    """what a still shows, as the environment says"""
    target_speeds: np.ndarray | None
    """along x, m/s, that the tasks want, [T, N]; None where they want none"""
    episodes: np.ndarray | None = None
    """of a trial: number of the episode that each time step belongs to, [T, N]"""
    episode_returns: tuple[float, ...] = ()
    """of a trial: undiscounted return of each episode of the first rollout"""


def adapt(
    experiment: Experiment,
    meta: MetaParams,
    tasks: np.ndarray,
    steps: Sequence[int],
    streams: Streams,
    iteration: int = 0,
) -> Iterator[Subject]:
    """Adapt to each task, and hand out what is to be filmed.

    Args:
        experiment: policy, learner, settings, and environments for the rollouts of the gradient steps, M * B rows.
        meta: what is meta-learned.
        tasks: [M, P].
        steps: numbers of gradient steps, ascending.
        streams: of start states and action noise.
        iteration: which recording of a run this is; each has noise of its own.
    """
    adapted = _adapted(experiment, meta, tasks, steps[-1], streams, iteration)
    seed = int(streams.rollouts(iteration, steps[-1]).reset_seeds(1, 1)[0, 0])
    for row, task in enumerate(tasks):
        of_task = [_of_task(adapted[step], adapted[0], row) for step in steps]
        stacked = {name: torch.stack([one[name] for one in of_task]) for name in adapted[0]}
        yield Subject(task, list(steps), stacked, seed)


def _adapted(
    experiment: Experiment, meta: MetaParams, tasks: np.ndarray, steps: int, streams: Streams, iteration: int
) -> list[Params]:
    """Parameters after 0, 1, ..., `steps` gradient steps."""
    config, envs, policy, learner, _ = experiment

    def sample(params: Params, step: int) -> Rollouts:
        return collect(envs, policy, params, tasks, streams.rollouts(iteration, step), config.environment)

    def scale(step: int) -> float:
        return step_scale(config, step)

    rounds = adaptation_rounds(learner, meta, sample, steps, config.sampling, scale, query=False)
    progress = progress_bar(rounds, "gradient steps", steps)
    return [learner.start(meta), *(one.adapted for one in progress if one.adapted is not None)]


def _of_task(params: Params, shared: Params, row: int) -> Params:
    """One task's parameters out of stacked ones, or of ones that are as shared as the initialisation."""
    return {name: leaf[row] if leaf.dim() > shared[name].dim() else leaf for name, leaf in params.items()}


@torch.no_grad()
@one_math_thread()
def film(experiment: Experiment, stage: Stage, subject: Subject, show: Callable[[list[Panel]], Any]) -> Film:
    """Play an episode after each number of gradient steps, in lock step: row i by the policy i of the subject.

    Args:
        experiment: policy and settings.
        stage: where, with as many rows as the subject has policies.
        subject: what is filmed.
        show: takes the panels of every picture, from the start to the end.

    Raises:
        UserError: the environment cannot be rendered.
        NonFiniteError: the policy produced a number that is not finite.
        EnvironmentFailure: the environment did.
    """
    envs, policy, config = stage.envs, experiment.policy, experiment.config.environment
    num_rows = len(subject.steps)
    tasks = np.tile(subject.task, (num_rows, 1))
    start = reset_to_tasks(envs, tasks, np.full((num_rows, 1), subject.seed))
    log = _Log(start, tasks, envs)

    def picture() -> list[Panel]:
        pictures = [fitted(one, stage.first) for one in draw(envs)]
        window = max(1, round(SPEED_WINDOW / stage.time_step))
        panels = log.panels(subject.steps, pictures, window, getattr(envs, "episode", None))
        show(panels)
        return panels

    last = picture()
    rollout = play(
        envs,
        policy,
        subject.params,
        start,
        num_rows,
        _chooser(policy, stage, subject.seed),
        config,
    )
    time = 0
    for step in progress_bar(rollout, "filming", longest_rollout(envs, config)):
        _check_finite(step, experiment.config.env, subject.task)
        log.add(step)
        time += 1
        if time % stage.stride == 0:
            last = picture()
    if time % stage.stride:
        last = picture()
    if any(panel.ended is not None for panel in last):
        for _ in range(round(HOLD * stage.frames_per_second)):
            show(last)
    speeds, target_speeds = np.array(log.speeds), np.array(log.target_speeds)
    return Film(
        envs.describe_task(subject.task),  # type: ignore[attr-defined]
        subject.task,
        subject.steps,
        np.array(log.observations),
        log.returns,
        None if np.isnan(speeds).all() else speeds,
        log.lengths,
        stage.time_step,
        envs.still,  # type: ignore[attr-defined]
        None if np.isnan(target_speeds).all() else target_speeds,
        np.array(log.episodes) if log.episodes else None,
        tuple(log.episode_returns[0].values()) if log.episodes else (),
    )


def _chooser(policy: Policy, stage: Stage, seed: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """How actions are chosen: the likeliest ones; in a trial sampled ones, without which it may find out nothing."""
    distribution, generator = policy.distribution, torch.Generator().manual_seed(seed)

    def sampled(outputs: torch.Tensor, t: int) -> torch.Tensor:
        draw = torch.randn if distribution.noise == "normal" else torch.rand
        noise = draw(*outputs.shape[:2], *distribution.noise_shape, generator=generator, dtype=outputs.dtype)
        return distribution.sample(outputs, noise.to(outputs.device))

    return sampled if isinstance(stage.envs, TrialVector) else lambda outputs, t: distribution.mode(outputs)


class _Log:
    """What has happened so far in N rollouts.

    Args:
        start: observations after the reset, [N, ...].
        tasks: that were given, [N, P].
        envs: where; it tells of tasks, also of others that take their place.
    """

    def __init__(self, start: np.ndarray, tasks: np.ndarray, envs: VectorEnv):
        self._tasks, self._envs, self._trial = tasks, envs, isinstance(envs, TrialVector)
        self.observations = [start.reshape(len(start), -1)]
        self.speeds: list[np.ndarray] = []
        self.target_speeds: list[np.ndarray] = []
        self.episodes: list[np.ndarray] = []
        self.returns, self.lengths = np.zeros(len(start)), np.zeros(len(start), int)
        self._ended = np.zeros(len(start), bool)
        self._successes: list[dict[int, int]] = [{} for _ in start]
        self.episode_returns: list[dict[int, float]] = [{} for _ in start]
        self._changed: list[int | None] = [None] * len(start)

    def add(self, step: TimeStep) -> None:
        """Take a time step."""
        if self._trial:
            self.episodes.append(step.infos["episode"])
        self.observations.append(step.next_observations.reshape(len(step.alive), -1))
        self.returns = self.returns + np.where(step.alive, step.rewards, 0.0)
        self.lengths = self.lengths + step.alive
        self._ended = step.terminated | ~step.alive  # of an episode cut off, the next time step tells
        self.speeds.append(numbers_or_nan(step, "x_velocity"))
        wanted = [self._envs.target_speed(task) for task in self._tasks]  # type: ignore[attr-defined]
        self.target_speeds.append(np.array(wanted, np.float64))  # NaN for None
        for row in np.flatnonzero(step.alive):
            number, of_row = int(self.episodes[-1][row]) if self._trial else 0, self.episode_returns[row]
            of_row[number] = of_row.get(number, 0.0) + float(step.rewards[row])
        if np.shape(step.infos.get("task", ())) == self._tasks.shape:  # those of the next time step
            tasks = np.where(step.alive[:, None], step.infos["task"], self._tasks)
            for row in np.flatnonzero((tasks != self._tasks).any(axis=1)):
                self._changed[row] = int(self.lengths[row])
            self._tasks = tasks
        for row in np.flatnonzero(step.alive & (numbers_or_nan(step, "success") > 0)):
            number = int(self.episodes[-1][row]) if self._trial else 0
            taken = sum(int(one[row]) == number for one in self.episodes) if self._trial else int(self.lengths[row])
            self._successes[row].setdefault(number, taken)

    def panels(
        self, steps: Sequence[int], pictures: Sequence[Picture], window: int, episode: np.ndarray | None
    ) -> list[Panel]:
        """The panels now.

        Args:
            steps: numbers of gradient steps, or of training iterations.
            pictures: of all rows.
            window: the speed is a mean over up to so many time steps.
            episode: that rows of trials are in, [N].
        """
        return [
            Panel(
                steps[row],
                self._envs.describe_task(self._tasks[row]),  # type: ignore[attr-defined]
                picture,
                self.episode_returns[row].get(0 if episode is None else int(episode[row]), 0.0),
                self._mean_speed(row, window),
                int(self.lengths[row]) if self._ended[row] else None,
                self._outcomes(row, 0 if episode is None else int(episode[row])),
                "" if episode is None else f"episode {int(episode[row]) + 1}",
                float(self.returns[row]),
                self._changed[row],
            )
            for row, picture in enumerate(pictures)
        ]

    def _outcomes(self, row: int, episode: int) -> tuple[int | None, ...]:
        told, over = self._successes[row], bool(self._ended[row]) + episode
        return tuple(told.get(episode) for episode in range(max([over, *(episode + 1 for episode in told)])))

    def _mean_speed(self, row: int, window: int) -> float | None:
        end = int(self.lengths[row])
        speeds = [float(speed[row]) for speed in self.speeds[max(0, end - window) : end]]
        mean = sum(speeds) / len(speeds) if speeds else math.nan
        return mean if math.isfinite(mean) else None


def _check_finite(step: TimeStep, environment: str, task: np.ndarray) -> None:
    values = {"observations": step.next_observations, "rewards": step.rewards}
    if not step.actions.isfinite().all():
        raise NonFiniteError(
            "the policy's actions after the gradient steps are not finite; fewer --steps may be filmed, or training "
            "with a smaller adaptation.step_size"
        )
    for name, array in values.items():
        if not np.isfinite(array[step.alive]).all():
            raise not_finite(environment, "step", name, task)
