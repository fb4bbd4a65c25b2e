from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mamlrl.config import TrustRegionConfig
from mamlrl.outer.trust_region import conjugate_gradient, trust_region_step


def positive_definite(size: int, generator: torch.Generator) -> torch.Tensor:
    factor = torch.randn(size, size, generator=generator)
    return factor @ factor.T + torch.eye(size)


class Quadratic:
    """Loss g x + a |x|^2 / 2 and divergence x^T H x / 2: every step of the trust region is known in closed form."""

    def __init__(self, gradient: torch.Tensor, hessian: torch.Tensor, curvature: float = 0.0, shift: float = 0.0):
        self._gradient, self._hessian, self._curvature, self._shift = gradient, hessian, curvature, shift
        self.points: list[torch.Tensor] = []

    def gradient(self) -> torch.Tensor:
        return self._gradient

    def fisher_vector_product(self, vector: torch.Tensor) -> torch.Tensor:
        return self._hessian @ vector

    def evaluate(self, point: torch.Tensor) -> tuple[float, float]:
        self.points.append(point)
        loss = self._gradient @ point + 0.5 * self._curvature * point @ point + self._shift
        return float(loss), float(0.5 * point @ self._hessian @ point)


@given(size=st.integers(1, 12), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_conjugate_gradient_equals_a_dense_solve(size, seed):
    torch.set_default_dtype(torch.float64)  # hypothesis runs examples outside of function-scoped fixtures
    generator = torch.Generator().manual_seed(seed)
    matrix, b = positive_definite(size, generator), torch.randn(size, generator=generator)
    solution = conjugate_gradient(lambda v: matrix @ v, b, 3 * size + 3, tolerance=1e-24)
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, b), atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(solution.residual, b - matrix @ solution.x, atol=1e-8, rtol=1e-6)


def test_conjugate_gradient_stops_at_its_limits(generator):
    matrix, b = positive_definite(20, generator), torch.randn(20, generator=generator)
    assert conjugate_gradient(lambda v: matrix @ v, b, 4).iterations == 4
    assert conjugate_gradient(lambda v: v, b, 10, tolerance=1e-20).iterations == 1
    assert conjugate_gradient(lambda v: -v, b, 10).iterations == 1  # no positive curvature


def test_step_on_a_quadratic_is_the_known_one(generator):
    hessian, gradient = positive_definite(6, generator), torch.randn(6, generator=generator)
    config = TrustRegionConfig(max_kl=0.02, cg_damping=0.0, cg_iterations=30)
    # the KL of the full step equals the limit up to rounding: a hair of room keeps the first try
    point, stats = trust_region_step(Quadratic(gradient, hessian * (1 - 1e-12)), torch.zeros(6), 0.0, config)
    natural = torch.linalg.solve(hessian, gradient)
    expected = -math.sqrt(2 * 0.02 / (natural @ hessian @ natural)) * natural
    tried = config.backtrack_ratio**stats.backtracks
    torch.testing.assert_close(point, tried * expected, atol=1e-9, rtol=1e-7)
    assert stats.accepted and stats.backtracks <= 1
    assert stats.kl == pytest.approx(0.02 * tried**2)
    assert stats.surrogate_improvement == pytest.approx(float(-gradient @ point))


def test_line_search_shortens_until_the_loss_falls(generator):
    objective = Quadratic(torch.ones(3), torch.eye(3), curvature=100.0)
    config = TrustRegionConfig(max_kl=0.05, cg_damping=0.0)
    point, stats = trust_region_step(objective, torch.zeros(3), 0.0, config)
    assert stats.accepted and stats.backtracks > 0
    lengths = [float(p.norm()) for p in objective.points]
    ratios = [after / before for before, after in pairwise(lengths)]
    assert ratios == pytest.approx([config.backtrack_ratio] * len(ratios))
    assert objective.evaluate(point)[0] < 0


@pytest.mark.parametrize(
    ("gradient", "curvature", "shift", "nonfinite"),
    [
        ([1.0, 1.0, 1.0], 1.0, 1.0, False),  # the loss never falls below where it started
        ([1.0, 1.0, 1.0], 1.0, math.nan, False),
        ([1.0, math.inf, 0.0], 1.0, 0.0, True),
        ([1.0, 1.0, 1.0], -1.0, 0.0, True),
        ([1.0, 1.0, 1.0], math.nan, 0.0, True),
        ([0.0, 0.0, 0.0], 1.0, 0.0, False),  # nothing to do
    ],
)
def test_a_refused_step_returns_the_start_bit_for_bit(gradient, curvature, shift, nonfinite):
    objective = Quadratic(torch.tensor(gradient), curvature * torch.eye(3), shift=shift)
    start = torch.tensor([0.1, -0.2, 0.3])
    before = start.clone()
    point, stats = trust_region_step(objective, start, 0.0, TrustRegionConfig())
    assert point is start and torch.equal(start, before)
    assert not stats.accepted and stats.nonfinite == nonfinite
    assert stats.kl == 0 and stats.surrogate_improvement == 0
