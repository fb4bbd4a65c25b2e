"""Random numbers of many rows at once, without a Python loop over their generators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from .base import Array, TaskVectorEnv
from .errors import WrongArgument

# Constants of splitmix64: the step of its counter, and the two multipliers of its finalizer.
STEP = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class NoisyVectorEnv(TaskVectorEnv):
    """A family whose time steps are random: each row has a stream of its own, all advanced by a few numpy operations.

    A row's stream is splitmix64: a counter that goes up by an odd constant, and a hash of it. The counter starts at
    the hash of the row's seed. So what a row gets is a function of its seed alone, whatever the other rows do and
    however many there are; and thousands of rows are seeded at once.

    Tasks that nobody gave are drawn from `generators`, which are made when they are asked for.

    Source: Steele, Lea, Flood (2014), "Fast splittable pseudorandom number generators".
    """

    _counters: NDArray[np.uint64]

    def uniform(self, count: int, rows: NDArray[np.intp] | None) -> Array:
        """Numbers of [0, 1), [count, N]; only the streams of the rows (None: all) go on.

        Those of other rows are their next ones, and will come again.
        """
        steps = STEP * np.arange(1, count + 1, dtype=np.uint64)
        bits = _hash(self._counters + steps[:, None])
        self._counters[slice(None) if rows is None else rows] += steps[-1]
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _seed_rows(self, rows: NDArray[np.intp], seed: int | Sequence[int] | None) -> None:
        if not self.generators:
            entropy = np.random.SeedSequence().generate_state(self.num_envs, np.uint64).astype(np.uint64)
            self._counters = _hash(entropy.copy())
            self.generators = Generators(entropy)
        if seed is None:
            return
        given = self._seeds_of_rows(seed)
        if min(given) < 0:
            raise WrongArgument(f"seed is {min(given)}; it must be at least 0")
        seeds = np.array([int(one) % 2**64 for one in given], np.uint64)
        self._counters[rows] = _hash(seeds[rows])
        assert isinstance(self.generators, Generators)
        self.generators.seed(rows, seeds)
        self._forget(rows)

    def _follow(self, generator: np.random.Generator, seed: int) -> None:
        if self.generators and self.generators[0] is generator:
            return
        super()._follow(generator, seed)
        own = seed % 2**64 if seed >= 0 else generator.integers(2**64, dtype=np.uint64)
        self._counters = _hash(np.array([own], np.uint64))
        self._forget(np.arange(1))

    def _forget(self, rows: NDArray[np.intp]) -> None:
        """Nothing that the rows have seen counts any more: they were seeded, or have another task."""


class Generators(list[np.random.Generator]):
    """A generator for each row, made when it is asked for.

    Args:
        seeds: of the rows, [N].
    """

    def __init__(self, seeds: NDArray[np.uint64]):
        super().__init__([None] * len(seeds))  # type: ignore[list-item]
        self._seeds, self._made = seeds, np.zeros(len(seeds), bool)

    def seed(self, rows: NDArray[np.intp], seeds: NDArray[np.uint64]) -> None:
        """Begin anew in some rows, with their seeds among those of all [N]."""
        self._seeds[rows] = seeds[rows]
        for row in np.flatnonzero(self._made[rows]).tolist():
            super().__setitem__(rows[row], None)  # type: ignore[call-overload]
        self._made[rows] = False

    def __getitem__(self, row: int) -> np.random.Generator:  # type: ignore[override]
        if not self._made[row]:
            self._made[row] = True
            super().__setitem__(row, seeding.np_random(int(self._seeds[row]))[0])
        return super().__getitem__(row)


def _hash(counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64; overwrites its argument."""
    counters ^= counters >> np.uint64(30)
    counters *= MIX_1
    counters ^= counters >> np.uint64(27)
    counters *= MIX_2
    counters ^= counters >> np.uint64(31)
    return counters


def normal_of(radius: Array, angle: Array) -> Array:
    """Standard normal numbers of two uniform ones of [0, 1) each, elementwise (Box and Muller 1958)."""
    return np.sqrt(-2.0 * np.log(1.0 - radius)) * np.cos(2.0 * np.pi * angle)
