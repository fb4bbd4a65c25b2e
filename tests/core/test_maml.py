from __future__ import annotations

import math

import pytest
import torch

from mamlrl.learners.maml import AdaptedSurrogate, draw_rows, flatten, unflatten
from mamlrl.structs import Batch, MetaBatch
from tests.core.problems import (
    make_learner,
    make_policy,
    random_batch,
    random_params,
    reference_objective,
    sample_meta_batch,
)

kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
steps_cases = pytest.mark.parametrize("steps", [1, 2])
losses = pytest.mark.parametrize("loss", ["log_prob", "likelihood_ratio"])


def problem(generator, kind="gaussian", steps=1, num_tasks=3, activation="tanh", **settings):
    policy = make_policy(kind, activation)
    learner = make_learner(policy, steps, **settings)
    params = random_params(policy, generator)
    meta_batch, adapted = sample_meta_batch(learner, params, num_tasks, steps, generator)
    return learner, params, meta_batch, adapted


@kinds
@steps_cases
def test_parameters_used_for_sampling_are_those_of_the_meta_objective(kind, steps, generator):
    learner, params, meta_batch, adapted = problem(generator, kind, steps)
    objective = AdaptedSurrogate(learner, params, meta_batch, generator)
    outputs = learner.policy.linearize(adapted, meta_batch.query.observations).outputs
    assert torch.equal(objective.old_outputs, outputs)


@kinds
@steps_cases
def test_at_theta_ratio_is_one_and_kl_and_its_gradient_are_zero(kind, steps, generator):
    learner, params, meta_batch, _ = problem(generator, kind, steps)
    objective = AdaptedSurrogate(learner, params, meta_batch, generator)
    log_probs = learner.policy.distribution.log_prob(objective.old_outputs, meta_batch.query.actions)
    assert torch.equal(torch.exp(log_probs - objective.query.log_probs), torch.ones_like(log_probs))
    surrogate, kl = objective.evaluate(flatten(params))
    assert surrogate == pytest.approx(objective.loss, abs=1e-14)
    assert kl == pytest.approx(0, abs=1e-14)
    vector = flatten(params).requires_grad_()
    _, kl = reference_objective(learner, params, vector, meta_batch, objective)
    (gradient,) = torch.autograd.grad(kl, vector)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-13, rtol=0)


@kinds
@steps_cases
@losses
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_meta_gradient_and_evaluation_equal_a_task_loop(kind, steps, loss, activation, generator):
    learner, params, meta_batch, _ = problem(generator, kind, steps, activation=activation, inner_loss=loss)
    objective = AdaptedSurrogate(learner, params, meta_batch, generator)
    vector = flatten(params).requires_grad_()
    surrogate, _ = reference_objective(learner, params, vector, meta_batch, objective)
    (expected,) = torch.autograd.grad(surrogate, vector)
    torch.testing.assert_close(objective.gradient(), expected)

    elsewhere = flatten(params) + 0.02 * torch.randn(vector.shape, generator=generator)
    expected_values = reference_objective(learner, params, elsewhere.clone().requires_grad_(), meta_batch, objective)
    assert objective.evaluate(elsewhere) == pytest.approx([value.item() for value in expected_values], rel=1e-10)


@kinds
@steps_cases
def test_meta_gradient_equals_central_differences(kind, steps, generator):
    learner, params, meta_batch, _ = problem(generator, kind, steps)
    objective = AdaptedSurrogate(learner, params, meta_batch, generator)
    gradient, theta = objective.gradient(), flatten(params)
    for _ in range(5):
        direction = torch.randn(theta.shape, generator=generator)
        h = 1e-5  # error h^2 from truncation, 1e-16 / h from rounding
        difference = objective.evaluate(theta + h * direction)[0] - objective.evaluate(theta - h * direction)[0]
        assert float(gradient @ direction) == pytest.approx(difference / (2 * h), rel=1e-6, abs=1e-8)


@kinds
@steps_cases
@losses
def test_fisher_vector_product_equals_the_dense_hessian_of_the_mean_kl(kind, steps, loss, generator):
    learner, params, meta_batch, _ = problem(generator, kind, steps, inner_loss=loss)
    objective = AdaptedSurrogate(learner, params, meta_batch, generator)
    theta = flatten(params)
    hessian = torch.autograd.functional.hessian(
        lambda vector: reference_objective(learner, params, vector, meta_batch, objective)[1], theta
    )
    products = torch.stack([objective.fisher_vector_product(basis) for basis in torch.eye(len(theta))])
    torch.testing.assert_close(products, hessian, atol=1e-11, rtol=1e-9)
    torch.testing.assert_close(products, products.T, atol=1e-12, rtol=1e-9)
    assert torch.linalg.eigvalsh(products).min() > -1e-12  # J^T F J has no negative curvature


def test_first_order_takes_the_jacobian_as_identity(generator):
    learner, params, meta_batch, adapted = problem(generator, steps=2, first_order=True)
    objective = AdaptedSurrogate(learner, params, meta_batch, generator)
    outputs = {name: leaf.clone().requires_grad_() for name, leaf in adapted.items()}
    from mamlrl.objectives import likelihood_ratio_loss

    surrogate = likelihood_ratio_loss(
        learner.policy.distribution,
        learner.policy.outputs(outputs, meta_batch.query.observations),
        objective.query,
    ).mean()
    gradients = torch.autograd.grad(surrogate, list(outputs.values()))
    expected = torch.cat([gradient.sum(0).reshape(-1) for gradient in gradients])
    torch.testing.assert_close(objective.gradient(), expected)


def test_first_order_equals_second_order_only_without_a_step(generator):
    def gradients(step_size: float) -> list[torch.Tensor]:
        results = []
        for first_order in (False, True):
            policy_generator = torch.Generator().manual_seed(3)
            learner, params, meta_batch, _ = problem(policy_generator, first_order=first_order)
            learner.settings = type(learner.settings)(step_size=step_size, first_order=first_order)
            results.append(AdaptedSurrogate(learner, params, meta_batch, policy_generator).gradient())
        return results

    torch.testing.assert_close(*gradients(0.0))
    assert not torch.allclose(*gradients(0.3), rtol=1e-3)


def test_permuting_tasks_changes_nothing_but_rounding(generator):
    learner, params, meta_batch, _ = problem(generator, num_tasks=4)
    order = torch.tensor([2, 0, 3, 1])
    permuted = MetaBatch(
        tuple(Batch(*(leaf[order] for leaf in batch)) for batch in meta_batch.support),
        Batch(*(leaf[order] for leaf in meta_batch.query)),
    )
    states = [
        learner.meta_step(learner.init(params), batch, torch.Generator().manual_seed(0))[0]
        for batch in (meta_batch, permuted)
    ]
    torch.testing.assert_close(flatten(states[0].params), flatten(states[1].params), atol=1e-9, rtol=1e-9)


def test_an_accepted_step_lowers_the_surrogate_within_the_kl_limit(generator):
    learner, params, meta_batch, _ = problem(generator)
    state, metrics = learner.meta_step(learner.init(params), meta_batch, generator)
    assert metrics["trust_region/accepted"] == 1
    objective = AdaptedSurrogate(learner, params, meta_batch, generator)
    surrogate, kl = objective.evaluate(flatten(state.params))
    assert surrogate == pytest.approx(objective.loss - metrics["trust_region/surrogate_improvement"])
    assert kl == pytest.approx(metrics["trust_region/kl"]) and 0 < kl <= learner.trust_region.max_kl


@pytest.mark.parametrize("which", ["support", "query"])
def test_non_finite_advantages_refuse_the_step_and_say_so(which, generator):
    learner, params, meta_batch, _ = problem(generator)
    batch = meta_batch.query if which == "query" else meta_batch.support[0]
    advantages = batch.advantages.clone()
    advantages[1, 0] = math.nan
    batch = batch._replace(advantages=advantages)
    bad = meta_batch._replace(query=batch) if which == "query" else meta_batch._replace(support=(batch,))
    state = learner.init(params)
    new_state, metrics = learner.meta_step(state, bad, generator)
    assert metrics["trust_region/accepted"] == 0 and metrics["trust_region/nonfinite"] == 1
    assert all(torch.equal(new_state.params[name], leaf) for name, leaf in params.items())


def test_curvature_on_drawn_rows_is_the_exact_product_of_those_rows(generator):
    learner, params, meta_batch, _ = problem(generator, fraction=0.4)
    sampled = AdaptedSurrogate(learner, params, meta_batch, torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    support = tuple(draw_rows(batch, 0.4, draws) for batch in meta_batch.support)
    query = draw_rows(sampled.query, 0.4, draws)

    # the same curvature by autograd: J of the drawn support rows, taken where the full step leads
    full = AdaptedSurrogate(make_learner(learner.policy), params, meta_batch, draws)
    torch.testing.assert_close(sampled.gradient(), full.gradient())  # the gradient uses every row
    theta, like = flatten(params), params
    vector = torch.randn(theta.shape, generator=generator)
    total = torch.zeros_like(theta)
    num_tasks = len(query.weights)
    for task in range(num_tasks):

        def inner(p, task=task):
            leaves = {name: leaf.unsqueeze(0) for name, leaf in unflatten(p, like).items()}
            batch = Batch(*(leaf[task : task + 1] for leaf in support[0]))
            outputs = learner.policy.outputs(leaves, batch.observations)
            return learner.inner_loss(learner.policy.distribution, outputs, batch).sum()

        hessian = torch.autograd.functional.hessian(inner, theta)
        assert isinstance(hessian, torch.Tensor)
        jacobian = torch.eye(len(theta)) - 0.3 * hessian
        phi = flatten({name: leaf[task] for name, leaf in learner.adapt(params, meta_batch.support[0]).items()})

        def kl(p, task=task, phi=phi):
            def outputs(q):
                leaves = {name: leaf.unsqueeze(0) for name, leaf in unflatten(q, like).items()}
                return learner.policy.outputs(leaves, query.observations[task : task + 1])

            divergence = learner.policy.distribution.kl(outputs(phi), outputs(p))
            return (query.weights[task] * divergence).sum()

        fisher = torch.autograd.functional.hessian(kl, phi)
        assert isinstance(fisher, torch.Tensor)
        total += jacobian.T @ fisher @ jacobian @ vector / num_tasks
    torch.testing.assert_close(sampled.fisher_vector_product(vector), total, atol=1e-11, rtol=1e-9)


def test_drawn_rows_keep_weights_that_sum_to_one(generator):
    policy = make_policy("gaussian")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 3, generator)
    drawn = draw_rows(batch, 0.5, generator)
    assert drawn.weights.shape[1] == 8
    torch.testing.assert_close(drawn.weights.sum(1), torch.ones(3))
