"""Adam and SGD as functions of their state, against torch's own loop."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from mamlrl.config import AdamConfig, Config, SgdConfig
from mamlrl.outer import adam, sgd
from mamlrl.outer.descent import Descent

CONFIG = Config(
    adam=AdamConfig(rate=0.05, updates=3, betas=(0.7, 0.9), epsilon=1e-3), sgd=SgdConfig(rate=0.05, momentum=0.8)
)
STEPS = {
    "adam": (adam(CONFIG), lambda x: torch.optim.Adam([x], 0.05, betas=(0.7, 0.9), eps=1e-3), 3),
    "sgd with momentum": (sgd(CONFIG), lambda x: torch.optim.SGD([x], 0.05, momentum=0.8), 1),
    "sgd": (sgd(dataclasses.replace(CONFIG, sgd=SgdConfig(0.05))), lambda x: torch.optim.SGD([x], 0.05), 1),
}
steps = pytest.mark.parametrize("name", STEPS)


class Bowl:
    """Loss sum(x^4 / 4 + x) and divergence |x - point|^2; from evaluation number `breaks` on, no number."""

    def __init__(self, point: Tensor, breaks: float = math.inf, value: float = math.nan):
        self.point, self.calls, self.breaks, self.value = point, 0, breaks, value

    def loss(self, x: Tensor) -> float:
        self.calls += 1
        return self.value if self.calls >= self.breaks else float((x**4 / 4 + x).sum())

    def loss_and_gradient(self, point: Tensor | None = None) -> tuple[float, Tensor]:
        x = self.point if point is None else point
        return self.loss(x), x**3 + 1

    def evaluate(self, point: Tensor) -> tuple[float, float]:
        return self.loss(point), float((point - self.point).square().sum())


def walk(step: Descent, start: Tensor, updates: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
    point, moments, places = start, step.init(start), []
    for _ in range(updates):
        point, moments, outcome = step.step(Bowl(point), moments)
        assert not outcome.not_finite
        places.append((point, moments))
    return places


@steps
def test_descent_is_torchs_loop_over_meta_iterations(name, generator):
    step, make, updates = STEPS[name]
    start = torch.randn(5, generator=generator)
    x = start.clone()
    optimiser = make(x)
    for place, moments in walk(step, start, 4):
        for _ in range(updates):
            x.grad = x**3 + 1
            optimiser.step()
        torch.testing.assert_close(place, x, rtol=0, atol=0)
        remembered = {key: value for key, value in optimiser.state[x].items() if value is not None}
        assert {*remembered, "done"} == set(moments)
        for key, value in remembered.items():
            torch.testing.assert_close(moments[key], value, rtol=0, atol=0)
    assert int(moments["done"]) == 4


@steps
def test_what_it_remembers_is_not_written_to_and_has_one_shape_from_the_start(name, generator):
    step, *_ = STEPS[name]
    start = torch.randn(5, generator=generator)
    initial = step.init(start)
    assert all((value == 0).all() for value in initial.values())
    point, moments, _ = step.step(Bowl(start), initial)
    kept = {key: value.clone() for key, value in moments.items()}
    assert {key: (value.shape, value.dtype) for key, value in moments.items()} == {
        key: (value.shape, value.dtype) for key, value in initial.items()
    }
    objective, before = Bowl(point), point.clone()
    first, second = step.step(objective, moments), step.step(objective, moments)
    assert torch.equal(first[0], second[0])  # a function of its arguments
    assert torch.equal(point, before) and all(torch.equal(moments[key], value) for key, value in kept.items())
    assert all((value == 0).all() for value in initial.values())


@steps
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_at_any_of_the_steps_refuses_all_of_them(name, value, generator):
    step, _, updates = STEPS[name]
    point, moments = walk(step, torch.randn(5, generator=generator), 2)[-1]
    kept = {key: leaf.clone() for key, leaf in moments.items()}
    for breaks in range(1, updates + 2):  # the last is that of the loss after all steps
        objective = Bowl(point, breaks, value)
        new_point, new_moments, outcome = step.step(objective, moments)
        assert outcome.not_finite and objective.calls == breaks
        assert new_point is point and new_moments is moments
        assert all(torch.equal(moments[key], leaf) for key, leaf in kept.items())
    assert not step.step(Bowl(point, updates + 2), moments)[2].not_finite


@steps
def test_a_gradient_that_is_not_finite_refuses_the_update(name, generator):
    step, *_ = STEPS[name]
    point, moments = walk(step, torch.randn(5, generator=generator), 1)[-1]
    objective = Bowl(point)
    objective.loss_and_gradient = lambda point=None: (0.0, torch.tensor([0.0, math.inf, 0.0, 0.0, 0.0]))
    new_point, new_moments, outcome = step.step(objective, moments)
    assert outcome.not_finite and new_point is point and new_moments is moments


@steps
def test_without_a_divergence_there_is_no_kl_refused_or_not(name):
    step = dataclasses.replace(STEPS[name][0], divergence=False)
    point = torch.ones(2)
    for objective in (Bowl(point), Bowl(point, 1)):
        _, _, outcome = step.step(objective, step.init(point))
        assert {one.partition("/")[2] for one in outcome.metrics()} == {
            "gradient_norm",
            "surrogate_improvement",
            "rate",
            "nonfinite",
        }


def test_moments_that_are_not_finite_refuse_the_update():
    """The square of a gradient overflows before the gradient does, and Adam's step is then zero."""
    step = adam(CONFIG)
    objective = Bowl(torch.ones(2))
    objective.loss_and_gradient = lambda point=None: (0.0, torch.tensor([1e200, 1.0]))
    moments = step.init(objective.point)
    point, remembered, outcome = step.step(objective, moments)
    assert outcome.not_finite and point is objective.point and remembered is moments


@steps
def test_the_outcome_tells_of_all_steps_together(name, generator):
    step, *_ = STEPS[name]
    start = torch.randn(5, generator=generator)
    objective = Bowl(start)
    point, _, outcome = step.step(objective, step.init(start))
    metrics = {key.partition("/")[2]: value for key, value in outcome.metrics().items()}
    assert metrics["kl"] == pytest.approx(float((point - start).square().sum()))
    assert metrics["gradient_norm"] == pytest.approx(float((start**3 + 1).norm()))
    assert (metrics["rate"], metrics["nonfinite"]) == (0.05, 0)
    fall = objective.evaluate(start)[0] - objective.evaluate(point)[0]
    assert fall > 0 and any(value == pytest.approx(fall) for value in metrics.values())


def test_the_rate_is_that_of_the_number_of_updates_before():
    step = dataclasses.replace(sgd(CONFIG), rate=lambda done: 0.1 / (done + 1))
    point = torch.ones(2)
    moments = step.init(point)
    for update in range(3):
        _, moments, outcome = step.step(Bowl(point), moments)
        assert outcome.rate == pytest.approx(0.1 / (update + 1))
