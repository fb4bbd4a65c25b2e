"""The proximal inner step of iMAML against Newton's method on dense matrices, and its solvers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from mamlrl.adaptation import loss_at
from mamlrl.learners.gradient import Measured
from mamlrl.learners.imaml import (
    IMAMLSettings,
    Proximal,
    ProximalStep,
    make_imaml,
    proximal_step,
    residuals,
    solve_rows,
)
from mamlrl.learners.objective import Path, draw_steps
from mamlrl.objectives import INNER_LOSSES
from mamlrl.outer.trust_region import SolverEnd
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
LONG = 0.1
"""At which some of the proximal problems have no minimum nearby."""
TIGHT = IMAMLSettings(iterations=400, tolerance=1e-11, cg_iterations=100, cg_tolerance=1e-24)
kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical", "outside"])


def problem(
    kind: str, generator: torch.Generator, solver: IMAMLSettings = TIGHT, length: float = LENGTH, tasks: int = TASKS
) -> ProximalStep:
    network = "tests.core.outside:GatedNetwork" if kind == "outside" else "auto"
    policy = make_policy("gaussian" if kind == "gaussian" else "categorical", network=network)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, tasks, generator)
    return proximal_step(Proximal(policy, batch, INNER_LOSSES["likelihood_ratio"], length, solver), params)


def vector_of(params: Params) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in params.values()])


def like(vector: Tensor, params: Params) -> Params:
    pieces = vector.split([leaf.numel() for leaf in params.values()])
    return {name: piece.view_as(leaf) for (name, leaf), piece in zip(params.items(), pieces, strict=True)}


def solved(step: ProximalStep, batch: Batch, start: Tensor) -> Tensor:
    """Phi' of the one task of the batch, by Newton's method on L(x) + |x - phi|^2 / (2 a)."""

    def value(x: Tensor) -> Tensor:
        params = {name: leaf.unsqueeze(0) for name, leaf in like(x, step.start).items()}
        policy, _, inner_loss, length, _ = step.problem
        loss = inner_loss(policy.distribution, policy.outputs(params, batch.observations), batch).sum()
        return loss + (x - start).square().sum() / (2 * length)

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
        batch = one_task(step.problem.batch, task)
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
    assert moved > 0.01 and step.residuals.max() <= 1e-10
    assert len(step.products) == 2
    for product in step.products:
        assert product.solution.residuals.max() < 1e-11 and set(product.solution.ends) == {SolverEnd.CONVERGED}


def test_the_first_iterate_is_mamls_step_and_residuals_tell_what_is_missing(generator):
    step = problem("gaussian", generator, IMAMLSettings(iterations=1, tolerance=0.0, cg_iterations=1))
    gradient = step.loss.gradient()
    for name, leaf in step.start.items():
        torch.testing.assert_close(step.params[name], leaf - LENGTH * gradient[name])
    # |phi' - phi + a grad L(phi')| / |a grad L(phi)|, by hand
    there = proximal_step(step.problem, step.params).loss.gradient()
    norms = [
        torch.stack([leaf.reshape(TASKS, -1).square().sum(1) for leaf in leaves]).sum(0).sqrt()
        for leaves in (
            [step.params[name] - leaf + LENGTH * there[name] for name, leaf in step.start.items()],
            [LENGTH * leaf for leaf in gradient.values()],
        )
    ]
    torch.testing.assert_close(step.residuals, norms[0] / norms[1], rtol=1e-9, atol=0)
    assert step.residuals.min() > 1e-3

    vector = {name: leaf.expand(TASKS, *leaf.shape) for name, leaf in random_like(step.start, generator).items()}
    step.pushforward(vector)
    told = residuals(Path(MetaParams(step.start), step.start, (step,)), 1.0)
    (product,) = step.products
    assert told == {
        "imaml/inner_residual": float(step.residuals.mean()),
        "imaml/cg_residual": float(product.solution.residuals.mean()),
        "imaml/unsolved": 0,
    }
    assert told["imaml/cg_residual"] > 1e-6 and set(product.solution.ends) == {SolverEnd.ITERATIONS}


@pytest.mark.parametrize("outer", ["adam", "trust_region"])
def test_an_update_through_inner_problems_that_were_not_solved_is_refused(outer, generator):
    """Bit for bit, moments included; with a larger bound it is taken."""
    policy = make_policy("gaussian")
    config = make_config(outer=outer)
    config = dataclasses.replace(config, adaptation=dataclasses.replace(config.adaptation, step_size=LENGTH))
    strict, lenient = (
        make_imaml(policy, config, IMAMLSettings(iterations=1, max_residual=bound)) for bound in (0.05, 1.0)
    )
    state = strict.init(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(strict, state.meta, TASKS, 1, generator)
    same, refused = strict.meta_step(state, meta_batch, generator)
    assert same is state and not refused.not_finite
    metrics = refused.metrics()
    assert metrics["imaml/accepted"] == 0 and metrics["imaml/inner_residual"] >= 0.05
    assert isinstance(refused, Measured) and str(refused.refused).startswith("inner problems not solved (residual ")
    moved, taken = lenient.meta_step(state, meta_batch, generator)
    assert isinstance(taken, Measured) and taken.refused is None
    assert taken.metrics()["imaml/accepted"] == 1
    assert taken.metrics()["imaml/inner_residual"] == metrics["imaml/inner_residual"]
    if outer == "adam":
        assert moved.optimiser["done"] == 1


def test_a_task_of_numbers_that_are_not_finite_leaves_the_others_as_they_are(generator):
    step = problem("gaussian", generator)
    advantages = step.problem.batch.advantages.clone()
    advantages[0, 0, 0] = math.nan
    batch = step.problem.batch._replace(advantages=advantages)
    spoiled = proximal_step(step.problem._replace(batch=batch), step.start)
    for name in step.start:
        torch.testing.assert_close(spoiled.params[name][1], step.params[name][1])
    assert spoiled.residuals.isnan().tolist() == [True, False]
    products = spoiled.pushforward(step.start)
    assert any(leaf[0].isnan().any() for leaf in products.values())  # so that the update is refused
    assert all(leaf[1].isfinite().all() for leaf in products.values())
    assert spoiled.products[0].solution.ends == [SolverEnd.NOT_FINITE, SolverEnd.CONVERGED]


def test_in_single_precision_it_is_solved_to_rounding_and_no_sooner(generator):
    """Long before, a step no longer changes a digit of the value."""
    step = problem("categorical", generator)
    params = {name: leaf.float() for name, leaf in step.start.items()}
    single = Batch(*(leaf if leaf.dtype == torch.int64 else leaf.float() for leaf in step.problem.batch))
    exhausting = IMAMLSettings(iterations=400, tolerance=0.0)
    rough = proximal_step(step.problem._replace(batch=single, solver=exhausting), params)
    assert rough.residuals.max() < 1e-4
    for name in params:
        torch.testing.assert_close(rough.params[name].double(), step.params[name], rtol=1e-4, atol=1e-5)


def systems(generator: torch.Generator, rows: int = 3, size: int = 6) -> Tensor:
    factor = torch.randn(rows, size, size, generator=generator)
    return factor @ factor.mT + torch.eye(size)


def test_rows_are_solved_each_with_its_own_matrix(generator):
    matrices = systems(generator)
    right = torch.randn(3, 6, generator=generator)
    right[1] = 0.0  # nothing to do
    solution = solve_rows(lambda rows: (matrices @ rows.unsqueeze(-1)).squeeze(-1), right, 30, 1e-26)
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrices, right))
    assert solution.residuals.max() < 1e-12 and (solution.x[1] == 0).all() and solution.residuals[1] == 0
    assert solution.ends == [SolverEnd.CONVERGED] * 3 and not solution.unusable(1.0).any()


def test_a_row_that_is_done_waits_for_the_others_unchanged(generator):
    matrices = systems(generator)
    matrices[0] = 2 * torch.eye(6)  # one iteration
    right = torch.randn(3, 6, generator=generator)

    def product(rows: Tensor) -> Tensor:
        return (matrices @ rows.unsqueeze(-1)).squeeze(-1)

    one, many = (solve_rows(product, right, iterations, 1e-24) for iterations in (1, 30))
    assert torch.equal(one.x[0], many.x[0])
    assert one.ends == [SolverEnd.CONVERGED, SolverEnd.ITERATIONS, SolverEnd.ITERATIONS]
    residual = (right - product(one.x)).norm(dim=1) / right.norm(dim=1)
    torch.testing.assert_close(one.residuals, residual, rtol=1e-9, atol=1e-14)
    rough = solve_rows(product, right, 30, 0.01).residuals
    assert (rough <= 0.1).all() and rough.max() > 1e-6


def test_a_row_without_positive_curvature_is_of_no_use_and_says_so(generator):
    matrices = systems(generator)
    matrices[1] = -matrices[1]
    right = torch.randn(3, 6, generator=generator)
    solution = solve_rows(lambda rows: (matrices @ rows.unsqueeze(-1)).squeeze(-1), right, 30, 1e-24)
    assert solution.ends == [SolverEnd.CONVERGED, SolverEnd.NEGATIVE_CURVATURE, SolverEnd.CONVERGED]
    assert solution.unusable(math.inf).tolist() == [False, True, False]
    for row in (0, 2):
        torch.testing.assert_close(solution.x[row], torch.linalg.solve(matrices[row], right[row]))


def test_a_row_that_diverges_is_of_no_use(generator):
    """An indefinite matrix: all directions tried have positive curvature, and the residual grows."""
    matrix = torch.diag(torch.tensor([1.0, 1.0, -0.9]))
    right = torch.tensor([[1.0, 1.0, 1.4]])
    solution = solve_rows(lambda rows: rows @ matrix, right, 1, 1e-12)
    assert solution.ends == [SolverEnd.ITERATIONS] and solution.residuals > 1
    assert solution.unusable(1.0).all() and not solution.unusable(math.inf).any()


@pytest.mark.parametrize("outer", ["adam", "sgd", "trust_region"])
def test_an_update_through_a_derivative_that_was_not_solved_is_refused(outer, generator):
    """Proximal problems without a minimum nearby: residuals are low enough, the curvature is not positive."""
    policy = make_policy("gaussian")
    config = make_config(outer=outer)
    config = dataclasses.replace(config, adaptation=dataclasses.replace(config.adaptation, step_size=LONG))
    learner = make_imaml(policy, config, IMAMLSettings(iterations=2))
    state = learner.init(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(learner, state.meta, 6, 1, generator)
    same, outcome = learner.meta_step(state, meta_batch, generator)
    metrics = outcome.metrics()
    assert metrics["imaml/inner_residual"] < 1 and metrics["imaml/unsolved"] >= 1
    assert metrics["imaml/accepted"] == 0 and not outcome.not_finite
    assert isinstance(outcome, Measured) and str(outcome.refused).startswith("derivative not solved for ")
    assert same is state


def test_a_task_is_solved_alone_as_it_is_in_a_batch(generator):
    """Roughly, so that some tasks are solved long before others."""
    together = problem("gaussian", generator, IMAMLSettings(iterations=30, tolerance=0.1), tasks=6)
    counts = set()
    for task in range(6):
        alone = proximal_step(together.problem._replace(batch=one_task(together.problem.batch, task)), together.start)
        for name, leaf in alone.params.items():
            torch.testing.assert_close(together.params[name][task], leaf[0], rtol=1e-10, atol=1e-12)
        counts.add(round(float(alone.residuals), 6))
    assert len(counts) == 6


def test_from_another_point_the_solution_is_the_same_whatever_it_is_sought_from(generator):
    step = problem("categorical", generator)
    other = {name: leaf + 0.05 * torch.randn(leaf.shape, generator=generator) for name, leaf in step.start.items()}
    afresh, moved = proximal_step(step.problem, other), step.moved(other)
    for name, leaf in afresh.params.items():
        torch.testing.assert_close(moved.params[name], leaf, rtol=1e-8, atol=1e-10)
        assert not torch.allclose(step.params[name], leaf, rtol=1e-3)
    moved.pullback(moved.params)
    assert moved.products is step.products and len(step.products) == 1  # told of with the others


def test_on_fewer_data_the_derivative_is_taken_at_the_same_solution(generator):
    step = problem("gaussian", generator)
    few = draw_steps(step.problem.batch, 0.5, generator)
    thinned = step.thinned(few)
    assert thinned.params is step.params and thinned.loss is step.loss
    vector = random_like(step.start, generator)
    pushed = thinned.pushforward(vector)
    # (I + a H) of the result, H on the few data
    bent = loss_at(step.problem.policy, step.params, few, step.problem.loss).hessian()(pushed)
    for name, leaf in vector.items():
        torch.testing.assert_close(pushed[name] + LENGTH * bent[name], leaf.expand_as(pushed[name]))


def test_curvature_on_a_share_of_the_data_is_taken_at_the_solution_on_all_of_it(generator):
    policy, config = make_policy("gaussian"), make_config(fraction=0.5)
    learner = make_imaml(policy, config, IMAMLSettings())
    state = learner.init(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(learner, state.meta, TASKS, 1, generator)
    objective = learner.objective(state, meta_batch, generator)
    objective.curvature_product(torch.randn(objective.point.shape, generator=generator))
    (step,) = objective.path.steps
    assert len(step.products) == 2  # there and back
    assert all(product.inner_residuals is step.residuals for product in step.products)


@pytest.mark.parametrize(("given", "taken"), [(0, 1), (3, 3)])
def test_adam_takes_one_step_on_the_same_data_unless_told_otherwise(given, taken, generator):
    policy, config = make_policy("gaussian"), make_config(outer="adam")
    config = dataclasses.replace(
        config,
        adam=dataclasses.replace(config.adam, updates=given),
        adaptation=dataclasses.replace(config.adaptation, step_size=LENGTH),
    )
    learner = make_imaml(policy, config, IMAMLSettings())
    state = learner.init(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(learner, state.meta, TASKS, 1, generator)
    after, _ = learner.meta_step(state, meta_batch, generator)
    assert after.optimiser["step"] == taken
