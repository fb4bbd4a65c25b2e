"""Intervals around a mean."""

from __future__ import annotations

import numpy as np
import pytest

from mamlrl.evaluation.comparison import Evaluated, pool
from mamlrl.statistics import INTERVALS, bounds, interval


@pytest.mark.parametrize(
    ("n", "quantile"),  # of a printed table of Student's t
    [(2, 12.706), (3, 4.303), (4, 3.182), (11, 2.228), (21, 2.086), (40, 2.023), (1001, 1.962)],
)
def test_students_interval_is_that_of_printed_tables(n: int, quantile: float) -> None:
    values = np.arange(n, dtype=float)
    assert interval(values) == pytest.approx(quantile * values.std(ddof=1) / n**0.5, rel=3e-4)


@pytest.mark.parametrize("kind", INTERVALS)
def test_intervals_of_several_columns_are_those_of_each(kind: str) -> None:
    values = np.random.default_rng(1).normal(size=(7, 3))
    together = bounds(values, kind)
    for column in range(3):
        lower, upper = bounds(values[:, column], kind)
        assert together[:, column] == pytest.approx([lower, upper], rel=0.1 if kind == "bootstrap" else 1e-12)
        assert lower < values[:, column].mean() < upper
    assert np.isnan(bounds(values[:1], kind)).all()
    assert bounds(np.ones(4), kind).tolist() == [1.0, 1.0]


def test_bootstrap_is_seeded_and_lies_within_the_data() -> None:
    values = np.array([0.0, 0.0, 0.0, 10.0])
    lower, upper = bounds(values, "bootstrap")
    assert (lower, upper) == tuple(bounds(values, "bootstrap"))
    assert lower == 0 and 5 <= upper <= 10  # unlike Student's, which reaches below 0
    assert bounds(values, "student")[0] < 0


def test_standard_error_is_a_part_of_students_interval() -> None:
    values = np.array([1.0, 2.0, 3.0])
    lower, upper = bounds(values, "standard_error")
    assert (upper - lower) / 2 == pytest.approx(1 / 3**0.5)


def test_pooled_seeds_count_one_each() -> None:
    tasks = np.zeros((2, 1))
    runs = [
        Evaluated("maml", "maml", seed, tasks, {"return": np.array([[seed - 1.0, seed + 1.0]])}) for seed in (1, 2, 3)
    ]
    (curve,) = pool(runs)
    assert curve.means == [2.0] and curve.over == "3 seeds" and curve.runs == [[1.0], [2.0], [3.0]]
    assert np.diff(curve.bounds[0]) == pytest.approx(2 * interval(np.array([1.0, 2.0, 3.0])))
    (alone,) = pool(runs[:1])
    assert alone.over == "2 tasks" and alone.runs == []
