"""The trust-region step (Schulman et al. 2015, TRPO): conjugate gradient, then a backtracking line search.

Vectors are flat tensors [D]. Nothing here knows what is optimised: the objective says how its gradient and
curvature products are computed. Outcomes are returned as values; a step that cannot be trusted is refused, and then
the start comes back untouched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from mamlrl.config import TrustRegionConfig
from mamlrl.outer.objective import CurvedObjective

SMALLEST_DAMPING = 1e-3
"""Of the preconditioner, whose factors are estimated from samples and may be singular."""


class SolverEnd(Enum):
    """How `conjugate_gradient` ended."""

    CONVERGED = "converged"
    ITERATIONS = "iterations used up"
    NEGATIVE_CURVATURE = "a direction without positive curvature"
    NOT_FINITE = "a number that is not finite"


class Solution(NamedTuple):
    """Outcome of `conjugate_gradient`."""

    x: Tensor
    """approximate solution"""
    residual: Tensor
    """b - A x"""
    iterations: int
    """products with A that were used"""
    end: SolverEnd


class Refusal(Enum):
    """Why a step was not taken."""

    NOT_FINITE = "a number that is not finite"
    NEGATIVE_CURVATURE = "a direction without positive curvature"
    NO_GRADIENT = "a gradient of zero"
    LINE_SEARCH = "no step length lowers the loss within the bound"


class TrustRegionOutcome(NamedTuple):
    """What became of `trust_region_step`."""

    gradient_norm: float
    refusal: Refusal | None = None
    """None where the step was taken"""
    kl: float = 0.0
    """mean KL of the accepted step in nats, 0 when refused"""
    surrogate_improvement: float = 0.0
    """loss before minus loss after, 0 when refused"""
    cg_residual: float = math.nan
    """|A x - b| / |b|"""
    cg_iterations: int = 0
    backtracks: int = 0
    """step lengths tried beyond the first"""

    def undone(self) -> TrustRegionOutcome:
        """The outcome where the step was refused after all, because a number was not finite."""
        return self._replace(refusal=Refusal.NOT_FINITE, kl=0.0, surrogate_improvement=0.0)

    @property
    def accepted(self) -> bool:
        """Whether the step was taken."""
        return self.refusal is None

    @property
    def not_finite(self) -> bool:
        """Whether the step was refused because a number was not finite."""
        return self.refusal is Refusal.NOT_FINITE

    def metrics(self) -> dict[str, float]:
        """The outcome as numbers by name."""
        return {
            "trust_region/accepted": float(self.accepted),
            "trust_region/nonfinite": float(self.not_finite),
            "trust_region/negative_curvature": float(self.refusal is Refusal.NEGATIVE_CURVATURE),
            "trust_region/kl": self.kl,
            "trust_region/surrogate_improvement": self.surrogate_improvement,
            "trust_region/cg_residual": self.cg_residual,
            "trust_region/cg_iterations": float(self.cg_iterations),
            "trust_region/backtracks": float(self.backtracks),
            "trust_region/gradient_norm": self.gradient_norm,
        }


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    iterations: int,
    tolerance: float = 0.0,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
) -> Solution:
    """Solve A x = b for a symmetric positive definite A, given only products with A.

    With a preconditioner, symmetric positive definite too and best near A^-1, it takes fewer of them.

    Converged when |r|^2 <= tolerance |b|^2. Where a direction without positive curvature or a number that is not finite
    turns up, the solution so far is returned, and `end` says so: A is not what it must be, and x is not to be trusted.
    Hestenes and Stiefel (1952).
    """
    x = torch.zeros_like(b)
    residual = b.clone()
    improved = preconditioner(residual) if preconditioner else residual
    direction = improved.clone()
    squared, inner = residual.dot(residual), residual.dot(improved)
    target = tolerance * squared
    for used in range(iterations):
        if squared <= target:
            return Solution(x, residual, used, SolverEnd.CONVERGED)
        product = matvec(direction)
        curvature = direction.dot(product)
        if not torch.isfinite(curvature):
            return Solution(x, residual, used + 1, SolverEnd.NOT_FINITE)
        if curvature <= 0:
            return Solution(x, residual, used + 1, SolverEnd.NEGATIVE_CURVATURE)
        length = inner / curvature
        x = x + length * direction
        residual = residual - length * product
        improved = preconditioner(residual) if preconditioner else residual
        squared, inner, previous = residual.dot(residual), residual.dot(improved), inner
        if not torch.isfinite(squared):
            return Solution(x, residual, used + 1, SolverEnd.NOT_FINITE)
        direction = improved + (inner / previous) * direction
    return Solution(x, residual, iterations, SolverEnd.CONVERGED if squared <= target else SolverEnd.ITERATIONS)


class Found(NamedTuple):
    """What `backtracking_line_search` found."""

    point: Tensor | None
    """None where no step length will do"""
    loss: float
    kl: float
    trials: int
    """step lengths tried"""


def backtracking_line_search(
    evaluate: Callable[[Tensor], tuple[float, float]],
    start: Tensor,
    step: Tensor,
    loss: float,
    settings: TrustRegionConfig,
) -> Found:
    """Shorten the step until the loss falls and the divergence stays within the bound."""
    for trial in range(settings.max_backtracks):
        point = start + settings.backtrack_ratio**trial * step
        new_loss, kl = evaluate(point)
        if new_loss < loss and kl <= settings.max_kl:  # comparisons with NaN are false
            return Found(point, new_loss, kl, trial + 1)
    return Found(None, loss, 0.0, settings.max_backtracks)


def trust_region_step(objective: CurvedObjective, settings: TrustRegionConfig) -> tuple[Tensor, TrustRegionOutcome]:
    """One step of TRPO from where the objective was built.

    x = (H + damping)^-1 g, then along -x to where the quadratic model of the KL is max_kl, shortened until the true
    loss falls and the true KL is within bounds.

    Args:
        objective: loss, gradient and curvature.
        settings: limits of the step.

    Returns:
        The new point (`objective.point` itself, bit for bit, when the step is refused) and what happened.
    """
    loss, gradient = objective.loss_and_gradient()
    norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
    outcome = TrustRegionOutcome(norm)
    if not (math.isfinite(norm) and math.isfinite(loss)):
        return objective.point, outcome._replace(refusal=Refusal.NOT_FINITE)
    if norm == 0:
        return objective.point, outcome._replace(refusal=Refusal.NO_GRADIENT)

    def damped(vector: Tensor) -> Tensor:
        return objective.curvature_product(vector) + settings.cg_damping * vector

    # Only the direction of the gradient matters. A power of two changes none of its digits, and keeps the squares of a
    # tiny gradient from vanishing.
    gradient = torch.ldexp(gradient, torch.tensor(-math.frexp(norm)[1]))
    preconditioner = None
    if settings.preconditioner == "kronecker":
        preconditioner = objective.preconditioner(max(settings.cg_damping, SMALLEST_DAMPING))
    solution = conjugate_gradient(damped, gradient, settings.cg_iterations, settings.cg_tolerance, preconditioner)
    residual = float(solution.residual.norm() / gradient.norm())
    outcome = outcome._replace(cg_residual=residual, cg_iterations=solution.iterations)
    # x^T A x without another product: A x = g - residual
    curvature = float(solution.x.dot(gradient - solution.residual))
    if solution.end is SolverEnd.NOT_FINITE or not math.isfinite(curvature):
        return objective.point, outcome._replace(refusal=Refusal.NOT_FINITE)
    if solution.end is SolverEnd.NEGATIVE_CURVATURE or curvature <= 0:
        return objective.point, outcome._replace(refusal=Refusal.NEGATIVE_CURVATURE)
    step = -math.sqrt(2 * settings.max_kl / curvature) * solution.x
    found = backtracking_line_search(objective.evaluate, objective.point, step, loss, settings)
    outcome = outcome._replace(backtracks=found.trials - 1)
    if found.point is None:
        return objective.point, outcome._replace(refusal=Refusal.LINE_SEARCH)
    return found.point, outcome._replace(kl=found.kl, surrogate_improvement=loss - found.loss)


@dataclass(frozen=True)
class TrustRegion:
    """`trust_region_step` as an outer step; it remembers nothing.

    Args:
        settings: limits of the step.
    """

    settings: TrustRegionConfig

    def init(self, point: Tensor) -> None:
        """Nothing."""

    def step(self, objective: CurvedObjective, memory: None) -> tuple[Tensor, None, TrustRegionOutcome]:
        """One step from where the objective was built."""
        point, outcome = trust_region_step(objective, self.settings)
        return point, memory, outcome
