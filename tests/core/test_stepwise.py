"""MAML++ on a network with batch normalisation, whose scales and shifts are others after each inner step."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.config import AdamConfig, AdaptationConfig, Config, PolicyConfig
from mamlrl.learners import LEARNERS
from mamlrl.learners.mamlpp import step_weights
from mamlrl.policies.predictors import make_predictor
from mamlrl.structs import Examples, MetaBatch, MetaParams, Params, flatten, unflatten
from tests.core.problems import central_difference, random_state

TASKS, STEPS, NORM = 2, 2, {"scale_0", "shift_0", "scale_1", "shift_1"}


@cache
def problem(first_order_iterations: int = 0) -> tuple[Any, Any, MetaBatch]:
    config = Config(
        outer="adam",
        policy=PolicyConfig(network="mlp_norm", hidden_sizes=(5, 4)),
        adaptation=AdaptationConfig(steps=STEPS, step_size=0.1, inner_loss="squared_error"),
        adam=AdamConfig(updates=1),
    )
    generator = torch.Generator().manual_seed(0)
    policy = make_predictor(config.policy, spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,)))
    row = LEARNERS["mamlpp"]
    learner: Any = row.build(policy, config, row.settings(first_order_iterations=first_order_iterations))
    state = random_state(learner, generator)

    def examples(count: int) -> Examples:
        inputs, targets = (torch.randn(TASKS, count, 1, size, generator=generator).double() for size in (3, 2))
        return Examples(inputs, targets, torch.full((TASKS, count, 1), 1 / count).double())

    support, query = examples(6), examples(7)
    return learner, state, MetaBatch((support,) * STEPS, query, (query,) * STEPS)


def by_hand(learner: Any, meta: MetaParams, meta_batch: MetaBatch) -> Tensor:
    """The query loss after every step, weighed, by autograd alone."""
    params: Params = {name: leaf.expand(TASKS, *leaf.shape) for name, leaf in meta.init.items()}

    def loss(here: Params, batch: Examples) -> Tensor:
        return (learner.policy.outputs(here, batch.observations) - batch.targets).square().mean((1, 2, 3))

    losses = []
    for step, batch in enumerate(meta_batch.support):
        adapting = [name for name in params if name.partition(".")[0] not in NORM]
        gradients = torch.autograd.grad(
            loss(params, batch).sum(), [params[name] for name in adapting], create_graph=True
        )
        sizes = meta.step_sizes_of(step)
        params = {**params, **{n: params[n] - sizes[n] * g for n, g in zip(adapting, gradients, strict=True)}}
        params |= {name: params[f"{name}.{step + 1}"] for name in NORM}
        losses.append(loss(params, meta_batch.query).mean())
    weights = step_weights(STEPS, 20, 0)
    return torch.stack([weight * one for weight, one in zip(weights, losses, strict=True)]).sum()


def test_meta_gradient_is_that_of_autograd_and_of_central_differences() -> None:
    learner, state, meta_batch = problem()
    objective = learner.objective(state, meta_batch)
    assert {f"{name}.{step}" for name in NORM for step in (1, 2)} <= set(state.meta.init)
    assert not any(name.partition(".")[0] in NORM for name in state.meta.step_sizes[0])
    point = flatten(state.meta, state.meta).requires_grad_()
    expected = by_hand(learner, unflatten(point, state.meta), meta_batch)
    found, gradient = objective.loss_and_gradient()
    assert found == pytest.approx(float(expected.detach()), rel=1e-10)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, point)[0])
    direction = torch.randn(point.shape, generator=torch.Generator().manual_seed(1)).double()
    slope = central_difference(lambda p: objective.evaluate(p)[0], objective.point, direction, 1e-4)
    assert float(direction @ gradient) == pytest.approx(float(slope), rel=1e-6)


def test_pushforward_and_pullback_are_transposes() -> None:
    learner, state, meta_batch = problem()
    generator = torch.Generator().manual_seed(2)
    path = learner.objective(state, meta_batch).path
    step = path.steps[1]

    def random() -> Params:
        return {
            name: torch.randn(TASKS, *leaf.shape, generator=generator).double()
            for name, leaf in state.meta.init.items()
        }

    tangent, cotangent = random(), random()
    forward, back = step.pushforward(tangent), step.pullback(cotangent)
    ahead, behind = (
        sum((one[n] * other[n]).sum() for n in one) for one, other in ((forward, cotangent), (back, tangent))
    )
    torch.testing.assert_close(ahead, behind)


def test_after_each_step_normalisation_has_the_values_of_that_step_and_after_more_the_last() -> None:
    learner, state, ((support, _), *_) = problem()
    params = learner.start(state.meta)
    for step, values in enumerate((1, 2, 2)):
        params = learner.adapt(state.meta, params, support, step).params
        for name in NORM:
            torch.testing.assert_close(params[name], state.meta.init[f"{name}.{values}"])


def test_without_normalisation_or_where_it_is_not_wanted_nothing_is_added() -> None:
    for network, own in (("mlp", {}), ("mlp_norm", {"stepwise_normalization": False})):
        config = Config(outer="adam", policy=PolicyConfig(network=network, hidden_sizes=(4,)))
        policy = make_predictor(config.policy, spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(3))
        row = LEARNERS["mamlpp"]
        learner = row.build(policy, config, row.settings(**own))
        assert learner.policy is policy
