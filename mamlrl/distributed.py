"""Tasks that are spread over processes: the one place where what is known of some tasks becomes what holds of all.

Each process, a *rank*, has a share of the tasks of a meta-batch, neighbours in the order of all tasks. What is averaged
over tasks is summed here, what is measured of each is gathered here, and nothing else passes between ranks. In a single
process, as most programs are, all of this costs nothing and changes nothing.

Torch is imported where it is needed: commands ask here which rank they are before they know whether they need it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from mamlrl.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Ranks(Protocol):
    """The ranks of a program, as one of them sees them. All of them call the same methods in the same order."""

    rank: int
    """which one this is, from 0"""
    size: int
    """how many there are"""
    local_size: int
    """how many of them share this machine"""

    def sum(self, flat: Tensor) -> Tensor:
        """The sum of a vector [D] over ranks, the same on all of them to the last bit."""
        ...

    def gather(self, value: T) -> list[T]:
        """A value of each rank, in their order."""
        ...


_ranks: ContextVar[Ranks | None] = ContextVar("ranks", default=None)


@contextmanager
def over(ranks: Ranks) -> Iterator[None]:
    """In the block, and in this thread alone, tasks are spread over these ranks."""
    token = _ranks.set(ranks)
    try:
        yield
    finally:
        _ranks.reset(token)


def is_first() -> bool:
    """Whether this is the rank that writes and speaks; a single process is."""
    ranks = _ranks.get()
    return ranks is None or ranks.rank == 0


def size() -> int:
    """How many ranks there are."""
    ranks = _ranks.get()
    return 1 if ranks is None else ranks.size


def local_size() -> int:
    """How many ranks share this machine."""
    ranks = _ranks.get()
    return 1 if ranks is None else ranks.local_size


class Share(NamedTuple):
    """Which tasks a rank has."""

    first: int
    """number of the first one, from 0, in the order of all tasks"""
    count: int

    @property
    def rows(self) -> slice:
        """Of what leads with all tasks."""
        return slice(self.first, self.first + self.count)


def share_of(total: int, setting: str = "sampling.tasks") -> Share:
    """This rank's share of so many tasks; shares differ by one task at most.

    Args:
        total: the tasks of all ranks.
        setting: where the user gave their number, for the message.

    Raises:
        ConfigError: there are more ranks than tasks.
    """
    ranks = _ranks.get()
    if ranks is None:
        return Share(0, total)
    if total < ranks.size:
        raise ConfigError(f"{setting} is {total}, and there are {ranks.size} ranks; it must be at least one a rank")
    each, more = divmod(total, ranks.size)
    return Share(ranks.rank * each + min(ranks.rank, more), each + (ranks.rank < more))


def sums_over_tasks(values: Sequence[Tensor]) -> list[Tensor]:
    """Sums over the leading M, and over the tasks of all ranks, in one reduction.

    Args:
        values: [M, ...] each; M may be 0 here and not elsewhere.
    """
    return sums_over_ranks([one.sum(0) for one in values])


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of what each rank has added up for itself, in the shape that it has."""
    return sums_over_ranks([value])[0]


def sums_over_ranks(sums: Sequence[Tensor]) -> list[Tensor]:
    """`sum_over_ranks` of several, in one reduction."""
    ranks = _ranks.get()
    if ranks is None:
        return list(sums)
    import torch

    dtype = functools.reduce(torch.promote_types, (one.dtype for one in sums))
    flat = ranks.sum(torch.cat([one.reshape(-1).to(dtype) for one in sums]))
    pieces = flat.split([one.numel() for one in sums])
    return [piece.view_as(one).to(one.dtype) for piece, one in zip(pieces, sums, strict=True)]


def means_over_tasks(values: Sequence[Tensor]) -> list[Tensor]:
    """Means over the leading M, and over the tasks of all ranks, in one reduction.

    Args:
        values: [M, ...] each.
    """
    if _ranks.get() is None:
        return [one.mean(0) for one in values]
    *sums, count = sums_over_tasks([*values, values[0].new_ones(len(values[0]))])
    return [one / count.to(one.dtype) for one in sums]


def gather(value: T) -> list[T]:
    """A value of each rank, in the order of ranks and so of their tasks; it is pickled."""
    ranks = _ranks.get()
    return [value] if ranks is None else ranks.gather(value)


def from_first(make: Callable[[], T]) -> T:
    """What the first rank makes, on all of them; the others wait, and do not make it."""
    ranks = _ranks.get()
    if ranks is None:
        return make()
    return ranks.gather(make() if ranks.rank == 0 else None)[0]  # type: ignore[return-value]
