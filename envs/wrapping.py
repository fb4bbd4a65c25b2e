"""What wrappers of vector environments with tasks hand on."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import ArrayLike, NDArray

from .base import Array, Still


class TaskVectorWrapper(VectorWrapper):
    """A vector environment with tasks, in the contract of `TaskVectorEnv`, with something changed.

    Args:
        envs: a vector environment with `sample_tasks`, as of `make_task_envs`.
    """

    def __init__(self, envs: VectorEnv):
        super().__init__(envs)
        self.task_space: spaces.Space | None = getattr(envs, "task_space", None)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n tasks, [n, P]."""
        return self.env.sample_tasks(n, rng)  # type: ignore[attr-defined]

    @property
    def still(self) -> Still:
        """What a still shows, as `TaskVectorEnv.still`."""
        return self.env.still  # type: ignore[attr-defined]

    def describe_task(self, task: ArrayLike) -> str:
        """What the task [P] is, in a few words."""
        return self.env.describe_task(task)  # type: ignore[attr-defined]

    def target_speed(self, task: ArrayLike) -> float | None:
        """The speed along x that the task [P] wants, as `TaskVectorEnv.target_speed`."""
        return self.env.target_speed(task)  # type: ignore[attr-defined]

    def render_row(self, row: int) -> NDArray[Any]:
        """Picture of one row, [height, width, 3]."""
        return self.env.render_row(row)  # type: ignore[attr-defined]
