"""The trust-region step (Schulman et al. 2015, TRPO): conjugate gradient, then a backtracking line search.

Vectors are flat tensors [D]. Nothing here knows what is optimised: the objective says how its gradient and
curvature products are computed. Outcomes are returned as values; a step that cannot be trusted is refused, and then
the parameters come back untouched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mamlrl.config import TrustRegionConfig


class Objective(Protocol):
    """A loss to be lowered within a bound on a divergence that is zero, with zero gradient, at the start."""

    def gradient(self) -> Tensor:
        """Gradient of the loss at the start, [D]."""
        ...

    def fisher_vector_product(self, vector: Tensor) -> Tensor:
        """Hessian of the divergence at the start, times a vector, [D]."""
        ...

    def evaluate(self, point: Tensor) -> tuple[float, float]:
        """Loss and divergence at another point [D]."""
        ...


class Solution(NamedTuple):
    """Outcome of `conjugate_gradient`."""

    x: Tensor
    """approximate solution"""
    residual: Tensor
    """b - A x"""
    iterations: int
    """products with A that were used"""


class TrustRegionStats(NamedTuple):
    """Outcome of `trust_region_step`."""

    accepted: bool
    nonfinite: bool
    """the step was refused because a number was not finite or the curvature was not positive"""
    kl: float
    """mean KL of the accepted step in nats, 0 when refused"""
    surrogate_improvement: float
    """loss before minus loss after, 0 when refused"""
    cg_residual: float
    """|A x - b| / |b|"""
    cg_iterations: int
    backtracks: int
    """step lengths tried beyond the first"""
    gradient_norm: float


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 0.0
) -> Solution:
    """Solve A x = b for a symmetric positive definite A, given only products with A.

    Stops after `iterations`, when |r|^2 <= tolerance |b|^2, or when a direction without positive curvature turns
    up: the solution so far is returned and its residual tells. Hestenes and Stiefel (1952).
    """
    x = torch.zeros_like(b)
    residual = b.clone()
    direction = b.clone()
    squared = residual.dot(residual)
    target = tolerance * squared
    used = 0
    while used < iterations and squared > target:
        product = matvec(direction)
        used += 1
        curvature = direction.dot(product)
        if not curvature > 0:  # also catches NaN
            break
        length = squared / curvature
        x = x + length * direction
        residual = residual - length * product
        squared, previous = residual.dot(residual), squared
        direction = residual + (squared / previous) * direction
    return Solution(x, residual, used)


def backtracking_line_search(
    evaluate: Callable[[Tensor], tuple[float, float]],
    start: Tensor,
    step: Tensor,
    loss: float,
    settings: TrustRegionConfig,
) -> tuple[Tensor, float, float, int]:
    """Shorten the step until the loss falls and the divergence stays within the bound.

    Returns:
        The accepted point (`start` itself when none was), its loss and divergence, and the step lengths tried.
    """
    for trial in range(settings.max_backtracks):
        point = start + settings.backtrack_ratio**trial * step
        new_loss, kl = evaluate(point)
        if new_loss < loss and kl <= settings.max_kl:  # comparisons with NaN are false
            return point, new_loss, kl, trial + 1
    return start, loss, 0.0, settings.max_backtracks


def trust_region_step(
    objective: Objective, start: Tensor, loss: float, settings: TrustRegionConfig
) -> tuple[Tensor, TrustRegionStats]:
    """One step of TRPO.

    x = (H + damping)^-1 g, then from `start` along -x to where the quadratic model of the KL is max_kl, shortened
    until the true loss falls and the true KL is within bounds.

    Args:
        objective: gradient and curvature at `start`, loss and KL elsewhere.
        start: parameters [D].
        loss: the loss at `start`.
        settings: limits of the step.

    Returns:
        The new parameters (`start` itself, bit for bit, when the step is refused) and what happened.
    """
    gradient = objective.gradient()
    gradient_norm = float(gradient.norm())

    def refuse(nonfinite: bool, cg_residual: float = math.nan, cg_iterations: int = 0, trials: int = 1):
        return start, TrustRegionStats(
            False, nonfinite, 0.0, 0.0, cg_residual, cg_iterations, trials - 1, gradient_norm
        )

    if not (math.isfinite(gradient_norm) and math.isfinite(loss)):
        return refuse(nonfinite=True)
    if gradient_norm == 0:
        return refuse(nonfinite=False)

    def damped(vector: Tensor) -> Tensor:
        return objective.fisher_vector_product(vector) + settings.cg_damping * vector

    solution = conjugate_gradient(damped, gradient, settings.cg_iterations, settings.cg_tolerance)
    cg_residual = float(solution.residual.norm()) / gradient_norm
    # x^T A x without another product: A x = g - residual
    curvature = float(solution.x.dot(gradient - solution.residual))
    if not (math.isfinite(curvature) and curvature > 0):
        return refuse(True, cg_residual, solution.iterations)
    step = -math.sqrt(2 * settings.max_kl / curvature) * solution.x
    point, new_loss, kl, trials = backtracking_line_search(objective.evaluate, start, step, loss, settings)
    if point is start:
        return refuse(False, cg_residual, solution.iterations, trials)
    return point, TrustRegionStats(
        True, False, kl, loss - new_loss, cg_residual, solution.iterations, trials - 1, gradient_norm
    )
