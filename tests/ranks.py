"""Ranks as threads of one process: what is reduced and gathered is right or wrong as between processes, in no time."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from mamlrl import distributed

T = TypeVar("T")
PATIENCE = 30.0
"""Seconds after which ranks that do not all call the same are given up."""


class ThreadRanks:
    """One of several threads that are ranks.

    Args:
        rank: which one.
        places: what each rank has to say, shared by all of them.
        barrier: where they wait for each other.
    """

    def __init__(self, rank: int, places: list[Any], barrier: threading.Barrier):
        self.rank, self.size, self.local_size = rank, len(places), len(places)
        self._places, self._barrier = places, barrier

    def sum(self, flat: Tensor) -> Tensor:
        """In the order of ranks."""
        assert flat.dim() == 1
        parts = self.gather(flat)
        assert len({len(part) for part in parts}) == 1, "ranks reduce different things"
        return torch.stack(parts).sum(0)

    def gather(self, value: T) -> list[T]:
        """All places, when all are taken."""
        self._places[self.rank] = value
        self._barrier.wait(PATIENCE)
        values = list(self._places)
        self._barrier.wait(PATIENCE)
        return values


def on_ranks(size: int, work: Callable[[], T]) -> list[T]:
    """What a function returns on each of so many ranks."""
    places, barrier = [None] * size, threading.Barrier(size)

    def of_rank(rank: int) -> T:
        try:
            with distributed.over(ThreadRanks(rank, places, barrier)):
                return work()
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(contextvars.copy_context().run, of_rank, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception())]
    first = next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), None)
    if first or errors:
        raise first or errors[0]
    return [future.result() for future in futures]
