"""Algorithms for bandits, each of which plays N bandits of k arms in lock step.

All of them know the prior: uniform means of Bernoulli arms, standard normal means of Gaussian ones. Of arms with equal
scores the first is pulled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mamlrl.rivals.gittins import gittins_table

Array = NDArray[Any]  # of floats, in either precision
Arms = NDArray[np.intp]


class Beliefs(Protocol):
    """What is known of N x k arms."""

    pulls: Array
    """how often each was pulled, [N, k]"""

    @property
    def means(self) -> Array:
        """Posterior means, [N, k]."""
        ...

    def sample(self, rng: np.random.Generator) -> Array:
        """Means drawn from the posterior, [N, k]."""
        ...

    def log_density(self, means: Array) -> Array:
        """Logarithm of the posterior density of means [N, k], but for a constant, [N]."""
        ...

    def learn(self, arms: Arms, rewards: Array) -> None:
        """Take note of a pull of each bandit, [N]."""
        ...


class BetaBeliefs:
    """Bernoulli arms under a Beta(1, 1) prior.

    Args:
        bandits: N.
        arms: k.
    """

    def __init__(self, bandits: int, arms: int):
        self.successes, self.pulls = np.zeros((2, bandits, arms), np.float32)
        self._rows = np.arange(bandits)

    @property
    def means(self) -> Array:
        """(1 + successes) / (2 + pulls)."""
        return (1.0 + self.successes) / (2.0 + self.pulls)

    def sample(self, rng: np.random.Generator) -> Array:
        """Beta numbers, as shares of two Gamma numbers."""
        good = rng.standard_gamma(1.0 + self.successes, dtype=np.float32)
        bad = rng.standard_gamma(1.0 + self.pulls - self.successes, dtype=np.float32)
        return good / (good + bad)

    def log_density(self, means: Array) -> Array:
        """Of a product of Beta densities."""
        inside = np.clip(means, 1e-7, 1.0 - 1e-7)
        failures = self.pulls - self.successes
        return (self.successes * np.log(inside) + failures * np.log1p(-inside)).sum(axis=1)

    def learn(self, arms: Arms, rewards: Array) -> None:
        """Count a pull of each bandit, and its success."""
        self.pulls[self._rows, arms] += 1.0
        self.successes[self._rows, arms] += rewards


class NormalBeliefs:
    """Arms that pay N(mean, 1), under an N(0, 1) prior of the mean.

    Args:
        bandits: N.
        arms: k.
    """

    def __init__(self, bandits: int, arms: int):
        self.sums, self.pulls = np.zeros((2, bandits, arms))
        self._rows = np.arange(bandits)

    @property
    def means(self) -> Array:
        """Sum of rewards / (1 + pulls)."""
        return self.sums / (1.0 + self.pulls)

    def sample(self, rng: np.random.Generator) -> Array:
        """Normal numbers of variance 1 / (1 + pulls)."""
        return self.means + rng.standard_normal(self.sums.shape) / np.sqrt(1.0 + self.pulls)

    def log_density(self, means: Array) -> Array:
        """Of a product of normal densities."""
        return -0.5 * ((1.0 + self.pulls) * np.square(means - self.means)).sum(axis=1)

    def learn(self, arms: Arms, rewards: Array) -> None:
        """Take note of what a pull of each bandit has paid."""
        self.pulls[self._rows, arms] += 1.0
        self.sums[self._rows, arms] += rewards


BELIEFS: dict[str, type[BetaBeliefs] | type[NormalBeliefs]] = {"bernoulli": BetaBeliefs, "gaussian": NormalBeliefs}
"""By the argument `reward` of `mamlrl/Bandit-v0`."""


class Turn(NamedTuple):
    """What an algorithm chooses on."""

    beliefs: Beliefs
    number: int
    """of the pull, from 0"""
    pulls: int
    """n, of them in all"""
    rng: np.random.Generator


Choose = Callable[[Turn, float], Arms]
"""Arms to pull [N]; the number is the algorithm's parameter."""


def random(turn: Turn, _: float) -> Arms:
    """Any arm."""
    bandits, arms = turn.beliefs.pulls.shape
    return turn.rng.integers(arms, size=bandits)


def greedy(turn: Turn, _: float) -> Arms:
    """The arm of the best posterior mean."""
    return turn.beliefs.means.argmax(axis=1)


def epsilon_greedy(turn: Turn, epsilon: float) -> Arms:
    """Any arm with probability epsilon, else the one of the best posterior mean."""
    explores = turn.rng.random(len(turn.beliefs.pulls)) < epsilon
    return np.where(explores, random(turn, 0.0), greedy(turn, 0.0))


def thompson(turn: Turn, _: float) -> Arms:
    """The best arm of means drawn from the posterior (Thompson 1933)."""
    return turn.beliefs.sample(turn.rng).argmax(axis=1)


def optimistic_thompson(turn: Turn, samples: float) -> Arms:
    """The best arm of those means that have the highest posterior density among several that were drawn."""
    chosen, highest = thompson(turn, 0.0), np.full(len(turn.beliefs.pulls), -np.inf)
    for _ in range(int(samples)):
        means = turn.beliefs.sample(turn.rng)
        density = turn.beliefs.log_density(means)
        chosen = np.where(density > highest, means.argmax(axis=1), chosen)
        highest = np.maximum(density, highest)
    return chosen


def ucb1(turn: Turn, scale: float) -> Arms:
    """The arm of the largest posterior mean + c sqrt(2 log t / (T + 2)), pulled T times so far (Auer et al. 2002)."""
    bonus = scale * np.sqrt(2.0 * np.log(turn.number + 1.0) / (turn.beliefs.pulls + 2.0))
    return (turn.beliefs.means + bonus).argmax(axis=1)


def gittins(turn: Turn, discount: float) -> Arms:
    """The arm of the largest Gittins index under a discount (Gittins 1979); of Bernoulli arms alone."""
    beliefs = turn.beliefs
    assert isinstance(beliefs, BetaBeliefs)
    successes = beliefs.successes.astype(np.intp)
    table = gittins_table(turn.pulls, discount)
    return table[successes, beliefs.pulls.astype(np.intp) - successes].argmax(axis=1)


class BanditRow(NamedTuple):
    """One algorithm."""

    choose: Choose
    parameter: str = ""
    """what its number is; empty without one"""
    grid: tuple[float, ...] = (0.0,)
    """numbers that it is tuned over"""
    rewards: tuple[str, ...] = tuple(BELIEFS)
    """kinds of rewards that it is for"""


BANDITS: dict[str, BanditRow] = {
    "random": BanditRow(random),
    "gittins": BanditRow(gittins, "discount", (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995), ("bernoulli",)),
    "thompson": BanditRow(thompson),
    "ots": BanditRow(optimistic_thompson, "samples", (5, 10, 20)),
    "ucb1": BanditRow(ucb1, "c", (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)),
    "eps-greedy": BanditRow(epsilon_greedy, "epsilon", (0.005, 0.01, 0.02, 0.05, 0.1)),
    "greedy": BanditRow(greedy),
}
"""Algorithms by name, in the order of the paper's table."""


class BanditPlayer:
    """An algorithm at play, with what it has learned so far; see `evaluation.rival_trials.Player`.

    Args:
        row: the algorithm.
        parameter: its number.
        reward: kind of rewards, a name in BELIEFS.
        shape: N and k.
        pulls: n.
        rng: all that it draws.
    """

    def __init__(
        self,
        row: BanditRow,
        parameter: float,
        reward: str,
        shape: tuple[int, int],
        pulls: int,
        rng: np.random.Generator,
    ):
        self._choose, self._parameter = row.choose, parameter
        self._turn = Turn(BELIEFS[reward](*shape), 0, pulls, rng)

    def start_episode(self) -> None:
        """There is nothing to plan: an episode is a pull, or several."""

    def act(self, states: Arms, step: int) -> Arms:
        """Arms to pull, [N]."""
        return self._choose(self._turn, self._parameter)

    def learn(self, states: Arms, actions: Arms, rewards: Array, next_states: Arms) -> None:
        """Take note of a pull of each bandit."""
        self._turn.beliefs.learn(actions, rewards)
        self._turn = self._turn._replace(number=self._turn.number + 1)
