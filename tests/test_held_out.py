"""What evaluation makes of rounds and of results in which not everything was measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mamlrl.config.files import make_config, merge, shipped_settings
from mamlrl.errors import ConfigError
from mamlrl.evaluation import held_out
from mamlrl.evaluation.comparison import Evaluated, base_settings, compare, pool, report
from mamlrl.evaluation.examples import DIVERGED, estimates_of, with_divergence
from mamlrl.evaluation.protocols import eval_settings
from mamlrl.rounds import Round
from mamlrl.run_folder.figures import figure
from mamlrl.statistics import INTERVALS, bounds
from mamlrl.structs import Rollouts


def round_of(step: int, **measures: list[list[float]]) -> Round:
    """A round of 2 tasks with 2 rollouts each, with these measures [M, B]."""
    ones = torch.ones(2, 2, 3)
    told = {name: torch.tensor(values) for name, values in measures.items()}
    rollouts = Rollouts(ones[..., None], ones[..., None], ones, ones, 0 * ones, ones, ones[:, :, :1], told)
    return Round(step, {}, rollouts, None, 0.0, None)  # type: ignore[arg-type]


def test_a_measure_stands_at_the_steps_that_it_was_told_at() -> None:
    rounds = [round_of(0), round_of(1, success=[[1.0, 0.0], [1.0, 1.0]]), round_of(2)]
    result = held_out.result_of(rounds)
    assert result.returns.tolist() == [[3.0, 3.0]] * 3
    nothing = [math.nan, math.nan]
    np.testing.assert_array_equal(result.measures["success"], [nothing, [0.5, 1.0], nothing])


def evaluated(seed: int, success: np.ndarray) -> Evaluated:
    """Of 4 tasks after 0, 1 and 2 gradient steps."""
    returns = np.arange(12.0).reshape(3, 4)
    return Evaluated("maml", "maml", seed, np.zeros((4, 1)), {"return": returns, "success": success})


PARTLY = np.array([[math.nan] * 4, [0.0, 1.0, math.nan, math.nan], [0.0, 1.0, 2.0, 3.0]])


@pytest.mark.parametrize("kind", INTERVALS)
def test_tasks_that_tell_nothing_are_left_out_of_means_and_intervals(kind: str) -> None:
    (curve,) = pool([evaluated(1, PARTLY)], kind, "success")
    np.testing.assert_array_equal(curve.means, [math.nan, 0.5, 1.5])
    np.testing.assert_array_equal(curve.bounds[1], bounds(np.array([0.0, 1.0]), kind))
    np.testing.assert_array_equal(curve.bounds[2], bounds(np.arange(4.0), kind))


def test_what_was_not_measured_is_shown_as_such() -> None:
    results = [evaluated(1, PARTLY), evaluated(2, np.full((3, 4), math.nan))]
    returns, success = compare(results, "a title")
    np.testing.assert_array_equal(success.curves[0].means, [math.nan, 0.5, 1.5])
    assert "nan" in report([returns, success]).splitlines()[-1]
    figure(success)


def test_intervals_do_not_depend_on_how_many_quantities_they_are_of_at_once() -> None:
    values = np.random.default_rng(0).normal(size=(6, 3))
    for kind in INTERVALS:
        together = bounds(values, kind)
        np.testing.assert_array_equal(together, np.stack([bounds(column, kind) for column in values.T], axis=1))


def test_an_error_that_is_no_number_has_diverged_whatever_it_began_with() -> None:
    measured = with_divergence({"error": np.array([[math.inf, 1.0], [math.nan, 11.0]])})
    assert measured["error"].tolist() == [[math.inf, 1.0], [math.inf, 11.0]]
    assert measured[DIVERGED].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    began = with_divergence({"error": np.array([[2.0, 0.0], [math.nan, 11.0]])})
    assert began[DIVERGED].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    classes = with_divergence({"accuracy": np.array([[20.0]]), "loss": np.array([[math.nan]])})
    assert classes["loss"].tolist() == [[math.inf]] and DIVERGED not in classes


@pytest.mark.filterwarnings("error")
def test_infinite_values_have_no_interval_and_no_warning() -> None:
    (estimate,) = estimates_of(np.array([[math.inf, 1.0]]))
    assert estimate.mean == math.inf and math.isnan(estimate.half_width)


def test_runs_that_are_compared_adapt_to_as_many_examples_as_the_first_one() -> None:
    config = make_config(merge(shipped_settings("glyphs"), {"data": {"shots": 3}, "eval": {"queries": 0}}))
    settings = base_settings(config)
    assert (settings.shots, settings.queries) == (3, config.data.queries)


@pytest.mark.parametrize("name", ["shots", "queries"])
def test_no_examples_are_refused_where_they_are_asked_for(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"--{name} is 0; it must be at least 1"):
        eval_settings({name: 0}, None, prefix="--")
