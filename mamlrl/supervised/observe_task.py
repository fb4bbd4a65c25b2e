"""Supervised tasks whose inputs hold the task itself: what a network could do that need not adapt."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from mamlrl.errors import ConfigError
from mamlrl.supervised.base import ALL, Drawn, TaskDistribution, unbounded


class ObserveTask:
    """The same tasks, with the task after each input, [O + P].

    Args:
        tasks: whose targets are numbers: classes have no meaning but in a task.

    Raises:
        ConfigError: the targets are classes.
    """

    def __init__(self, tasks: TaskDistribution):
        if isinstance(tasks.target_space, spaces.Discrete):
            raise ConfigError("learner oracle sees the task as numbers; a task of classes has none")
        self._tasks = tasks
        self.target_space, self.most_examples = tasks.target_space, tasks.most_examples
        size = tasks.sample_tasks(1, np.random.default_rng(0)).shape[1]
        self.input_space = unbounded(tasks.input_space.shape[0] + size)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Those of the tasks."""
        return self._tasks.sample_tasks(n, rng)

    def draw(
        self, tasks: np.ndarray, shots: int, queries: int, rng: np.random.Generator, rows: slice = ALL
    ) -> tuple[Drawn, Drawn]:
        """Those of the tasks, with the task in the inputs."""

        def seen(drawn: Drawn) -> Drawn:
            each = np.broadcast_to(tasks[rows, None].astype(np.float32), (*drawn.inputs.shape[:2], tasks.shape[1]))
            return Drawn(np.concatenate([drawn.inputs, each], axis=2), drawn.targets)

        support, query = self._tasks.draw(tasks, shots, queries, rng, rows)
        return seen(support), seen(query)
