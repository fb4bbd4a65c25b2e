"""Algorithms for bandits and MDPs against computations that share no code with them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from mamlrl.rivals import bandits, mdps
from mamlrl.rivals.bayes import bayes_optimum, known_mdps
from mamlrl.rivals.gittins import gittins_table
from mamlrl.rivals.planning import best_actions, qualities

RNG = np.random.default_rng
optimize: Any = scipy.optimize  # whose types do not tell what their arguments make of them
stats: Any = scipy.stats


def index_by_stopping(successes: int, failures: int, discount: float, depth: int) -> float:
    """The Gittins index as a root: the sure reward at which one pull, then stopping at will, is worth as much."""

    def advantage(sure: float) -> float:
        ever = sure / (1 - discount)
        seen = successes + failures + 2
        values = [max(ever, (1 + successes + d) / (seen + depth) / (1 - discount)) for d in range(depth + 1)]
        for pulled in reversed(range(depth)):
            means = [(1 + successes + d) / (seen + pulled) for d in range(pulled + 1)]
            going_on = [
                p * (1 + discount * values[d + 1]) + (1 - p) * discount * values[d] for d, p in enumerate(means)
            ]
            values = [max(ever, value) if pulled else value for value in going_on]
        return values[0] - ever

    return float(optimize.brentq(advantage, 1e-6, 1 - 1e-6, xtol=1e-8))


@pytest.mark.parametrize(("successes", "failures", "discount"), [(0, 0, 0.9), (3, 1, 0.9), (0, 4, 0.7), (2, 2, 0.95)])
def test_gittins_indices(successes: int, failures: int, discount: float) -> None:
    table = gittins_table(8, discount)
    expected = index_by_stopping(successes, failures, discount, 150)
    assert table[successes, failures] == pytest.approx(expected, abs=3e-5)  # the grid's width squared is 6e-6


def test_published_gittins_indices() -> None:
    """Gittins, Glazebrook, Weber (2011), table 8.4: discount 0.9, by a + 1 successes and b + 1 failures."""
    table = gittins_table(5, 0.9)
    for (successes, failures), index in {(0, 0): 0.7029, (1, 0): 0.8001, (0, 1): 0.5001, (1, 1): 0.6346}.items():
        assert table[successes, failures] == pytest.approx(index, abs=1e-4)
    assert np.isnan(table[3, 3])  # more pulls than the table is for


def best_by_enumeration(pulls: int, arms: int) -> float:
    """Over everything that may happen, with each arm's counts in its own place."""

    def value(counts: tuple[tuple[int, int], ...], left: int) -> float:
        if not left:
            return 0.0
        values = []
        for arm in range(arms):
            successes, failures = counts[arm]
            mean = (successes + 1) / (successes + failures + 2)
            good = (*counts[:arm], (successes + 1, failures), *counts[arm + 1 :])
            bad = (*counts[:arm], (successes, failures + 1), *counts[arm + 1 :])
            values.append(mean * (1 + value(good, left - 1)) + (1 - mean) * value(bad, left - 1))
        return max(values)

    return value(((0, 0),) * arms, pulls)


def test_the_exact_optimum_of_bandits() -> None:
    for pulls, arms in ((1, 2), (2, 2), (4, 3), (5, 2)):
        assert bayes_optimum(pulls, arms) == pytest.approx(best_by_enumeration(pulls, arms), rel=1e-12)
    assert bayes_optimum(10, 5) == pytest.approx(6.65999, abs=1e-5)
    assert bayes_optimum(10, 10) == bayes_optimum(10, 50) == pytest.approx(6.71395, abs=1e-5)


def random_mdps(n: int, states: int, actions: int) -> tuple[Any, Any]:
    rng = RNG(0)
    return rng.normal(size=(n, states, actions)), rng.dirichlet(np.ones(states), (n, states, actions))


def test_planning_is_better_than_any_other_policy() -> None:
    """All policies of two states, two actions and two time steps."""
    rewards, transitions = random_mdps(3, 2, 2)
    found = qualities(rewards, transitions, 2)
    policy = best_actions(found)
    for n in range(3):
        returns = {}
        for chosen in itertools.product(range(2), repeat=4):  # [H, S]
            table = np.reshape(chosen, (2, 2))
            last = np.array([rewards[n, s, table[1, s]] for s in range(2)])
            first = table[0, 0]
            returns[chosen] = rewards[n, 0, first] + transitions[n, 0, first] @ last
        best = max(returns.values())
        assert known_mdps(rewards[n : n + 1], transitions[n : n + 1], 2)[0] == pytest.approx(best, rel=1e-12)
        assert returns[tuple(policy[n].ravel().tolist())] == pytest.approx(best, rel=1e-12)
        assert found[n, 0, 0].max() == pytest.approx(best, rel=1e-12)


def test_optimistic_transitions_solve_the_linear_program() -> None:
    rewards, transitions = random_mdps(4, 4, 2)
    slack = RNG(1).uniform(0.0, 2.5, (4, 4, 2))
    found = qualities(rewards, transitions, 2, slack)
    values = found[:, 1].max(-1)
    np.testing.assert_allclose(found[:, 1], rewards, rtol=1e-12)  # nothing comes after it
    for n, s, a in itertools.product(range(4), range(4), range(2)):
        p = transitions[n, s, a]
        # p' = p + up - down, of which the sum of up and down is within the slack
        bounds = [(0, None)] * 4 + [(0, x) for x in p]
        program = optimize.linprog(
            np.concatenate([-values[n], values[n]]),
            A_ub=[np.ones(8)],
            b_ub=[slack[n, s, a]],
            A_eq=[np.repeat([1.0, -1.0], 4)],
            b_eq=[0.0],
            bounds=bounds,
        )
        assert found[n, 0, s, a] == pytest.approx(rewards[n, s, a] + p @ values[n] - program.fun, abs=1e-9)


def test_ties_are_broken_at_random_or_by_the_first() -> None:
    quality = np.zeros((2000, 1, 1, 3))
    quality[..., 2] = -1.0
    assert not best_actions(quality).any()
    drawn = best_actions(quality, RNG(0)).ravel()
    assert set(drawn.tolist()) == {0, 1} and abs(drawn.mean() - 0.5) < 0.05


def beta_beliefs(successes: list[int], pulls: list[int], bandits_: int = 1) -> bandits.BetaBeliefs:
    beliefs = bandits.BetaBeliefs(bandits_, len(pulls))
    beliefs.successes[:], beliefs.pulls[:] = successes, pulls
    return beliefs


def test_beliefs_on_arms() -> None:
    beliefs = beta_beliefs([3, 0], [4, 1], 40_000)
    np.testing.assert_allclose(beliefs.means[0], [4 / 6, 1 / 3], rtol=1e-6)
    drawn = beliefs.sample(RNG(0))
    for arm, (a, b) in enumerate(((4, 2), (1, 2))):
        assert stats.kstest(drawn[:, arm], stats.beta(a, b).cdf).pvalue > 1e-3
    means = np.array([[0.3, 0.6], [0.7, 0.2]], np.float32)
    density = beta_beliefs([3, 0], [4, 1], 2).log_density(means)
    expected = stats.beta(4, 2).logpdf(means[:, 0]) + stats.beta(1, 2).logpdf(means[:, 1])
    np.testing.assert_allclose(np.diff(density), np.diff(expected), rtol=1e-5)

    normal = bandits.NormalBeliefs(40_000, 2)
    for reward in (2.0, 4.0):
        normal.learn(np.ones(40_000, int), np.full(40_000, reward))
    np.testing.assert_allclose(normal.means[0], [0.0, 2.0])  # 6 / (1 + 2)
    drawn = normal.sample(RNG(0))
    assert stats.kstest(drawn[:, 1], stats.norm(2.0, np.sqrt(1 / 3)).cdf).pvalue > 1e-3
    np.testing.assert_allclose(
        np.diff(normal.log_density(np.tile([[0.0, 1.0], [1.0, 3.0]], (20_000, 1)))[:2]),
        np.diff(stats.norm(0, 1).logpdf([0.0, 1.0]) + stats.norm(2, np.sqrt(1 / 3)).logpdf([1.0, 3.0])),
    )


def choose(name: str, parameter: float, beliefs: bandits.BetaBeliefs, number: int = 9) -> list[int]:
    row = bandits.BANDITS[name]
    return row.choose(bandits.Turn(beliefs, number, 10, RNG(0)), parameter).tolist()


def test_what_algorithms_for_bandits_pull() -> None:
    beliefs = beta_beliefs([6, 1, 0], [8, 1, 0])  # means .7, .667, .5
    assert choose("greedy", 0.0, beliefs) == [0] == choose("eps-greedy", 0.0, beliefs)
    # .7 + c sqrt(2 log 10 / 10), .667 + c sqrt(2 log 10 / 3), .5 + c sqrt(2 log 10 / 2)
    assert choose("ucb1", 0.01, beliefs) == [0] and choose("ucb1", 0.2, beliefs) == [1]
    assert choose("ucb1", 1.0, beliefs) == [2]
    assert choose("gittins", 0.9, beliefs) == [1]  # index (1, 0) is .8, above that of (6, 2)
    many = beta_beliefs([6, 1, 0], [8, 1, 0], 4000)
    drawn = stats.beta([7, 2, 1], [3, 1, 1]).rvs((100_000, 3), random_state=RNG(1)).argmax(1)
    expected = np.bincount(drawn, minlength=3) / 100_000
    shares = np.bincount(choose("thompson", 0.0, many), minlength=3) / 4000
    np.testing.assert_allclose(shares, expected, atol=0.035)  # 4.5 standard errors
    greedier = np.bincount(choose("ots", 50, many), minlength=3) / 4000
    assert greedier[2] < 0.5 * shares[2]  # where the density is high, the least known arm is seldom the best
    assert np.bincount(choose("eps-greedy", 0.6, many), minlength=3)[2] / 4000 == pytest.approx(0.2, abs=0.03)


def mdp_beliefs(n: int = 1, prior_mean: float = 0.0) -> mdps.Beliefs:
    """Two states and actions; in state 0 action 1 has led to state 1 twice, for 3 and 5."""
    beliefs = mdps.Beliefs((n, 2, 2), 3, prior_mean, RNG(0))
    for reward in (3.0, 5.0):
        beliefs.learn(np.zeros(n, int), np.ones(n, int), np.full(n, reward), np.ones(n, int))
    return beliefs


def test_beliefs_on_mdps() -> None:
    beliefs = mdp_beliefs()
    np.testing.assert_allclose(beliefs.rewards[0], [[0.0, 8 / 3], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(mdp_beliefs(1, 1.0).rewards[0], [[1.0, 3.0], [1.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(beliefs.transitions[0, 0], [[0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_allclose(beliefs.likely_transitions[0, 0], [[0.5, 0.5], [0.0, 1.0]])
    last = mdp_beliefs(20_000).sampled_qualities()[:, -1]  # rewards alone
    for pair, mean, variance in (((0, 1), 8 / 3, 1 / 3), ((1, 0), 0.0, 1.0)):
        drawn = last[:, *pair]
        assert drawn.mean() == pytest.approx(mean, abs=0.04) and drawn.var() == pytest.approx(variance, abs=0.05)


def test_what_algorithms_for_mdps_plan() -> None:
    def first(name: str, parameter: float, state: int) -> set[int]:
        return {mdps.MDPS[name].plan(mdp_beliefs(), parameter)[0, 0, state].item() for _ in range(20)}

    for name in ("greedy", "beb", "mbie-eb", "ucrl2"):
        assert first(name, 0.0, 0) == {1}
    for name in ("beb", "mbie-eb", "ucrl2"):
        assert first(name, 1000.0, 0) == {0}  # the one that was never taken
    drawn = mdps.MDPS["eps-greedy"].plan(mdp_beliefs(4000), 0.5)[:, 0, 0]
    assert drawn.mean() == pytest.approx(0.75, abs=0.03)
    assert mdps.MDPS["random"].plan(mdp_beliefs(4000), 0.0)[:, 0, 0].mean() == pytest.approx(0.5, abs=0.04)
    shares = [mdps.MDPS[name].plan(mdp_beliefs(4000), 10)[:, 2, 0].mean() for name in ("psrl", "opsrl")]
    # in the last time step N(8/3, 1/3) against N(0, 1), or the largest of ten against the largest of ten
    assert shares[0] == pytest.approx(stats.norm.cdf(8 / 3 / np.sqrt(4 / 3)), abs=0.008)
    drawn = RNG(1).standard_normal((2, 20_000, 10)).max(-1)
    assert shares[1] == pytest.approx((8 / 3 + np.sqrt(1 / 3) * drawn[0] > drawn[1]).mean(), abs=0.006)
