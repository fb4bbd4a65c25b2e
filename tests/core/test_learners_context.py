"""Context-only adaptation against autograd, one task at a time."""

from __future__ import annotations

import pytest
import torch

from mamlrl.adaptation import AdaptationPath, loss_at
from mamlrl.config import AdaptationConfig, Config, TrustRegionConfig
from mamlrl.learners.context import Context
from mamlrl.learners.maml import AdaptedSurrogate, flatten, unflatten
from mamlrl.structs import Params
from tests.core.problems import (
    make_policy,
    one_task,
    random_batch,
    random_params,
    reference_adapt,
    reference_objective,
    sample_meta_batch,
)

kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
steps_cases = pytest.mark.parametrize("steps", [1, 2])
losses = pytest.mark.parametrize("loss", ["log_prob", "likelihood_ratio"])


def problem(generator, kind="gaussian", steps=1, tasks=3, loss="likelihood_ratio", fraction=1.0):
    settings = AdaptationConfig(steps=steps, step_size=0.3, inner_loss=loss, context_size=4)  # type: ignore[arg-type]
    config = Config(adaptation=settings, trust_region=TrustRegionConfig(curvature_fraction=fraction))
    learner = Context(make_policy(kind), config)
    params = random_params(learner.policy, generator)
    meta_batch, adapted = sample_meta_batch(learner, params, tasks, steps, generator)
    return learner, params, meta_batch, adapted


@kinds
def test_the_context_is_an_input_of_the_first_layer(kind, generator):
    learner, params, meta_batch, _ = problem(generator, kind)
    observations = meta_batch.query.observations
    expected = learner.policy.outputs(params, observations)
    inputs = torch.cat([observations, params["context"].expand(*observations.shape[:2], -1)], dim=-1)
    weight = torch.cat([params["weight_0"], params["context_weight"]])
    hidden = torch.tanh(inputs @ weight + params["bias_0"])
    hidden = torch.tanh(hidden @ params["weight_1"] + params["bias_1"])
    means = hidden @ params["weight_2"] + params["bias_2"]
    torch.testing.assert_close(expected[..., : means.shape[-1]], means)
    torch.testing.assert_close(learner.policy.linearize(params, observations).outputs, expected)


@kinds
@losses
def test_only_the_context_adapts_and_as_autograd_says(kind, loss, generator):
    learner, params, meta_batch, adapted = problem(generator, kind, steps=2, loss=loss)
    for task in range(3):
        leaves = {name: leaf.unsqueeze(0).requires_grad_() for name, leaf in params.items()}
        expected = reference_adapt(learner, leaves, [one_task(batch, task) for batch in meta_batch.support])
        torch.testing.assert_close(adapted["context"][task], expected["context"][0])
    for name, leaf in params.items():
        assert name == "context" or adapted[name] is leaf


@kinds
@losses
@steps_cases
def test_path_multiplies_with_the_dense_jacobian_which_is_not_symmetric(kind, loss, steps, generator):
    learner, params, meta_batch, _ = problem(generator, kind, steps, tasks=1, loss=loss)
    start = flatten(params)

    def stacked(vector: torch.Tensor) -> Params:
        return {name: leaf.unsqueeze(0) for name, leaf in unflatten(vector, params).items()}

    jacobian = torch.autograd.functional.jacobian(
        lambda vector: flatten(reference_adapt(learner, stacked(vector), meta_batch.support)), start
    )
    hessians, point = [], params
    for batch in meta_batch.support:
        hessians.append(loss_at(learner.policy, point, batch, learner.inner_loss).hessian())
        point = learner.adapt(point, batch)
    path = AdaptationPath(hessians, learner.settings.step_size, learner.adapted_leaves)
    vector = torch.randn(start.shape, generator=generator)
    torch.testing.assert_close(flatten(path.pushforward(stacked(vector))), jacobian @ vector)
    torch.testing.assert_close(flatten(path.pullback(stacked(vector))), jacobian.T @ vector)
    assert not torch.allclose(jacobian, jacobian.T)


@kinds
@losses
@steps_cases
def test_meta_gradient_and_curvature_equal_autograd(kind, loss, steps, generator):
    learner, params, meta_batch, _ = problem(generator, kind, steps, loss=loss)
    objective = AdaptedSurrogate(learner, params, meta_batch, generator)
    theta = flatten(params)
    vector = theta.clone().requires_grad_()
    surrogate, kl = reference_objective(learner, params, vector, meta_batch, objective)
    (expected,) = torch.autograd.grad(surrogate, vector)
    torch.testing.assert_close(objective.gradient(), expected)
    assert objective.evaluate(theta) == pytest.approx([surrogate.item(), kl.item()], abs=1e-12)

    hessian = torch.as_tensor(
        torch.autograd.functional.hessian(
            lambda point: reference_objective(learner, params, point, meta_batch, objective)[1], theta
        )
    )
    for _ in range(3):
        direction = torch.randn(theta.shape, generator=generator)
        product = objective.fisher_vector_product(direction)
        torch.testing.assert_close(product, hessian @ direction, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_the_meta_update_moves_network_and_context(fraction, generator):
    learner, params, meta_batch, _ = problem(generator, fraction=fraction)
    state, metrics = learner.meta_step(learner.init(params), meta_batch, generator)
    assert metrics["trust_region/accepted"] == 1
    assert list(state.params) == list(params)
    assert all(not torch.equal(state.params[name], leaf) for name, leaf in params.items())


def test_permuting_tasks_permutes_contexts(generator):
    learner, params, _, _ = problem(generator)
    batch = random_batch(learner.policy, params, 4, generator)
    order = torch.tensor([2, 0, 3, 1])
    contexts = learner.adapt(params, batch)["context"]
    permuted = learner.adapt(params, type(batch)(*(leaf[order] for leaf in batch)))["context"]
    torch.testing.assert_close(contexts[order], permuted)
