"""Any Gymnasium environment that has tasks, as a vector environment with the contract of `TaskVectorEnv`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from .base import Array, Infos, Mask, Still, complaint, numbers_of_task
from .checks import checked_space, checked_tasks, contains_task
from .errors import WrongReturn, failure
from .infos import as_infos
from .rows import Family, Rows, make_env
from .workers import WorkerRows


class GymnasiumTaskVectorEnv(VectorEnv):
    """N copies of a Gymnasium environment with tasks, stepped one after the other or by worker processes.

    The environment has `sample_tasks(n, rng)`, which draws n tasks [n, P], and takes a task [P] at
    `reset(options={"task": ...})`. It may have a `task_space`, and `describe_task`, `still` and `target_speed` as
    `TaskVectorEnv` has, `resets_in_trial` and `picture_shape`. Any of these may be a wrapper's. What it does without a
    task is its own affair.

    Infos hold numbers and vectors of numbers, as arrays over rows.

    Args:
        spec: the environment's registration.
        num_envs: rows (N).
        horizon: time steps after which a row is truncated.
        env_kwargs: arguments of the environment's constructor.
        workers: processes that the rows are spread over; 0 takes one for each processor, None steps them in this one.
        timeout: seconds that a call of an environment's method may take in a worker; 0 for any time.

    Raises:
        ValueError: the environment has no `sample_tasks`, or cannot be used for another reason that lies in what it
            is.
        EnvironmentFailure: also from every method, what the environment did wrong.
    """

    def __init__(
        self,
        spec: EnvSpec,
        num_envs: int,
        horizon: int,
        env_kwargs: dict[str, Any],
        workers: int | None = None,
        timeout: float = 0.0,
    ):
        self._name, self.spec = spec.id, spec
        self.num_envs, self.render_mode = num_envs, env_kwargs.get("render_mode")
        # Draws the tasks, and tells about spaces. It does not draw pictures.
        kwargs = {name: value for name, value in env_kwargs.items() if name != "render_mode"}
        self._sampling_env = self._call("constructor", make_env, spec, {"disable_env_checker": True, **kwargs})
        self._num_parameters: int | None = None  # P, once it is known
        self._started = False
        try:
            self._read_sampling_env()
            family = Family(spec, env_kwargs, horizon, self.single_observation_space, self.single_action_space)
            self._rows: Rows | WorkerRows
            if workers is None:
                self._rows = Rows(family, num_envs)
            else:
                self._rows = WorkerRows(family, num_envs, workers, timeout)
        except BaseException:
            self._close_sampling_env()
            raise

    def _read_sampling_env(self) -> None:
        if not callable(self._attribute("sample_tasks")):
            raise ValueError(
                f"environment {self._name} has no method sample_tasks(n: int, rng: numpy.random.Generator) that returns"
                " n tasks as an array [n, P]; it needs one, and has to accept a task at"
                ' reset(options={"task": task})'
            )
        env = self._sampling_env
        self.single_observation_space = self._call("constructor", checked_space, env, "observation_space")
        self.single_action_space = self._call("constructor", checked_space, env, "action_space")
        if self.single_observation_space.shape is None or self.single_observation_space.dtype is None:
            raise ValueError(
                f"environment {self._name} has the observation space {self.single_observation_space}, which is not one"
                " array of numbers; gymnasium.wrappers.FlattenObservation makes it one"
            )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        modes = env.metadata.get("render_modes") or []
        if self.render_mode is not None and self.render_mode not in modes:
            has = ", ".join(map(repr, modes)) or "none"
            raise ValueError(f"environment {self._name} has no render mode {self.render_mode!r}; it has {has}")
        self.task_space: spaces.Space | None = self._attribute("task_space")
        if not isinstance(self.task_space, (spaces.Space, type(None))):
            raise ValueError(
                f"environment {self._name} has a task_space {self.task_space!r}; it must be a Gymnasium space"
            )
        self.still: Still = self._attribute("still")
        self.resets_in_trial = self._attribute("resets_in_trial") is not False
        if self.still not in ("path", "speed", None):
            raise ValueError(f"environment {self._name} has still = {self.still!r}; it must be 'path', 'speed' or None")
        self.picture_shape = self._checked_picture_shape(self._attribute("picture_shape"))

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n tasks, [n, P]."""
        return self._call("sample_tasks", self._sample_tasks, n, rng)

    def describe_task(self, task: ArrayLike) -> str:
        """What the task [P] is in a few words, the environment's own if it has some."""
        return str(self._told_of_task("describe_task", task) or numbers_of_task(task))

    def target_speed(self, task: ArrayLike) -> float | None:
        """The speed along x that the task [P] wants, as `TaskVectorEnv.target_speed`, if the environment says it."""
        speed = self._told_of_task("target_speed", task)
        return None if speed is None else self._call("target_speed", float, speed)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Infos]:
        """Start new episodes, as `TaskVectorEnv.reset`; further options are handed to the environments.

        Raises:
            ValueError: a task is not in the task space, or there are not N of them.
        """
        options = dict(options or {})
        rows = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        if rows.shape != (self.num_envs,) or rows.dtype != bool:
            raise ValueError(
                f"options['reset_mask'] is {rows.dtype} of shape {rows.shape}; it must be bool of shape"
                f" ({self.num_envs},)"
            )
        tasks = self._checked_tasks(options.pop("task")) if "task" in options else None
        self._started = True
        observations, columns = self._rows.reset(rows, self._seeds(seed), tasks, options)
        return observations, as_infos(columns)

    def step(self, actions: ArrayLike) -> tuple[Any, Array, Mask, Mask, Infos]:
        """Advance all rows whose episode has not ended, hold the others, as `TaskVectorEnv.step`."""
        if not self._started:
            raise ResetNeeded("step() was called before reset()")
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions have shape {actions.shape}; they must have {self.action_space.shape}")
        space = self.single_action_space
        if isinstance(space, spaces.Box):
            actions = np.clip(actions, space.low, space.high).astype(space.dtype)
        *values, columns = self._rows.step(actions)
        return *values, as_infos(columns)  # type: ignore[return-value]

    def render(self) -> tuple[NDArray[Any], ...] | None:
        """Pictures of all rows, or None without a render mode."""
        return None if self.render_mode is None else tuple(self.render_row(row) for row in range(self.num_envs))

    def render_row(self, row: int) -> NDArray[Any]:
        """Picture of one row, [height, width, 3].

        Raises:
            ValueError: there is no render mode.
        """
        if self.render_mode is None:
            raise ValueError(f"environment {self._name} was made without a render mode")
        return self._rows.render_row(row)

    def close_extras(self, **kwargs: Any) -> None:
        """Close all rows and end their processes."""
        if hasattr(self, "_rows"):
            self._rows.close()
        self._close_sampling_env()

    def _close_sampling_env(self) -> None:
        try:
            self._sampling_env.close()
        except (Exception, SystemExit):  # of no consequence any more
            pass

    def _call(self, method: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call something of the environment that draws the tasks."""
        try:
            return function(*arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise failure(self._name, method, error) from error

    def _attribute(self, name: str) -> Any:
        """An attribute of the outermost wrapper, or the environment, that has it; None if none has."""
        env = self._sampling_env
        found = self._call(name, env.has_wrapper_attr, name)
        return self._call(name, env.get_wrapper_attr, name) if found else None

    def _checked_picture_shape(self, shape: Any) -> tuple[int, ...]:
        """Height, width and colours of the picture that an observation begins with, if the environment says so."""
        if shape is None or shape == ():
            return ()
        observation = self.single_observation_space.shape or ()
        try:
            sizes = tuple(int(size) for size in shape)
        except (TypeError, ValueError):
            sizes = ()
        if len(sizes) != 3 or min(sizes) < 1 or math.prod(sizes) > math.prod(observation):
            raise ValueError(
                f"environment {self._name} has picture_shape = {shape!r}; it must be height, width and colours of what "
                f"its observations of shape {observation} begin with"
            )
        return sizes

    def _told_of_task(self, method: str, task: ArrayLike) -> Any:
        tell = self._attribute(method)
        return None if tell is None else self._call(method, tell, np.array(task, np.float64))

    def _sample_tasks(self, n: int, rng: np.random.Generator) -> Array:
        tasks = checked_tasks(self._attribute("sample_tasks")(n, rng), n)
        if self._num_parameters not in (None, tasks.shape[1]):
            raise WrongReturn(f"tasks of {tasks.shape[1]} numbers after tasks of {self._num_parameters}")
        self._num_parameters = tasks.shape[1]
        return tasks

    def _seeds(self, seed: int | Sequence[int] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seed has {len(seed)} entries; it must be one number or {self.num_envs} of them")
        return [int(number) for number in seed]

    def _checked_tasks(self, tasks: ArrayLike) -> Array:
        tasks = np.array(tasks, np.float64)
        if tasks.ndim == 1:
            tasks = np.tile(tasks, (self.num_envs, 1))
        if tasks.ndim != 2 or len(tasks) != self.num_envs:
            raise ValueError(f"options['task'] has shape {tasks.shape}; it must be (P,) or ({self.num_envs}, P)")
        if self.task_space is not None:
            for row, task in enumerate(tasks):
                if not self._call("task_space", contains_task, self.task_space, task):
                    raise ValueError(f"the task {task} of row {row} {complaint(self.task_space, task)}")
        return tasks
