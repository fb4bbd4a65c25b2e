"""The sinusoids of the MAML and Meta-SGD papers."""

from __future__ import annotations

import numpy as np
import pytest

from mamlrl.errors import ConfigError
from mamlrl.supervised.base import to_examples
from mamlrl.supervised.observe_task import ObserveTask
from mamlrl.supervised.sinusoid import make_sinusoid, make_sinusoid_frequency


def test_tasks_and_points_are_uniform_in_the_ranges_of_the_paper() -> None:
    rng, sinusoid = np.random.default_rng(0), make_sinusoid("train")
    tasks = sinusoid.sample_tasks(20_000, rng)
    assert tasks.shape == (20_000, 2)
    for column, (low, high) in zip(tasks.T, [(0.1, 5.0), (0.0, np.pi)], strict=True):
        assert low <= column.min() < low + 0.01 * high and high - 0.01 * high < column.max() <= high
        assert column.mean() == pytest.approx((low + high) / 2, rel=0.02)
        assert column.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.02)
    support, query = sinusoid.draw(tasks[:1000], 10, 20, rng)
    assert support.inputs.shape == (1000, 10, 1) and query.targets.shape == (1000, 20, 1)
    assert -5 <= support.inputs.min() < -4.9 and 4.9 < support.inputs.max() <= 5


def test_targets_are_the_sinusoid_of_the_task() -> None:
    rng = np.random.default_rng(0)
    support, query = make_sinusoid("train").draw(np.array([[2.0, 0.5], [3.0, 1.0]]), 4, 6, rng)
    for drawn in (support, query):
        np.testing.assert_allclose(drawn.targets[0], 2 * np.sin(drawn.inputs[0] - 0.5), atol=1e-5)
        np.testing.assert_allclose(drawn.targets[1], 3 * np.sin(drawn.inputs[1] - 1), atol=1e-5)
        assert drawn.inputs.dtype == drawn.targets.dtype == np.float32


def test_predicting_nothing_has_the_error_that_the_literature_says() -> None:
    """4.25 for zero: the mean of A^2 sin^2."""
    rng, sinusoid = np.random.default_rng(0), make_sinusoid("test")
    _, query = sinusoid.draw(sinusoid.sample_tasks(20_000, rng), 1, 20, rng)
    assert np.square(query.targets).mean() == pytest.approx(4.25, abs=0.08)


def test_the_harder_family_has_a_frequency_of_its_own_in_every_task() -> None:
    rng, sinusoid = np.random.default_rng(0), make_sinusoid_frequency("train")
    tasks = sinusoid.sample_tasks(5000, rng)
    assert tasks.shape == (5000, 3) and 0.8 <= tasks[:, 2].min() and tasks[:, 2].max() <= 1.2
    support, _ = sinusoid.draw(np.array([[2.0, 0.5, 1.1]]), 4, 6, rng)
    np.testing.assert_allclose(support.targets, 2 * np.sin(1.1 * support.inputs - 0.5), atol=1e-5)


def test_examples_are_rollouts_of_one_time_step_with_equal_weights() -> None:
    rng, sinusoid = np.random.default_rng(0), make_sinusoid("train")
    support, _ = sinusoid.draw(sinusoid.sample_tasks(3, rng), 4, 6, rng)
    examples = to_examples(support)
    assert examples.observations.shape == examples.targets.shape == (3, 4, 1, 1)
    assert examples.weights.shape == (3, 4, 1) and (examples.weights == 0.25).all()
    np.testing.assert_array_equal(examples.observations[:, :, 0].numpy(), support.inputs)


def test_an_oracle_sees_the_task_behind_each_input() -> None:
    seen, plain = ObserveTask(make_sinusoid("train")), make_sinusoid("train")
    tasks = seen.sample_tasks(3, np.random.default_rng(0))
    drawn, expected = (one.draw(tasks, 4, 6, np.random.default_rng(1))[1] for one in (seen, plain))
    assert seen.input_space.shape == (3,)
    np.testing.assert_array_equal(drawn.inputs[..., :1], expected.inputs)
    np.testing.assert_array_equal(drawn.inputs[:, 5, 1:], tasks.astype(np.float32))


@pytest.mark.parametrize("given", [[1.0], [2.0, 1.0], 3, ["a", "b"], [0, 1e9], [True, 2], None])
def test_a_range_that_is_none_is_named(given: object) -> None:
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.amplitude is .*two numbers"):
        make_sinusoid("train", amplitude=given)  # type: ignore[arg-type]
