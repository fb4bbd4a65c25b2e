from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mamlrl.config import TrustRegionConfig
from mamlrl.outer.trust_region import Refusal, SolverEnd, conjugate_gradient, trust_region_step


def positive_definite(size: int, generator: torch.Generator) -> torch.Tensor:
    factor = torch.randn(size, size, generator=generator)
    return factor @ factor.T + torch.eye(size)


class Quadratic:
    """Loss g x + a |x|^2 / 2 + shift and divergence x^T H x / 2, x from `point`: every step has a closed form."""

    def __init__(
        self,
        gradient: torch.Tensor,
        hessian: torch.Tensor,
        curvature: float = 0.0,
        shift: float = 0.0,
        point: torch.Tensor | None = None,
    ):
        self._gradient, self._hessian, self._curvature, self._shift = gradient, hessian, curvature, shift
        self.point = torch.zeros_like(gradient) if point is None else point
        self.points: list[torch.Tensor] = []
        self.products = 0

    def loss_and_gradient(self, point: torch.Tensor | None = None) -> tuple[float, torch.Tensor]:
        assert point is None
        return 0.0, self._gradient

    def curvature_product(self, vector: torch.Tensor) -> torch.Tensor:
        self.products += 1
        return self._hessian @ vector

    def preconditioner(self, damping: float) -> Callable[[torch.Tensor], torch.Tensor]:
        inverse = torch.linalg.inv(self._hessian + damping * torch.eye(len(self._hessian)))
        return lambda vector: inverse.to(vector) @ vector

    def evaluate(self, point: torch.Tensor) -> tuple[float, float]:
        self.points.append(point)
        x = point - self.point
        loss = self._gradient @ x + 0.5 * self._curvature * x @ x + self._shift
        return float(loss), float(0.5 * x @ self._hessian @ x)


@given(size=st.integers(1, 12), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_conjugate_gradient_equals_a_dense_solve(size, seed):
    torch.set_default_dtype(torch.float64)  # hypothesis runs examples outside of function-scoped fixtures
    generator = torch.Generator().manual_seed(seed)
    matrix, b = positive_definite(size, generator), torch.randn(size, generator=generator)
    solution = conjugate_gradient(lambda v: matrix @ v, b, 3 * size + 3, tolerance=1e-24)
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, b), atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(solution.residual, b - matrix @ solution.x, atol=1e-8, rtol=1e-6)


def test_conjugate_gradient_says_how_it_ended(generator):
    matrix, b = positive_definite(20, generator), torch.randn(20, generator=generator)

    def ended(matvec, b, iterations, tolerance=0.0) -> tuple[SolverEnd, int]:
        solution = conjugate_gradient(matvec, b, iterations, tolerance)
        return solution.end, solution.iterations

    assert ended(lambda v: matrix @ v, b, 4) == (SolverEnd.ITERATIONS, 4)
    assert ended(lambda v: v, b, 10, tolerance=1e-20) == (SolverEnd.CONVERGED, 1)
    assert ended(lambda v: v, b, 1, tolerance=1e-20) == (SolverEnd.CONVERGED, 1)  # with the last product
    assert ended(lambda v: v, torch.zeros(20), 10) == (SolverEnd.CONVERGED, 0)
    assert ended(lambda v: -v, b, 10) == (SolverEnd.NEGATIVE_CURVATURE, 1)
    assert ended(lambda v: 0 * v, b, 10) == (SolverEnd.NEGATIVE_CURVATURE, 1)
    assert ended(lambda v: math.nan * v, b, 10) == (SolverEnd.NOT_FINITE, 1)
    assert ended(lambda v: math.inf * v, b, 10) == (SolverEnd.NOT_FINITE, 1)


def test_negative_curvature_after_the_first_product_is_seen(generator):
    """Along b the matrix bends upwards, (2 + 1) / 2 of |b|^2, or downwards after a few products."""
    indefinite = torch.diag(torch.tensor([2.0, 1.0, -5.0]))
    solution = conjugate_gradient(lambda v: indefinite @ v, torch.tensor([1.0, 1.0, 0.1]), 10)
    assert solution.end is SolverEnd.NEGATIVE_CURVATURE and solution.iterations == 2
    for _ in range(100):  # wherever the gradient points, an indefinite matrix that is reached is never 'converged'
        matrix = positive_definite(6, generator)
        matrix -= 1.5 * torch.linalg.eigvalsh(matrix)[0] * torch.eye(6)
        b = torch.randn(6, generator=generator)
        assert conjugate_gradient(lambda v, a=matrix: a @ v, b, 6).end is SolverEnd.NEGATIVE_CURVATURE


@pytest.mark.parametrize("bad_product", [1, 2, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_in_a_later_product_is_seen(bad_product, value, generator):
    matrix, b = positive_definite(6, generator), torch.randn(6, generator=generator)
    products = 0

    def matvec(vector: torch.Tensor) -> torch.Tensor:
        nonlocal products
        products += 1
        result = matrix @ vector
        if products == bad_product:
            result[2] = value * torch.sign(vector[2])  # an infinite curvature, not one that is negative
        return result

    solution = conjugate_gradient(matvec, b, 6)
    assert solution.end is SolverEnd.NOT_FINITE and solution.iterations == bad_product
    assert solution.x.isfinite().all()


def test_step_on_a_quadratic_is_the_known_one(generator):
    hessian, gradient = positive_definite(6, generator), torch.randn(6, generator=generator)
    start = torch.randn(6, generator=generator)
    config = TrustRegionConfig(max_kl=0.02, cg_damping=0.0, cg_iterations=30)
    # the KL of the full step equals the limit up to rounding: a hair of room keeps the first try
    point, outcome = trust_region_step(Quadratic(gradient, hessian * (1 - 1e-12), point=start), config)
    natural = torch.linalg.solve(hessian, gradient)
    expected = -math.sqrt(2 * 0.02 / (natural @ hessian @ natural)) * natural
    tried = config.backtrack_ratio**outcome.backtracks
    torch.testing.assert_close(point - start, tried * expected, atol=1e-9, rtol=1e-7)
    assert outcome.accepted and outcome.refusal is None and outcome.backtracks <= 1
    assert outcome.kl == pytest.approx(0.02 * tried**2)
    assert outcome.surrogate_improvement == pytest.approx(float(-gradient @ (point - start)))
    assert outcome.gradient_norm == pytest.approx(float(gradient.norm()))
    metrics = outcome.metrics()
    assert metrics["trust_region/accepted"] == 1
    assert metrics["trust_region/nonfinite"] == metrics["trust_region/negative_curvature"] == 0


def test_damping_adds_a_multiple_of_the_identity(generator):
    hessian, gradient = positive_definite(6, generator), torch.randn(6, generator=generator)
    config = TrustRegionConfig(cg_damping=3.0, cg_iterations=30)
    point, outcome = trust_region_step(Quadratic(gradient, hessian), config)
    damped = hessian + 3.0 * torch.eye(6)
    natural = torch.linalg.solve(damped, gradient)
    expected = -math.sqrt(2 * config.max_kl / (natural @ damped @ natural)) * natural
    torch.testing.assert_close(point, config.backtrack_ratio**outcome.backtracks * expected, atol=1e-9, rtol=1e-7)


def test_line_search_shortens_until_the_loss_falls():
    objective = Quadratic(torch.ones(3), torch.eye(3), curvature=100.0)
    config = TrustRegionConfig(max_kl=0.05, cg_damping=0.0)
    point, outcome = trust_region_step(objective, config)
    assert outcome.accepted and outcome.backtracks > 0
    lengths = [float(p.norm()) for p in objective.points]
    ratios = [after / before for before, after in pairwise(lengths)]
    assert ratios == pytest.approx([config.backtrack_ratio] * len(ratios))
    assert objective.evaluate(point)[0] < 0


@pytest.mark.parametrize(
    ("gradient", "diagonal", "shift", "refusal"),
    [
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 1.0, Refusal.LINE_SEARCH),  # the loss never falls below where it started
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], math.nan, Refusal.LINE_SEARCH),
        ([1.0, math.inf, 0.0], [1.0, 1.0, 1.0], 0.0, Refusal.NOT_FINITE),
        ([1.0, math.nan, 0.0], [1.0, 1.0, 1.0], 0.0, Refusal.NOT_FINITE),
        ([1.0, 1.0, 1.0], [math.nan, math.nan, math.nan], 0.0, Refusal.NOT_FINITE),
        ([1.0, 1.0, 1.0], [1.0, math.inf, 1.0], 0.0, Refusal.NOT_FINITE),
        ([1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], 0.0, Refusal.NEGATIVE_CURVATURE),
        ([1.0, 1.0, 0.1], [2.0, 1.0, -5.0], 0.0, Refusal.NEGATIVE_CURVATURE),  # after the first product
        ([1.0, 1.0, 1.0], [2.0, 1.0, -5.0], 0.0, Refusal.NEGATIVE_CURVATURE),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], 0.0, Refusal.NO_GRADIENT),
    ],
)
def test_a_refused_step_returns_the_start_bit_for_bit_and_says_why(gradient, diagonal, shift, refusal):
    start = torch.tensor([0.1, -0.2, 0.3])
    objective = Quadratic(torch.tensor(gradient), torch.diag(torch.tensor(diagonal)), shift=shift, point=start)
    objective.curvature_product = lambda vector: torch.tensor(diagonal) * vector  # 0 * inf in a matrix is no number
    before = start.clone()
    point, outcome = trust_region_step(objective, TrustRegionConfig())
    assert point is start and torch.equal(start, before)
    assert outcome.refusal is refusal and not outcome.accepted
    assert outcome.not_finite == (refusal is Refusal.NOT_FINITE)
    assert outcome.kl == 0 and outcome.surrogate_improvement == 0
    metrics = outcome.metrics()
    assert metrics["trust_region/accepted"] == 0
    assert metrics["trust_region/nonfinite"] == (refusal is Refusal.NOT_FINITE)
    assert metrics["trust_region/negative_curvature"] == (refusal is Refusal.NEGATIVE_CURVATURE)


@pytest.mark.parametrize("bad_product", [1, 2, 3])
def test_nan_in_any_product_refuses_the_step(bad_product, generator):
    hessian, gradient = positive_definite(6, generator), torch.randn(6, generator=generator)
    objective = Quadratic(gradient, hessian)
    exact = objective.curvature_product
    objective.curvature_product = lambda vector: (
        exact(vector) * (math.nan if objective.products == bad_product else 1.0)
    )
    point, outcome = trust_region_step(objective, TrustRegionConfig())
    assert point is objective.point and outcome.refusal is Refusal.NOT_FINITE
    assert not objective.points  # no step length is tried


def test_a_loss_that_is_not_finite_refuses_the_step():
    objective = Quadratic(torch.ones(3), torch.eye(3))
    objective.loss_and_gradient = lambda point=None: (math.nan, torch.ones(3))
    assert trust_region_step(objective, TrustRegionConfig())[1].refusal is Refusal.NOT_FINITE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [1e-40, 1e-37, 1e-23, 1e-8, 1.0, 1e8, 1e23, 1e37, 1e38])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_only_the_direction_of_the_gradient_matters(norm, dtype, default, generator):
    """The squares of a float32 gradient of norm 1e-23 vanish, and those of one of 1e23 overflow."""
    torch.set_default_dtype(default)
    direction = torch.tensor([0.6, 0.0, -0.8], dtype=dtype)
    hessian = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=dtype))
    objective = Quadratic(norm * direction, hessian)
    objective.evaluate = lambda point: (-1.0, 0.0)
    point, outcome = trust_region_step(objective, TrustRegionConfig(cg_damping=0.0))
    natural = torch.tensor([0.6, 0.0, -0.8 / 3], dtype=torch.float64)
    length = math.sqrt(2 * 0.01 / (0.36 + 0.64 / 3))
    assert outcome.accepted, outcome
    # digits of a number below 1.2e-38 in float32 are lost before the step begins
    rtol = 1e-4 if dtype == torch.float32 and norm < 1e-38 else 1e-5
    torch.testing.assert_close(point.double(), -length * natural, atol=0, rtol=rtol)
    assert outcome.gradient_norm == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("norm", [1e-150, 1e-60, 1e60, 1e150])
def test_only_the_direction_matters_in_double_precision_too(norm, generator):
    torch.set_default_dtype(torch.float32)  # as in a run
    objective = Quadratic(norm * torch.tensor([0.6, -0.8], dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    objective.evaluate = lambda point: (-1.0, 0.0)
    point, outcome = trust_region_step(objective, TrustRegionConfig(cg_damping=0.0))
    assert outcome.accepted, outcome
    torch.testing.assert_close(point, -math.sqrt(0.02) * torch.tensor([0.6, -0.8], dtype=torch.float64))


def test_with_the_inverse_as_preconditioner_one_iteration_finds_the_natural_gradient():
    hessian = torch.diag(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))
    gradient = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    settings = TrustRegionConfig(max_kl=0.5, cg_iterations=1, cg_damping=0.01, preconditioner="kronecker")
    point, outcome = trust_region_step(Quadratic(gradient, hessian), settings)
    natural = torch.linalg.solve(hessian + 0.01 * torch.eye(3), gradient)
    expected = -natural * torch.sqrt(1.0 / natural.dot((hessian + 0.01 * torch.eye(3)) @ natural))
    torch.testing.assert_close(point, expected)
    assert outcome.accepted and outcome.cg_residual < 1e-12
