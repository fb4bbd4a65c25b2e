"""What all task families share: spaces of tasks, the vector environment and the single environment made from it.

Shapes: N rows (environments in lock step), O observation, A action, P task parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle, seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from .argument_checks import check_choice, check_count, check_range
from .errors import WrongArgument

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Infos = dict[str, Any]

Still = Literal["path", "speed"] | None
"""What a still of an environment shows: the path that the first two observations take, the speed along x
(`infos["x_velocity"]`) against time, or nothing that could be drawn."""


def numbers_of_task(task: ArrayLike) -> str:
    """A task [P] in words where nothing is known of its meaning."""
    return "task " + ", ".join(f"{number:.2f}" for number in np.ravel(task))


class TaskSpace(spaces.Box):
    """Box of task vectors, float64 [P]: which there are, how they are drawn, and what they are in words."""

    def __init__(self, low: ArrayLike, high: ArrayLike):
        low, high = np.atleast_1d(np.asarray(low, np.float64)), np.atleast_1d(np.asarray(high, np.float64))
        super().__init__(low, high, dtype=np.float64)

    def accepts(self, tasks: Array) -> Mask:
        """Which of the tasks [n, P] lie in the space, [n]; NaN and infinities never do."""
        return np.all((tasks >= self.low) & (tasks <= self.high) & np.isfinite(tasks), axis=1)

    def contains(self, x: Any) -> bool:
        """Whether x is a task vector that the space accepts."""
        return super().contains(x) and bool(self.accepts(np.asarray(x)[None])[0])

    def complaint(self, task: Array) -> str:
        """Why a task [P] is not accepted, as the end of a sentence that begins with it."""
        return _complaint_of_box(self, task)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n tasks, uniform in the box, [n, P]."""
        return rng.uniform(self.low, self.high, (n, *self.shape))

    def sample(self, mask: None = None, probability: None = None) -> Array:
        """Draw a task, [P]."""
        return self.draw(1, self.np_random)[0]

    def describe(self, task: ArrayLike) -> str:
        """What the task [P] is, in a few words."""
        return numbers_of_task(task)

    def target_speed(self, task: ArrayLike) -> float | None:
        """The speed along x that the task [P] wants, m/s; None where it wants none in particular."""
        return None


def complaint(space: spaces.Space, task: Array) -> str:
    """Why a task [P] is not in a space of any kind, as `TaskSpace.complaint`."""
    if isinstance(space, TaskSpace):
        return space.complaint(task)
    return _complaint_of_box(space, task) if isinstance(space, spaces.Box) else f"is not in the task space {space}"


def _complaint_of_box(box: spaces.Box, task: Array) -> str:
    """Which number of a task [P] is out of its bounds; the space itself where it is something else."""
    if task.shape != box.shape:
        return f"is not in the task space {box}"
    numbers = task.astype(box.dtype) if np.issubdtype(box.dtype, np.floating) else task
    for number, (value, low, high) in enumerate(zip(numbers, box.low, box.high, strict=True), start=1):
        if not low <= value <= high:
            which = f"number {number} of {len(task)} is {value:g}; it " if len(task) > 1 else "it "
            return f"is not in the task space: {which}must be in [{low:g}, {high:g}]"
    return f"is not in the task space {box}"


class VelocitySpace(TaskSpace):
    """Wanted velocities along x, m/s, of a range (low, high).

    Raises:
        ValueError: it is no range.
    """

    def __init__(self, goal_range: tuple[float, float]):
        super().__init__(*check_range("goal_range", goal_range))

    def describe(self, task: ArrayLike) -> str:
        """The wanted velocity, in words."""
        return f"target {np.ravel(task)[0]:.2f} m/s"

    def target_speed(self, task: ArrayLike) -> float:
        """The wanted velocity."""
        return float(np.ravel(task)[0])


class DirectionSpace(TaskSpace):
    """The two directions along x, -1 (backward) and +1 (forward), as task vectors of one number."""

    def __init__(self) -> None:
        super().__init__(-1.0, 1.0)

    def __repr__(self) -> str:
        return "DirectionSpace({-1, 1})"

    def accepts(self, tasks: Array) -> Mask:
        """Which of the tasks [n, 1] are -1 or +1, [n]."""
        return np.all(np.abs(tasks) == 1.0, axis=1)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n directions, both equally likely, [n, 1]."""
        return rng.choice((-1.0, 1.0), (n, 1))

    def describe(self, task: ArrayLike) -> str:
        """The direction, in words."""
        return f"direction {np.ravel(task)[0]:+.0f}"


class GoalSpace(TaskSpace):
    """Points on the plane, m, of a square of +-`reach` along both axes."""

    def __init__(self, reach: float):
        super().__init__([-reach] * 2, [reach] * 2)

    def describe(self, task: ArrayLike) -> str:
        """The point, in words."""
        x, y = np.ravel(task)
        return f"goal ({x:.2f}, {y:.2f})"


class TaskVectorEnv(VectorEnv, EzPickle):
    """N copies of one family's environment in lock step, each row with its own task and random generator.

    A family gives the spaces and the methods `_start_rows`, `_advance`, `_observe` and `_draw_row` (and `close_extras`
    if there is something to release). Tasks are drawn and described by their space, unless the family does it itself,
    in `sample_tasks`, `describe_task` and `target_speed`; `still` says what a still shows. Everything else is here.

    Episodes do not restart by themselves (`AutoresetMode.DISABLED`). A row whose episode has ended is held until it is
    reset: its observation is repeated, its reward is 0 and its flags stay.

    Args:
        observation_space: of one row.
        action_space: of one row, a Box or Discrete. Actions outside of a Box are clipped.
        task_space: the tasks that a row accepts.
        num_envs: rows (N).
        max_episode_steps: time steps after which a row is truncated; None for no limit.
        render_mode: None or "rgb_array".
        change_at: the time step at which a row's task is replaced by one drawn from the row's generator; None for tasks
            that last.
        change_in: what these time steps are counted in. "episode": a reset brings a given task back. "trial": in all
            episodes since the task was given or drawn, and the new one stays until another is given.

    Raises:
        ValueError: an argument is out of range.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium declares it so)
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "autoreset_mode": AutoresetMode.DISABLED,
    }
    task_space: TaskSpace
    single_action_space: spaces.Box | spaces.Discrete
    still: Still = None
    resets_in_trial: ClassVar[bool] = True
    """whether `reset` may restart single rows, their tasks kept, as trials of several episodes need it"""
    picture_shape: tuple[int, ...] = ()
    """height, width and colours of the picture that a flat observation begins with, row by row; empty if with none"""

    def __new__(cls, *args: Any, **kwargs: Any) -> TaskVectorEnv:
        """Remember the arguments: simulations and GL contexts do not pickle, so a copy is built anew from them."""
        self = super().__new__(cls)
        EzPickle.__init__(self, *args, **kwargs)
        return self

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        task_space: TaskSpace,
        num_envs: int,
        max_episode_steps: int | None,
        render_mode: str | None,
        *,
        change_at: int | None = None,
        change_in: Literal["episode", "trial"] = "episode",
    ):
        check_count("num_envs", num_envs, 1)
        if max_episode_steps is not None:
            check_count("max_episode_steps", max_episode_steps, 1)
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        check_change(change_at, change_in, max_episode_steps)
        self.num_envs, self.max_episode_steps, self.render_mode = num_envs, max_episode_steps, render_mode
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.task_space = task_space
        self.tasks: Array = np.full((num_envs, *task_space.shape), np.nan)
        self.generators: list[np.random.Generator] = []
        self._task_given = np.zeros(num_envs, bool)
        self._change_at, self._change_in_episode = change_at, change_in == "episode"
        self._given_tasks = self.tasks.copy()
        self._elapsed, self._on_task = np.zeros((2, num_envs), np.int64)  # time steps of the episode, and on the task
        # A row that was never reset counts as ended: it is held.
        self._terminated, self._truncated = np.ones(num_envs, bool), np.zeros(num_envs, bool)
        self._all_alive = False

    @property
    def changes_in_trial(self) -> bool:
        """Whether a row's task may change to one that outlasts a reset, unless that reset gives one."""
        return self._change_at is not None and not self._change_in_episode

    # What a family implements.

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n tasks of the family's distribution, [n, P]."""
        return self.task_space.draw(n, rng)

    def describe_task(self, task: ArrayLike) -> str:
        """What the task [P] is, in a few words."""
        return self.task_space.describe(task)

    def target_speed(self, task: ArrayLike) -> float | None:
        """The speed along x that the task [P] wants, m/s; None where it wants none in particular."""
        return self.task_space.target_speed(task)

    def _apply_tasks(self, rows: NDArray[np.intp], tasks: Array) -> None:
        """Make the rows those of their new tasks [len(rows), P], where a task is more than what the reward sees.

        Called with rows whose task changes, and with no others; `self.tasks` still has the old ones.
        """

    def _start_rows(self, rows: NDArray[np.intp]) -> None:
        """Put the rows into start states drawn from `self.generators`."""
        raise NotImplementedError

    def _advance(self, actions: NDArray[Any], rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        """Advance the rows (None: all) by a time step, with actions [N, A], or integers [N] of a Discrete space.

        Returns:
            Reward [N], termination [N] and infos of all rows; what it says of rows not advanced is not used.
        """
        raise NotImplementedError

    def _observe(self) -> Array:
        """Observations of the current states, a new array [N, O]."""
        raise NotImplementedError

    def _draw_row(self, row: int) -> NDArray[np.uint8]:
        """Picture of a row, [height, width, 3]."""
        raise NotImplementedError

    # The Gymnasium interface.

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, Infos]:
        """Start new episodes.

        A task that was given stays until another is given; while none was, every reset draws one from the row's
        generator.

        Args:
            seed: seeds row i with seed + i; or N seeds; None goes on with the rows' generators.
            options: "task", [N, P] or [P] for all rows; "reset_mask", bool [N]: the rows to reset, the others stay
                as they are.

        Returns:
            Observations [N, O] and infos, which hold the tasks.

        Raises:
            ValueError: the number of seeds, the mask or a task is wrong.
        """
        options = options or {}
        rows = self._rows_to_reset(options.get("reset_mask"))
        self._seed_rows(rows, seed)
        self._set_tasks(rows, options.get("task"))
        self._start_rows(rows)
        self._elapsed[rows] = 0
        # Replaced, not written to: step() has handed out the old arrays.
        self._terminated, self._truncated = self._terminated.copy(), self._truncated.copy()
        self._terminated[rows] = self._truncated[rows] = False
        self._all_alive = not (self._terminated.any() or self._truncated.any())
        reset = np.zeros(self.num_envs, bool)
        reset[rows] = True
        return self._observe(), {"task": self.tasks, "_task": reset}

    def step(self, actions: ArrayLike) -> tuple[Array, Array, Mask, Mask, Infos]:
        """Advance all rows whose episode has not ended; hold the others.

        Args:
            actions: [N, A], or integers [N] of a Discrete space.

        Returns:
            Observations [N, O], rewards [N], terminated [N], truncated [N] and infos: arrays over rows, each with a
            mask "_name" of the rows that were advanced. With `change_at` they hold the tasks of the next time step.

        Raises:
            ValueError: the actions' shape is wrong, or one is not in the Discrete space.
            ResetNeeded: no row was ever reset.
        """
        if not self.generators:
            raise ResetNeeded("step() was called before reset()")
        actions = self._checked_actions(actions)
        alive = ~(self._terminated | self._truncated)
        if self._all_alive:
            rewards, terminated, infos = self._advance(actions, None)
        else:
            rewards, terminated, infos = self._advance(actions, np.flatnonzero(alive))
            rewards = np.where(alive, rewards, 0.0)
            terminated = np.where(alive, terminated, self._terminated)
        self._elapsed += alive
        self._on_task += alive
        self._terminated = terminated
        if self.max_episode_steps is None:
            self._truncated = np.zeros(self.num_envs, bool)
        else:
            self._truncated = self._elapsed >= self.max_episode_steps
        self._all_alive = not (self._terminated.any() or self._truncated.any())
        if self._change_at is not None:
            self._change_tasks(alive)
            infos["task"] = self.tasks.copy()
        infos.update({f"_{name}": alive for name in infos})
        return self._observe(), rewards, self._terminated, self._truncated, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Pictures of all rows, or None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(self.render_row(row) for row in range(self.num_envs))

    def render_row(self, row: int) -> NDArray[np.uint8]:
        """Picture of one row, [height, width, 3].

        Raises:
            IndexError: there is no such row.
            ResetNeeded: the row was never reset.
        """
        if not 0 <= row < self.num_envs:
            raise IndexError(f"row is {row}; it must be in [0, {self.num_envs})")
        if np.isnan(self.tasks[row]).any():
            raise ResetNeeded("render() was called before reset()")
        return self._draw_row(row)

    # Mechanics of step() and reset().

    def _change_tasks(self, advanced: Mask) -> None:
        """Draw new tasks for the rows, of those that were advanced, whose time it is."""
        if self._change_in_episode:
            due = (self._elapsed == self._change_at) & ~(self._terminated | self._truncated)
        else:
            due = self._on_task == self._change_at
        rows = np.flatnonzero(advanced & due)
        self._put_tasks(rows, self._drawn_tasks(rows))

    def _checked_actions(self, actions: ArrayLike) -> NDArray[Any]:
        """Actions [N, A] within their bounds, or integers [N]."""
        space = self.single_action_space
        actions = np.asarray(actions, None if isinstance(space, spaces.Discrete) else np.float64)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions have shape {actions.shape}; they must have {self.action_space.shape}")
        if isinstance(space, spaces.Box):
            return np.clip(actions, space.low, space.high)
        if actions.dtype.kind not in "iu":
            raise ValueError(f"actions are {actions.dtype}; those of {space} must be integers")
        if actions.min() < 0 or actions.max() >= space.n:
            row = np.flatnonzero((actions < 0) | (actions >= space.n))[0]
            raise ValueError(f"action {actions[row]} of row {row} is not in {space}")
        return actions

    def _rows_to_reset(self, mask: Mask | None) -> NDArray[np.intp]:
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise WrongArgument(
                f"options['reset_mask'] is {mask.dtype} of shape {mask.shape}; it must be bool of shape"
                f" ({self.num_envs},)"
            )
        return np.flatnonzero(mask)

    def _seed_rows(self, rows: NDArray[np.intp], seed: int | Sequence[int] | None) -> None:
        if not self.generators:
            # Most often all of them are replaced at once below, so the first reset pays for them only where needed.
            fresh = range(self.num_envs) if seed is None else set(range(self.num_envs)).difference(rows.tolist())
            self.generators = [None] * self.num_envs  # type: ignore[list-item]
            for row in fresh:
                self.generators[row] = seeding.np_random()[0]
        if seed is None:
            return
        seeds = self._seeds_of_rows(seed)
        for row in rows.tolist():
            self.generators[row] = seeding.np_random(int(seeds[row]))[0]

    def _seeds_of_rows(self, seed: int | Sequence[int]) -> Sequence[int]:
        if isinstance(seed, (int, np.integer)):
            seed = range(int(seed), int(seed) + self.num_envs)
        if len(seed) != self.num_envs:
            raise WrongArgument(f"seed has {len(seed)} entries; it must be one number or {self.num_envs} of them")
        return seed

    def _follow(self, generator: np.random.Generator, seed: int) -> None:
        """Let the only row draw from a generator, which was made from a seed (-1: nobody knows which)."""
        self.generators = [generator]

    def _set_tasks(self, rows: NDArray[np.intp], task: ArrayLike | None) -> None:
        if task is None:
            given = self._task_given[rows]
            if self._change_at is not None and self._change_in_episode:
                self._put_tasks(rows[given], self._given_tasks[rows[given]])
            self._put_tasks(rows[~given], self._drawn_tasks(rows[~given]))
            self._on_task[rows[~given]] = 0
            return
        tasks = _numbers("options['task']", task)
        if tasks.shape == self.task_space.shape:
            tasks = np.broadcast_to(tasks, self.tasks.shape)
        if tasks.shape != self.tasks.shape:
            raise WrongArgument(
                f"options['task'] has shape {tasks.shape}; it must have {self.task_space.shape} or {self.tasks.shape}"
            )
        rejected = rows[~self.task_space.accepts(tasks)[rows]]
        if rejected.size:
            row = rejected[0]
            raise WrongArgument(f"the task {tasks[row]} of row {row} {self.task_space.complaint(tasks[row])}")
        self._put_tasks(rows, tasks[rows])
        self._task_given[rows], self._on_task[rows] = True, 0
        if self._change_at is not None:
            self._given_tasks[rows] = tasks[rows]

    def _drawn_tasks(self, rows: NDArray[np.intp]) -> Array:
        """A task for each row, from its generator."""
        drawn = [self.sample_tasks(1, self.generators[row])[0] for row in rows.tolist()]
        return np.reshape(drawn, (len(rows), *self.task_space.shape))

    def _put_tasks(self, rows: NDArray[np.intp], tasks: Array) -> None:
        if not rows.size:
            return
        changed = (self.tasks[rows] != tasks).any(axis=1)
        if changed.any():
            self._apply_tasks(rows[changed], tasks[changed])
        self.tasks = self.tasks.copy()  # replaced, not written to: reset() has handed out the old ones
        self.tasks[rows] = tasks


class TaskEnv(gymnasium.Env, EzPickle):
    """One environment: the family's vector environment with a single row, so that the two cannot disagree.

    It does not truncate: `gymnasium.make` adds the time limit.

    Args:
        render_mode: None or "rgb_array".
        **kwargs: the family's arguments.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    vector_class: ClassVar[Callable[..., TaskVectorEnv]]

    def __init__(self, render_mode: str | None = None, **kwargs: Any):
        EzPickle.__init__(self, render_mode=render_mode, **kwargs)
        self._rows = self.vector_class(num_envs=1, render_mode=render_mode, **{"num_threads": 1} | kwargs)
        self.metadata = {**self.metadata, "render_fps": self._rows.metadata["render_fps"]}
        self.observation_space = self._rows.single_observation_space
        self.action_space = self._rows.single_action_space
        self.task_space = self._rows.task_space
        self.render_mode = render_mode

    @property
    def task(self) -> Array:
        """The current task, [P]; NaN before the first reset."""
        return self._rows.tasks[0].copy()

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n tasks of the family's distribution, [n, P]."""
        return self._rows.sample_tasks(n, rng)

    @property
    def changes_in_trial(self) -> bool:
        """Whether the task may change to one that outlasts a reset, unless that reset gives one."""
        return self._rows.changes_in_trial

    @property
    def still(self) -> Still:
        """What a still shows, as `TaskVectorEnv.still`."""
        return self._rows.still

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """What a flat observation is a picture of, as `TaskVectorEnv.picture_shape`."""
        return self._rows.picture_shape

    def describe_task(self, task: ArrayLike) -> str:
        """What the task [P] is, in a few words."""
        return self._rows.describe_task(task)

    def target_speed(self, task: ArrayLike) -> float | None:
        """The speed along x that the task [P] wants, m/s; None where it wants none in particular."""
        return self._rows.target_speed(task)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Infos]:
        """Start an episode; options may hold a "task" [P], which stays until another is given.

        Raises:
            ValueError: the task is not in the task space.
        """
        super().reset(seed=seed)
        self._rows._follow(self.np_random, self.np_random_seed)
        observations, infos = self._rows.reset(options=options)
        return observations[0], _of_single_row(infos)

    def step(self, action: ArrayLike) -> tuple[Array, float, bool, bool, Infos]:
        """Advance by a time step; the action [A] is clipped to its bounds, one of a Discrete space must lie in it."""
        observations, rewards, terminated, _, infos = self._rows.step(np.asarray(action)[None])
        return observations[0], float(rewards[0]), bool(terminated[0]), False, _of_single_row(infos)

    def render(self) -> NDArray[np.uint8] | None:
        """Picture of the environment, [height, width, 3], or None without a render mode."""
        return None if self.render_mode is None else self._rows.render_row(0)

    def close(self) -> None:
        """Release the renderer."""
        self._rows.close()


def check_change(
    change_at: object, change_in: object, max_episode_steps: int | None, episodes: int | None = None
) -> None:
    """Refuse a change of tasks that could never come.

    Args:
        change_at: the argument of `TaskVectorEnv`.
        change_in: likewise.
        max_episode_steps: time steps of an episode at most; None for any number.
        episodes: in a task, one after the other; None where that is not known.

    Raises:
        ValueError: names the argument.
    """
    check_choice("change_in", change_in, ("episode", "trial"))
    if change_at is None:
        if change_in == "trial":
            raise ValueError(
                "change_in is 'trial' and change_at is None; give the time step of the change as change_at"
            )
        return
    check_count("change_at", change_at, 1)
    if max_episode_steps is None:
        return
    if change_in == "episode" and change_at >= max_episode_steps:  # type: ignore[operator]
        raise ValueError(
            f"change_at is {change_at}; it must be less than the {max_episode_steps} time steps of an episode, or"
            " change_in 'trial'"
        )
    if change_in == "trial" and episodes is not None and change_at >= episodes * max_episode_steps:  # type: ignore[operator]
        raise ValueError(
            f"change_at is {change_at}; it must be less than the {episodes * max_episode_steps} time steps for which a"
            f" task is given (episodes: {episodes}, of {max_episode_steps}); trials of several (sampling.episodes) are"
            " for learners with a memory, such as rl2"
        )


def array_or_none(values: Any) -> NDArray[Any]:
    """Values as an array; where their lengths differ, so that they are none, an array of None."""
    try:
        return np.asarray(values)
    except ValueError:
        return np.asarray(None)


def _numbers(name: str, values: Any) -> Array:
    """Values as floating-point numbers.

    Raises:
        WrongArgument: they are none.
    """
    array = array_or_none(values)
    if array.dtype.kind not in "fiu":
        raise WrongArgument(f"{name} is {values!r}; it must be an array of numbers")
    return array.astype(np.float64)


def _of_single_row(infos: Infos) -> Infos:
    return {name: values[0] for name, values in infos.items() if not name.startswith("_")}
