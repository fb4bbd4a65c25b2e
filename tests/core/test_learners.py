from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
import torch

from mamlrl.config import Config
from mamlrl.errors import ConfigError
from mamlrl.learners import LEARNERS, evaluation_steps, find_learner, step_scale, training_steps
from mamlrl.learners.objective import AdaptedObjective
from mamlrl.objectives import likelihood_ratio_loss
from mamlrl.outer.trust_region import TrustRegionOutcome
from mamlrl.structs import Batch, MetaBatch, MetaParams, flatten
from tests.core.problems import make_policy, random_batch, random_params, sample_meta_batch

CONFIG = Config()


def make(name: str, policy, **own):
    row = LEARNERS[name]
    return row.build(policy, CONFIG, row.settings(**own))


def test_fomaml_is_maml_with_the_first_order_switch(generator):
    policy = make_policy("gaussian")
    meta = MetaParams(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(make("maml", policy), meta, 3, 1, generator)
    gradients = [
        AdaptedObjective(learner, meta, meta_batch).loss_and_gradient()[1]
        for learner in (make("fomaml", policy), make("maml", policy, first_order=True), make("maml", policy))
    ]
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2])


def test_multitask_is_trpo_on_the_rows_of_all_tasks_together(generator):
    """With as many valid time steps in every task, M tasks are one task with M times the rollouts."""
    policy = make_policy("gaussian")
    learner, meta = make("multitask", policy), MetaParams(random_params(policy, generator))
    batch = random_batch(policy, meta.init, 3, generator)
    batch = batch._replace(weights=torch.full_like(batch.weights, 1 / batch.weights[0].numel()))
    together = Batch(*(leaf.flatten(0, 1).unsqueeze(0) for leaf in batch))
    together = together._replace(weights=together.weights / 3)
    objectives = [AdaptedObjective(learner, meta, MetaBatch((), rows)) for rows in (batch, together)]

    leaves = {name: leaf.clone().requires_grad_() for name, leaf in meta.init.items()}
    outputs = policy.outputs(leaves, together.observations)
    loss = likelihood_ratio_loss(policy.distribution, outputs, together).sum()
    expected = torch.cat([leaf.reshape(-1) for leaf in torch.autograd.grad(loss, list(leaves.values()))])
    for objective in objectives:
        torch.testing.assert_close(objective.loss_and_gradient()[1], expected)
    vector = flatten(meta, meta)
    torch.testing.assert_close(*(objective.curvature_product(vector) for objective in objectives))

    state, outcome = learner.meta_step(learner.init(meta.init), MetaBatch((), batch), generator)
    assert isinstance(outcome, TrustRegionOutcome) and outcome.accepted and 0 < outcome.kl <= CONFIG.trust_region.max_kl
    assert not torch.equal(flatten(state.meta, meta), vector)


def test_every_baseline_fine_tunes_by_the_same_inner_step(generator):
    policy = make_policy("gaussian")
    meta = MetaParams(random_params(policy, generator))
    batch = random_batch(policy, meta.init, 3, generator)
    expected = make("maml", policy).adapt(meta, meta.init, batch).params
    for name in ("fomaml", "multitask", "random", "oracle"):
        adapted = make(name, policy).adapt(meta, meta.init, batch).params
        assert all(torch.equal(adapted[leaf], expected[leaf]) for leaf in expected), name


def test_a_row_takes_its_outer_steps_by_name_and_the_first_of_them_by_default():
    defaults = {name: row.outer(CONFIG) for name, row in LEARNERS.items()}
    others = {"promp": "adam", "mamlpp": "adam", "imaml": "adam", "reptile": "sgd"}
    others |= dict.fromkeys(("protonet", "matching", "cnp", "recurrent", "rl2"), "adam")
    assert defaults == {**dict.fromkeys(LEARNERS, "trust_region"), **others}
    for row in LEARNERS.values():
        for outer in row.outers:
            assert row.outer(dataclasses.replace(CONFIG, outer=outer)) == outer


@pytest.mark.parametrize(
    ("name", "outer", "message"),
    [
        ("promp", "trust_region", "clipping and a penalty take the place of a trust region; it takes adam or sgd"),
        ("mamlpp", "trust_region", "which a trust region on the last does not bound; it takes adam or sgd"),
        ("reptile", "trust_region", "not the gradient of a loss with a curvature; it takes sgd or adam"),
        ("tests.core.outside:OwnStepSizes", "adam", "it has an outer step of its own"),
    ],
)
def test_an_outer_step_without_meaning_is_refused_with_the_reason(name, outer, message):
    config, row = dataclasses.replace(CONFIG, learner=name, outer=outer), find_learner(name)
    expected = f"^outer is '{outer}', but not with learner {re.escape(name)}: .*{message}$"
    with pytest.raises(ConfigError, match=expected):
        row.outer(config)
    with pytest.raises(ConfigError, match=expected):
        row.build(make_policy("gaussian"), config, row.settings())


def test_a_learner_from_outside_is_a_row_or_a_class_with_an_outer_step_of_its_own():
    row = find_learner("tests.core.outside:HeadOnly")
    assert row.outer(CONFIG) == "trust_region" and row.outer(dataclasses.replace(CONFIG, outer="adam")) == "adam"
    assert find_learner("tests.core.outside:OwnStepSizes").outer(CONFIG) == "auto"


def test_a_function_of_parts_from_outside_is_told_to_name_its_outer_steps(generator):
    row = find_learner("tests.core.outside:make_head_only")
    with pytest.raises(ConfigError, match=r"^outer is 'auto', .* a LearnerRow that says which outer steps it takes"):
        row.build(make_policy("gaussian"), CONFIG, row.settings())


@pytest.mark.parametrize(
    "name",  # those with a memory learn from trials: tests/core/test_rl2.py
    [name for name, row in LEARNERS.items() if row.trained and not (row.examples_only or row.recurrent)],
)
def test_what_a_learner_tells_of_an_update_are_numbers(name, generator):
    """One that has no number of a kind, such as reptile of a KL, leaves it out."""
    config = dataclasses.replace(CONFIG, learner=name)
    learner = LEARNERS[name].build(make_policy("gaussian"), config, LEARNERS[name].settings())
    state = learner.init(random_params(learner.policy, generator))
    meta_batch, _ = sample_meta_batch(learner, state.meta, 3, training_steps(config), generator)
    metrics = learner.meta_step(state, meta_batch, generator)[1].metrics()
    assert not [metric for metric, value in metrics.items() if not math.isfinite(value)]
    assert ("sgd/kl" in metrics) == (name != "reptile" and "sgd/rate" in metrics)


def test_reptiles_means_over_tasks_go_through_the_one_function_for_that(generator, monkeypatch):
    """Which is where processes that share the tasks will meet."""
    calls: list[torch.Tensor] = []
    learner: Any = make("reptile", make_policy("gaussian"))
    state = learner.init(random_params(learner.policy, generator))
    meta_batch, _ = sample_meta_batch(learner, state.meta, 3, 1, generator)
    objective = learner.objective(state, meta_batch)
    monkeypatch.setattr("mamlrl.learners.reptile.mean_over_tasks", lambda values: calls.append(values) or values[0])
    objective.loss_and_gradient()
    assert [list(values.shape) for values in calls] == [[3], [3, len(objective.point)]]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_row_says_how_often_its_learner_adapts(name):
    config = dataclasses.replace(CONFIG, learner=name, adaptation=dataclasses.replace(CONFIG.adaptation, steps=2))
    row = LEARNERS[name]
    assert training_steps(config) == (2 if row.adapts_in_training else 0)
    assert evaluation_steps(config) == (0 if row.observes_task or row.recurrent else config.eval.steps)
    assert (row.adapts_in_training, row.observes_task, row.trained) == {
        "multitask": (False, False, True),
        "oracle": (False, True, True),
        "rl2": (False, False, True),
        "random": (True, False, False),
    }.get(name, (True, False, True))


def test_step_sizes_halve_beyond_the_steps_of_training():
    assert [step_scale(CONFIG, step) for step in range(3)] == [1.0, 0.5, 0.5]
    by_learner = {
        name: [step_scale(dataclasses.replace(CONFIG, learner=name), step) for step in range(3)] for name in LEARNERS
    }
    more = {"reptile": [1.0, 1.0, 0.5]}
    assert by_learner == {name: more.get(name, [1.0, 0.5, 0.5]) for name in LEARNERS}
    constant = dataclasses.replace(CONFIG, eval=dataclasses.replace(CONFIG.eval, step_size_schedule="constant"))
    assert [step_scale(constant, step) for step in range(3)] == [1.0, 1.0, 1.0]
