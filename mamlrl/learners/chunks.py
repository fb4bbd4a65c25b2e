"""An objective a few tasks at a time, where those of a whole meta-batch take more memory than there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mamlrl.config import Config
from mamlrl.distributed import gather
from mamlrl.errors import ConfigError
from mamlrl.learners.adaptations import Adaptation
from mamlrl.learners.base import LearnerState
from mamlrl.learners.objective import Path
from mamlrl.structs import Data, MetaBatch, flatten

ObjectiveOf = Callable[[Adaptation, LearnerState, MetaBatch, "torch.Generator | None"], Any]
"""The objective of an outer step, a `mamlrl.outer.objective.Objective`, built where the state is."""


def in_chunks(objective: ObjectiveOf, config: Config) -> ObjectiveOf:
    """The same objective, built of `data.chunk` tasks at a time; as it is where that is 0.

    Raises:
        ConfigError: the outer step needs what is kept of all tasks.
    """
    if not config.data.chunk:
        return objective
    if config.outer == "trust_region":
        raise ConfigError(
            f"data.chunk is {config.data.chunk}; with outer trust_region, which keeps the derivatives of all tasks, "
            "it must be 0"
        )

    def chunked(
        adaptation: Adaptation, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator | None
    ) -> MeanOverChunks:
        path = Path(state.meta, adaptation.start(state.meta), ())
        chunks = chunks_of(meta_batch, config.data.chunk)
        return MeanOverChunks(lambda chunk: objective(adaptation, state, chunk, generator), path, chunks)

    return chunked


class MeanOverChunks:
    """The mean over tasks of what is built of a few of them at a time; nothing of it is kept.

    Args:
        build: from some tasks to their objective.
        path: from what is meta-learned, no step of it: they are not kept.
        chunks: the tasks.

    Attributes:
        point: what is meta-learned as a vector, [D].
    """

    def __init__(self, build: Callable[[MetaBatch], Any], path: Path, chunks: Sequence[MetaBatch]):
        self.point, self.path = flatten(path.meta, path.meta), path
        self._build, self._chunks = build, chunks
        counts = [sum(gather(len(chunk.query.weights))) for chunk in chunks]
        self._shares = [count / sum(counts) for count in counts]

    def loss_and_gradient(self, point: Tensor | None = None) -> tuple[float, Tensor]:
        """Loss and gradient [D] where the objective was built, or at another point."""
        parts = [self._build(chunk).loss_and_gradient(point) for chunk in self._chunks]
        losses, gradients = zip(*parts, strict=True)
        return self._mean(losses), self._mean(gradients)

    def evaluate(self, point: Tensor) -> tuple[float, float]:
        """Loss and divergence at another point [D]."""
        losses, divergences = zip(*(self._build(chunk).evaluate(point) for chunk in self._chunks), strict=True)
        return self._mean(losses), self._mean(divergences)

    def _mean(self, values: Sequence[Any]) -> Any:
        """Of what each chunk has, over all tasks."""
        return sum(share * value for share, value in zip(self._shares, values, strict=True))


def chunks_of(meta_batch: MetaBatch, size: int) -> list[MetaBatch]:
    """The tasks of a meta-batch, so many at a time or fewer, in their order; with size 0 all of them.

    All ranks have as many chunks, whose means they take together. None is empty: where ranks have different numbers of
    tasks, one may have a task more at a time.
    """
    if not size:
        return [meta_batch]
    count = len(meta_batch.query.weights)
    counts = gather(count)
    chunks = min(math.ceil(max(counts) / size), min(counts))
    return [_of_tasks(meta_batch, rows) for rows in torch.arange(count).tensor_split(chunks)]


def _of_tasks(meta_batch: MetaBatch, rows: Tensor) -> MetaBatch:
    """Some tasks, by their numbers; data that were the same in several places still are."""
    made: dict[int, Data] = {}

    def some(data: Data) -> Data:
        if id(data) not in made:
            made[id(data)] = type(data)(*(leaf[rows] for leaf in data))
        return made[id(data)]

    support, along = (tuple(some(data) for data in part) for part in (meta_batch.support, meta_batch.along))
    first = meta_batch.first_task + int(rows[0])
    return MetaBatch(support, some(meta_batch.query), along, first_task=first)
