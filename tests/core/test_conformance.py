"""What must hold of every learner with every policy and outer step: of all rows of LEARNERS and POLICIES, and of some
from outside.

A new row is covered without an edit here. Reinforcement learning is not needed: batches are random numbers, sampled by
the policies themselves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.config import (
    AdamConfig,
    AdaptationConfig,
    Config,
    PolicyConfig,
    SamplingConfig,
    SgdConfig,
    TrustRegionConfig,
)
from mamlrl.errors import UserError
from mamlrl.learners import LEARNERS, LearnerRow, find_learner, step_scale, training_steps
from mamlrl.learners.base import LearnerState, Outcome
from mamlrl.learners.objective import adapt_along
from mamlrl.objectives import INNER_LOSSES, likelihood_ratio_loss
from mamlrl.policies import POLICIES, make_policy
from mamlrl.policies.base import Policy
from mamlrl.rounds import adaptation_rounds
from mamlrl.run_folder.checkpoints import Progress, read_checkpoint, write_checkpoint
from mamlrl.run_folder.metrics_table import Written
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params, Rollouts, flatten, unflatten
from tests.core.problems import (
    Rule,
    central_difference,
    is_first_order,
    observation_space_of,
    one_task,
    padded,
    picture_of,
    random_batch,
    random_mask,
    random_params,
    random_state,
    reference_adapt,
    sample_meta_batch,
    select,
)

OUTSIDE = "tests.core.outside:"
GATED = OUTSIDE + "GatedNetwork"
LEARNER_NAMES = [
    *(name for name, row in LEARNERS.items() if not row.examples_only),
    OUTSIDE + "OwnStepSizes",
    OUTSIDE + "HeadOnly",
]
SPACES = {"box": spaces.Box(-1.0, 1.0, (2,)), "discrete": spaces.Discrete(3)}
TASKS, STEP_SIZE = 3, 0.2
STEP_SIZES = {"imaml": 0.02}
"""So short that every proximal problem, on so few time steps, has a solution."""

OWN: dict[str, list[dict[str, Any]]] = {
    "promp": [{"kl_penalty": 0.5}],
    "emaml": [{"credit": 0.1}],
    "mamlpp": [{}, {"first_order_iterations": 0}],  # in its first phase, and after it
    # on all trials at once, and with nothing beside the surrogate in the first
    "rl2": [
        {"baseline": "time", "entropy": 0.0, "minibatches": 1},
        {"baseline": "value", "minibatches": 1},
        {"baseline": "own_value", "minibatches": 1},
    ],
    "imaml": [{"iterations": 60, "tolerance": 1e-9, "cg_iterations": 40, "cg_tolerance": 1e-22}],
}
"""Settings of their own, for each of which a learner is tested: such that what is particular to it weighs enough, and
solvers end where the limits of the arithmetic are."""


class Case(NamedTuple):
    """A combination of parts."""

    learner: str
    network: str
    space: str
    outer: str
    steps: int
    own: int
    """which of OWN"""

    @property
    def row(self) -> LearnerRow:
        return find_learner(self.learner)

    def config(self) -> Config:
        return Config(
            learner=self.learner,
            outer=self.outer,  # type: ignore[arg-type]
            iterations=50,
            policy=PolicyConfig(
                network=self.network, hidden_sizes=(4, 3), initial_std=0.7, picture=picture_of(self.network)
            ),
            adaptation=AdaptationConfig(steps=self.steps, step_size=STEP_SIZES.get(self.learner, STEP_SIZE)),
            adam=AdamConfig(updates=2),
            sgd=SgdConfig(rate=0.05, momentum=0.9),
        )

    def make_policy(self, config: Config) -> Policy:
        space = SPACES[self.space]
        actions = spaces.flatdim(space)
        return make_policy(config.policy, observation_space_of(self.network, actions), space)

    def make(self, config: Config) -> Any:
        policy = self.make_policy(config)
        return self.row.build(policy, config, self.row.settings(**OWN.get(self.learner, [{}])[self.own]))

    @property
    def id(self) -> str:
        later = {0: [], 1: ["later"]}.get(self.own, [f"later{self.own}"])
        parts = [self.learner, self.network, self.space, self.outer, f"K{self.steps}", *later]
        return "-".join(part.replace(OUTSIDE, "outside:") for part in parts)


def networks() -> Iterator[tuple[str, str]]:
    for name, row in POLICIES.items():
        yield from ((name, space) for space in SPACES if isinstance(SPACES[space], row.action_space))
    yield from ((GATED, space) for space in SPACES)


def all_cases() -> Iterator[Case]:
    """Every learner with every network, its outer step and K = 2; every outer step, and K = 1, with one network."""
    for learner in LEARNER_NAMES:
        first, *_ = networks_of(learner)
        default, *others = find_learner(learner).outers or ("auto",)
        for own in range(len(OWN.get(learner, [{}]))):
            several = networks_of(learner)[: 1 if own and find_learner(learner).recurrent else None]
            yield from (Case(learner, *network, default, 2, own) for network in several)
            yield from (Case(learner, *first, other, 2, own) for other in others)
            yield Case(learner, *first, default, 1, own)


def networks_of(learner: str) -> list[tuple[str, str]]:
    """Those that have a memory, for a learner that needs one, first; others are refused."""
    remember = {name for name, row in POLICIES.items() if row.recurrent}
    return sorted(networks(), key=lambda one: (one[0] in remember) != find_learner(learner).recurrent)


def goes_together(case: Case) -> bool:
    try:
        made = case.make(case.config())
        made.policy.init_params(torch.Generator())
    except UserError:
        return False
    return True


CASES = {case.id: case for case in all_cases() if goes_together(case)}
FEW = [name for name, case in CASES.items() if case.space == "box" and case.steps == 2]
"""Enough where the kind of actions and K make no difference."""


def test_only_what_needs_a_layer_of_the_mlp_or_a_memory_refuses_a_network() -> None:
    """And a learner with a memory those without, and the other way round."""
    missing = {(case.learner, case.network, case.outer) for case in all_cases() if case.id not in CASES}
    remember = {name for name, row in POLICIES.items() if row.recurrent}
    of_others = {(case.learner, case.network, case.outer) for case in all_cases() if case.learner != "rl2"}
    wanted = {one for one in of_others if one[1] in remember}
    wanted |= {one for one in of_others if one[:2] in {(name, GATED) for name in ("context", "cavia", "anil")}}
    wanted |= {("rl2", name, "adam") for name in {*POLICIES, GATED} - remember}
    wanted |= {("rl2", networks_of("rl2")[0][0], "trust_region")}  # with a value function, which it does not bound
    assert missing == wanted


class Problem:
    """A learner, its state, and data. None of it is ever written to, so that tests share it."""

    def __init__(self, case: Case, damping: float = 1e-5, max_kl: float = 0.01):
        self.case = case
        # few iterations: rounding grows with each of them, beside one large eigenvalue to 1e-6 in ten
        trust_region = TrustRegionConfig(cg_iterations=5, cg_damping=damping, max_kl=max_kl)
        self.config = dataclasses.replace(case.config(), trust_region=trust_region)
        self.learner = case.make(self.config)
        generator = torch.Generator().manual_seed(0)
        self.state = random_state(self.learner, generator)
        self.meta = self.state.meta
        steps = training_steps(self.config)
        self.meta_batch, self.adapted = sample_meta_batch(self.learner, self.meta, TASKS, steps, generator)
        self.generator = generator

    def step(self, meta_batch: MetaBatch, state: LearnerState | None = None) -> tuple[LearnerState, Outcome]:
        generator = torch.Generator().manual_seed(0)
        return self.learner.meta_step(self.state if state is None else state, meta_batch, generator)

    @cached_property
    def updated(self) -> tuple[LearnerState, Outcome]:
        return self.step(self.meta_batch)

    @cached_property
    def objective(self) -> Any:
        return self.learner.objective(self.state, self.meta_batch)

    @property
    def trust_region(self) -> bool:
        return "trust_region/accepted" in self.updated[1].metrics()

    @property
    def first_order(self) -> bool:
        return is_first_order(self.objective)


make_problem = cache(Problem)


@pytest.fixture
def problem(request: pytest.FixtureRequest) -> Problem:
    return make_problem(CASES[request.param])


every = pytest.mark.parametrize("problem", CASES, indirect=True)
few = pytest.mark.parametrize("problem", FEW, indirect=True)


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


def by_first_order(problem: Problem) -> Tensor:
    """The meta-gradient by its definition: autograd, with the gradient of the inner loss held fixed in every step.

    Where the objective was built all ratios are 1, so that a clipped surrogate has the gradient of the other. With K
    steps the first meta-update of mamlpp weighs the losses after each of them alike.
    """
    learner, (support, query, *_) = problem.learner, problem.meta_batch
    policy, inner_loss = learner.policy, INNER_LOSSES[problem.config.adaptation.inner_loss]
    point = flatten(problem.meta, problem.meta).requires_grad_()
    meta = unflatten(point, problem.meta)
    params = {name: leaf.expand(TASKS, *leaf.shape) for name, leaf in learner.start(meta).items()}
    after_each = problem.case.learner == "mamlpp"
    losses: list[Tensor] = []

    def loss_on(batch: Batch) -> Tensor:
        return likelihood_ratio_loss(policy.distribution, policy.outputs(params, batch.observations), batch).mean()

    for number, batch in enumerate(support):
        if number and after_each:
            losses.append(loss_on(batch))
        here = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
        value = inner_loss(policy.distribution, policy.outputs(here, batch.observations), batch).sum()
        gradients = torch.autograd.grad(value, list(here.values()), allow_unused=True, materialize_grads=True)
        sizes = meta.step_sizes_of(number) if meta.step_sizes else dict.fromkeys(params, STEP_SIZE)
        params = {name: params[name] - sizes[name] * gradient for name, gradient in zip(here, gradients, strict=True)}
    losses.append(loss_on(query))
    return torch.autograd.grad(torch.stack(losses).mean(), point)[0]


def by_distance(problem: Problem) -> Tensor:
    """Reptile's: theta less the mean of the adapted parameters, a task at a time."""
    support, query, *_ = problem.meta_batch
    rule = Rule(problem.learner.policy, sizes=lambda meta, step: dict.fromkeys(meta.init, STEP_SIZE))
    adapted = [
        reference_adapt(rule, problem.meta, [one_task(batch, task) for batch in (*support, query)])
        for task in range(TASKS)
    ]
    mean = {name: torch.cat([params[name] for params in adapted]).mean(0) for name in problem.meta.init}
    return flatten(problem.meta, problem.meta) - flatten(MetaParams(mean), problem.meta).detach()


@every
def test_meta_gradient_is_that_of_central_differences_or_of_its_own_definition(problem: Problem) -> None:
    """Of what the learner says that it lowers; where the objective is built, and at another point."""
    objective, generator = problem.objective, torch.Generator().manual_seed(1)
    if problem.case.learner == "reptile":
        torch.testing.assert_close(objective.loss_and_gradient()[1], by_distance(problem))
        return
    if problem.first_order:
        torch.testing.assert_close(objective.loss_and_gradient()[1], by_first_order(problem))
        return
    h, rtol = (1e-3, 1e-5) if problem.case.learner == "imaml" else (3e-4, 1e-7)  # of solutions by iteration
    size = len(objective.point)
    for point in (objective.point, objective.point + 0.01 * torch.randn(size, generator=generator)):
        gradient = objective.loss_and_gradient(point)[1]
        directions = torch.randn(2, size, generator=generator)
        differences = [
            central_difference(lambda p: objective.evaluate(p)[0], point, direction, h) for direction in directions
        ]
        torch.testing.assert_close(directions @ gradient, torch.tensor(differences), rtol=rtol, atol=1e-9)
    torch.testing.assert_close(objective.loss_and_gradient(), objective.loss_and_gradient(objective.point))


def by_optimiser(problem: Problem, make: Callable[[Tensor], torch.optim.Optimizer], updates: int) -> Tensor:
    """Where a torch optimiser leads on the learner's objective."""
    vector = problem.objective.point.clone()
    optimiser = make(vector)
    for _ in range(updates):
        vector.grad = problem.objective.loss_and_gradient(vector)[1]
        optimiser.step()
    return vector


@few
def test_the_meta_update_is_the_outer_step_on_the_objective(problem: Problem) -> None:
    """Of Adam or SGD by hand. With a damping beyond all curvature a trust-region step is one of steepest descent."""
    config = problem.config
    if problem.trust_region:
        problem = make_problem(problem.case, damping=1e10, max_kl=1.0)
        assert problem.updated[1].metrics()["trust_region/accepted"] == 1
    moved = flatten(problem.updated[0].meta, problem.meta)
    if problem.trust_region:
        step, gradient = moved - problem.objective.point, problem.objective.loss_and_gradient()[1]
        torch.testing.assert_close(step / step.norm(), -gradient / gradient.norm(), rtol=1e-6, atol=1e-8)
    elif "adam/rate" in problem.updated[1].metrics():
        make = lambda vector: torch.optim.Adam([vector], config.adam.rate)  # noqa: E731
        torch.testing.assert_close(moved, by_optimiser(problem, make, config.adam.updates))
    else:
        torch.testing.assert_close(
            moved, by_optimiser(problem, lambda vector: torch.optim.SGD([vector], config.sgd.rate), 1)
        )


@every
def test_parameters_that_sample_are_those_of_the_meta_objective(problem: Problem) -> None:
    """Round by round of the generator that training, evaluation and deployment run, bit for bit."""
    learner, sampled, generator = problem.learner, [], torch.Generator().manual_seed(2)

    def sample(params: Params, step: int) -> Rollouts:
        sampled.append(params)
        batch = random_batch(learner.policy, params, TASKS, generator)
        mask = random_mask(TASKS, generator)
        rewards = torch.randn(mask.shape, generator=generator) * mask
        last = batch.observations[:, :, -1]
        return Rollouts(batch.observations, batch.actions, batch.log_probs, rewards, 0 * mask, mask, last)

    steps = training_steps(problem.config)
    rounds = list(adaptation_rounds(learner, problem.meta, sample, steps, SamplingConfig()))
    assert len(rounds) == len(sampled) == steps + 1
    *support, query = (each.batch for each in rounds)
    # the objective is built there: no KL, and a loss that is the one whose gradient is taken
    objective = learner.objective(problem.state, MetaBatch(tuple(support), query))
    loss, kl = objective.evaluate(objective.point)
    assert kl == pytest.approx(0, abs=1e-12) or (problem.case.learner == "reptile" and math.isnan(kl))
    assert loss == pytest.approx(objective.loss_and_gradient()[0], rel=1e-9, abs=1e-12)
    path = objective.path
    for params, objectives in zip(sampled, [path.start, *(step.params for step in path.steps)], strict=False):
        assert list(params) == list(objectives)
        assert all(torch.equal(params[leaf], objectives[leaf]) for leaf in params)


@few
def test_the_factor_on_the_step_sizes_is_one_on_the_step(problem: Problem) -> None:
    """Evaluation halves the steps beyond those of training, whether step sizes are learned or not."""
    if problem.case.row.recurrent:
        pytest.skip("it takes no inner steps")
    learner, generator = problem.learner, torch.Generator().manual_seed(2)
    params = learner.start(problem.meta)
    batch = random_batch(learner.policy, params, TASKS, generator)
    for step in (0, problem.case.steps, problem.case.steps + 3):
        whole, half = (learner.adapt(problem.meta, params, batch, step, scale).params for scale in (1.0, 0.5))
        assert any(not torch.equal(whole[name], leaf.expand_as(whole[name])) for name, leaf in params.items())
        for name, leaf in params.items() if problem.case.learner != "imaml" else ():  # there it is one on the length
            torch.testing.assert_close(half[name], (leaf + whole[name]) / 2)


@few
def test_evaluation_takes_whole_the_inner_steps_that_the_meta_update_takes(problem: Problem) -> None:
    """As many as lead to the adapted parameters in it, and no more; of a learner that adapts in training."""
    taken = len(problem.objective.path.steps)
    if problem.case.row.adapts_in_training:
        assert [step_scale(problem.config, step) for step in range(taken + 1)] == [1.0] * taken + [0.5]


@every
def test_a_task_adapts_alone_as_it_does_in_a_batch(problem: Problem) -> None:
    """With the learner's own settings as they are by default, where solvers stop early."""
    case = problem.case
    policy, config = case.make_policy(problem.config), problem.config
    learner = case.row.build(policy, config, case.row.settings())
    start = params = learner.start(problem.meta)

    def of_task(task: int, stacked: Params) -> Params:
        return {
            name: leaf[task : task + 1] if leaf.dim() > start[name].dim() else leaf for name, leaf in stacked.items()
        }

    for number, batch in enumerate(problem.meta_batch.support):
        together = learner.adapt(problem.meta, params, batch, number).params
        for task in range(TASKS):
            alone = learner.adapt(problem.meta, of_task(task, params), one_task(batch, task), number).params
            torch.testing.assert_close(alone, of_task(task, together), rtol=1e-9, atol=1e-12)
        params = together


def changed(meta_batch: MetaBatch, change: Callable[[Batch], Batch]) -> MetaBatch:
    return MetaBatch(tuple(change(batch) for batch in meta_batch.support), change(meta_batch.query))


def assert_close_updates(one: tuple[LearnerState, Outcome], other: tuple[LearnerState, Outcome]) -> None:
    like = one[0].meta
    torch.testing.assert_close(flatten(one[0].meta, like), flatten(other[0].meta, like), rtol=1e-6, atol=1e-7)
    mine, theirs = one[1].metrics(), other[1].metrics()
    assert mine.keys() == theirs.keys()
    for name in mine:
        if not name.endswith("residual"):  # what is left after convergence is rounding
            assert mine[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-9, nan_ok=True), name


@every
def test_neither_the_order_of_tasks_nor_padding_changes_more_than_rounding(problem: Problem) -> None:
    order, meta_batch = torch.tensor([2, 0, 1]), problem.meta_batch
    assert_close_updates(problem.updated, problem.step(changed(meta_batch, lambda batch: select(batch, order))))
    garbage = changed(meta_batch, padded)
    assert_close_updates(problem.updated, problem.step(garbage))
    adapted = adapt_along(problem.learner, problem.meta, garbage.support).adapted
    torch.testing.assert_close(adapted, problem.adapted, rtol=1e-6, atol=1e-7)


@few
def test_numbers_that_are_not_finite_refuse_the_update_bit_for_bit(problem: Problem) -> None:
    """What the outer step remembers included."""

    def spoiled(batch: Batch, value: float) -> Batch:
        advantages = batch.advantages.clone()
        advantages[1, 0, 0] = value
        returns = batch.returns.clone()  # of which some make advantages of their own
        returns[1, 0, 0] = value
        return batch._replace(advantages=advantages, returns=returns)

    after_one = problem.updated[0]
    before, rounds = copy(after_one), [*problem.meta_batch.support, problem.meta_batch.query]
    for number in range(len(rounds)):
        for value in (math.nan, math.inf):
            *support, query = [spoiled(batch, value) if i == number else batch for i, batch in enumerate(rounds)]
            state, outcome = problem.step(MetaBatch(tuple(support), query), after_one)
            assert outcome.not_finite
            assert_same(state, before)
            assert_same(after_one, before)


@few
def test_without_anything_to_gain_nothing_moves(problem: Problem) -> None:
    if problem.case.learner == "rl2" and problem.case.own:
        pytest.skip("its value function learns that, and its policy is rewarded for entropy")

    def worthless(batch: Batch) -> Batch:
        return batch._replace(advantages=torch.zeros_like(batch.advantages), returns=torch.zeros_like(batch.returns))

    state, outcome = problem.step(changed(problem.meta_batch, worthless))  # of which Adam makes 1e-6 out of rounding
    assert not outcome.not_finite
    if problem.trust_region:
        assert outcome.metrics()["trust_region/accepted"] == 0
        assert_same(state, problem.state)
    torch.testing.assert_close(flatten(state.meta, state.meta), problem.objective.point, rtol=0, atol=1e-5)


@every
def test_updates_change_a_new_state_and_lower_the_loss_on_the_same_data_again(problem: Problem) -> None:
    """Ratios are to the policies that sampled: it goes on falling from where the first update left it."""
    before = copy(problem.state)
    state, first = problem.updated
    again, second = problem.step(problem.meta_batch, state)
    for outcome in (first, second):
        assert not outcome.not_finite
        assert outcome.metrics().get("trust_region/accepted", 1) == 1
        assert all(isinstance(value, float) for value in outcome.metrics().values())
    assert_same(problem.state, before)
    points = [flatten(each.meta, problem.meta) for each in (problem.state, state, again)]
    losses = [problem.objective.evaluate(point)[0] for point in points]
    assert losses[0] > losses[1] > losses[2]
    if problem.trust_region and problem.case.learner != "emaml":  # whose credit is another where it is built anew
        improvements = [each.metrics()["trust_region/surrogate_improvement"] for each in (first, second)]
        assert [losses[0] - losses[1], losses[1] - losses[2]] == pytest.approx(improvements, abs=1e-10)


@few
def test_the_state_survives_a_checkpoint_and_goes_on_alike(problem: Problem, tmp_path: Path) -> None:
    """Learned step sizes, moments and counters included; to the last bit."""
    state, path = problem.updated[0], tmp_path / "checkpoint.pt"
    write_checkpoint(path, Progress(state, iteration=3), dataclasses.asdict(problem.config), Written())
    progress = read_checkpoint(path, problem.state).progress
    assert progress.iteration == 3
    assert_same(progress.state, state)
    went_on, came_back = problem.step(problem.meta_batch, state), problem.step(problem.meta_batch, progress.state)
    assert_same(went_on[0], came_back[0])
    assert went_on[1].metrics() == pytest.approx(came_back[1].metrics(), rel=0, abs=0, nan_ok=True)
    # what a run resumes into is made anew
    params = random_params(problem.learner.policy, torch.Generator().manual_seed(9))
    assert_same(read_checkpoint(path, problem.learner.init(params)).progress.state, state)
