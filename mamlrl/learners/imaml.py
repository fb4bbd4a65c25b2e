"""Implicit MAML (Rajeswaran et al. 2019): adaptation solved near theta, its derivative from where it ended alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep, LossAtPoint, loss_and_gradient, loss_at
from mamlrl.config import AdaptationConfig, Config
from mamlrl.config.schema import require
from mamlrl.distributed import means_over_tasks, sums_over_tasks
from mamlrl.learners.adaptations import GradientSteps
from mamlrl.learners.gradient import GradientLearner, gradient_learner
from mamlrl.learners.objective import Path
from mamlrl.objectives import Loss
from mamlrl.outer.trust_region import SolverEnd
from mamlrl.policies.base import Policy
from mamlrl.structs import Data, MetaParams, Params, flatten_stacked, unflatten_stacked


@dataclass(frozen=True)
class IMAMLSettings:
    """Settings of the learner imaml."""

    iterations: int = 16
    """Gradient evaluations at most to solve the inner problem."""
    tolerance: float = 0.01
    """Residual of the inner problem, relative to that at its start, at which it counts as solved."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations at most for the derivative."""
    cg_tolerance: float = 1e-6
    """Squared residual of the derivative, relative to the square of the vector that it is applied to, at which
    conjugate gradient stops, as `trust_region.cg_tolerance`."""
    max_residual: float = 1.0
    """Residual of the inner problem, mean over tasks, and of the derivative, of any task, from which on a meta-update
    is refused: the derivative is one of solutions, and at 1 the adapted parameters are no nearer to one than theta was,
    and a product no nearer to its value than zero."""

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

    With Adam one step on the data of a meta-iteration, as in the paper, unless the settings say how many. Refused where
    the problems or the derivative were not solved. One whose numbers are not finite is left to the outer step, which
    refuses it.
    """

    def refuse(path: Path) -> str | None:
        return why_not(path, settings.max_residual)

    def measure(path: Path) -> dict[str, float]:
        return {"imaml/accepted": float(refuse(path) is None), **residuals(path, settings.max_residual)}

    config = dataclasses.replace(config, adam=dataclasses.replace(config.adam, updates=config.adam.updates or 1))
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

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """One proximal step on every task."""
        problem = Proximal(self.policy, batch, self._loss, scale * self._step_size, self._solver)
        return proximal_step(problem, params)


class Proximal(NamedTuple):
    """Proximal problems of M tasks: to minimise L(x) + |x - phi|^2 / (2 a) near phi."""

    policy: Policy
    batch: Data
    loss: Loss
    """L"""
    length: float
    """a"""
    solver: IMAMLSettings
    """limits of the solvers"""

    def at(self, rows: Tensor, anchor: Tensor, like: Params, tasks: Tensor | None = None) -> Iterate:
        """The iterate at `rows`, of all tasks or of those that are named by their indices.

        Args:
            rows: x, [M, D].
            anchor: phi, [M, D].
            like: names, order and shapes of the leaves.
            tasks: indices, on the batch alone.
        """
        batch = self.batch if tasks is None else type(self.batch)(*(leaf[tasks] for leaf in self.batch))
        losses, gradient = loss_and_gradient(self.policy, unflatten_stacked(rows, like), batch, self.loss)
        moved = rows - anchor
        residual = moved + self.length * flatten_stacked({name: gradient[name] for name in like})
        return Iterate(rows, losses + moved.square().sum(1) / (2 * self.length), residual)


class Iterate(NamedTuple):
    """Where the solution of a problem is, for M tasks."""

    x: Tensor
    """[M, D]"""
    value: Tensor
    """of what is minimised, [M]"""
    residual: Tensor
    """a times its gradient, x - phi + a grad L(x), [M, D]"""

    def improved(self, other: Iterate, lower: Tensor) -> Iterate:
        """The other one in rows where it is lower, [M]."""
        return Iterate(*(_where(lower, new, old) for new, old in zip(other, self, strict=True)))

    def placed(self, tasks: Tensor, other: Iterate) -> Iterate:
        """The other one in rows of these indices."""
        return Iterate(*(old.index_copy(0, tasks, new) for new, old in zip(other, self, strict=True)))

    def of(self, tasks: Tensor) -> Iterate:
        """Rows of these indices."""
        return Iterate(*(leaf[tasks] for leaf in self))


def proximal_step(
    problem: Proximal, start: Params, near: Params | None = None, products: list[Product] | None = None
) -> ProximalStep:
    """Solve the problems of all tasks, each for itself: what else is in the batch makes no difference.

    By gradient descent from phi, whose first iterate, phi - a grad L(phi), is MAML's step. A task whose value would not
    fall stays where it is and tries half the way. One that is solved stays, too.

    Args:
        problem: the problems.
        start: phi, shared or stacked.
        near: about where the solutions are, from which those tasks begin for which it is lower than phi.
        products: that the step's are added to.
    """
    loss = loss_at(problem.policy, start, problem.batch, problem.loss)
    gradient = loss.gradient()
    like = {name: leaf.expand_as(gradient[name]) for name, leaf in start.items()}
    anchor = flatten_stacked(like)
    best = Iterate(anchor, loss.loss, problem.length * flatten_stacked({name: gradient[name] for name in like}))
    scale = row_norms(best.residual)
    if near is not None:
        guess = problem.at(flatten_stacked({name: near[name] for name in like}), anchor, like)
        best = best.improved(guess, guess.value < best.value)
    shares = torch.ones_like(scale)
    for _ in range(problem.solver.iterations):
        # one that is not a number is beyond help
        going = (row_norms(best.residual) > problem.solver.tolerance * scale).nonzero().squeeze(1)
        if not len(going):
            break
        here, share = best.of(going), shares[going]
        trial = problem.at(here.x - share[:, None] * here.residual, anchor[going], like, going)
        rounding = torch.finfo(scale.dtype).eps * (1 + here.value.abs())  # near the solution no fall is seen below it
        lower = trial.value < here.value + rounding
        best = best.placed(going, here.improved(trial, lower))
        shares = shares.index_copy(0, going, torch.where(lower, share, share / 2))
    residuals = row_norms(best.residual) / scale.clamp(min=torch.finfo(scale.dtype).tiny)
    adapted = unflatten_stacked(best.x, like)
    return ProximalStep(problem, start, loss, adapted, residuals, [] if products is None else products)


class Product(NamedTuple):
    """What became of a product with the derivative of a proximal step."""

    inner_residuals: Tensor
    """of the solutions of which it is the derivative, [M]"""
    solution: RowSolutions
    """of the derivative"""


@dataclass(frozen=True)
class ProximalStep:
    """phi' = argmin L(phi') + |phi' - phi|^2 / (2 a), for all tasks at once, and its derivative.

    From phi' = phi - a grad L(phi'), with H the Hessian of L at phi' (Rajeswaran et al. 2019, lemma 1),

        d phi' = (I + a H)^-1 d phi .

    Args:
        problem: whose batch H is taken on.
        start: phi, shared or stacked.
        loss: the inner loss at phi.
        params: phi', stacked.
        residuals: |phi' - phi + a grad L(phi')| / |a grad L(phi)|, [M].
        products: a record that every product with the derivative is added to, one for this step and for those that
            are made of it.
    """

    problem: Proximal
    start: Params
    loss: LossAtPoint
    params: Params
    residuals: Tensor
    products: list[Product] = field(default_factory=list)

    def moved(self, start: Params) -> ProximalStep:
        """The same step from another phi, its solution sought from this one's moved as phi is; from the same, this."""
        if all(torch.equal(leaf, start[name]) for name, leaf in self.start.items()):
            return self
        near = {name: leaf + (start[name] - self.start[name]) for name, leaf in self.params.items()}
        return proximal_step(self.problem, start, near, self.products)

    def thinned(self, batch: Data) -> ProximalStep:
        """The same step, with its derivative on fewer data."""
        return dataclasses.replace(self, problem=self.problem._replace(batch=batch))

    @cached_property
    def _hessian(self) -> Callable[[Params], Params]:
        """Of the inner loss at phi'; prepared at the first product."""
        return loss_at(self.problem.policy, self.params, self.problem.batch, self.problem.loss).hessian()

    def pushforward(self, tangent: Params, size_tangent: Params | None = None) -> Params:
        """How phi' follows a change of phi: (I + a H)^-1 d phi, by conjugate gradient for each task."""
        like, solver = self.params, self.problem.solver
        right = flatten_stacked({name: tangent[name].expand_as(leaf) for name, leaf in like.items()})

        def product(rows: Tensor) -> Tensor:
            bent = self._hessian(unflatten_stacked(rows, like))
            return rows + self.problem.length * flatten_stacked({name: bent[name] for name in like})

        solution = solve_rows(product, right, solver.cg_iterations, solver.cg_tolerance)
        self.products.append(Product(self.residuals, solution))
        return unflatten_stacked(solution.x, like)

    def pullback(self, cotangent: Params) -> Params:
        """The transpose of `pushforward`, which is symmetric."""
        return self.pushforward(cotangent)

    def pullback_to_sizes(self, cotangent: Params) -> Params:
        """Nothing: step sizes are not learned."""
        return {}


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norm of each row, [M]."""
    return torch.linalg.vector_norm(rows, dim=1)


def _where(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """One where rows [M] say so, else the other."""
    return torch.where(rows.reshape(-1, *[1] * (one.dim() - 1)), one, other)


class RowSolutions(NamedTuple):
    """Outcome of `solve_rows`."""

    x: Tensor
    """approximate solutions [M, D]"""
    residuals: Tensor
    """relative to the right-hand sides, [M]"""
    converged: Tensor
    """[M]"""
    negative: Tensor
    """whether a direction without positive curvature turned up, [M]"""

    @property
    def ends(self) -> list[SolverEnd]:
        """How each row ended."""
        finite = self.residuals.isfinite()
        rows = zip(finite.tolist(), self.negative.tolist(), self.converged.tolist(), strict=True)
        return [_end(*row) for row in rows]

    def unusable(self, bound: float) -> Tensor:
        """Rows without positive curvature, or that were left with a residual of `bound` or more, [M]."""
        pairs = zip(self.ends, self.residuals.tolist(), strict=True)
        return torch.tensor([end is SolverEnd.NEGATIVE_CURVATURE or residual >= bound for end, residual in pairs])


def _end(finite: bool, negative: bool, converged: bool) -> SolverEnd:
    if not finite:
        return SolverEnd.NOT_FINITE
    if negative:
        return SolverEnd.NEGATIVE_CURVATURE
    return SolverEnd.CONVERGED if converged else SolverEnd.ITERATIONS


def solve_rows(product: Callable[[Tensor], Tensor], right: Tensor, iterations: int, tolerance: float) -> RowSolutions:
    """Conjugate gradient on M systems at once, each with a symmetric matrix of its own.

    A row stops where |r|^2 <= tolerance |b|^2, or where a direction has no positive curvature: its matrix is not what
    it must be then, and its solution, as far as it came, not to be trusted.

    Args:
        product: the matrices times rows [M, D].
        right: right-hand sides b, [M, D].
        iterations: products at most.
        tolerance: squared residual relative to the squared right-hand side.
    """
    x, residual, direction = torch.zeros_like(right), right, right
    squared = first = right.square().sum(1)
    target = tolerance * first
    going = squared > target
    negative = torch.zeros_like(going)
    for _ in range(iterations):
        if not going.any():
            break
        bent = product(direction)
        curvature = (direction * bent).sum(1)
        negative = negative | (going & (curvature <= 0))
        going = going & ~negative  # one that is not a number goes on, to be seen in the solution
        length = torch.where(going, squared / curvature, 0.0)
        x = x + length[:, None] * direction
        residual = residual - length[:, None] * bent
        previous, squared = squared, torch.where(going, residual.square().sum(1), squared)
        going = going & ~(squared <= target)
        direction = torch.where(going[:, None], residual + (squared / previous)[:, None] * direction, 0.0)
    residuals = (squared / first.clamp(min=torch.finfo(first.dtype).tiny)).sqrt()
    return RowSolutions(x, residuals, squared <= target, negative)


def proximal_steps(path: Path) -> list[ProximalStep]:
    """Those of a path of them."""
    return [step for step in path.steps if isinstance(step, ProximalStep)]


def products_of(path: Path) -> list[Product]:
    """All products with the derivatives of the steps, also at other points."""
    return [product for step in proximal_steps(path) for product in step.products]


def inner_residual(path: Path) -> float:
    """How well the inner problems were solved, mean over tasks, the worst inner step at any point."""
    rows = [step.residuals for step in proximal_steps(path)] + [each.inner_residuals for each in products_of(path)]
    return float(torch.stack(means_over_tasks(rows)).max())  # NaN where one is


def why_not(path: Path, bound: float) -> str | None:
    """Why the derivative is not to be trusted; None where it is, and where its numbers are not finite."""
    residual = inner_residual(path)
    if math.isfinite(residual) and residual >= bound:
        return f"inner problems not solved (residual {residual:.2g})"
    worst, tasks = most_unsolved(products_of(path), bound)
    return f"derivative not solved for {worst} of {tasks} tasks" if worst else None


def most_unsolved(products: Sequence[Product], bound: float) -> tuple[int, int]:
    """For how many tasks the worst of the derivatives is of no use, and of how many; 0 of 0 without any."""
    if not products:
        return 0, 0
    unusable = [each.solution.unusable(bound).double() for each in products]
    *unsolved, count = sums_over_tasks([*unusable, torch.ones_like(unusable[0])])
    return int(torch.stack(unsolved).max()), int(count)


def residuals(path: Path, bound: float) -> dict[str, float]:
    """How well the inner problems and the derivatives were solved: the worst of all solves, means over tasks.

    And for how many tasks the derivative was of no use.
    """
    products = products_of(path)
    means = means_over_tasks([each.solution.residuals for each in products]) if products else []
    return {
        "imaml/inner_residual": inner_residual(path),
        "imaml/cg_residual": float(torch.stack(means).max()) if means else math.nan,
        "imaml/unsolved": float(most_unsolved(products, bound)[0]) if products else math.nan,
    }
