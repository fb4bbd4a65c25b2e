"""Implicit MAML (Rajeswaran et al. 2019): adaptation solved near theta, its derivative from where it ended alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep, LossAtPoint, loss_at
from mamlrl.config import AdaptationConfig, Config
from mamlrl.config.schema import require
from mamlrl.learners.adaptations import GradientSteps
from mamlrl.learners.gradient import GradientLearner, gradient_learner
from mamlrl.learners.objective import Path
from mamlrl.objectives import Loss, mean_over_tasks
from mamlrl.policies.base import Policy
from mamlrl.structs import Batch, MetaParams, Params, flatten_stacked, unflatten_stacked


@dataclass(frozen=True)
class IMAMLSettings:
    """Settings of the learner imaml."""

    iterations: int = 16
    """Gradient evaluations at most to solve the inner problem."""
    tolerance: float = 0.01
    """Residual of the inner problem, relative to that at its start, at which it counts as solved."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations at most for the derivative."""
    cg_tolerance: float = 1e-3
    """Residual of the derivative, relative to the vector that it is applied to, at which conjugate gradient stops."""
    max_residual: float = 1.0
    """Residual of the inner problem, mean over tasks, from which on a meta-update is refused: the derivative is one of
    solutions, and at 1 the adapted parameters are no nearer to one than theta was."""

    def __post_init__(self) -> None:
        for name in ("iterations", "cg_iterations"):
            value = getattr(self, name)
            require(1 <= value <= 10**6, f"learner_settings.{name}", value, f"in [1, {10**6}]")
        for name in ("tolerance", "cg_tolerance"):
            value = getattr(self, name)
            require(0 <= value < 1, f"learner_settings.{name}", value, "in [0, 1)")
        require(0 < self.max_residual <= 1e30, "learner_settings.max_residual", self.max_residual, "positive")


def make_imaml(policy: Policy, config: Config, settings: IMAMLSettings) -> GradientLearner:
    """An outer step on the initialisation, through the implicit derivative of proximal inner problems.

    Refused where these were not solved. One whose numbers are not finite is left to the outer step, which refuses it.
    """

    def refuse(path: Path) -> str | None:
        residual = inner_residual(path)
        unsolved = math.isfinite(residual) and residual >= settings.max_residual
        return f"inner problems not solved (residual {residual:.2g})" if unsolved else None

    def measure(path: Path) -> dict[str, float]:
        return {"imaml/accepted": float(refuse(path) is None), **residuals(path)}

    adaptation = ProximalSteps(policy, config.adaptation, settings)
    return gradient_learner(adaptation, config, measure=measure, refuse=refuse)


class ProximalSteps(GradientSteps):
    """Inner steps that minimise the inner loss near their start; see `ProximalStep`.

    Args:
        policy: the policy.
        settings: inner loss, and `step_size` as the length a: 1 / a is the strength of the proximal term (lambda).
        solver: how the inner problem and the derivative are solved.
    """

    def __init__(self, policy: Policy, settings: AdaptationConfig, solver: IMAMLSettings):
        super().__init__(policy, settings)
        self._solver = solver

    def adapt(self, meta: MetaParams, params: Params, batch: Batch, step: int = 0, scale: float = 1.0) -> InnerStep:
        """One proximal step on every task."""
        return ProximalStep(self.policy, params, batch, self._loss, scale * self._step_size, self._solver)


@dataclass(frozen=True)
class ProximalStep:
    """phi' = argmin L(phi') + |phi' - phi|^2 / (2 a), for all tasks at once, and its derivative.

    From phi' = phi - a grad L(phi'), with H the Hessian of L at phi' (Rajeswaran et al. 2019, lemma 1),

        d phi' = (I + a H)^-1 d phi .

    Solved by gradient descent from phi, whose first iterate, phi - a grad L(phi), is MAML's step. A task whose value
    would not fall stays where it is and tries half the way.

    Args:
        policy: the policy.
        start: phi, shared or stacked.
        batch: of M tasks.
        inner_loss: L.
        length: a.
        solver: limits of the solvers.

    Attributes:
        cg_residuals: |x + a H x - u| / |u| of every product x with the derivative so far, mean over tasks.
    """

    policy: Policy
    start: Params
    batch: Batch
    inner_loss: Loss
    length: float
    solver: IMAMLSettings
    cg_residuals: list[float] = field(default_factory=list)

    @property
    def loss(self) -> LossAtPoint:
        """The inner loss at phi."""
        return self._loss

    @cached_property
    def _loss(self) -> LossAtPoint:
        return loss_at(self.policy, self.start, self.batch, self.inner_loss)

    @property
    def params(self) -> Params:
        """Phi', stacked."""
        return self._solution[0]

    @property
    def residual(self) -> float:
        """|phi' - phi + a grad L(phi')| / |a grad L(phi)|, mean over tasks."""
        return float(mean_over_tasks(self._solution[1]))

    @cached_property
    def _solution(self) -> tuple[Params, Tensor]:
        """Phi', and the relative residual of each task, [M]."""
        gradient = self._ordered(self.loss.gradient())
        like = {name: leaf.expand_as(gradient[name]) for name, leaf in self.start.items()}
        anchor = x = flatten_stacked(like)
        value, residual = self.loss.loss, self.length * flatten_stacked(gradient)
        norms = scale = row_norms(residual)
        shares = torch.ones_like(scale)
        for _ in range(self.solver.iterations):
            if not (norms > self.solver.tolerance * scale).any():  # one that is not a number is beyond help
                break
            trial = x - shares[:, None] * residual
            loss = loss_at(self.policy, unflatten_stacked(trial, like), self.batch, self.inner_loss)
            new_residual = trial - anchor + self.length * flatten_stacked(self._ordered(loss.gradient()))
            new_value = loss.loss + (trial - anchor).square().sum(1) / (2 * self.length)
            rounding = torch.finfo(value.dtype).eps * (1 + value.abs())  # near the solution no fall is seen below it
            lower = new_value < value + rounding
            x = torch.where(lower[:, None], trial, x)
            residual = torch.where(lower[:, None], new_residual, residual)
            value, shares = torch.where(lower, new_value, value), torch.where(lower, shares, shares / 2)
            norms = row_norms(residual)
        return unflatten_stacked(x, like), norms / scale.clamp(min=torch.finfo(scale.dtype).tiny)

    def _ordered(self, params: Params) -> Params:
        return {name: params[name] for name in self.start}

    @cached_property
    def _hessian(self) -> Callable[[Params], Params]:
        """Of the inner loss at phi'; prepared at the first product."""
        return loss_at(self.policy, self.params, self.batch, self.inner_loss).hessian()

    def pushforward(self, tangent: Params, size_tangent: Params | None = None) -> Params:
        """How phi' follows a change of phi: (I + a H)^-1 d phi, by conjugate gradient for each task."""
        like = self.params
        right = flatten_stacked({name: tangent[name].expand_as(leaf) for name, leaf in like.items()})

        def product(rows: Tensor) -> Tensor:
            return rows + self.length * flatten_stacked(self._ordered(self._hessian(unflatten_stacked(rows, like))))

        solution, residuals = solve_rows(product, right, self.solver.cg_iterations, self.solver.cg_tolerance)
        self.cg_residuals.append(float(mean_over_tasks(residuals)))
        return unflatten_stacked(solution, like)

    def pullback(self, cotangent: Params) -> Params:
        """The transpose of `pushforward`, which is symmetric."""
        return self.pushforward(cotangent)

    def pullback_to_sizes(self, cotangent: Params) -> Params:
        """Nothing: step sizes are not learned."""
        return {}


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norm of each row, [M]."""
    return torch.linalg.vector_norm(rows, dim=1)


def solve_rows(
    product: Callable[[Tensor], Tensor], right: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Conjugate gradient on M systems at once, each with a symmetric matrix of its own.

    A row stops where its residual is small enough or a direction has no positive curvature.

    Args:
        product: the matrices times rows [M, D].
        right: right-hand sides [M, D].
        iterations: products at most.
        tolerance: residual relative to the right-hand side.

    Returns:
        Solutions [M, D], and relative residuals [M].
    """
    x, residual, direction = torch.zeros_like(right), right, right
    squared = first = right.square().sum(1)
    target = tolerance**2 * first
    going = squared > target
    for _ in range(iterations):
        if not going.any():
            break
        bent = product(direction)
        curvature = (direction * bent).sum(1)
        going = going & ~(curvature <= 0)  # one that is not a number goes on, to be seen in the solution
        length = torch.where(going, squared / curvature, 0.0)
        x = x + length[:, None] * direction
        residual = residual - length[:, None] * bent
        previous, squared = squared, torch.where(going, residual.square().sum(1), squared)
        going = going & ~(squared <= target)
        direction = torch.where(going[:, None], residual + (squared / previous)[:, None] * direction, 0.0)
    return x, (squared / first.clamp(min=torch.finfo(first.dtype).tiny)).sqrt()


def proximal_steps(path: Path) -> list[ProximalStep]:
    """Those of a path of them."""
    return [step for step in path.steps if isinstance(step, ProximalStep)]


def inner_residual(path: Path) -> float:
    """How well the inner problems were solved, mean over tasks and inner steps."""
    steps = proximal_steps(path)
    return sum(step.residual for step in steps) / len(steps)


def residuals(path: Path) -> dict[str, float]:
    """How well the inner problems and the derivatives were solved, means over tasks and inner steps."""
    products = [residual for step in proximal_steps(path) for residual in step.cg_residuals]
    return {
        "imaml/inner_residual": inner_residual(path),
        "imaml/cg_residual": sum(products) / len(products) if products else float("nan"),
    }
