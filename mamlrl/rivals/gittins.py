"""Gittins indices of Bernoulli arms.

Source: Gittins (1979), "Bandit processes and dynamic allocation indices".
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

TAIL = 200
"""Pulls beyond the last one that a table is for, after which an arm is taken to pay its mean for ever."""
GRID = 401
"""Sure rewards that arms are compared with; between them the index is interpolated."""


@functools.lru_cache(maxsize=4)
def gittins_table(pulls: int, discount: float) -> NDArray[np.float64]:
    """Indices of arms under a Beta(1, 1) prior.

    The index is the sure reward a time step that is as good as pulling the arm, and stopping whenever one likes:
    for rewards on a grid the value of doing so follows by backward induction over the numbers of successes and
    failures; the index is where going on is worth as much as stopping.

    Args:
        pulls: the most pulls of an arm.
        discount: gamma, in (0, 1).

    Returns:
        Index by successes and failures, [pulls + 1, pulls + 1]; NaN beyond that many pulls together.
    """
    sure = np.linspace(0.0, 1.0, GRID)
    total = pulls + TAIL
    # of arms with `total` pulls, by successes, [total + 1, GRID]
    values = np.maximum(sure, ((1.0 + np.arange(total + 1)) / (total + 2))[:, None]) / (1.0 - discount)
    table = np.full((pulls + 1, pulls + 1), np.nan)
    for pulled in reversed(range(total)):
        successes = np.arange(pulled + 1)
        mean = ((1.0 + successes) / (pulled + 2))[:, None]
        going_on = mean * (1.0 + discount * values[1:]) + (1.0 - mean) * discount * values[:-1]
        stopping = sure / (1.0 - discount)
        if pulled <= pulls:
            table[successes, pulled - successes] = _crossing(going_on - stopping, sure)
        values = np.maximum(going_on, stopping)
    return table


def _crossing(advantage: NDArray[np.float64], sure: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where rows [R, G], which fall, pass through zero between the numbers of a grid [G]."""
    after = np.clip((advantage > 0.0).sum(axis=1), 1, len(sure) - 1)
    rows = np.arange(len(advantage))
    above, below = advantage[rows, after - 1], advantage[rows, after]
    share = np.clip(above / np.maximum(above - below, 1e-300), 0.0, 1.0)
    return sure[after - 1] + share * (sure[after] - sure[after - 1])
