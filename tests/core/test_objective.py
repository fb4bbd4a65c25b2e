"""`AdaptedObjective` against a task loop by autograd, central differences and the dense Hessian of the mean KL.

For every way to adapt: all parameters, a context, one from zero, the head alone, with learned step sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mamlrl.config import Config
from mamlrl.distributions import Distribution
from mamlrl.learners.adaptations import GradientSteps
from mamlrl.learners.base import Learner
from mamlrl.learners.context import ContextSettings, make_cavia, make_context
from mamlrl.learners.gradient import gradient_learner
from mamlrl.learners.maml import make_anil, make_metasgd, make_plain
from mamlrl.learners.objective import AdaptedObjective, adapt_along, draw_rollouts, draw_steps
from mamlrl.objectives import INNER_LOSSES, couples_time, likelihood_ratio_loss, weighted_sum
from mamlrl.policies.base import Policy
from mamlrl.policies.context import CONTEXT
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params, StepSizes, flatten, unflatten
from tests.core.outside import OwnStepSizes, StepSizeSettings, make_head_only
from tests.core.problems import (
    STEP_SIZE,
    Reference,
    Rule,
    central_difference,
    make_config,
    make_maml,
    make_policy,
    one_task,
    random_params,
    reference_adapt,
    sample_meta_batch,
    select,
)

kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
losses = pytest.mark.parametrize("loss", INNER_LOSSES)


def learned_sizes(meta: MetaParams, step: int) -> Params:
    return meta.step_sizes[min(step, len(meta.step_sizes) - 1)]


def with_zero_context(meta: MetaParams) -> Params:
    return {**meta.init, CONTEXT: torch.zeros(4)}


class Way(NamedTuple):
    """A learner, and how it adapts, said once more for the reference."""

    make: Callable[..., Learner]
    start: Callable[[MetaParams], Params] = lambda meta: meta.init
    sizes: Callable[[MetaParams, int], StepSizes] = lambda meta, step: dict.fromkeys(meta.init, STEP_SIZE)


def with_step_sizes(**settings) -> Way:
    own = StepSizeSettings(**settings)
    return Way(lambda policy, config: OwnStepSizes(policy, config, own), sizes=learned_sizes)


WAYS = {
    "maml": Way(lambda policy, config: make_plain(policy, config, None)),
    "context": Way(
        lambda policy, config: make_context(policy, config, ContextSettings(size=4)),
        sizes=lambda meta, step: {CONTEXT: STEP_SIZE},
    ),
    "cavia": Way(
        lambda policy, config: make_cavia(policy, config, ContextSettings(size=4)),
        with_zero_context,
        lambda meta, step: {CONTEXT: STEP_SIZE},
    ),
    "anil": Way(
        lambda policy, config: make_anil(policy, config, None),
        sizes=lambda meta, step: dict.fromkeys(("weight_2", "bias_2"), STEP_SIZE),
    ),
    "head only": Way(
        lambda policy, config: make_head_only(policy, config, None),
        sizes=lambda meta, step: dict.fromkeys(list(meta.init)[-2:], 2 * STEP_SIZE),
    ),
    "metasgd": Way(lambda policy, config: make_metasgd(policy, config, None), sizes=learned_sizes),
    "a step size per leaf": with_step_sizes(entries=1, per_parameter=False),
    "step sizes per step": with_step_sizes(entries=3),
    "step sizes per leaf and two steps": with_step_sizes(entries=2, per_parameter=False),
    "learned step sizes of two leaves": with_step_sizes(entries=1, only=("weight_1", "bias_0")),
}
ways = pytest.mark.parametrize("way", WAYS)
CORNERS = [("gaussian", 1, "likelihood_ratio"), ("categorical", 2, "log_prob"), ("gaussian", 3, "dice")]
grid = pytest.mark.parametrize(
    ("way", "kind", "steps", "loss"),
    [("maml", *case) for case in product(("gaussian", "categorical"), (1, 2, 3), INNER_LOSSES)]
    + [(way, *case) for way in WAYS if way != "maml" for case in CORNERS],
)


class Problem(NamedTuple):
    learner: Learner
    rule: Rule
    meta: MetaParams
    meta_batch: MetaBatch
    adapted: Params

    def objective(self, meta: MetaParams | None = None) -> AdaptedObjective:
        return AdaptedObjective(self.learner, self.meta if meta is None else meta, self.meta_batch)

    def reference(self, meta: MetaParams | None = None) -> Reference:
        return Reference(self.rule, self.meta if meta is None else meta, self.meta_batch)


def problem(
    generator, way="maml", kind="gaussian", steps=1, num_tasks=3, activation="tanh", loss="likelihood_ratio", **settings
) -> Problem:
    policy = make_policy(kind, activation)
    learner = WAYS[way].make(policy, make_config(steps, loss, **settings))
    meta = learner.init(random_params(learner.policy, generator)).meta
    moved = flatten(meta, meta)
    meta = unflatten(moved + 0.05 * torch.rand(moved.shape, generator=generator), meta)  # step sizes differ too
    meta_batch, adapted = sample_meta_batch(learner, meta, num_tasks, steps, generator)
    return Problem(learner, Rule(learner.policy, loss, *WAYS[way][1:]), meta, meta_batch, adapted)


def elsewhere(meta: MetaParams, generator: torch.Generator, distance: float = 0.02) -> MetaParams:
    vector = flatten(meta, meta)
    return unflatten(vector + distance * torch.randn(vector.shape, generator=generator), meta)


@grid
def test_parameters_used_for_sampling_are_those_of_the_meta_objective(way, kind, steps, loss, generator):
    learner, _, meta, meta_batch, adapted = problem(generator, way, kind, steps, loss=loss)
    path = adapt_along(learner, meta, meta_batch.support)
    assert list(path.adapted) == list(adapted)
    assert all(torch.equal(path.adapted[name], leaf) for name, leaf in adapted.items())


@grid
def test_at_theta_ratio_is_one_and_kl_and_its_gradient_are_zero(way, kind, steps, loss, generator):
    case = problem(generator, way, kind, steps, loss=loss)
    objective, query = case.objective(), case.meta_batch.query
    assert torch.equal(objective.point, flatten(case.meta, case.meta))
    loss, _ = objective.loss_and_gradient()
    # where the ratio is 1 the surrogate is minus the mean advantage
    assert loss == pytest.approx(-float((query.weights * query.advantages).sum((1, 2)).mean()), abs=1e-13)
    assert objective.evaluate(objective.point) == pytest.approx((loss, 0), abs=1e-13)
    vector = objective.point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(case.reference().kl(vector), vector)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-13, rtol=0)


@grid
def test_meta_gradient_and_evaluation_equal_a_task_loop(way, kind, steps, loss, generator):
    case = problem(generator, way, kind, steps, loss=loss)
    objective, reference = case.objective(), case.reference()
    value, gradient = objective.loss_and_gradient()
    assert value == pytest.approx(reference.surrogate(objective.point).item(), rel=1e-12)
    torch.testing.assert_close(gradient, reference.gradient(objective.point))

    point = flatten(elsewhere(case.meta, generator), case.meta)
    expected = (reference.surrogate(point).item(), reference.kl(point).item())
    assert expected[1] > 1e-6 and objective.evaluate(point) == pytest.approx(expected, rel=1e-9)
    value, gradient = objective.loss_and_gradient(point)
    assert value == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(gradient, reference.gradient(point))


@kinds
@losses
def test_meta_gradient_with_relu_equals_a_task_loop(kind, loss, generator):
    case = problem(generator, kind=kind, steps=2, activation="relu", loss=loss)
    objective = case.objective()
    torch.testing.assert_close(objective.loss_and_gradient()[1], case.reference().gradient(objective.point))


@grid
def test_meta_gradient_equals_central_differences(way, kind, steps, loss, generator):
    case = problem(generator, way, kind, steps, loss=loss)
    objective, h = case.objective(), 5e-5 if loss == "dice" else 3e-4  # dice bends more
    points = [objective.point, flatten(elsewhere(case.meta, generator), case.meta)]
    for point in points:
        _, gradient = objective.loss_and_gradient(point)
        for _ in range(3):
            direction = torch.randn(point.shape, generator=generator)
            difference = central_difference(lambda p: objective.evaluate(p)[0], point, direction, h)
            assert float(gradient @ direction) == pytest.approx(difference, rel=1e-7, abs=1e-10)
        # and along the step sizes alone
        for leaf in case.meta.step_sizes:
            sizes = {name: torch.randn(size.shape, generator=generator) for name, size in leaf.items()}
            still = {name: torch.zeros_like(value) for name, value in case.meta.init.items()}
            tangent = MetaParams(still, tuple(sizes for _ in case.meta.step_sizes))
            direction = flatten(tangent, case.meta)
            difference = central_difference(lambda p: objective.evaluate(p)[0], point, direction, h)
            assert float(gradient @ direction) == pytest.approx(difference, rel=1e-7, abs=1e-10)


@grid
def test_curvature_product_equals_the_dense_hessian_of_the_mean_kl(way, kind, steps, loss, generator):
    case = problem(generator, way, kind, steps, num_tasks=2, loss=loss)
    objective = case.objective()
    hessian = case.reference().kl_hessian(objective.point)
    products = torch.stack([objective.curvature_product(basis) for basis in torch.eye(len(objective.point))])
    torch.testing.assert_close(products, hessian, atol=1e-11, rtol=1e-9)
    torch.testing.assert_close(products, products.T, atol=1e-12, rtol=1e-9)
    eigenvalues = torch.linalg.eigvalsh(products)
    assert eigenvalues.min() > -1e-12 * max(1.0, float(eigenvalues.max()))  # J^T F J has no negative curvature


@ways
@kinds
def test_an_objective_built_anew_at_another_point_takes_ratios_to_the_sampling_policy(way, kind, generator):
    """A second outer step on the same data: the first objective's loss, the KL from the new point."""
    case = problem(generator, way, kind, steps=2)
    moved = elsewhere(case.meta, generator)
    first, second = case.objective(), case.objective(moved)
    loss, gradient = second.loss_and_gradient()

    # worked out from the definition: phi_i at the new point on the old support batches, and the ratio
    # pi_phi(a | o) / pi_sampled(a | o) with the log-probabilities that were noted while sampling
    values, policy = [], case.learner.policy
    for task in range(3):
        query = one_task(case.meta_batch.query, task)
        params = reference_adapt(case.rule, moved, [one_task(batch, task) for batch in case.meta_batch.support])
        log_probs = policy.distribution.log_prob(policy.outputs(params, query.observations), query.actions)
        valid = query.weights > 0
        ratios = (log_probs - query.log_probs)[valid].exp()
        assert not torch.allclose(ratios, torch.ones_like(ratios), atol=1e-4)
        values.append(-(ratios * query.advantages[valid]).mean())
    assert loss == pytest.approx(torch.stack(values).mean().item(), rel=1e-12)

    assert loss == pytest.approx(first.evaluate(second.point)[0], rel=1e-12)
    torch.testing.assert_close(gradient, case.reference().gradient(second.point))
    torch.testing.assert_close(gradient, first.loss_and_gradient(second.point)[1])
    assert second.evaluate(second.point)[1] == pytest.approx(0, abs=1e-13)
    assert second.evaluate(first.point) == pytest.approx(
        (first.loss_and_gradient()[0], case.reference(moved).kl(first.point).item()), rel=1e-9
    )
    vector = torch.randn(second.point.shape, generator=generator)
    expected = case.reference(moved).kl_hessian_product(second.point, vector)
    torch.testing.assert_close(second.curvature_product(vector), expected, atol=1e-11, rtol=1e-9)


def test_first_order_takes_the_jacobian_as_identity(generator):
    learner, _, meta, meta_batch, adapted = problem(generator, steps=2)
    first_order = make_maml(learner.policy, first_order=True, steps=2)
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in adapted.items()}
    outputs = learner.policy.outputs(leaves, meta_batch.query.observations)
    surrogate = likelihood_ratio_loss(learner.policy.distribution, outputs, meta_batch.query).mean()
    gradients = torch.autograd.grad(surrogate, list(leaves.values()))
    expected = torch.cat([gradient.sum(0).reshape(-1) for gradient in gradients])
    gradient = AdaptedObjective(first_order, meta, meta_batch).loss_and_gradient()[1]
    torch.testing.assert_close(gradient, expected)
    assert not torch.allclose(gradient, AdaptedObjective(learner, meta, meta_batch).loss_and_gradient()[1], rtol=1e-3)


@pytest.mark.parametrize(("size", "equal"), [(0.0, True), (STEP_SIZE, False)])
def test_first_order_equals_second_order_only_without_a_step(size, equal, generator):
    policy = make_policy("gaussian")
    meta = MetaParams(
        random_params(policy, generator), ({name: torch.tensor(size) for name in policy.init_params(generator)},)
    )
    exact, first = OwnStepSizes(policy, make_config(), StepSizeSettings(entries=1)), make_maml(policy, first_order=True)
    meta_batch, _ = sample_meta_batch(exact, meta, 3, 1, generator)
    of_init = meta._replace(step_sizes=())
    gradient = AdaptedObjective(exact, meta, meta_batch).loss_and_gradient()[1]
    if size == 0:
        meta_batch = MetaBatch((), meta_batch.query)  # the same: nothing adapts
    expected = AdaptedObjective(first, of_init, meta_batch).loss_and_gradient()[1]
    assert torch.allclose(gradient[: len(expected)], expected, rtol=1e-3) == equal


def test_a_learner_that_overrides_adapt_has_a_meta_gradient_of_its_own(generator):
    """It once kept MAML's, silently: the inner step was written twice."""
    case = problem(generator, "head only")
    gradient = case.objective().loss_and_gradient()[1]
    torch.testing.assert_close(gradient, case.reference().gradient(flatten(case.meta, case.meta)))
    of_maml = AdaptedObjective(make_maml(case.learner.policy), case.meta, case.meta_batch).loss_and_gradient()[1]
    assert not torch.allclose(gradient, of_maml, rtol=1e-3)


def test_parameters_in_another_order_give_the_same_meta_gradient_by_name(generator):
    learner, _, meta, meta_batch, _ = problem(generator, steps=2)
    shuffled = MetaParams({name: meta.init[name] for name in sorted(meta.init, reverse=True)})
    assert list(shuffled.init) != list(meta.init)
    one, other = (AdaptedObjective(learner, each, meta_batch) for each in (meta, shuffled))
    vector = torch.randn(one.point.shape, generator=generator)
    results = [
        (one.loss_and_gradient()[1], one.curvature_product(vector), meta),
        (other.loss_and_gradient()[1], other.curvature_product(flatten(unflatten(vector, meta), shuffled)), shuffled),
    ]
    for mine, theirs in zip(results[0][:2], results[1][:2], strict=True):
        torch.testing.assert_close(flatten(unflatten(theirs, shuffled), meta), mine)
    point = flatten(elsewhere(meta, generator), meta)
    moved = flatten(unflatten(point, meta), shuffled)
    assert one.evaluate(point) == pytest.approx(other.evaluate(moved), rel=1e-12)


def test_permuting_tasks_changes_nothing_but_rounding(generator):
    learner, _, meta, meta_batch, _ = problem(generator, num_tasks=4)
    order = torch.tensor([2, 0, 3, 1])
    permuted = MetaBatch(tuple(select(batch, order) for batch in meta_batch.support), select(meta_batch.query, order))
    one, other = (AdaptedObjective(learner, meta, each) for each in (meta_batch, permuted))
    torch.testing.assert_close(one.loss_and_gradient()[1], other.loss_and_gradient()[1])
    vector = torch.randn(one.point.shape, generator=generator)
    torch.testing.assert_close(one.curvature_product(vector), other.curvature_product(vector))


@ways
def test_curvature_on_drawn_steps_is_the_exact_product_of_those_steps(way, generator):
    """By autograd: J of the drawn support steps, taken where the full step leads, and F of the drawn query steps."""
    case = problem(generator, way, num_tasks=2)
    source = torch.Generator().manual_seed(5)
    sampled = AdaptedObjective(
        case.learner, case.meta, case.meta_batch, draw=lambda batch, whole: draw_steps(batch, 0.4, source)
    )
    draws = torch.Generator().manual_seed(5)
    support = draw_steps(case.meta_batch.support[0], 0.4, draws)
    query = draw_steps(case.meta_batch.query, 0.4, draws)

    full = case.objective()
    torch.testing.assert_close(sampled.loss_and_gradient(), full.loss_and_gradient())  # of all time steps
    vector = torch.randn(full.point.shape, generator=generator)
    total, policy = torch.zeros_like(vector), case.learner.policy
    for task in range(2):

        def drawn_step(point: Tensor, task: int = task) -> Tensor:
            adapted = reference_adapt(case.rule, unflatten(point, case.meta), [one_task(support, task)])
            return torch.cat([leaf.reshape(-1) for leaf in adapted.values()])

        jacobian = torch.autograd.functional.jacobian(drawn_step, full.point, vectorize=True)
        assert isinstance(jacobian, Tensor)
        adapted = reference_adapt(case.rule, case.meta, [one_task(case.meta_batch.support[0], task)])
        phi = torch.cat([leaf.detach().reshape(-1) for leaf in adapted.values()])

        def kl(point: Tensor, task: int = task, phi: Tensor = phi, adapted: Params = adapted) -> Tensor:
            def outputs(vector: Tensor) -> Tensor:
                pieces = vector.split([leaf.numel() for leaf in adapted.values()])
                params = {n: p.view_as(leaf) for (n, leaf), p in zip(adapted.items(), pieces, strict=True)}
                return policy.outputs(params, one_task(query, task).observations)

            return (query.weights[task] * policy.distribution.kl(outputs(phi), outputs(point))).sum()

        fisher = torch.autograd.functional.hessian(kl, phi, vectorize=True)
        assert isinstance(fisher, Tensor)
        total += jacobian.T @ fisher @ jacobian @ vector / 2
    torch.testing.assert_close(sampled.curvature_product(vector), total, atol=1e-11, rtol=1e-9)
    assert not torch.allclose(sampled.curvature_product(vector), full.curvature_product(vector), rtol=1e-3)


def heavily_padded(generator: torch.Generator, num_tasks: int = 5) -> Batch:
    """Rollouts of 40 steps, of which most end after one or two; one task has valid steps in plenty."""
    policy = make_policy("gaussian")
    params = random_params(policy, generator)
    lengths = torch.randint(1, 3, (num_tasks, 6), generator=generator)
    lengths[0] = 40
    mask = (torch.arange(40) < lengths.unsqueeze(-1)).double()
    observations = torch.randn(num_tasks, 6, 40, 4, generator=generator)
    outputs = policy.outputs(params, observations)
    actions = policy.distribution.sample(outputs, torch.randn(num_tasks, 6, 40, 3, generator=generator))
    marks = torch.arange(mask.numel()).double().view_as(mask) + 1  # tells one time step from the other
    weights = mask / mask.sum((1, 2), keepdim=True)
    return Batch(observations, actions, policy.distribution.log_prob(outputs, actions), marks, weights, marks, marks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9, 1.0])
def test_drawn_steps_are_valid_steps_of_each_task_whose_weights_sum_to_one(fraction, dtype, generator):
    """Of a heavily padded batch, 240 of whose draws once left 24 tasks without a valid row."""
    batch = Batch(*(leaf.to(dtype) for leaf in heavily_padded(generator)))
    valid = batch.weights > 0
    wanted = (fraction * valid.sum((1, 2))).round().clamp(min=1)
    for _ in range(50):
        drawn = draw_steps(batch, fraction, generator)
        assert all(leaf.dtype == dtype for leaf in drawn)
        kept = drawn.weights > 0
        assert torch.equal(kept.sum((1, 2)), wanted.long())
        torch.testing.assert_close(drawn.weights.sum((1, 2)), torch.ones(5, dtype=dtype))
        for task in range(5):
            marks = drawn.advantages[task][kept[task]]
            assert len(marks.unique()) == len(marks)  # drawn without replacement
            assert torch.isin(marks, batch.advantages[task][valid[task]]).all()
            torch.testing.assert_close(drawn.weights[task][kept[task]], torch.full_like(marks, 1 / len(marks)))
    where = (batch.advantages.unsqueeze(-1) == drawn.advantages[0, 0, 0]).nonzero()[0][:3]
    assert torch.equal(batch.observations[tuple(where)], drawn.observations[0, 0, 0])  # rows stay together
    assert torch.equal(batch.actions[tuple(where)], drawn.actions[0, 0, 0])
    assert torch.equal(batch.log_probs[tuple(where)], drawn.log_probs[0, 0, 0])


def test_every_valid_step_is_drawn_as_often(generator):
    batch = select(heavily_padded(generator), slice(1, 2))
    counts = torch.zeros(int((batch.weights > 0).sum()))
    values = batch.advantages[batch.weights > 0]
    draws = 2000
    for _ in range(draws):
        drawn = draw_steps(batch, 0.5, generator)
        counts += (values.unsqueeze(1) == drawn.advantages[drawn.weights > 0]).any(1)
    share = counts / draws
    assert (share - share.mean()).abs().max() < 5 * 0.5 / draws**0.5  # five standard errors


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 1.0])
def test_drawn_rollouts_are_whole_rollouts_of_each_task_whose_weights_sum_to_one(fraction, generator):
    batch = heavily_padded(generator)
    for _ in range(20):
        drawn = draw_rollouts(batch, fraction, generator)
        assert drawn.weights.shape == (5, max(1, round(6 * fraction)), 40)
        torch.testing.assert_close(drawn.weights.sum((1, 2)), torch.ones(5))
        for task in range(5):
            found = []
            for rollout in range(drawn.weights.shape[1]):
                (source,) = (batch.advantages[task, :, 0] == drawn.advantages[task, rollout, 0]).nonzero()[0].tolist()
                found.append(source)
                for leaf, whole in zip(drawn, batch, strict=True):
                    if leaf is not drawn.weights:
                        assert torch.equal(leaf[task, rollout], whole[task, source])
                assert torch.equal(drawn.weights[task, rollout] > 0, batch.weights[task, source] > 0)
            assert len(set(found)) == len(found)  # without replacement
            valid = drawn.weights[task][drawn.weights[task] > 0]
            torch.testing.assert_close(valid, torch.full_like(valid, 1 / len(valid)))


@couples_time
def own_dice(distribution: Distribution, outputs: Tensor, batch: Batch, power: float) -> Tensor:
    """A user's loss that couples time steps, with a parameter."""
    ratios = (distribution.log_prob(outputs, batch.actions) - batch.log_probs).where(batch.weights > 0, 0.0)
    return -weighted_sum(batch.weights * batch.advantages, (power * ratios.cumsum(2)).exp())


class OwnLoss(GradientSteps):
    def __init__(self, policy: Policy, config: Config):
        super().__init__(policy, config.adaptation)
        self._loss = partial(own_dice, power=0.5)


@pytest.mark.parametrize("own", [False, True])
def test_curvature_of_a_loss_that_couples_time_steps_is_that_of_whole_rollouts(own, generator):
    """Of dice, and of a user's own: time steps without their order would make another inner loss of it."""
    policy, config = (
        make_policy("gaussian"),
        make_config(inner_loss="likelihood_ratio" if own else "dice", fraction=0.4),
    )
    learner = gradient_learner(OwnLoss(policy, config) if own else GradientSteps(policy, config.adaptation), config)
    state = learner.init(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(learner, state.meta, 3, 1, generator)
    objective = learner.objective(state, meta_batch, torch.Generator().manual_seed(5))
    vector, source = torch.randn(objective.point.shape, generator=generator), torch.Generator().manual_seed(5)
    expected = AdaptedObjective(
        learner, state.meta, meta_batch, draw=lambda batch, whole: draw_rollouts(batch, 0.4, source)
    ).curvature_product(vector)
    torch.testing.assert_close(objective.curvature_product(vector), expected)
    steps = AdaptedObjective(
        learner, state.meta, meta_batch, draw=lambda batch, whole: draw_steps(batch, 0.4, source)
    ).curvature_product(vector)
    assert not torch.allclose(steps, expected)


@pytest.mark.parametrize("loss", ["log_prob", "likelihood_ratio"])
def test_of_other_losses_single_time_steps_are_drawn(loss, generator):
    policy = make_policy("gaussian")
    learner = make_maml(policy, inner_loss=loss, fraction=0.4)
    state = learner.init(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(learner, state.meta, 3, 1, generator)
    objective = learner.objective(state, meta_batch, torch.Generator().manual_seed(5))
    vector, source = torch.randn(objective.point.shape, generator=generator), torch.Generator().manual_seed(5)
    expected = AdaptedObjective(
        learner, state.meta, meta_batch, draw=lambda batch, whole: draw_steps(batch, 0.4, source)
    ).curvature_product(vector)
    torch.testing.assert_close(objective.curvature_product(vector), expected)
