"""Rows of a vector environment out of single environments, stepped one after the other in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, MutableSequence, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from .base import Array, Mask
from .checks import (
    RESET_VALUES,
    STEP_VALUES,
    checked_flag,
    checked_info,
    checked_observation,
    checked_picture,
    checked_reward,
    unpacked,
)
from .errors import WrongReturn, failure
from .infos import Columns, gather_infos
from .rendering import missing_library, use_headless_gl


class Family(NamedTuple):
    """What every row is made from."""

    spec: EnvSpec
    kwargs: dict[str, Any]
    horizon: int
    """time steps after which a row is truncated"""
    observation_space: spaces.Space
    action_space: spaces.Space


def make_env(spec: EnvSpec, kwargs: dict[str, Any]) -> gymnasium.Env:
    """One environment; what its constructor raises is raised as it is."""
    try:
        return gymnasium.make(spec, **kwargs)
    except TypeError as error:  # Gymnasium's own text puts all arguments behind the error's
        raise error.__cause__ or error.__context__ or error from None


class Rows:
    """R environments; a row whose episode has ended is held until it is reset.

    Args:
        family: what they are made from.
        num_rows: R.
        calls: of its two numbers the first counts the calls of environments' methods and the second is the row of the
            last one. Another process may look at it, and see which call it is that does not return.

    Raises:
        EnvironmentFailure: from every method, what an environment did wrong.
    """

    def __init__(self, family: Family, num_rows: int, calls: MutableSequence[int] | None = None):
        self._family, self._calls = family, [0, 0] if calls is None else calls
        self._tasks: list[Array | None] = [None] * num_rows
        space = family.observation_space
        self._observations = np.zeros((num_rows, *space.shape), space.dtype)  # type: ignore[misc]
        self._elapsed = np.zeros(num_rows, np.int64)
        # A row that was never reset counts as ended.
        self._terminated, self._truncated = np.ones(num_rows, bool), np.zeros(num_rows, bool)
        self._envs: list[gymnasium.Env] = []
        if family.kwargs.get("render_mode") is not None:
            use_headless_gl()
        try:
            for row in range(num_rows):
                self._envs.append(self._call("constructor", self._make, row))
        except BaseException:
            self.close()
            raise

    def reset(
        self, rows: Mask, seeds: Sequence[int | None], tasks: Array | None, options: dict[str, Any]
    ) -> tuple[NDArray[Any], Columns]:
        """Start episodes in some of the rows.

        Args:
            rows: which, [R].
            seeds: R of them.
            tasks: [R, P], handed to the environments; None for those that they were given before.
            options: handed to the environments as they are.

        Returns:
            Observations [R, ...] of all rows, and infos of those that were reset.
        """
        infos = [{} for _ in self._envs]
        for row in np.flatnonzero(rows).tolist():
            if tasks is not None:
                self._tasks[row] = tasks[row]
            infos[row] = self._call("reset", self._reset_row, row, seeds[row], options, tasks is not None)
        # Replaced, not written to: step() has handed out the old arrays.
        self._terminated, self._truncated = self._terminated & ~rows, self._truncated & ~rows
        self._elapsed[rows] = 0
        return self._observations.copy(), gather_infos(infos)

    def step(self, actions: NDArray[Any]) -> tuple[NDArray[Any], Array, Mask, Mask, Columns]:
        """Advance the rows whose episode has not ended by a time step, with actions [R, ...]."""
        alive = ~(self._terminated | self._truncated)
        rewards, terminated, truncated = np.zeros(len(alive)), self._terminated.copy(), self._truncated.copy()
        infos = [{} for _ in self._envs]
        for row in np.flatnonzero(alive).tolist():
            values = self._call("step", self._step_row, row, actions[row])
            rewards[row], terminated[row], truncated[row], infos[row] = values
        self._elapsed += alive
        self._terminated, self._truncated = terminated, truncated | (alive & (self._elapsed >= self._family.horizon))
        return self._observations.copy(), rewards, self._terminated, self._truncated, gather_infos(infos)

    def render_row(self, row: int) -> NDArray[Any]:
        """What the row's environment draws."""
        return self._call("render", self._render_row, row)

    def close(self) -> None:
        """Close the environments. An error in that is of no consequence any more."""
        for env in self._envs:
            with contextlib.suppress(Exception, SystemExit):
                env.close()
        self._envs = []

    def _call(self, method: str, function: Callable[..., Any], row: int, *arguments: Any) -> Any:
        self._calls[0] += 1
        self._calls[1] = row
        try:
            return function(row, *arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit too: it is not for an environment to end the program
            raise failure(self._family.spec.id, method, error, self._tasks[row]) from error

    # Of one row.

    def _make(self, row: int) -> gymnasium.Env:
        # What the environment returns is checked here, at every step and not at the first alone, and its time is
        # counted here too. Gymnasium's own wrappers would come across a wrong number of values before.
        family = self._family
        env = make_env(family.spec, {"max_episode_steps": -1, "disable_env_checker": True, **family.kwargs})
        for name in ("observation_space", "action_space"):
            space, another = getattr(env, name), getattr(family, name)
            if space != another:
                raise WrongReturn(f"environments that differ in their {name}: {another} and {space}")
        return env

    def _reset_row(self, row: int, seed: int | None, options: dict[str, Any], is_new: bool) -> dict[str, Any]:
        env, task = self._envs[row], self._tasks[row]
        # A task is repeated at every reset, as an environment need not keep it. Ours do, and may have changed it since.
        repeats = not getattr(env.unwrapped, "changes_in_trial", False)
        given = {**options, "task": task.copy()} if task is not None and (is_new or repeats) else dict(options)
        observation, info = unpacked(env.reset(seed=seed, options=given or None), RESET_VALUES)
        self._observations[row] = checked_observation(observation, self._family.observation_space)
        return checked_info(info)

    def _step_row(self, row: int, action: Any) -> tuple[float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = unpacked(self._envs[row].step(action), STEP_VALUES)
        self._observations[row] = checked_observation(observation, self._family.observation_space)
        flags = checked_flag(terminated, "terminated"), checked_flag(truncated, "truncated")
        return checked_reward(reward), *flags, checked_info(info)

    def _render_row(self, row: int) -> NDArray[Any]:
        try:
            return checked_picture(self._envs[row].render())
        except Exception as error:
            if remedy := missing_library():
                raise RuntimeError(f"{error}. {remedy}") from error
            raise
