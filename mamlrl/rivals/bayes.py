"""What is the most that can be earned: by the best of all algorithms, and by who knows the task."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from mamlrl.rivals.planning import qualities

Arms = tuple[tuple[int, int], ...]
"""Successes and failures of the arms that were pulled, in order: which arm is which does not matter."""

MOST_PULLS = 14
"""Up to which the exact optimum is a matter of seconds."""


def bayes_optimum(pulls: int, arms: int) -> float:
    """Expected total reward of the best algorithm there is, on Bernoulli arms with uniform means.

    Dynamic programming over what was seen: V(seen) = max over arms of p (1 + V(seen and a success)) +
    (1 - p) V(seen and a failure), where p is the arm's posterior mean.

    Args:
        pulls: n, at most MOST_PULLS.
        arms: k.
    """
    assert pulls <= MOST_PULLS

    @functools.cache
    def value(seen: Arms, left: int) -> float:
        if not left:
            return 0.0
        return max(after(seen, arm, left) for arm in {*seen, *([(0, 0)] if len(seen) < arms else [])})

    def after(seen: Arms, arm: tuple[int, int], left: int) -> float:
        successes, failures = arm
        others = list(seen)
        if arm != (0, 0):
            others.remove(arm)
        mean = (1 + successes) / (2 + successes + failures)
        good = tuple(sorted([*others, (successes + 1, failures)]))
        bad = tuple(sorted([*others, (successes, failures + 1)]))
        return mean * (1.0 + value(good, left - 1)) + (1.0 - mean) * value(bad, left - 1)

    return value((), pulls)


def best_arms(tasks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected reward of a pull of the best arm, of tasks [N, k], [N]."""
    return tasks.max(axis=1)


def known_mdps(rewards: NDArray[np.float64], transitions: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Expected return of the best policy from state 0, [N]; arguments as of `planning.qualities`."""
    return qualities(rewards, transitions, horizon)[:, 0, 0].max(-1)
