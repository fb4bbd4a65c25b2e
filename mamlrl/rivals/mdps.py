"""Algorithms for tabular Markov decision processes, each of which plays N processes in lock step.

They plan once an episode, on what they have seen in the episodes before. All believe in Dirichlet(1, ..., 1) next
states and in mean rewards N(mu, 1) of rewards with variance 1. Duan et al. (2016) draw the means with mu = 1; that
their published algorithms believed in mu = 0 is what their numbers tell (docs/bandits.md).

Shapes: N processes, S states, A actions, H time steps of an episode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamlrl.rivals.planning import Policy, best_actions, qualities

Array = NDArray[Any]
Indices = NDArray[np.intp]

CONFIDENCE = 0.05
"""delta of UCRL2."""


class Beliefs:
    """What is known of N processes.

    Args:
        shape: N, S and A.
        horizon: H.
        prior_mean: mu.
        rng: all that an algorithm draws.
    """

    def __init__(self, shape: tuple[int, int, int], horizon: int, prior_mean: float, rng: np.random.Generator):
        n, states, actions = shape
        self.counts = np.zeros((n, states, actions, states), np.float32)  # of transitions
        self.sums, self.visits = np.zeros((2, *shape), np.float32)
        self.horizon, self.prior_mean, self.rng, self.steps = horizon, np.float32(prior_mean), rng, 0
        self._rows = np.arange(n)

    def learn(self, states: Indices, actions: Indices, rewards: Array, next_states: Indices) -> None:
        """Take note of a time step of each process, [N]."""
        self.counts[self._rows, states, actions, next_states] += 1.0
        self.visits[self._rows, states, actions] += 1.0
        self.sums[self._rows, states, actions] += rewards
        self.steps += 1

    @property
    def rewards(self) -> Array:
        """Posterior means, [N, S, A]."""
        return (self.prior_mean + self.sums) / (1.0 + self.visits)

    @property
    def transitions(self) -> Array:
        """Posterior means, [N, S, A, S]."""
        return (1.0 + self.counts) / (self.counts.shape[-1] + self.visits)[..., None]

    @property
    def likely_transitions(self) -> Array:
        """Where the posterior is highest, the frequencies; uniform where nothing was seen, [N, S, A, S]."""
        seen = self.visits[..., None]
        return np.where(seen > 0, self.counts / np.maximum(seen, 1.0), np.float32(1.0 / self.counts.shape[-1]))

    def sampled_qualities(self) -> Array:
        """Qualities of processes drawn from the posterior, [N, H, S, A]."""
        noise = self.rng.standard_normal(self.sums.shape, np.float32)
        waits = self.rng.standard_gamma(1.0 + self.counts, dtype=np.float32)
        transitions = waits / waits.sum(-1, keepdims=True)
        return qualities(self.rewards + noise / np.sqrt(1.0 + self.visits), transitions, self.horizon)


Plan = Callable[[Beliefs, float], Policy]
"""Policies for an episode; the number is the algorithm's parameter."""


def random(beliefs: Beliefs, _: float) -> Policy:
    """Any action."""
    n, states, actions = beliefs.visits.shape
    return beliefs.rng.integers(actions, size=(n, beliefs.horizon, states))


def psrl(beliefs: Beliefs, _: float) -> Policy:
    """Best for a process drawn from the posterior (Strens 2000; Osband, Russo, Van Roy 2013)."""
    return best_actions(beliefs.sampled_qualities())


def optimistic_psrl(beliefs: Beliefs, samples: float) -> Policy:
    """Best for the largest of the qualities of several processes drawn from the posterior."""
    largest = beliefs.sampled_qualities()
    for _ in range(int(samples) - 1):
        np.maximum(largest, beliefs.sampled_qualities(), out=largest)
    return best_actions(largest)


def ucrl2(beliefs: Beliefs, scale: float) -> Policy:
    """Best for the most favourable process within confidence bounds (Jaksch, Ortner, Auer 2010), scaled.

    The bounds are scale x sqrt(4 L / T) on a mean reward and scale x sqrt(4 S L / T) on the L1 distance of next states,
    with L = log(2 S A t / delta) after t time steps of which T were in the state with that action.
    """
    _, states, actions = beliefs.visits.shape
    log = np.log(2.0 * states * actions * (beliefs.steps + 1.0) / CONFIDENCE)
    bound = (scale * np.sqrt(4.0 * log / np.maximum(beliefs.visits, 1.0))).astype(np.float32)
    slack = bound * np.float32(np.sqrt(states))
    found = qualities(beliefs.rewards + bound, beliefs.transitions, beliefs.horizon, slack)
    return best_actions(found, beliefs.rng)


def beb(beliefs: Beliefs, bonus: float) -> Policy:
    """Best for posterior means, with a bonus of beta / (1 + T) on rewards (Kolter, Ng 2009)."""
    return _with_bonus(beliefs, bonus / (1.0 + beliefs.visits))


def mbie_eb(beliefs: Beliefs, bonus: float) -> Policy:
    """Best for posterior means, with a bonus of beta / sqrt(1 + T) on rewards (Strehl, Littman 2008)."""
    return _with_bonus(beliefs, bonus / np.sqrt(1.0 + beliefs.visits))


def _with_bonus(beliefs: Beliefs, bonus: Array) -> Policy:
    rewards = (beliefs.rewards + bonus).astype(np.float32)
    return best_actions(qualities(rewards, beliefs.transitions, beliefs.horizon), beliefs.rng)


def greedy(beliefs: Beliefs, _: float) -> Policy:
    """Best for the most likely process."""
    return best_actions(qualities(beliefs.rewards, beliefs.likely_transitions, beliefs.horizon), beliefs.rng)


def epsilon_greedy(beliefs: Beliefs, epsilon: float) -> Policy:
    """As `greedy`, but any action with probability epsilon."""
    policy = greedy(beliefs, 0.0)
    explores = beliefs.rng.random(policy.shape, np.float32) < epsilon
    return np.where(explores, random(beliefs, 0.0), policy)


class MDPRow(NamedTuple):
    """One algorithm."""

    plan: Plan
    parameter: str = ""
    """what its number is; empty without one"""
    grid: tuple[float, ...] = (0.0,)
    """numbers that it is tuned over"""
    prior_mean: float = 0.0
    """mu"""


BONUSES = (0.3, 0.5, 1.0, 1.5, 2.0, 3.0)
EPSILONS = (0.01, 0.02, 0.05, 0.1, 0.2)

MDPS: dict[str, MDPRow] = {
    "random": MDPRow(random),
    "psrl": MDPRow(psrl),
    "opsrl": MDPRow(optimistic_psrl, "samples", (5, 10)),
    "ucrl2": MDPRow(ucrl2, "scale", (0.1, 0.2, 0.3, 0.4)),
    "beb": MDPRow(beb, "beta", BONUSES),
    "mbie-eb": MDPRow(mbie_eb, "beta", BONUSES),
    "eps-greedy": MDPRow(epsilon_greedy, "epsilon", EPSILONS),
    "greedy": MDPRow(greedy),
    "psrl (true prior)": MDPRow(psrl, prior_mean=1.0),
}
"""Algorithms by name, in the order of the paper's table; the last believes in the means' true distribution.

With BEB a prior mean that is lower by 1 and a bonus that is larger by 1 are the same.
"""


class MDPPlayer:
    """An algorithm at play, with what it has learned so far; see `evaluation.rival_trials.Player`.

    Args:
        row: the algorithm.
        parameter: its number.
        shape: N, S and A.
        horizon: H.
        rng: all that it draws.
    """

    def __init__(
        self, row: MDPRow, parameter: float, shape: tuple[int, int, int], horizon: int, rng: np.random.Generator
    ):
        self._plan, self._parameter = row.plan, parameter
        self._beliefs = Beliefs(shape, horizon, row.prior_mean, rng)
        self._policy: Policy = np.zeros((shape[0], horizon, shape[1]), np.intp)
        self._rows = np.arange(shape[0])

    def start_episode(self) -> None:
        """Plan."""
        self._policy = self._plan(self._beliefs, self._parameter)

    def act(self, states: Indices, step: int) -> Indices:
        """Actions [N] in states [N], in a time step of the episode."""
        return self._policy[self._rows, step, states]

    def learn(self, states: Indices, actions: Indices, rewards: Array, next_states: Indices) -> None:
        """Take note of a time step."""
        self._beliefs.learn(states, actions, rewards, next_states)
