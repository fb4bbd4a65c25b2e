"""A family's own vector environment, written by somebody else: what it does wrong is told in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import ArrayLike, NDArray

from .base import Array, Infos, Mask, Still, TaskSpace, TaskVectorEnv
from .checks import RESET_VALUES, STEP_VALUES, checked_info, checked_picture, checked_tasks, unpacked
from .errors import WrongArgument, WrongReturn, failure


class GuardedVectorEnv(VectorWrapper):
    """A `TaskVectorEnv` whose exceptions and wrong returns are EnvironmentFailures.

    Args:
        envs: the vector environment. A WrongArgument of its `reset`, which refuses a task, stays as it is.
    """

    env: TaskVectorEnv

    def __init__(self, envs: VectorEnv):
        super().__init__(envs)
        self._name = envs.spec.id if envs.spec is not None else type(envs).__name__
        self.task_space: TaskSpace = self.env.task_space
        self.still: Still = self.env.still
        self.resets_in_trial: bool = self.env.resets_in_trial
        self.picture_shape: tuple[int, ...] = self.env.picture_shape

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n tasks, [n, P]."""
        return self._call("sample_tasks", lambda: checked_tasks(self.env.sample_tasks(n, rng), n))

    def describe_task(self, task: ArrayLike) -> str:
        """What the task [P] is, in a few words."""
        return self._call("describe_task", lambda: str(self.env.describe_task(task)))

    def target_speed(self, task: ArrayLike) -> float | None:
        """The speed along x that the task [P] wants, as `TaskVectorEnv.target_speed`."""
        return self._call("target_speed", lambda: self.env.target_speed(task))

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Infos]:
        """Start new episodes, as `TaskVectorEnv.reset`."""

        def checked_reset() -> tuple[Any, Infos]:
            observations, infos = unpacked(self.env.reset(seed=seed, options=options), RESET_VALUES)
            return self._checked("observations", observations), checked_info(infos)

        return self._call("reset", checked_reset)

    def step(self, actions: Any) -> tuple[Any, Array, Mask, Mask, Infos]:
        """Advance, as `TaskVectorEnv.step`."""

        def checked_step() -> Any:
            observations, rewards, terminated, truncated, infos = unpacked(self.env.step(actions), STEP_VALUES)
            return (
                self._checked("observations", observations),
                self._checked("rewards", rewards),
                self._checked("terminated", terminated),
                self._checked("truncated", truncated),
                checked_info(infos),
            )

        return self._call("step", checked_step)

    def render(self) -> tuple[NDArray[Any], ...] | None:
        """Pictures of all rows, or None without a render mode."""
        return None if self.render_mode is None else tuple(self.render_row(row) for row in range(self.num_envs))

    def render_row(self, row: int) -> NDArray[Any]:
        """Picture of one row, [height, width, 3]."""
        return self._call("render", lambda: checked_picture(self.env.render_row(row)))

    def _call(self, method: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except (KeyboardInterrupt, WrongArgument):
            raise
        except BaseException as error:
            raise failure(self._name, method, error) from error

    def _checked(self, name: str, values: Any) -> NDArray[Any]:
        """Values of all rows as an array of the shape and type that they must have."""
        shape = self.observation_space.shape if name == "observations" else (self.num_envs,)
        kinds = {"observations": "fiub", "rewards": "fiu"}.get(name, "b")
        array = np.asarray(values)
        if array.shape != shape or array.dtype.kind not in kinds:
            wanted = {"observations": "numbers", "rewards": "numbers"}.get(name, "bool")
            raise WrongReturn(f"{name} of shape {array.shape} and type {array.dtype}; they must be {wanted} of {shape}")
        return array
