"""The inner step and its derivative, against dense Jacobians by autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mamlrl.adaptation import inner_step
from mamlrl.objectives import INNER_LOSSES
from mamlrl.policies.network_policy import NetworkPolicy
from mamlrl.structs import Batch, MetaParams, Params, StepSizes
from tests.core.problems import (
    STEP_SIZE,
    Rule,
    make_maml,
    make_policy,
    one_task,
    random_batch,
    random_like,
    random_params,
    reference_adapt,
    reference_step,
    select,
)

kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical", "outside"])
losses = pytest.mark.parametrize("loss", INNER_LOSSES)
stackings = pytest.mark.parametrize("stacked", [False, True], ids=["shared", "stacked"])
SIZES = ["number", "number per leaf", "tensor per parameter", "some leaves", "mixed"]
sizings = pytest.mark.parametrize("sizing", SIZES)

NUM_TASKS = 2


def policy_of(kind: str):
    return (
        make_policy("gaussian", network="tests.core.outside:GatedNetwork") if kind == "outside" else make_policy(kind)
    )


def sizes_of(sizing: str, shapes: Params, generator: torch.Generator) -> StepSizes:
    """Step sizes of every kind that `StepSizes` allows; `shapes` has the leaves of one network."""

    def number() -> Tensor:
        return 0.1 + torch.rand((), generator=generator)

    def tensor(leaf: Tensor) -> Tensor:
        return 0.1 + torch.rand(leaf.shape, generator=generator)

    if sizing == "number":
        return dict.fromkeys(shapes, STEP_SIZE)
    if sizing == "number per leaf":
        return {name: number() for name in shapes}
    if sizing == "tensor per parameter":
        return {name: tensor(leaf) for name, leaf in shapes.items()}
    if sizing == "some leaves":
        return {name: tensor(shapes[name]) for name in list(shapes)[1::2]}
    kinds = [lambda leaf: 0.4, lambda leaf: number(), tensor]
    return {name: kinds[index % 3](leaf) for index, (name, leaf) in enumerate(shapes.items()) if index != 1}


def vector_of(params: Params) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in params.values()])


def like(vector: Tensor, params: Params) -> Params:
    pieces = vector.split([leaf.numel() for leaf in params.values()])
    return {name: piece.view_as(leaf) for (name, leaf), piece in zip(params.items(), pieces, strict=True)}


def of_task(params: Params, task: int, stacked: bool) -> Params:
    return {name: leaf[task] for name, leaf in params.items()} if stacked else params


@kinds
@losses
@stackings
@sizings
def test_a_step_and_its_products_equal_autograd_and_its_dense_jacobian(kind, loss, stacked, sizing, generator):
    """All of d phi' / d (phi, a), task by task; the step is scaled besides."""
    policy, scale = policy_of(kind), 0.7
    params = random_params(policy, generator, NUM_TASKS if stacked else None)
    batch = random_batch(policy, params, NUM_TASKS, generator)
    sizes = sizes_of(sizing, of_task(params, 0, stacked), generator)
    learned = {name: size for name, size in sizes.items() if isinstance(size, Tensor)}
    step = inner_step(policy, params, batch, INNER_LOSSES[loss], sizes, scale)

    tangent, size_tangent = random_like(params, generator), random_like(learned, generator)
    cotangent = {name: torch.randn(leaf.shape, generator=generator) for name, leaf in step.gradient.items()}
    pushed = step.pushforward(tangent, size_tangent)
    pulled, pulled_sizes = step.pullback(cotangent), step.pullback_to_sizes(cotangent)
    assert list(step.params) == list(params) and set(pulled_sizes) == set(sizes)

    for task in range(NUM_TASKS):
        start = of_task(params, task, stacked)

        def stepped(vector: Tensor, size_vector: Tensor, task: int = task, start: Params = start) -> Tensor:
            here = {name: leaf.unsqueeze(0) for name, leaf in like(vector, start).items()}
            scaled = {name: scale * size for name, size in {**sizes, **like(size_vector, learned)}.items()}
            return vector_of(reference_step(Rule(policy, loss), here, one_task(batch, task), scaled))

        point = (vector_of(start), vector_of(learned) if learned else torch.zeros(0))
        expected = like(stepped(*point).detach(), start)
        for name, leaf in step.params.items():  # a leaf that does not adapt stays as it is, shared or not
            torch.testing.assert_close(leaf[task] if leaf.dim() > start[name].dim() else leaf, expected[name])

        jacobian, size_jacobian = torch.autograd.functional.jacobian(stepped, point, vectorize=True)
        direction = vector_of(of_task(tangent, task, stacked))
        size_direction = vector_of(size_tangent) if learned else torch.zeros(0)
        product = vector_of({n: p[task] if p.dim() > start[n].dim() else p for n, p in pushed.items()})
        torch.testing.assert_close(product, jacobian @ direction + size_jacobian @ size_direction)

        covector = vector_of(of_task(cotangent, task, True))
        torch.testing.assert_close(vector_of({n: pulled[n][task] for n in start}), jacobian.T @ covector)
        if learned:
            torch.testing.assert_close(
                vector_of({name: pulled_sizes[name][task] for name in learned}), size_jacobian.T @ covector
            )


@kinds
@sizings
@pytest.mark.parametrize("first_order", [False, True])
def test_the_pullback_transposes_the_pushforward_in_parameters_and_step_sizes(kind, sizing, first_order, generator):
    """<J v, u> = <v, J^T u>, with no reference at all."""
    policy = policy_of(kind)
    params = random_params(policy, generator, NUM_TASKS)
    batch = random_batch(policy, params, NUM_TASKS, generator)
    sizes = sizes_of(sizing, of_task(params, 0, True), generator)
    step = inner_step(policy, params, batch, INNER_LOSSES["likelihood_ratio"], sizes, 1.3, first_order)
    tangent, cotangent = random_like(params, generator), random_like(params, generator)
    size_tangent = {n: torch.randn(torch.as_tensor(a).shape, generator=generator) for n, a in sizes.items()}

    pushed, pulled = step.pushforward(tangent, size_tangent), step.pullback(cotangent)
    left = sum((pushed[name] * cotangent[name]).sum() for name in params)
    right = sum((tangent[name] * pulled[name]).sum() for name in params)
    right += sum((size_tangent[name] * leaf).sum() for name, leaf in step.pullback_to_sizes(cotangent).items())
    torch.testing.assert_close(left, right)


def test_first_order_is_the_identity_in_the_parameters_and_exact_in_the_step_sizes(generator):
    policy = make_policy("gaussian")
    params = random_params(policy, generator, NUM_TASKS)
    batch = random_batch(policy, params, NUM_TASKS, generator)
    sizes = sizes_of("tensor per parameter", of_task(params, 0, True), generator)
    exact, first = (
        inner_step(policy, params, batch, INNER_LOSSES["log_prob"], sizes, first_order=order) for order in (False, True)
    )
    vector = random_like(params, generator)
    for name, leaf in vector.items():
        assert torch.equal(first.params[name], exact.params[name])
        assert torch.equal(first.pushforward(vector)[name], leaf) and torch.equal(first.pullback(vector)[name], leaf)
        assert torch.equal(first.pullback_to_sizes(vector)[name], exact.pullback_to_sizes(vector)[name])
        torch.testing.assert_close(exact.pullback_to_sizes(vector)[name], -leaf * exact.gradient[name])


@kinds
@losses
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_adapting_equals_autograd_steps_per_task(kind, loss, steps, generator):
    policy = policy_of(kind)
    learner = make_maml(policy, inner_loss=loss)
    meta = MetaParams(random_params(policy, generator))
    params, batches = learner.start(meta), []
    for step in range(steps):
        batches.append(random_batch(policy, params, NUM_TASKS, generator))
        params = learner.adapt(meta, params, batches[-1], step).params
    for task in range(NUM_TASKS):
        expected = reference_adapt(Rule(policy, loss), meta, [one_task(batch, task) for batch in batches])
        for name in params:
            torch.testing.assert_close(params[name][task], expected[name][0].detach())


def test_scale_multiplies_every_step_size(generator):
    policy = make_policy("gaussian")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, NUM_TASKS, generator)
    sizes = sizes_of("mixed", params, generator)
    halved = {name: 0.5 * size for name, size in sizes.items()}
    loss, vector = INNER_LOSSES["log_prob"], random_like(params, generator)
    scaled = inner_step(policy, params, batch, loss, sizes, scale=0.5)
    expected = inner_step(policy, params, batch, loss, halved)
    for name in params:
        torch.testing.assert_close(scaled.params[name], expected.params[name])
        torch.testing.assert_close(scaled.pushforward(vector)[name], expected.pushforward(vector)[name])


def test_permuting_tasks_permutes_adapted_parameters(generator):
    policy = make_policy("gaussian")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 4, generator)
    order = torch.tensor([2, 0, 3, 1])
    loss = INNER_LOSSES["likelihood_ratio"]
    adapted = inner_step(policy, params, batch, loss, 0.3).params
    permuted = inner_step(policy, params, select(batch, order), loss, 0.3).params
    for name in adapted:
        torch.testing.assert_close(adapted[name][order], permuted[name])


def test_zero_step_size_returns_the_initial_parameters(generator):
    policy = make_policy("categorical")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    adapted = inner_step(policy, params, batch, INNER_LOSSES["log_prob"], 0.0).params
    for name, leaf in params.items():
        assert torch.equal(adapted[name], leaf.expand_as(adapted[name]))


def test_a_leaf_without_a_step_size_is_handed_on_and_unknown_ones_are_refused(generator):
    policy = make_policy("gaussian")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    loss = INNER_LOSSES["log_prob"]
    adapted = inner_step(policy, params, batch, loss, {"bias_0": 0.1}).params
    assert all((adapted[name] is leaf) == (name != "bias_0") for name, leaf in params.items())
    with pytest.raises(ValueError, match="step sizes of wait_0; the parameters are weight_0"):
        inner_step(policy, params, batch, loss, {"wait_0": 0.1})


@stackings
def test_a_step_size_of_another_shape_is_refused_and_not_broadcast(stacked, generator):
    policy = make_policy("gaussian")
    params = random_params(policy, generator, 2 if stacked else None)
    batch = random_batch(policy, params, 2, generator)
    with pytest.raises(ValueError, match=r"step size of weight_0 has shape \[7\]; it must be \[4, 5\] or \[\]"):
        _ = inner_step(policy, params, batch, INNER_LOSSES["log_prob"], {"weight_0": torch.ones(7)}).params


class Counting(NetworkPolicy):
    """A policy that counts what is asked of its linearizations."""

    counts: dict[str, int]

    def linearize(self, params: Params, observations: Tensor) -> Any:
        inner, counts = super().linearize(params, observations), self.counts

        class Counted:
            outputs = inner.outputs

            def __getattr__(self, name: str):
                counts[name] = counts.get(name, 0) + 1
                return getattr(inner, name)

        return Counted()


@kinds
def test_products_are_lazy(kind, generator):
    """Sampling pays for a gradient, and for no Hessian; a meta-gradient pays for one per step."""
    inner = policy_of(kind)
    assert isinstance(inner, NetworkPolicy)
    policy = Counting(inner.network, inner.distribution)
    policy.counts = counts = {}
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    step = inner_step(policy, params, batch, INNER_LOSSES["log_prob"], 0.1)
    assert counts == {}
    vector = {name: leaf.expand(2, *leaf.shape) for name, leaf in params.items()}
    _ = step.params, step.params, step.gradient, step.pullback_to_sizes(vector)
    assert counts == {"pullback": 1}
    step.pushforward(vector)
    step.pullback(vector)
    assert counts == {"pullback": 1, "hessian": 1}  # prepared once

    first = inner_step(policy, params, batch, INNER_LOSSES["log_prob"], 0.1, first_order=True)
    first.pushforward(first.pullback(vector), vector)
    assert counts["hessian"] == 1


def test_generic_products_build_no_second_graph_until_asked(generator, built_sweeps):
    policy = policy_of("outside")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    step = inner_step(policy, params, batch, INNER_LOSSES["log_prob"], 0.1)
    _ = step.params
    assert not built_sweeps


def test_a_step_on_padded_time_steps_is_the_same(generator):
    from tests.core.problems import padded

    policy = make_policy("gaussian")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    vector, loss = random_like(params, generator), INNER_LOSSES["likelihood_ratio"]
    steps: list[Batch] = [batch, padded(batch)]
    one, other = (inner_step(policy, params, each, loss, 0.3) for each in steps)
    for name in params:
        torch.testing.assert_close(one.params[name], other.params[name])
        torch.testing.assert_close(one.pushforward(vector)[name], other.pushforward(vector)[name])
