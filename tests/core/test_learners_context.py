"""Context-only adaptation: its policy, and what moves. Its derivatives are tested in test_objective.py."""

from __future__ import annotations

import pytest
import torch

from mamlrl.errors import UserError
from mamlrl.learners.context import ContextSettings, make_context
from mamlrl.policies.context import ContextPolicy
from mamlrl.structs import MetaParams, Params, stack
from tests.core.problems import (
    make_config,
    make_policy,
    random_batch,
    random_like,
    random_params,
    sample_meta_batch,
    select,
)

kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
NUM_TASKS = 3


def problem(generator, kind="gaussian", fraction=1.0, steps=2):
    config = make_config(steps=steps, fraction=fraction)
    learner = make_context(make_policy(kind), config, ContextSettings(size=4))
    meta = MetaParams(random_params(learner.policy, generator))
    meta_batch, adapted = sample_meta_batch(learner, meta, NUM_TASKS, steps, generator)
    return learner, meta, meta_batch, adapted


@kinds
@pytest.mark.parametrize("stacked", [("context",), ("context", "bias_0"), ("context_weight",), (), "all"])
def test_the_context_is_an_input_of_the_first_layer(kind, stacked, generator):
    """Whichever of the leaves are stacked."""
    learner, meta, meta_batch, _ = problem(generator, kind)
    params = meta.init
    names = params if stacked == "all" else stacked
    params = {
        name: leaf + torch.randn((NUM_TASKS, *leaf.shape), generator=generator) if name in names else leaf
        for name, leaf in params.items()
    }
    observations = meta_batch.query.observations
    outputs = learner.policy.outputs(params, observations)
    for task in range(NUM_TASKS):
        leaves = {name: leaf[task] if name in names else leaf for name, leaf in params.items()}
        rows = observations[task].flatten(0, 1)
        inputs = torch.cat([rows, leaves["context"].expand(len(rows), -1)], dim=-1)
        hidden = torch.tanh(inputs @ torch.cat([leaves["weight_0"], leaves["context_weight"]]) + leaves["bias_0"])
        hidden = torch.tanh(hidden @ leaves["weight_1"] + leaves["bias_1"])
        means = hidden @ leaves["weight_2"] + leaves["bias_2"]
        torch.testing.assert_close(outputs[task, ..., : means.shape[-1]].flatten(0, 1), means)
    torch.testing.assert_close(learner.policy.linearize(params, observations).outputs, outputs)


@kinds
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("stacked_tangent", [False, True])
def test_products_equal_forward_mode(kind, stacked, stacked_tangent, generator):
    policy = ContextPolicy(make_policy(kind), 4)
    shapes = {name: tuple(leaf.shape) for name, leaf in policy.init_params(generator).items()}
    params = random_params(policy, generator, NUM_TASKS if stacked else None)
    whole = {name: leaf.clone() for name, leaf in stack(params, NUM_TASKS, shapes).items()}
    tangent = random_like(random_params(policy, generator, NUM_TASKS if stacked_tangent else None), generator)
    whole_tangent = stack(tangent, NUM_TASKS, shapes)
    observations = torch.randn(NUM_TASKS, 2, 3, 4, generator=generator)

    def outputs(p: Params) -> torch.Tensor:
        return policy.outputs(p, observations)

    linearized = policy.linearize(params, observations)
    torch.testing.assert_close(linearized.pushforward(tangent), torch.func.jvp(outputs, (whole,), (whole_tangent,))[1])
    cotangent = torch.randn(linearized.outputs.shape, generator=generator)
    pulled, expected = linearized.pullback(cotangent), torch.func.vjp(outputs, whole)[1](cotangent)[0]
    gradient = torch.func.grad(lambda p: (cotangent * outputs(p) + outputs(p).square()).sum())
    bent_expected = torch.func.jvp(gradient, (whole,), (whole_tangent,))[1]
    bent = linearized.hessian(cotangent + 2 * linearized.outputs, lambda t: 2 * t)(tangent)
    for name in shapes:
        torch.testing.assert_close(pulled[name], expected[name])
        torch.testing.assert_close(bent[name], bent_expected[name])


@kinds
def test_only_the_context_adapts(kind, generator):
    _, meta, _, adapted = problem(generator, kind)
    for name, leaf in meta.init.items():
        assert (adapted[name] is leaf) == (name != "context")
    assert adapted["context"].shape == (NUM_TASKS, 4)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_the_meta_update_moves_network_and_context(fraction, generator):
    learner, meta, meta_batch, _ = problem(generator, fraction=fraction, steps=1)
    state, outcome = learner.meta_step(learner.init(meta.init), meta_batch, generator)
    assert outcome.metrics()["trust_region/accepted"] == 1
    assert list(state.meta.init) == list(meta.init)
    assert all(not torch.equal(state.meta.init[name], leaf) for name, leaf in meta.init.items())


def test_permuting_tasks_permutes_contexts(generator):
    learner, meta, _, _ = problem(generator)
    batch = random_batch(learner.policy, meta.init, 4, generator)
    order = torch.tensor([2, 0, 3, 1])
    contexts = learner.adapt(meta, meta.init, batch).params["context"]
    permuted = learner.adapt(meta, meta.init, select(batch, order)).params["context"]
    torch.testing.assert_close(contexts[order], permuted)


def test_a_network_without_a_first_bias_is_refused():
    policy = make_policy("gaussian", network="tests.core.outside:GatedNetwork")
    with pytest.raises(UserError, match="the bias of its first layer bias_0; its parameters are gate") as raised:
        ContextPolicy(policy, 4).init_params(torch.Generator())
    assert "free" not in str(raised.value)  # which is none of the user's
