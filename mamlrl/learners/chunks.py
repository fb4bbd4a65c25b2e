"""An objective a few tasks at a time, where those of a whole meta-batch take more memory than there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mamlrl.config import Config
from mamlrl.distributed import gather
from mamlrl.errors import ConfigError
from mamlrl.learners.adaptations import Adaptation
from mamlrl.learners.base import LearnerState
from mamlrl.learners.objective import ObjectiveOf, Path
from mamlrl.structs import Data, MetaBatch, flatten


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
        path = Path(state.meta, adaptation.start(state.meta), ())  # whose steps are not kept
        chunks = chunks_of(meta_batch, config.data.chunk)
        return MeanOverChunks(lambda chunk: objective(adaptation, state, chunk, generator), path, chunks)

    return chunked


class MeanOverChunks:
    """The mean over tasks of what is built of a few of them at a time; nothing of it is kept.

    With a point given each chunk is adapted twice: where the objective was built, and there.

    Args:
        build: from some tasks to their objective.
        path: what is meta-learned, without the inner steps.
        chunks: the tasks.

    Attributes:
        point: what is meta-learned as a vector, [D].
        path: as given.
    """

    def __init__(self, build: Callable[[MetaBatch], Any], path: Path, chunks: Sequence[MetaBatch]):
        self.point, self.path = flatten(path.meta, path.meta), path
        self._build, self._chunks = build, chunks
        counts = [sum(gather(len(chunk.query.weights))) for chunk in chunks]
        self._shares = [count / sum(counts) for count in counts]

    def loss_and_gradient(self, point: Tensor | None = None) -> tuple[float, Tensor]:
        """Loss and gradient [D] where the objective was built, or at another point."""
        loss, gradient = 0.0, torch.zeros_like(self.point)
        for share, chunk in zip(self._shares, self._chunks, strict=True):
            one, slope = self._build(chunk).loss_and_gradient(point)
            loss, gradient = loss + share * one, gradient.add_(slope, alpha=share)
        return loss, gradient

    def evaluate(self, point: Tensor) -> tuple[float, float]:
        """Loss and divergence at another point [D]."""
        loss, divergence = 0.0, 0.0
        for share, chunk in zip(self._shares, self._chunks, strict=True):
            one, other = self._build(chunk).evaluate(point)
            loss, divergence = loss + share * one, divergence + share * other
        return loss, divergence


def chunks_of(meta_batch: MetaBatch, size: int) -> list[MetaBatch]:
    """The tasks of a meta-batch, so many at a time or fewer, in their order; with size 0 all of them.

    All ranks have as many chunks, whose means they take together. None is empty: where ranks have different numbers of
    tasks, one may have a task more at a time.
    """
    count = len(meta_batch.query.weights)
    counts = gather(count)
    chunks = min(math.ceil(max(counts) / size), min(counts)) if size else 1
    if chunks == 1:
        return [meta_batch]
    ends = [int(piece[-1]) + 1 for piece in torch.arange(count).tensor_split(chunks)]
    return [_of_tasks(meta_batch, slice(*both)) for both in pairwise([0, *ends])]


def _of_tasks(meta_batch: MetaBatch, rows: slice) -> MetaBatch:
    """Some tasks; data that were the same in several places still are."""
    made: dict[int, Data] = {}

    def some(data: Data) -> Data:
        if id(data) not in made:
            made[id(data)] = type(data)(*(leaf[rows] for leaf in data))
        return made[id(data)]

    return meta_batch._replace(
        support=tuple(map(some, meta_batch.support)),
        query=some(meta_batch.query),
        along=tuple(map(some, meta_batch.along)),
        first_task=meta_batch.first_task + rows.start,
    )
