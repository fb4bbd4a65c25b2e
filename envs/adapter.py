"""Any Gymnasium environment that has tasks, as a vector environment with the contract of `TaskVectorEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from numpy.typing import ArrayLike, NDArray

from .base import Array, Infos, Mask, Still, numbers_of_task

TERMINATED, TRUNCATED = "episode_terminated", "episode_truncated"


class _HeldEpisode(gymnasium.Wrapper):
    """One row: takes its task out of the tasks of all rows, and is held once its episode has ended.

    Gymnasium's vector environments refuse to step while a row's flag is up. So the flags travel in the info.
    """

    def __init__(self, env: gymnasium.Env, row: int):
        super().__init__(env)
        self._row = row
        self._observation: Any = None
        self._flags = (False, False)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Infos]:
        """Start an episode; options["task"] holds the tasks of all rows, [N, P]."""
        if options is not None and "task" in options:
            options = {**options, "task": options["task"][self._row]}
        self._observation, info = self.env.reset(seed=seed, options=options)
        self._flags = (False, False)
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Infos]:
        """Advance by a time step, or repeat the last observation with reward 0 after the end."""
        reward, info = 0.0, {}
        if not any(self._flags):
            self._observation, reward, terminated, truncated, info = self.env.step(action)
            self._flags = (bool(terminated), bool(truncated))
        info = {**info, TERMINATED: self._flags[0], TRUNCATED: self._flags[1]}
        return self._observation, float(reward), False, False, info


def _make_row(spec: EnvSpec, horizon: int, env_kwargs: dict[str, Any], row: int) -> gymnasium.Env:
    return _HeldEpisode(gymnasium.make(spec, max_episode_steps=horizon, **env_kwargs), row)


class GymnasiumTaskVectorEnv(VectorWrapper):
    """N copies of a Gymnasium environment with tasks, stepped one after the other or each in its own process.

    The environment has `sample_tasks(n, rng)`, which draws n tasks [n, P], and takes a task [P] at
    `reset(options={"task": ...})`. It may have a `task_space`. What it does without a task is its own affair.

    Args:
        spec: the environment's registration.
        num_envs: rows (N).
        horizon: time steps after which a row is truncated.
        env_kwargs: arguments of the environment's constructor.
        asynchronous: whether each row runs in its own process.

    Raises:
        ValueError: the environment has no `sample_tasks`, or the constructor does not take the arguments.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, horizon: int, env_kwargs: dict[str, Any], asynchronous: bool):
        self._sampling_env = gymnasium.make(spec, **env_kwargs)
        if not callable(getattr(self._sampling_env.unwrapped, "sample_tasks", None)):
            self._sampling_env.close()
            raise ValueError(
                f"environment {spec.id} has no method sample_tasks(n: int, rng: numpy.random.Generator) that returns"
                " n tasks as an array [n, P]; it needs one, and has to accept a task at"
                ' reset(options={"task": task})'
            )
        vector_class = AsyncVectorEnv if asynchronous else SyncVectorEnv
        rows = [partial(_make_row, spec, horizon, env_kwargs, row) for row in range(num_envs)]
        super().__init__(vector_class(rows, autoreset_mode=AutoresetMode.DISABLED))
        self.env.unwrapped.spec = spec
        self.task_space: spaces.Space | None = getattr(self._sampling_env.unwrapped, "task_space", None)
        self._tasks: Array | None = None
        self._terminated, self._truncated = np.zeros(num_envs, bool), np.zeros(num_envs, bool)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n tasks, [n, P].

        Raises:
            ValueError: the environment returned something else than n tasks.
        """
        tasks = np.asarray(self._sampling_env.unwrapped.sample_tasks(n, rng), np.float64)  # type: ignore[attr-defined]
        if tasks.ndim != 2 or len(tasks) != n:
            raise ValueError(
                f"sample_tasks({n}, rng) of environment {self._name} returned an array of shape {tasks.shape};"
                f" it must be ({n}, P)"
            )
        return tasks

    @property
    def still(self) -> Still:
        """What a still shows, as `TaskVectorEnv.still`, if the environment says it."""
        return getattr(self._sampling_env.unwrapped, "still", None)

    def describe_task(self, task: ArrayLike) -> str:
        """What the task [P] is in a few words, the environment's own if it has some."""
        describe = getattr(self._sampling_env.unwrapped, "describe_task", numbers_of_task)
        return str(describe(np.asarray(task, np.float64)))

    def target_speed(self, task: ArrayLike) -> float | None:
        """The speed along x that the task [P] wants, as `TaskVectorEnv.target_speed`, if the environment says it."""
        target_speed = getattr(self._sampling_env.unwrapped, "target_speed", None)
        return None if target_speed is None else target_speed(np.asarray(task, np.float64))

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Infos]:
        """Start new episodes, as `TaskVectorEnv.reset`.

        Raises:
            ValueError: a task is not in the task space, or there are not N of them.
        """
        options = dict(options or {})
        if "task" in options:
            self._tasks = self._checked_tasks(options["task"])
        if self._tasks is not None:
            options["task"] = self._tasks
        rows = options.get("reset_mask", np.ones(self.num_envs, bool))
        self._terminated, self._truncated = self._terminated & ~rows, self._truncated & ~rows
        seeds = seed if seed is None or isinstance(seed, int) else [int(s) for s in seed]
        return self.env.reset(seed=seeds, options=options)  # type: ignore[arg-type]

    def step(self, actions: ArrayLike) -> tuple[Any, Array, Mask, Mask, Infos]:
        """Advance all rows whose episode has not ended, hold the others, as `TaskVectorEnv.step`."""
        actions = np.asarray(actions)
        space = self.single_action_space
        if isinstance(space, spaces.Box):
            actions = np.clip(actions, space.low, space.high).astype(space.dtype)
        observations, rewards, _, _, infos = self.env.step(actions)
        self._terminated, self._truncated = infos.pop(TERMINATED), infos.pop(TRUNCATED)
        del infos[f"_{TERMINATED}"], infos[f"_{TRUNCATED}"]
        return observations, np.array(rewards, np.float64), self._terminated, self._truncated, infos

    def render_row(self, row: int) -> NDArray[np.uint8]:
        """Picture of one row, [height, width, 3]."""
        frames = None if self.render_mode is None else self.env.render()
        if frames is None:
            raise ValueError(f"environment {self._name} was made without a render mode")
        return np.asarray(frames[row])

    def close(self, **kwargs: Any) -> None:
        """Close all rows and end their processes."""
        self._sampling_env.close()
        super().close(**kwargs)

    @property
    def _name(self) -> str:
        spec = self._sampling_env.spec
        return spec.id if spec is not None else str(self._sampling_env)

    def _checked_tasks(self, tasks: ArrayLike) -> Array:
        tasks = np.asarray(tasks, np.float64)
        if tasks.ndim == 1:
            tasks = np.broadcast_to(tasks, (self.num_envs, *tasks.shape))
        if tasks.ndim != 2 or len(tasks) != self.num_envs:
            raise ValueError(f"options['task'] has shape {tasks.shape}; it must be (P,) or ({self.num_envs}, P)")
        for row, task in enumerate(tasks):
            if self.task_space is not None and not self.task_space.contains(task):
                raise ValueError(f"the task {task} of row {row} is not in the task space {self.task_space}")
        return tasks
