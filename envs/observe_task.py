"""The task as part of the observation, for any family: what an oracle sees (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from .base import Array, Infos, Mask
from .wrapping import TaskVectorWrapper


class ObserveTaskVector(TaskVectorWrapper):
    """N rows whose observations [N, O] are followed by their tasks, [N, O + P].

    Args:
        envs: a vector environment with `sample_tasks`, as of `make_task_envs`.

    Attributes:
        task_dim: P.

    Raises:
        ValueError: the observations are no vectors.
    """

    def __init__(self, envs: VectorEnv):
        super().__init__(envs)
        self.task_dim = envs.sample_tasks(1, np.random.default_rng(0)).shape[1]  # type: ignore[attr-defined]
        self.single_observation_space = _space_with_task(envs.single_observation_space, self.task_dim)
        self.observation_space = batch_space(self.single_observation_space, envs.num_envs)
        self._tasks = np.full((envs.num_envs, self.task_dim), np.nan)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, Infos]:
        """Start new episodes, as `TaskVectorEnv.reset`.

        Raises:
            ValueError: no task was ever given, and the environment does not say in its info which one it drew.
        """
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        options = options or {}
        rows = options.get("reset_mask", np.ones(self.num_envs, bool))
        self._tasks[rows] = np.broadcast_to(_current_task(options, infos, self._tasks), self._tasks.shape)[rows]
        return _append(observations, self._tasks), infos

    def step(self, actions: ArrayLike) -> tuple[Array, Array, Mask, Mask, Infos]:
        """Advance, as `TaskVectorEnv.step`."""
        observations, *rest = self.env.step(actions)
        infos = rest[-1]
        if np.shape(infos.get("task", ())) == self._tasks.shape:  # it may change
            rows = infos.get("_task", np.ones(self.num_envs, bool))
            self._tasks[rows] = np.asarray(infos["task"])[rows]
        return _append(observations, self._tasks), *rest  # type: ignore[return-value]


def _space_with_task(space: spaces.Space, task_dim: int) -> spaces.Box:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"observation space {space} cannot hold the task; it must be a Box of one dimension")
    bound = np.full(task_dim, np.inf)
    low, high = np.concatenate([space.low, -bound]), np.concatenate([space.high, bound])
    return spaces.Box(low, high, dtype=np.float64)


def _current_task(options: dict[str, Any], info: Infos, previous: Array) -> ArrayLike:
    """The task given, else the one that the environment says it drew, else the one before."""
    task = options.get("task", info.get("task", previous))
    if np.isnan(np.asarray(task, np.float64)).any():
        raise ValueError('the task is not known; give one at reset(options={"task": task})')
    return task


def _append(observation: Any, task: Array) -> Array:
    return np.concatenate([np.asarray(observation, np.float64), task], axis=-1)
