"""What must hold of every learner with every policy: of all rows of LEARNERS and POLICIES, and of some from outside.

A new row is covered without an edit here. Reinforcement learning is not needed: batches are random numbers, sampled by
the policies themselves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.config import AdaptationConfig, Config, PolicyConfig, SamplingConfig, TrustRegionConfig
from mamlrl.errors import UserError
from mamlrl.learners import LEARNERS, find_learner, training_steps
from mamlrl.learners.base import Learner, LearnerState, Outcome
from mamlrl.learners.objective import AdaptedObjective, adapt_along
from mamlrl.objectives import likelihood_ratio_loss
from mamlrl.policies import POLICIES, make_policy
from mamlrl.rounds import adaptation_rounds
from mamlrl.run_folder.checkpoints import Progress, read_checkpoint, write_checkpoint
from mamlrl.structs import Batch, MetaBatch, Params, Rollouts, flatten
from tests.core.problems import (
    central_difference,
    observation_space,
    padded,
    random_batch,
    random_mask,
    random_params,
    sample_meta_batch,
    select,
)

OUTSIDE = "tests.core.outside:"
LEARNER_NAMES = [*LEARNERS, *(OUTSIDE + name for name in ("LearnedSteps", "HeadOnly", "ZeroContext"))]
SPACES = {"box": spaces.Box(-1.0, 1.0, (2,)), "discrete": spaces.Discrete(3)}
NETWORKS = [
    *(
        (name, space)
        for name, row in POLICIES.items()
        for space in SPACES
        if isinstance(SPACES[space], row.action_space)
    ),
    *((OUTSIDE + "GatedNetwork", space) for space in SPACES),
]
TASKS, STEPS = 3, 2
HIDDEN = (4, 3)


def make_learner(learner: str, network: str, space: str, trust_region: TrustRegionConfig) -> tuple[Config, Learner]:
    config = Config(
        learner=learner,
        policy=PolicyConfig(network=network, hidden_sizes=HIDDEN, initial_std=0.7),
        adaptation=AdaptationConfig(steps=STEPS, step_size=0.2),
        trust_region=trust_region,
    )
    row = find_learner(learner)
    policy = make_policy(config.policy, observation_space(), SPACES[space])
    return config, row.make(policy, config, row.settings())


def go_together(learner: str, network: str, space: str) -> bool:
    try:
        made = make_learner(learner, network, space, TrustRegionConfig())[1]
        made.policy.init_params(torch.Generator())
    except UserError:
        return False
    return True


ROWS = {
    f"{learner}-{network}-{space}".replace(OUTSIDE, "outside:"): (learner, network, space)
    for learner in LEARNER_NAMES
    for network, space in NETWORKS
    if go_together(learner, network, space)
}


def test_only_what_needs_a_layer_of_the_mlp_refuses_a_network_from_outside() -> None:
    pairs = {(learner, network) for learner, network, _ in ROWS.values()}
    missing = {(learner, network) for learner in LEARNER_NAMES for network, _ in NETWORKS} - pairs
    assert missing == {(learner, OUTSIDE + "GatedNetwork") for learner in ("context", OUTSIDE + "ZeroContext")}


class Row(NamedTuple):
    config: Config
    learner: Learner
    state: LearnerState
    meta_batch: MetaBatch

    def step(self, meta_batch: MetaBatch, state: LearnerState | None = None) -> tuple[LearnerState, Outcome]:
        generator = torch.Generator().manual_seed(0)
        return self.learner.meta_step(self.state if state is None else state, meta_batch, generator)


def make_row(name: str, generator: torch.Generator, **trust_region: Any) -> Row:
    config, learner = make_learner(*ROWS[name], TrustRegionConfig(**trust_region))
    state = learner.init(random_params(learner.policy, generator))
    meta_batch, _ = sample_meta_batch(learner, state.meta, TASKS, training_steps(config), generator)
    return Row(config, learner, state, meta_batch)


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest, generator: torch.Generator) -> Row:
    return make_row(request.param, generator)


def leaves(tree: Any) -> Iterator[Any]:
    """The tensors and numbers of a learner's state, and what holds them."""
    if isinstance(tree, dict):
        yield from ((dict, *tree),)
        for leaf in tree.values():
            yield from leaves(leaf)
    elif isinstance(tree, tuple | list):
        yield type(tree), len(tree)
        for leaf in tree:
            yield from leaves(leaf)
    else:
        yield tree


def assert_same(one: Any, other: Any) -> None:
    """Bit for bit, and of the same types."""
    for mine, theirs in zip(leaves(one), leaves(other), strict=True):
        if isinstance(mine, Tensor):
            assert isinstance(theirs, Tensor) and mine.dtype == theirs.dtype and torch.equal(mine, theirs)
        else:
            assert type(mine) is type(theirs) and mine == theirs


def copy(state: LearnerState) -> LearnerState:
    def copied(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {name: copied(leaf) for name, leaf in tree.items()}
        if isinstance(tree, tuple | list):
            return type(tree)(*map(copied, tree)) if hasattr(tree, "_fields") else type(tree)(map(copied, tree))
        return tree.clone() if isinstance(tree, Tensor) else tree

    return copied(state)


def accepted(outcome: Outcome) -> bool:
    if "trust_region/accepted" not in outcome.metrics():
        pytest.skip("its outer step is no trust region")
    return outcome.metrics()["trust_region/accepted"] == 1


def first_order(row: Row) -> bool:
    """Whether the learner takes the derivative of its inner steps as the identity."""
    steps = adapt_along(row.learner, row.state.meta, row.meta_batch.support).steps
    return any(step.first_order for step in steps)


def first_order_gradient(row: Row) -> Tensor:
    """Of the surrogate by the adapted parameters, those of all tasks added up: its definition with J = I."""
    adapted = adapt_along(row.learner, row.state.meta, row.meta_batch.support).adapted
    policy, query = row.learner.policy, row.meta_batch.query
    stacked = {
        name: leaf.detach().expand(TASKS, *row.state.meta.init[name].shape).clone().requires_grad_()
        for name, leaf in adapted.items()
    }
    loss = likelihood_ratio_loss(policy.distribution, policy.outputs(stacked, query.observations), query).mean()
    gradients = torch.autograd.grad(loss, list(stacked.values()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.sum(0).reshape(-1) for gradient in gradients])


def test_meta_gradient_is_that_of_central_differences_or_of_its_own_definition(row: Row, generator) -> None:
    objective = AdaptedObjective(row.learner, row.state.meta, row.meta_batch)
    gradient = objective.loss_and_gradient()[1]
    if first_order(row):
        torch.testing.assert_close(gradient, first_order_gradient(row))
        return
    directions = torch.randn(8, len(gradient), generator=generator)
    differences = [
        central_difference(lambda p: objective.evaluate(p)[0], objective.point, direction) for direction in directions
    ]
    torch.testing.assert_close(directions @ gradient, torch.tensor(differences), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ROWS)
def test_the_meta_update_goes_along_the_meta_gradient(name: str, generator: torch.Generator) -> None:
    """With a damping beyond all curvature the trust-region step is the one of steepest descent."""
    row = make_row(name, generator, cg_damping=1e10, max_kl=1.0)
    state, outcome = row.step(row.meta_batch)
    moved = flatten(state.meta, row.state.meta) - flatten(row.state.meta, row.state.meta)
    assert accepted(outcome)
    gradient = AdaptedObjective(row.learner, row.state.meta, row.meta_batch).loss_and_gradient()[1]
    torch.testing.assert_close(moved / moved.norm(), -gradient / gradient.norm(), rtol=1e-6, atol=1e-8)


def test_parameters_that_sample_are_those_of_the_meta_objective(row: Row, generator: torch.Generator) -> None:
    """Round by round of the generator that training, evaluation and deployment run, bit for bit."""
    policy, sampled = row.learner.policy, []

    def sample(params: Params, step: int) -> Rollouts:
        sampled.append(params)
        batch = random_batch(policy, params, TASKS, generator)
        mask = random_mask(TASKS, generator)
        rewards = torch.randn(mask.shape, generator=generator) * mask
        last = batch.observations[:, :, -1]
        return Rollouts(batch.observations, batch.actions, batch.log_probs, rewards, 0 * mask, mask, last)

    steps = training_steps(row.config)
    rounds = list(adaptation_rounds(row.learner, row.state.meta, sample, steps, SamplingConfig()))
    assert len(rounds) == len(sampled) == steps + 1
    *support, query = (each.batch for each in rounds)
    path = adapt_along(row.learner, row.state.meta, support)
    expected = [path.start, *(step.params for step in path.steps)]
    for params, objectives in zip(sampled, expected, strict=True):
        assert list(params) == list(objectives)
        assert all(torch.equal(params[leaf], objectives[leaf]) for leaf in params)
    # and the objective is built there: no KL, and ratios of 1
    objective = AdaptedObjective(row.learner, row.state.meta, MetaBatch(tuple(support), query))
    loss, kl = objective.evaluate(objective.point)
    assert kl == pytest.approx(0, abs=1e-12)
    assert loss == pytest.approx(-float((query.weights * query.advantages).sum((1, 2)).mean()), abs=1e-12)


def test_the_factor_on_the_step_sizes_is_one_on_the_step(row: Row, generator: torch.Generator) -> None:
    """Evaluation halves the steps beyond those of training, whether step sizes are learned or not."""
    params = row.learner.start(row.state.meta)
    batch = random_batch(row.learner.policy, params, TASKS, generator)
    for step in (0, STEPS, STEPS + 3):
        whole, half = (row.learner.adapt(row.state.meta, params, batch, step, scale).params for scale in (1.0, 0.5))
        assert any(not torch.equal(whole[name], leaf.expand_as(whole[name])) for name, leaf in params.items())
        for name, leaf in params.items():
            torch.testing.assert_close(half[name], (leaf + whole[name]) / 2)


def changed(meta_batch: MetaBatch, change) -> MetaBatch:
    return MetaBatch(tuple(change(batch) for batch in meta_batch.support), change(meta_batch.query))


def assert_close_updates(one: tuple[LearnerState, Outcome], other: tuple[LearnerState, Outcome]) -> None:
    like = one[0].meta
    torch.testing.assert_close(flatten(one[0].meta, like), flatten(other[0].meta, like), rtol=1e-6, atol=1e-7)
    mine, theirs = one[1].metrics(), other[1].metrics()
    assert mine.keys() == theirs.keys()
    for name in mine.keys() - {"trust_region/cg_residual"}:  # what is left after convergence is rounding
        assert mine[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-9), name


def test_the_order_of_tasks_changes_nothing_but_rounding(row: Row) -> None:
    order = torch.tensor([2, 0, 1])
    assert_close_updates(row.step(row.meta_batch), row.step(changed(row.meta_batch, lambda b: select(b, order))))


def test_padding_changes_nothing(row: Row) -> None:
    garbage = changed(row.meta_batch, padded)
    assert_close_updates(row.step(row.meta_batch), row.step(garbage))
    one, other = (adapt_along(row.learner, row.state.meta, each.support).adapted for each in (row.meta_batch, garbage))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_refuse_the_update_bit_for_bit(row: Row, value: float) -> None:
    def spoiled(batch: Batch) -> Batch:
        advantages = batch.advantages.clone()
        advantages[1, 0, 0] = value
        return batch._replace(advantages=advantages)

    support, query = row.meta_batch
    bad = [row.meta_batch._replace(query=spoiled(query))]
    for step, batch in enumerate(support):
        bad.append(row.meta_batch._replace(support=(*support[:step], spoiled(batch), *support[step + 1 :])))
    before = copy(row.state)
    for meta_batch in bad:
        state, outcome = row.step(meta_batch)
        assert outcome.not_finite
        assert_same(state, before)
        assert_same(row.state, before)


def test_without_any_advantage_the_update_is_refused_bit_for_bit(row: Row) -> None:
    before = copy(row.state)
    nothing = changed(row.meta_batch, lambda batch: batch._replace(advantages=torch.zeros_like(batch.advantages)))
    state, outcome = row.step(nothing)
    assert not accepted(outcome) and not outcome.not_finite
    assert_same(state, before)


def test_an_update_changes_a_new_state_and_not_the_old_one(row: Row) -> None:
    before = copy(row.state)
    state, outcome = row.step(row.meta_batch)
    assert not outcome.not_finite
    assert not torch.equal(flatten(state.meta, state.meta), flatten(before.meta, state.meta))
    assert_same(row.state, before)
    assert all(isinstance(value, float) for value in outcome.metrics().values())


def test_the_state_survives_a_checkpoint_and_goes_on_alike(row: Row, tmp_path: Path) -> None:
    state, _ = row.step(row.meta_batch)
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, Progress(state, iteration=3), dataclasses.asdict(row.config), [])
    progress = read_checkpoint(path, row.state).progress
    assert progress.iteration == 3
    assert_same(progress.state, state)
    went_on, came_back = row.step(row.meta_batch, state), row.step(row.meta_batch, progress.state)
    assert_same(went_on[0], came_back[0])
    assert went_on[1].metrics() == came_back[1].metrics()


def test_a_second_update_on_the_same_data_is_taken_too(row: Row) -> None:
    """Ratios are to the policies that sampled: the surrogate goes on falling from where the first update left it."""
    state, first = row.step(row.meta_batch)
    again, second = row.step(row.meta_batch, state)
    assert accepted(first) and accepted(second)
    objective = AdaptedObjective(row.learner, row.state.meta, row.meta_batch)
    losses = [objective.evaluate(flatten(each.meta, row.state.meta))[0] for each in (row.state, state, again)]
    improvements = [each.metrics()["trust_region/surrogate_improvement"] for each in (first, second)]
    assert losses[0] - losses[1] == pytest.approx(improvements[0], abs=1e-12)
    assert losses[1] - losses[2] == pytest.approx(improvements[1], abs=1e-12) and improvements[1] > 0
