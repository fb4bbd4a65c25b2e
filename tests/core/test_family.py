"""What is particular to single learners, each against an independent computation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from mamlrl.config import AdamConfig, AdaptationConfig, SgdConfig
from mamlrl.learners import LEARNERS
from mamlrl.learners.adaptations import FromZero, LearnedSteps
from mamlrl.learners.emaml import EMAMLSettings, adapted_advantage, make_emaml
from mamlrl.learners.mamlpp import MAMLPPSettings, cosine, make_mamlpp, step_weights
from mamlrl.learners.objective import AdaptedObjective, adapt_along
from mamlrl.learners.promp import ProMPSettings, make_promp
from mamlrl.objectives import INNER_LOSSES, mean_kl
from mamlrl.policies.context import CONTEXT, ContextPolicy
from mamlrl.structs import MetaParams, flatten, unflatten
from tests.core.problems import (
    ROLLOUTS,
    STEP_SIZE,
    Reference,
    Rule,
    central_difference,
    make_config,
    make_maml,
    make_policy,
    one_task,
    random_batch,
    random_params,
    reference_adapt,
    sample_meta_batch,
)

kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
TASKS = 3


def moved(meta: MetaParams, generator: torch.Generator, distance: float = 0.05) -> MetaParams:
    point = flatten(meta, meta)
    return unflatten(point + distance * torch.randn(point.shape, generator=generator), meta)


# ProMP


@kinds
def test_promp_adds_the_kl_from_the_sampling_policies_along_the_way(kind, generator):
    """Its value and gradient are zero where the objective is built, and by autograd, task by task, elsewhere."""
    policy, eta, steps = make_policy(kind), 0.7, 2
    config = make_config(steps, outer="adam")
    with_penalty, without = (make_promp(policy, config, ProMPSettings(kl_penalty=each)) for each in (eta, 0.0))
    state = with_penalty.init(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(with_penalty, state.meta, TASKS, steps, generator)
    objectives = [learner.objective(state, meta_batch) for learner in (with_penalty, without)]
    here, clipped = (objective.loss_and_gradient() for objective in objectives)
    assert here[0] == pytest.approx(clipped[0], abs=1e-14)
    torch.testing.assert_close(here[1], clipped[1], rtol=0, atol=1e-14)

    point = flatten(moved(state.meta, generator), state.meta).requires_grad_()
    rule, penalty = Rule(policy), torch.zeros(())
    for task in range(TASKS):
        support = [one_task(batch, task) for batch in meta_batch.support]
        for step, batch in enumerate(support):
            sampled, now = (
                policy.outputs(reference_adapt(rule, meta, support[:step]), batch.observations)
                for meta in (state.meta, unflatten(point, state.meta))
            )
            penalty = penalty + eta * mean_kl(policy.distribution, sampled.detach(), now, batch.weights).sum() / TASKS
    (gradient,) = torch.autograd.grad(penalty, point)
    there, clipped = (objective.loss_and_gradient(point.detach()) for objective in objectives)
    assert penalty.item() > 1e-3
    assert there[0] - clipped[0] == pytest.approx(penalty.item())
    torch.testing.assert_close(there[1] - clipped[1], gradient)


# E-MAML


def test_the_adapted_advantage_is_one_of_raw_returns_in_the_units_of_the_query_surrogate():
    """Less the mean of the other tasks' returns, whatever these were normalised by; per time step and task's spread."""
    policy = make_policy("gaussian")
    batch = random_batch(policy, random_params(policy, torch.Generator()), TASKS, torch.Generator().manual_seed(3))
    first = torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [0.0, -3.0, 0.0]])  # means 2, 4, -1
    returns = torch.full_like(batch.returns, 1e3)
    returns[:, :, 0] = first
    spread = torch.tensor([0.5, 2.0, 10.0])
    batch = batch._replace(returns=returns, advantage_std=spread[:, None, None].expand_as(returns))
    lengths = (batch.weights > 0).double().sum((1, 2)) / 3
    assert len(lengths.unique()) > 1
    expected = torch.tensor([2 - 1.5, 4 - 0.5, -1 - 3.0]) / lengths / spread
    torch.testing.assert_close(adapted_advantage(batch), expected)
    torch.testing.assert_close(adapted_advantage(one_task(batch, 1)), torch.tensor([4.0]) / lengths[1] / spread[1])


@kinds
def test_emaml_adds_the_mean_score_of_the_support_rollouts_times_the_adapted_advantage(kind, generator):
    """By autograd over rollouts and time steps, one by one; the score of later rounds goes through the steps before."""
    policy, credit, steps = make_policy(kind), 0.4, 2
    learner = make_emaml(policy, make_config(steps), EMAMLSettings(credit=credit))
    state = learner.init(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(learner, state.meta, TASKS, steps, generator)
    advantage = adapted_advantage(meta_batch.query)
    point = flatten(state.meta, state.meta).requires_grad_()
    scores = torch.zeros(())
    for task in range(TASKS):
        support = [one_task(batch, task) for batch in meta_batch.support]
        for step, batch in enumerate(support):
            params = reference_adapt(Rule(policy), unflatten(point, state.meta), support[:step])
            log_probs = policy.distribution.log_prob(policy.outputs(params, batch.observations), batch.actions)[0]
            for rollout in range(ROLLOUTS):
                for time in range(int((batch.weights[0, rollout] > 0).sum())):
                    weight = credit / ROLLOUTS / TASKS
                    scores = scores + weight * advantage[task] * log_probs[rollout, time]
    (gradient,) = torch.autograd.grad(scores, point)
    credited = learner.objective(state, meta_batch).loss_and_gradient()
    plain = AdaptedObjective(make_maml(policy, steps=steps), state.meta, meta_batch).loss_and_gradient()
    assert credited[0] - plain[0] == pytest.approx(-scores.item())
    torch.testing.assert_close(credited[1] - plain[1], -gradient)
    none = make_emaml(policy, make_config(steps), EMAMLSettings(credit=0.0))
    torch.testing.assert_close(none.objective(state, meta_batch).loss_and_gradient()[1], plain[1])


# MAML++


def test_the_weights_of_the_losses_after_each_step_go_over_to_the_last():
    assert step_weights(3, 20, 0) == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert step_weights(3, 20, 10) == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    for done in (20, 21, 1000):
        assert step_weights(3, 20, done) == [0, 0, 1]
    assert step_weights(3, 0, 0) == [0, 0, 1]
    assert step_weights(1, 20, 0) == [1]


def test_the_rate_falls_along_a_half_cosine_from_the_first_update_to_the_last():
    assert [cosine(1.0, 0.2, 5, done) for done in range(5)] == pytest.approx(
        [1.0, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.6 - 0.4 * math.sqrt(0.5), 0.2]
    )
    assert cosine(1.0, 0.2, 5, 9) == pytest.approx(0.2)  # a run that is extended
    assert cosine(1.0, 0.2, 1, 0) == 1.0


@pytest.mark.parametrize("outer", ["adam", "sgd"])
def test_mamlpp_goes_from_first_order_and_all_steps_to_exact_and_the_last(outer, generator):
    """What each of five meta-updates lowers, and how far it moves."""
    policy, steps = make_policy("gaussian"), 3
    config = dataclasses.replace(
        make_config(steps, outer=outer),
        iterations=5,
        adam=AdamConfig(rate=0.01, final_rate=1e-4, anneal_updates=3),
        sgd=SgdConfig(rate=0.01),
    )
    settings = MAMLPPSettings(multi_step_iterations=3, first_order_iterations=2, final_rate=1e-3, anneal_iterations=5)
    learner = make_mamlpp(policy, config, settings)
    state = learner.init(random_params(policy, generator))
    assert [{leaf.dim() for leaf in entry.values()} for entry in state.meta.step_sizes] == [{0}] * steps
    meta_batch, _ = sample_meta_batch(learner, state.meta, TASKS, steps, generator)
    for done in range(5):
        objective: Any = learner.objective(state, meta_batch)
        assert all(step.first_order == (done < 2) for step in objective.path.steps)
        batches = [*meta_batch.support[1:], meta_batch.query]
        after = [step.params for step in objective.path.steps]
        expected = 0.0
        for weight, params, batch in zip(step_weights(steps, 3, done), after, batches, strict=True):
            log_ratios = policy.distribution.log_prob(policy.outputs(params, batch.observations), batch.actions)
            ratios = (log_ratios - batch.log_probs).exp()
            clipped = ratios.clamp(0.7, 1.3) if outer == "adam" else ratios
            gains = torch.minimum(ratios * batch.advantages, clipped * batch.advantages)
            expected -= weight * float((batch.weights * gains).sum((1, 2)).mean())
        assert objective.evaluate(objective.point)[0] == pytest.approx(expected)
        state, outcome = learner.meta_step(state, meta_batch, generator)
        assert outcome.metrics()[f"{outer}/rate"] == pytest.approx(cosine(0.01, 1e-3, 5, done))
        assert outcome.metrics().keys() >= {"step_size/mean", "step_size/min", "step_size/max"}


# Learned step sizes


@pytest.mark.parametrize("per_parameter", [False, True])
@pytest.mark.parametrize("entries", [1, 2])
def test_step_sizes_are_learned_from_the_configured_one_and_may_be_negative(per_parameter, entries, generator):
    policy, settings = make_policy("gaussian"), AdaptationConfig(step_size=STEP_SIZE)
    learned = LearnedSteps(policy, settings, per_parameter, entries)
    meta = learned.init(random_params(policy, generator))
    assert len(meta.step_sizes) == entries
    for entry in meta.step_sizes:
        for name, size in entry.items():
            assert size.shape == (meta.init[name].shape if per_parameter else ()) and (size == STEP_SIZE).all()
    flipped = tuple({name: size * torch.randn(size.shape, generator=generator) for name, size in entry.items()}
                    for entry in meta.step_sizes)  # fmt: skip
    meta = meta._replace(step_sizes=flipped)
    assert any((size < 0).any() for size in flipped[0].values())
    meta_batch, adapted = sample_meta_batch(learned, meta, TASKS, 3, generator)

    params = meta.init  # by hand, a task and a step at a time; later steps take the last entry
    rule = Rule(policy, sizes=lambda meta, step: meta.step_sizes[min(step, entries - 1)])
    for task in range(TASKS):
        expected = reference_adapt(rule, meta, [one_task(batch, task) for batch in meta_batch.support])
        for name in params:
            torch.testing.assert_close(adapted[name][task], expected[name][0].detach())
    objective = AdaptedObjective(learned, meta, meta_batch)
    gradient = objective.loss_and_gradient()[1]
    torch.testing.assert_close(gradient, Reference(rule, meta, meta_batch).gradient(objective.point))
    still = {name: torch.zeros_like(leaf) for name, leaf in meta.init.items()}
    for entry in range(entries):
        sizes = [
            {name: torch.randn(size.shape, generator=generator) * (number == entry) for name, size in each.items()}
            for number, each in enumerate(meta.step_sizes)
        ]
        direction = flatten(MetaParams(still, tuple(sizes)), meta)
        difference = central_difference(lambda p: objective.evaluate(p)[0], objective.point, direction)
        assert float(gradient @ direction) == pytest.approx(difference, rel=1e-6, abs=1e-9)
        assert difference != 0


def test_metasgd_tells_mean_and_extremes_of_its_step_sizes(generator):
    policy = make_policy("gaussian")
    learner = LEARNERS["metasgd"].build(policy, make_config(), None)
    state = learner.init(random_params(policy, generator))
    sizes = {name: torch.randn(leaf.shape, generator=generator) for name, leaf in state.meta.init.items()}
    state = state._replace(meta=state.meta._replace(step_sizes=(sizes,)))
    meta_batch, _ = sample_meta_batch(learner, state.meta, TASKS, 1, generator)
    metrics = learner.meta_step(state, meta_batch, generator)[1].metrics()
    every = torch.cat([leaf.flatten() for leaf in sizes.values()])
    expected = {"mean": every.mean(), "min": every.min(), "max": every.max()}
    for name, value in expected.items():
        assert metrics[f"step_size/{name}"] == pytest.approx(float(value))


# From zero


@kinds
def test_from_zero_meta_learns_all_but_what_adapts_which_starts_from_zero(kind, generator):
    policy = ContextPolicy(make_policy(kind), 4)
    adaptation = FromZero(policy, AdaptationConfig(step_size=STEP_SIZE), frozenset({CONTEXT}))
    params = random_params(policy, generator)
    assert params[CONTEXT].abs().min() > 0
    meta = adaptation.init(params)
    assert set(params) - set(meta.init) == {CONTEXT} and all(meta.init[name] is params[name] for name in meta.init)
    start = adaptation.start(meta)
    assert set(start) == set(params) and (start[CONTEXT] == 0).all() and start[CONTEXT].shape == (4,)
    assert start[CONTEXT].dtype == torch.float64
    batch = random_batch(policy, start, TASKS, generator)
    step = adaptation.adapt(meta, start, batch)
    leaves = {name: leaf.clone().requires_grad_(name == CONTEXT) for name, leaf in start.items()}
    for task in range(TASKS):
        one = one_task(batch, task)
        outputs = policy.outputs({name: leaf.unsqueeze(0) for name, leaf in leaves.items()}, one.observations)
        loss = INNER_LOSSES["likelihood_ratio"](policy.distribution, outputs, one).sum()
        (gradient,) = torch.autograd.grad(loss, leaves[CONTEXT])
        torch.testing.assert_close(step.params[CONTEXT][task], -STEP_SIZE * gradient)
    assert all(step.params[name] is leaf for name, leaf in start.items() if name != CONTEXT)


# Which loss, which leaves


def test_dice_is_maml_on_the_inner_loss_dice_whatever_is_configured(generator):
    policy = make_policy("gaussian")
    dice = LEARNERS["dice"].build(policy, make_config(inner_loss="log_prob"), None)
    state = dice.init(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(dice, state.meta, TASKS, 1, generator)
    gradients = [
        learner.objective(state, meta_batch).loss_and_gradient()[1]  # type: ignore[attr-defined]
        for learner in (dice, make_maml(policy, inner_loss="dice"), make_maml(policy, inner_loss="log_prob"))
    ]
    assert torch.equal(gradients[0], gradients[1]) and not torch.allclose(gradients[0], gradients[2])


@kinds
def test_of_anil_the_last_layer_alone_adapts_and_all_layers_are_meta_learned(kind, generator):
    policy = make_policy(kind)
    learner = LEARNERS["anil"].build(policy, make_config(), None)
    state = learner.init(random_params(policy, generator))
    meta_batch, adapted = sample_meta_batch(learner, state.meta, TASKS, 1, generator)
    assert {name for name, leaf in adapted.items() if leaf is not state.meta.init[name]} == {"weight_2", "bias_2"}
    after, _ = learner.meta_step(state, meta_batch, generator)
    assert all(not torch.equal(after.meta.init[name], leaf) for name, leaf in state.meta.init.items())


# The start


class Doubling(FromZero):
    def start(self, meta: MetaParams):
        start = super().start(meta)
        return {**start, "bias_0": 2 * start["bias_0"]}


class Forgetting(FromZero):
    def start(self, meta: MetaParams):
        start = super().start(meta)
        return {**start, "bias_0": torch.zeros_like(start["bias_0"])}


@pytest.mark.parametrize("kind", [Doubling, Forgetting])
def test_a_start_that_does_not_hand_on_the_meta_learned_parameters_is_refused(kind, generator):
    """The meta-gradient would leave the factor of two out, silently."""
    policy = ContextPolicy(make_policy("gaussian"), 4)
    adaptation = kind(policy, AdaptationConfig(), frozenset({CONTEXT}))
    meta = adaptation.init(random_params(policy, generator))
    with pytest.raises(ValueError, match=r"start must hand on the meta-learned parameters themselves, .* bias_0$"):
        adapt_along(adaptation, meta, ())
