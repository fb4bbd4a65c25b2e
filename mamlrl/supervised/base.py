"""What supervised tasks are, and the arrays that they give."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces

from mamlrl.structs import Examples

ALL = slice(None)
"""Rows of all tasks."""


class Drawn(NamedTuple):
    """Examples of M tasks as arrays."""

    inputs: np.ndarray
    """[M, B, O] float32"""
    targets: np.ndarray
    """[M, B, A] float32, or classes [M, B] int64"""


class TaskDistribution(Protocol):
    """A distribution over tasks that are told by examples."""

    @property
    def input_space(self) -> spaces.Box:
        """Of one input, [O]."""
        ...

    @property
    def target_space(self) -> spaces.Space:
        """A Box [A], or Discrete for classes."""
        ...

    @property
    def most_examples(self) -> int:
        """Examples of a task, or of each of its classes, that there are; 0 for any number."""
        ...

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """N tasks as numbers [n, P], float64."""
        ...

    def draw(
        self, tasks: np.ndarray, shots: int, queries: int, rng: np.random.Generator, rows: slice = ALL
    ) -> tuple[Drawn, Drawn]:
        """Support and query examples of tasks [M, P], none in both.

        Args:
            tasks: of `sample_tasks`.
            shots: support examples of a task, or of each of its classes.
            queries: query examples likewise.
            rng: all that is random comes from it.
            rows: of which of the tasks; each has the same examples whichever are asked for.
        """
        ...


def to_examples(drawn: Drawn, device: str = "cpu") -> Examples:
    """Tensors of the arrays, with equal weights: an example is a rollout of one time step."""
    inputs, targets = (torch.from_numpy(array).to(device).unsqueeze(2) for array in drawn)
    num_tasks, count = drawn.inputs.shape[:2]
    return Examples(inputs, targets, torch.full((num_tasks, count, 1), 1.0 / count, device=device))


def unbounded(size: int) -> spaces.Box:
    """The space of any `size` numbers."""
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)
