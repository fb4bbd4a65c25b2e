"""Layouts of mazes, many at once.

A layout is told by which walls there are between cells that are next to each other: first in rows [S, S - 1], then in
columns [S - 1, S], flattened.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .base import Mask

TEST_SHARE = 5
"""One of so many layouts is for tests."""


def squares(n: int, size: int, smallest: int, rng: np.random.Generator) -> Mask:
    """Draw n squares of `smallest` to S cells a side, all equally likely, anywhere: the cells they hold, [n, S^2]."""
    sides = rng.integers(smallest, size + 1, size=n)
    first = rng.integers((size + 1 - sides)[:, None], size=(n, 2))  # row and column
    along = (np.arange(size) >= first[..., None]) & (np.arange(size) < (first + sides[:, None])[..., None])
    return (along[:, 0, :, None] & along[:, 1, None, :]).reshape(n, size**2)


def draw_layouts(inside: Mask, loops: float, rng: np.random.Generator) -> Mask:
    """Draw mazes within squares: perfect ones, of whose walls some are left out. Around a square there are walls.

    Args:
        inside: cells of the squares, [n, S^2].
        loops: probability that a wall is left out.
        rng: of all of it.

    Returns:
        Walls, [n, 2 S (S - 1)].
    """
    size = math.isqrt(inside.shape[1])
    ends = inside[:, _ends(size)]  # [n, walls, 2]
    # Lighter than all others, the edges within a square hold a tree of it.
    walls = spanning_trees(rng.random(ends.shape[:2]) + ~ends.all(axis=2), size)
    walls &= rng.random(walls.shape) >= loops
    return walls | (ends[..., 0] != ends[..., 1])


def spanning_trees(weights: NDArray[np.float64], size: int) -> Mask:
    """Perfect mazes: every cell can be reached from every other in exactly one way.

    Trees grow from a cell, by the free edge of the least weight (Prim 1957), all n at once.

    Args:
        weights: of the walls, random for random mazes, [n, 2 S (S - 1)].
        size: S, cells of a side.

    Returns:
        Walls, [n, 2 S (S - 1)].
    """
    ends, n = _ends(size), len(weights)
    walls, inside, rows = np.ones(weights.shape, bool), np.zeros((n, size**2), bool), np.arange(n)
    inside[:, 0] = True
    for _ in range(size**2 - 1):
        free = inside[:, ends[:, 0]] != inside[:, ends[:, 1]]
        chosen = np.where(free, weights, np.inf).argmin(axis=1)
        walls[rows, chosen] = False
        inside[rows[:, None], ends[chosen]] = True
    return walls


def _ends(size: int) -> NDArray[np.intp]:
    """The two cells on the sides of each wall, [2 S (S - 1), 2]."""
    cells = np.arange(size**2).reshape(size, size)
    beside = np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()], axis=1)
    below = np.stack([cells[:-1].ravel(), cells[1:].ravel()], axis=1)
    return np.concatenate([beside, below])


def is_test_layout(walls: Mask) -> Mask:
    """Which of n layouts [n, 2 S (S - 1)] are for tests, [n]: a hash of the layout says so."""
    weights = np.random.default_rng(0).integers(2**63, size=walls.shape[1], dtype=np.uint64)
    mixed = (walls * weights).sum(axis=1, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(33)
    return mixed % np.uint64(TEST_SHARE) == 0


def reachable(upright: Mask, level: Mask, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Mask:
    """Which cells can be reached from one of each of N mazes, [N, S, S].

    Args:
        upright: walls to the left and right of cells, [N, S, S + 1].
        level: walls above and below cells, [N, S + 1, S].
        rows: of the cells, [N].
        columns: of the cells, [N].
    """
    n, size, _ = upright.shape
    found = np.zeros((n, size, size), bool)
    found[np.arange(n), rows, columns] = True
    while True:
        before = found.sum()
        found[:, :, 1:] |= found[:, :, :-1] & ~upright[:, :, 1:-1]
        found[:, :, :-1] |= found[:, :, 1:] & ~upright[:, :, 1:-1]
        found[:, 1:] |= found[:, :-1] & ~level[:, 1:-1]
        found[:, :-1] |= found[:, 1:] & ~level[:, 1:-1]
        if found.sum() == before:
            return found


def distances(upright: Mask, level: Mask, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
    """How many cells the shortest way to one of each of N mazes has, from all cells, [N, S, S]; infinite without a way.

    Arguments as of `reachable`.
    """
    n, size, _ = upright.shape
    found = np.full((n, size, size), np.inf)
    found[np.arange(n), rows, columns] = 0.0
    across, along = np.where(upright[:, :, 1:-1], np.inf, 1.0), np.where(level[:, 1:-1], np.inf, 1.0)
    while True:
        before = found.copy()
        np.minimum(found[:, :, 1:], found[:, :, :-1] + across, out=found[:, :, 1:])
        np.minimum(found[:, :, :-1], found[:, :, 1:] + across, out=found[:, :, :-1])
        np.minimum(found[:, 1:], found[:, :-1] + along, out=found[:, 1:])
        np.minimum(found[:, :-1], found[:, 1:] + along, out=found[:, :-1])
        if (found == before).all():
            return found
