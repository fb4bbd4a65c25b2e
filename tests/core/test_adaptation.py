from __future__ import annotations

import pytest
import torch

from mamlrl.adaptation import AdaptationPath, adapt, loss_at
from mamlrl.learners.maml import flatten, unflatten
from mamlrl.objectives import INNER_LOSSES
from mamlrl.structs import Batch
from tests.core.problems import (
    make_learner,
    make_policy,
    one_task,
    random_batch,
    random_params,
    reference_adapt,
    sample_meta_batch,
)

kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
losses = pytest.mark.parametrize("loss", INNER_LOSSES)


@kinds
@losses
def test_adapt_equals_an_autograd_step_per_task(kind, loss, generator):
    policy = make_policy(kind)
    learner = make_learner(policy, inner_loss=loss)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 3, generator)
    adapted = learner.adapt(params, batch)
    for task in range(3):
        leaves = {name: leaf.unsqueeze(0).requires_grad_() for name, leaf in params.items()}
        expected = reference_adapt(learner, leaves, [one_task(batch, task)])
        for name in params:
            torch.testing.assert_close(adapted[name][task], expected[name][0])


@kinds
@losses
@pytest.mark.parametrize("steps", [1, 3])
def test_path_multiplies_with_the_dense_jacobian(kind, loss, steps, generator):
    policy = make_policy(kind)
    learner = make_learner(policy, steps, inner_loss=loss)
    params = random_params(policy, generator)
    meta_batch, _ = sample_meta_batch(learner, params, 1, steps, generator)
    start = flatten(params)

    def adapted(vector: torch.Tensor) -> torch.Tensor:
        leaves = {name: leaf.unsqueeze(0) for name, leaf in unflatten(vector, params).items()}
        return flatten(reference_adapt(learner, leaves, meta_batch.support))

    jacobian = torch.autograd.functional.jacobian(adapted, start)
    hessians, point = [], params
    for batch in meta_batch.support:
        hessians.append(loss_at(policy, point, batch, learner.inner_loss).hessian())
        point = learner.adapt(point, batch)
    path = AdaptationPath(hessians, learner.settings.step_size)
    vector = torch.randn(start.shape, generator=generator)
    stacked = {name: leaf.unsqueeze(0) for name, leaf in unflatten(vector, params).items()}
    torch.testing.assert_close(flatten(path.pushforward(stacked)), jacobian @ vector)
    torch.testing.assert_close(flatten(path.pullback(stacked)), jacobian.T @ vector)


def test_permuting_tasks_permutes_adapted_parameters(generator):
    policy = make_policy("gaussian")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 4, generator)
    order = torch.tensor([2, 0, 3, 1])
    loss = INNER_LOSSES["likelihood_ratio"]
    adapted = adapt(policy, params, batch, loss, 0.3)
    permuted = adapt(policy, params, Batch(*(leaf[order] for leaf in batch)), loss, 0.3)
    for name in adapted:
        torch.testing.assert_close(adapted[name][order], permuted[name])


def test_zero_step_size_returns_the_initial_parameters(generator):
    policy = make_policy("categorical")
    params = random_params(policy, generator)
    adapted = adapt(policy, params, random_batch(policy, params, 2, generator), INNER_LOSSES["log_prob"], 0.0)
    for name, leaf in params.items():
        assert torch.equal(adapted[name], leaf.expand_as(adapted[name]))
