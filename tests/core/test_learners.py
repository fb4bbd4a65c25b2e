from __future__ import annotations

import dataclasses

import torch

from mamlrl.config import Config
from mamlrl.learners import LEARNERS, training_steps
from mamlrl.learners.fomaml import FOMAML
from mamlrl.learners.maml import MAML, AdaptedSurrogate, flatten
from mamlrl.learners.multitask import MultiTask
from mamlrl.objectives import likelihood_ratio_loss
from mamlrl.structs import Batch, MetaBatch
from tests.core.problems import make_policy, random_batch, random_params, sample_meta_batch

CONFIG = Config()


def test_fomaml_is_maml_with_the_first_order_switch(generator):
    policy = make_policy("gaussian")
    switched = dataclasses.replace(CONFIG, adaptation=dataclasses.replace(CONFIG.adaptation, first_order=True))
    params = random_params(policy, generator)
    meta_batch, _ = sample_meta_batch(MAML(policy, CONFIG), params, 3, 1, generator)
    gradients = [
        AdaptedSurrogate(learner, params, meta_batch, generator).gradient()
        for learner in (FOMAML(policy, CONFIG), MAML(policy, switched), MAML(policy, CONFIG))
    ]
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2])


def test_multitask_is_trpo_on_the_rows_of_all_tasks_together(generator):
    """With as many valid rows in every task, M tasks are one task with M times the rows."""
    policy = make_policy("gaussian")
    learner, params = MultiTask(policy, CONFIG), random_params(policy, generator)
    batch = random_batch(policy, params, 3, generator)
    batch = batch._replace(weights=torch.full_like(batch.weights, 1 / batch.weights.shape[1]))
    together = Batch(*(leaf.flatten(0, 1).unsqueeze(0) for leaf in batch))
    together = together._replace(weights=together.weights / 3)
    objectives = [AdaptedSurrogate(learner, params, MetaBatch((), rows), generator) for rows in (batch, together)]

    vector = flatten(params)
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    outputs = policy.outputs(leaves, together.observations)
    loss = likelihood_ratio_loss(policy.distribution, outputs, together).sum()
    expected = torch.cat([leaf.reshape(-1) for leaf in torch.autograd.grad(loss, list(leaves.values()))])
    for objective in objectives:
        torch.testing.assert_close(objective.gradient(), expected)
    torch.testing.assert_close(*(objective.fisher_vector_product(vector) for objective in objectives))

    state, metrics = learner.meta_step(learner.init(params), MetaBatch((), batch), generator)
    assert metrics["trust_region/accepted"] == 1 and 0 < metrics["trust_region/kl"] <= CONFIG.trust_region.max_kl
    assert not torch.equal(flatten(state.params), vector)


def test_every_learner_fine_tunes_by_the_same_inner_step(generator):
    policy = make_policy("gaussian")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 3, generator)
    expected = MAML(policy, CONFIG).adapt(params, batch)
    for name in ("fomaml", "multitask", "random"):
        adapted = LEARNERS[name](policy, CONFIG).adapt(params, batch)
        assert all(torch.equal(adapted[leaf], expected[leaf]) for leaf in expected), name


def test_multitask_samples_the_unadapted_policy_alone():
    assert training_steps(dataclasses.replace(CONFIG, learner="multitask")) == 0
    assert training_steps(CONFIG) == CONFIG.adaptation.steps
