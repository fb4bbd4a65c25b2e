"""The proximal inner step of iMAML against Newton's method on dense matrices, and its solvers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from mamlrl.learners.gradient import Measured
from mamlrl.learners.imaml import IMAMLSettings, ProximalStep, make_imaml, residuals, solve_rows
from mamlrl.learners.objective import Path
from mamlrl.objectives import INNER_LOSSES
from mamlrl.structs import Batch, MetaParams, Params
from tests.core.problems import (
    make_config,
    make_policy,
    one_task,
    random_batch,
    random_like,
    random_params,
    sample_meta_batch,
)

LENGTH, TASKS = 0.03, 2
TIGHT = IMAMLSettings(iterations=400, tolerance=1e-11, cg_iterations=100, cg_tolerance=1e-12)
kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical", "outside"])


def problem(kind: str, generator: torch.Generator, solver: IMAMLSettings = TIGHT) -> ProximalStep:
    network = "tests.core.outside:GatedNetwork" if kind == "outside" else "auto"
    policy = make_policy("gaussian" if kind == "gaussian" else "categorical", network=network)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, TASKS, generator)
    return ProximalStep(policy, params, batch, INNER_LOSSES["likelihood_ratio"], LENGTH, solver)


def vector_of(params: Params) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in params.values()])


def like(vector: Tensor, params: Params) -> Params:
    pieces = vector.split([leaf.numel() for leaf in params.values()])
    return {name: piece.view_as(leaf) for (name, leaf), piece in zip(params.items(), pieces, strict=True)}


def solved(step: ProximalStep, batch: Batch, start: Tensor) -> Tensor:
    """Phi' of the one task of the batch, by Newton's method on L(x) + |x - phi|^2 / (2 a)."""

    def value(x: Tensor) -> Tensor:
        params = {name: leaf.unsqueeze(0) for name, leaf in like(x, step.start).items()}
        outputs = step.policy.outputs(params, batch.observations)
        loss = step.inner_loss(step.policy.distribution, outputs, batch).sum()
        return loss + (x - start).square().sum() / (2 * step.length)

    x = start.clone()
    for _ in range(12):
        gradient = torch.func.grad(value)(x)
        hessian = torch.autograd.functional.hessian(value, x, vectorize=True)
        assert isinstance(hessian, Tensor)
        x = x - torch.linalg.solve(hessian, gradient)
    assert torch.func.grad(value)(x).norm() < 1e-12
    return x


@kinds
def test_a_proximal_step_is_the_solution_by_newton_and_its_products_are_those_of_its_jacobian(kind, generator):
    """The Jacobian by central differences of the solved problem."""
    step = problem(kind, generator)
    start, size = vector_of(step.start), sum(leaf.numel() for leaf in step.start.values())
    tangent = torch.randn(size, generator=generator)
    cotangent = {name: torch.randn(TASKS, *leaf.shape, generator=generator) for name, leaf in step.start.items()}
    pushed, pulled = step.pushforward(like(tangent, step.start)), step.pullback(cotangent)
    moved = 0.0
    for task in range(TASKS):
        batch = one_task(step.batch, task)
        expected = solved(step, batch, start)
        of_task = vector_of({name: leaf[task] for name, leaf in step.params.items()})
        torch.testing.assert_close(of_task, expected, rtol=1e-8, atol=1e-10)
        moved += float((expected - start).norm())

        h = 1e-4 / float(tangent.norm())
        difference = (solved(step, batch, start + h * tangent) - solved(step, batch, start - h * tangent)) / (2 * h)
        pushed_task = vector_of({name: pushed[name][task] for name in step.start})
        torch.testing.assert_close(pushed_task, difference, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(pushed_task, tangent, rtol=1e-2)
        # <J v, u> = <v, J' u>
        left = pushed_task @ vector_of({name: cotangent[name][task] for name in step.start})
        right = tangent @ vector_of({name: pulled[name][task] for name in step.start})
        torch.testing.assert_close(left, right)
    assert moved > 0.01 and step.residual <= 1e-10
    assert len(step.cg_residuals) == 2 and max(step.cg_residuals) < 1e-11


def test_the_first_iterate_is_mamls_step_and_residuals_tell_what_is_missing(generator):
    step = problem("gaussian", generator, IMAMLSettings(iterations=1, tolerance=0.0, cg_iterations=1))
    gradient = step.loss.gradient()
    for name, leaf in step.start.items():
        torch.testing.assert_close(step.params[name], leaf - LENGTH * gradient[name])
    # |phi' - phi + a grad L(phi')| / |a grad L(phi)|, by hand
    there = ProximalStep(step.policy, step.params, step.batch, step.inner_loss, LENGTH, TIGHT).loss.gradient()
    norms = [
        torch.stack([leaf.reshape(TASKS, -1).square().sum(1) for leaf in leaves]).sum(0).sqrt()
        for leaves in (
            [step.params[name] - leaf + LENGTH * there[name] for name, leaf in step.start.items()],
            [LENGTH * leaf for leaf in gradient.values()],
        )
    ]
    assert step.residual == pytest.approx(float((norms[0] / norms[1]).mean()), rel=1e-9) and step.residual > 1e-3

    vector = {name: leaf.expand(TASKS, *leaf.shape) for name, leaf in random_like(step.start, generator).items()}
    step.pushforward(vector)
    told = residuals(Path(MetaParams(step.start), step.start, (step,)))
    assert told == {"imaml/inner_residual": step.residual, "imaml/cg_residual": step.cg_residuals[0]}
    assert told["imaml/cg_residual"] > 1e-6


@pytest.mark.parametrize("outer", ["adam", "trust_region"])
def test_an_update_through_inner_problems_that_were_not_solved_is_refused(outer, generator):
    """Bit for bit, moments included; with a larger bound it is taken."""
    policy = make_policy("gaussian")
    config = make_config(outer=outer)
    config = dataclasses.replace(config, adaptation=dataclasses.replace(config.adaptation, step_size=30.0))
    strict, lenient = (
        make_imaml(policy, config, IMAMLSettings(iterations=2, max_residual=bound)) for bound in (1.0, 1e6)
    )
    state = strict.init(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(strict, state.meta, TASKS, 1, generator)
    same, refused = strict.meta_step(state, meta_batch, generator)
    assert same is state and not refused.not_finite
    metrics = refused.metrics()
    assert metrics["imaml/accepted"] == 0 and metrics["imaml/inner_residual"] >= 1
    assert isinstance(refused, Measured) and str(refused.refused).startswith("inner problems not solved (residual ")
    moved, taken = lenient.meta_step(state, meta_batch, generator)
    assert isinstance(taken, Measured) and taken.refused is None
    assert taken.metrics()["imaml/accepted"] == 1
    assert taken.metrics()["imaml/inner_residual"] == metrics["imaml/inner_residual"]
    if outer == "adam":
        assert moved.optimiser["done"] == 1


def test_a_task_of_numbers_that_are_not_finite_leaves_the_others_as_they_are(generator):
    step = problem("gaussian", generator)
    advantages = step.batch.advantages.clone()
    advantages[0, 0, 0] = math.nan
    spoiled = ProximalStep(
        step.policy, step.start, step.batch._replace(advantages=advantages), step.inner_loss, LENGTH, TIGHT
    )
    for name in step.start:
        torch.testing.assert_close(spoiled.params[name][1], step.params[name][1])
    assert math.isnan(spoiled.residual)
    products = spoiled.pushforward(step.start)
    assert any(leaf[0].isnan().any() for leaf in products.values())  # so that the update is refused
    assert all(leaf[1].isfinite().all() for leaf in products.values())


def test_in_single_precision_it_is_solved_to_rounding_and_no_sooner(generator):
    """Long before, a step no longer changes a digit of the value."""
    step = problem("categorical", generator)
    params = {name: leaf.float() for name, leaf in step.start.items()}
    single = Batch(*(leaf if leaf.dtype == torch.int64 else leaf.float() for leaf in step.batch))
    rough = ProximalStep(
        step.policy, params, single, step.inner_loss, LENGTH, IMAMLSettings(iterations=400, tolerance=0.0)
    )
    assert rough.residual < 1e-4
    for name in params:
        torch.testing.assert_close(rough.params[name].double(), step.params[name], rtol=1e-4, atol=1e-5)


def systems(generator: torch.Generator, rows: int = 3, size: int = 6) -> Tensor:
    factor = torch.randn(rows, size, size, generator=generator)
    return factor @ factor.mT + torch.eye(size)


def test_rows_are_solved_each_with_its_own_matrix(generator):
    matrices = systems(generator)
    right = torch.randn(3, 6, generator=generator)
    right[1] = 0.0  # nothing to do
    solution, left = solve_rows(lambda rows: (matrices @ rows.unsqueeze(-1)).squeeze(-1), right, 30, 1e-13)
    torch.testing.assert_close(solution, torch.linalg.solve(matrices, right))
    assert left.max() < 1e-12 and (solution[1] == 0).all() and left[1] == 0


def test_a_row_that_is_done_waits_for_the_others_unchanged(generator):
    matrices = systems(generator)
    matrices[0] = 2 * torch.eye(6)  # one iteration
    right = torch.randn(3, 6, generator=generator)

    def product(rows: Tensor) -> Tensor:
        return (matrices @ rows.unsqueeze(-1)).squeeze(-1)

    one, many = (solve_rows(product, right, iterations, 1e-12) for iterations in (1, 30))
    assert torch.equal(one[0][0], many[0][0])
    residual = (right - product(one[0])).norm(dim=1) / right.norm(dim=1)
    torch.testing.assert_close(one[1], residual, rtol=1e-9, atol=1e-14)
    rough = solve_rows(product, right, 30, 0.1)
    assert (rough[1] <= 0.1).all() and rough[1].max() > 1e-6


def test_a_row_without_positive_curvature_keeps_what_it_has_and_tells_so(generator):
    matrices = systems(generator)
    matrices[1] = -matrices[1]
    right = torch.randn(3, 6, generator=generator)
    solution, left = solve_rows(lambda rows: (matrices @ rows.unsqueeze(-1)).squeeze(-1), right, 30, 1e-12)
    assert (solution[1] == 0).all() and left[1] == 1
    for row in (0, 2):
        torch.testing.assert_close(solution[row], torch.linalg.solve(matrices[row], right[row]))
