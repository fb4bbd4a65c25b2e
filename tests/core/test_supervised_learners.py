"""Every learner on examples in place of rollouts: its meta-gradient in float64, against independent computations.

The learners are those of reinforcement learning, by the same files; only data and loss differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.config import AdamConfig, AdaptationConfig, Config, DataConfig, PolicyConfig, TrustRegionConfig
from mamlrl.errors import ConfigError, UserError
from mamlrl.learners import LEARNERS, find_learner, training_steps
from mamlrl.learners.base import LearnerState
from mamlrl.learners.chunks import MeanOverChunks, chunks_of
from mamlrl.learners.mamlpp import step_weights
from mamlrl.policies.predictors import make_predictor
from mamlrl.structs import Examples, MetaBatch, MetaParams, Params, flatten, unflatten
from tests.core.problems import central_difference, is_first_order, random_state

TASKS, SHOTS, QUERIES, STEP_SIZE = 3, 4, 5, 0.1
TARGETS: dict[str, spaces.Space] = {
    "squared_error": spaces.Box(-1.0, 1.0, (2,)),
    "cross_entropy": spaces.Discrete(3),
}
LEARNER_NAMES = [name for name, row in LEARNERS.items() if not (row.rollouts_only or row.examples_only)]
OWN: dict[str, list[dict[str, Any]]] = {
    "cavia": [{}, {"earlier_steps": 0.7}],
    "mamlpp": [{}, {"first_order_iterations": 0}],
    "imaml": [{"iterations": 100, "tolerance": 1e-10, "cg_iterations": 40, "cg_tolerance": 1e-22}],
}


class Case(NamedTuple):
    learner: str
    loss: str
    outer: str
    own: int

    @property
    def id(self) -> str:
        return "-".join([self.learner, self.loss, self.outer, *(["later"] if self.own else [])])


def all_cases() -> Iterator[Case]:
    for learner in LEARNER_NAMES:
        for own in range(len(OWN.get(learner, [{}]))):
            yield from (Case(learner, loss, "adam", own) for loss in TARGETS)
    yield from (Case(learner, "squared_error", "trust_region", 0) for learner in ("maml", "cavia", "metasgd"))


CASES = {case.id: case for case in all_cases()}


class Problem:
    """A learner with a predictor, its state, and random examples of random tasks; never written to."""

    def __init__(self, case: Case):
        generator = torch.Generator().manual_seed(0)
        self.case, row = case, find_learner(case.learner)
        self.config = Config(
            learner=case.learner,
            outer=case.outer,  # type: ignore[arg-type]
            policy=PolicyConfig(hidden_sizes=(5, 4)),
            adaptation=AdaptationConfig(steps=2, step_size=STEP_SIZE, inner_loss=case.loss),  # type: ignore[arg-type]
            adam=AdamConfig(updates=1),
            trust_region=TrustRegionConfig(max_kl=0.01),
        )
        self.predictor = make_predictor(self.config.policy, spaces.Box(-1.0, 1.0, (3,)), TARGETS[case.loss])
        own = row.settings(**OWN.get(case.learner, [{}])[case.own])
        self.learner: Any = row.build(self.predictor, self.config, own)
        self.state: LearnerState = random_state(self.learner, generator)
        self.meta = self.state.meta
        support, query = (self._examples(count, generator) for count in (SHOTS, QUERIES))
        steps = training_steps(self.config)
        self.meta_batch = MetaBatch((support,) * steps, query, (query,) * steps)
        self.objective: Any = self.learner.objective(self.state, self.meta_batch)

    def _examples(self, count: int, generator: torch.Generator) -> Examples:
        rows = (TASKS, count, 1)
        if self.case.loss == "cross_entropy":
            targets = torch.randint(3, rows, generator=generator)
        else:
            targets = torch.randn((*rows, 2), generator=generator)
        weights = torch.full(rows, 1 / count, dtype=torch.float64)
        weights[0, 0], weights[0, 1:] = 0.0, 1 / (count - 1)  # an example that does not count
        return Examples(torch.randn((*rows, 3), generator=generator), targets, weights)

    @property
    def first_order(self) -> bool:
        return is_first_order(self.objective)


make_problem = cache(Problem)


@pytest.fixture
def problem(request: pytest.FixtureRequest) -> Problem:
    return make_problem(CASES[request.param])


def of_cases(wanted: Callable[[Case], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("problem", [name for name, case in CASES.items() if wanted(case)], indirect=True)


every = of_cases(lambda case: True)
by_gradient_steps = of_cases(lambda case: case.learner != "imaml")
"""Those that do not solve an inner problem by iteration."""
along_a_slope = of_cases(lambda case: case.learner not in ("reptile", "fomaml") and case[::3] != ("mamlpp", 0))
"""Those whose meta-gradient is the derivative of their loss."""
with_numbers = of_cases(lambda case: case.loss == "squared_error")


def test_the_rest_needs_rewards() -> None:
    assert set(LEARNERS) - set(LEARNER_NAMES) >= {"emaml", "dice", "promp"}
    assert set(LEARNER_NAMES) >= {
        "maml",
        "fomaml",
        "metasgd",
        "mamlpp",
        "anil",
        "cavia",
        "imaml",
        "reptile",
        "multitask",
    }


def loss_by_hand(kind: str, outputs: Tensor, examples: Examples) -> Tensor:
    """Mean over tasks, from the formulas."""
    if kind == "squared_error":
        each = ((outputs - examples.targets) ** 2).mean(-1)
    else:
        each = outputs.logsumexp(-1) - torch.take_along_dim(outputs, examples.targets.unsqueeze(-1), -1).squeeze(-1)
    return (each * examples.weights).sum() / TASKS


def adapted_by_hand(problem: Problem, meta: MetaParams) -> list[Params]:
    """Parameters after 0, 1, ... gradient steps, by autograd alone; differentiable."""
    learner, case, (support, query, *_) = problem.learner, problem.case, problem.meta_batch
    params = {name: leaf.expand(TASKS, *leaf.shape) for name, leaf in learner.start(meta).items()}
    adapting = {"anil": ["weight_2", "bias_2"], "cavia": ["context"], "context": ["context"]}.get(
        case.learner, [*params]
    )
    path = [params]
    batches = [*support, query] if case.learner == "reptile" else support
    for number, batch in enumerate(batches):
        here = {name: leaf if leaf.requires_grad else leaf.detach().requires_grad_() for name, leaf in params.items()}
        value = TASKS * loss_by_hand(case.loss, learner.policy.outputs(here, batch.observations), batch)
        gradients = torch.autograd.grad(value, [here[name] for name in adapting], create_graph=True)
        if problem.first_order:
            gradients = [gradient.detach() for gradient in gradients]
        sizes = meta.step_sizes_of(number) if meta.step_sizes else dict.fromkeys(adapting, STEP_SIZE)
        change = {name: sizes[name] * gradient for name, gradient in zip(adapting, gradients, strict=True)}
        params = {name: leaf - change[name] if name in change else leaf for name, leaf in here.items()}
        path.append(params)
    return path


@by_gradient_steps
def test_loss_and_meta_gradient_are_those_of_autograd_through_adaptation_by_hand(problem: Problem) -> None:
    learner, query = problem.learner, problem.meta_batch.query
    point = flatten(problem.meta, problem.meta).requires_grad_()
    path = adapted_by_hand(problem, unflatten(point, problem.meta))
    if problem.case.learner == "reptile":
        mean = {name: path[-1][name].mean(0) for name in problem.meta.init}
        gradient = point.detach() - flatten(MetaParams(mean), problem.meta)
        torch.testing.assert_close(problem.objective.loss_and_gradient()[1], gradient.detach())
        return
    weights = [0.0] * (len(path) - 1) + [1.0]
    if problem.case.learner == "mamlpp":  # the query loss after every step counts
        weights = [0.0, *step_weights(2, 20, 0)]
    elif problem.case.learner == "cavia" and problem.case.own:
        weights = [0.0, 0.7, 1.0]
    losses = [
        weight * loss_by_hand(problem.case.loss, learner.policy.outputs(params, query.observations), query)
        for weight, params in zip(weights, path, strict=True)
        if weight
    ]
    loss = torch.stack(losses).sum()
    found, gradient = problem.objective.loss_and_gradient()
    assert found == pytest.approx(loss.item(), rel=1e-10)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, point)[0])
    assert problem.objective.evaluate(problem.objective.point) == pytest.approx((loss.item(), 0.0), abs=1e-12)


@along_a_slope
def test_meta_gradient_is_that_of_central_differences(problem: Problem) -> None:
    """Where the objective was built, and elsewhere."""
    objective, generator = problem.objective, torch.Generator().manual_seed(1)
    h, rtol = (1e-3, 1e-5) if problem.case.learner == "imaml" else (3e-4, 1e-7)
    for point in (objective.point, objective.point + 0.01 * torch.randn(objective.point.shape, generator=generator)):
        direction = torch.randn(objective.point.shape, generator=generator)
        slope = central_difference(lambda p: objective.evaluate(p)[0], point, direction, h)
        assert float(direction @ objective.loss_and_gradient(point)[1]) == pytest.approx(
            float(slope), rel=rtol, abs=1e-9
        )


@every
def test_a_meta_update_lowers_the_loss_and_leaves_the_old_state(problem: Problem) -> None:
    before = flatten(problem.meta, problem.meta).clone()
    state, outcome = problem.learner.meta_step(problem.state, problem.meta_batch, torch.Generator())
    assert not outcome.not_finite and outcome.metrics().get("trust_region/accepted", 1) == 1
    assert torch.equal(flatten(problem.meta, problem.meta), before)
    after = flatten(state.meta, state.meta)
    assert problem.objective.evaluate(after)[0] < problem.objective.evaluate(before)[0]


@of_cases(lambda case: case.outer == "adam" and case.learner != "imaml")
@pytest.mark.parametrize("size", [1, 2])
def test_loss_gradient_and_update_of_a_few_tasks_at_a_time_are_those_of_all(problem: Problem, size: int) -> None:
    config = dataclasses.replace(problem.config, data=DataConfig(chunk=size), adam=AdamConfig(updates=2))
    row = find_learner(problem.case.learner)
    own = row.settings(**OWN.get(problem.case.learner, [{}])[problem.case.own])
    chunked: Any = row.build(problem.predictor, config, own)
    objective, state = chunked.objective(problem.state, problem.meta_batch), problem.state
    assert isinstance(objective, MeanOverChunks)
    near = objective.point + 0.01
    for point in (None, near):
        (found, gradient), (loss, wanted) = (one.loss_and_gradient(point) for one in (objective, problem.objective))
        assert found == pytest.approx(loss, rel=1e-12)
        torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-13)
    assert objective.evaluate(near) == pytest.approx(problem.objective.evaluate(near), rel=1e-11, nan_ok=True)
    whole: Any = row.build(problem.predictor, dataclasses.replace(config, data=DataConfig()), own)
    moved, expected = (one.meta_step(state, problem.meta_batch, torch.Generator())[0] for one in (chunked, whole))
    after, wanted = (flatten(one.meta, problem.meta) for one in (moved, expected))
    torch.testing.assert_close(after, wanted, rtol=1e-9, atol=1e-9)


def test_chunks_are_the_tasks_in_their_order() -> None:
    meta_batch = make_problem(CASES["mamlpp-squared_error-adam"]).meta_batch._replace(first_task=7)
    chunks = chunks_of(meta_batch, 2)
    assert [(len(one.query.weights), one.first_task) for one in chunks] == [(2, 7), (1, 9)]
    assert all(one.along[0] is one.query and one.support[1] is one.support[0] for one in chunks)
    for leaf, parts in zip(meta_batch.query, zip(*(one.query for one in chunks), strict=True), strict=True):
        assert torch.equal(torch.cat(parts), leaf)
    assert chunks_of(meta_batch, 0) == [meta_batch]


@pytest.mark.parametrize(("learner", "outer"), [("imaml", "adam"), ("maml", "trust_region")])
def test_what_needs_all_tasks_at_once_takes_no_chunks(learner: str, outer: Any) -> None:
    problem = make_problem(CASES[f"{learner}-squared_error-{outer}"])
    config = dataclasses.replace(problem.config, data=DataConfig(chunk=2))
    row = find_learner(learner)
    with pytest.raises(
        ConfigError, match=rf"^data.chunk is 2; with (learner|outer) {learner if outer == 'adam' else outer}, "
    ):
        row.build(problem.learner.policy, config, row.settings())


@with_numbers
def test_a_target_that_is_no_number_refuses_the_update(problem: Problem) -> None:
    query = problem.meta_batch.query
    targets = query.targets.clone()
    targets[1, 0] = torch.nan
    spoiled = problem.meta_batch._replace(query=query._replace(targets=targets))
    state, outcome = problem.learner.meta_step(problem.state, spoiled, torch.Generator())
    assert outcome.not_finite and state.meta is not None
    assert torch.equal(flatten(state.meta, problem.meta), flatten(problem.meta, problem.meta))


def test_reptile_leaves_alone_what_no_task_has_changed() -> None:
    """Weights of an input that is always zero: Adam would make whole steps of the rounding of a mean."""
    problem = make_problem(CASES["reptile-squared_error-adam"])

    def without_first_input(examples: Examples) -> Examples:
        observations = examples.observations.clone()
        observations[..., 0] = 0.0
        return examples._replace(observations=observations)

    support = tuple(map(without_first_input, problem.meta_batch.support))
    meta_batch = MetaBatch(support, without_first_input(problem.meta_batch.query))
    state, _ = problem.learner.meta_step(problem.state, meta_batch, torch.Generator())
    before, after = problem.meta.init["weight_0"], state.meta.init["weight_0"]
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])


def test_longer_gradients_are_scaled_down_to_the_longest() -> None:
    """Adam is blind to a common factor but at changes of it; the first moment that it remembers is not."""
    case = CASES["maml-squared_error-adam"]
    problem = make_problem(case)
    row, gradient = find_learner("maml"), problem.objective.loss_and_gradient()[1]
    for longest, factor in ((1e-3, 1e-3 / float(gradient.norm())), (1e3, 1.0)):
        config = dataclasses.replace(problem.config, adam=AdamConfig(updates=1, longest_gradient=longest))
        learner: Any = row.build(problem.learner.policy, config, row.settings())
        state, outcome = learner.meta_step(learner.init(problem.meta.init), problem.meta_batch, torch.Generator())
        torch.testing.assert_close(state.optimiser["exp_avg"], 0.1 * factor * gradient)
        assert outcome.metrics()["adam/gradient_norm"] == pytest.approx(float(gradient.norm()))


def test_a_network_that_there_is_none_of_is_named() -> None:
    with pytest.raises(UserError, match=r"policy.network is 'gaussian_mlp'; it must be one of auto, mlp"):
        make_predictor(PolicyConfig(network="gaussian_mlp"), spaces.Box(-1.0, 1.0, (3,)), TARGETS["squared_error"])
