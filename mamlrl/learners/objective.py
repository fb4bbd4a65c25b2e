"""Losses along the adaptation, and the mean KL of the adapted policies, as functions of what is meta-learned.

With phi_i(theta) the parameters adapted to task i, J_i = d phi_i / d theta, S_i the loss on task i's query batch and
F_i the Fisher matrix of the adapted policy on its states,

    loss = 1/M sum_i S_i(phi_i)        g = 1/M sum_i J_i^T grad S_i(phi_i)        H = 1/M sum_i J_i^T F_i J_i .

Losses on the support batches, at the parameters that each was sampled with, may be added. Loss and gradient can be had
at any theta. H is the Hessian of the mean KL from the adapted policies at one theta to those at another, exact where
the two are the same: there the gradient of the KL is zero, so no derivative of J is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep, LossAtPoint, SolvedStep, loss_on, with_products
from mamlrl.distributed import means_over_tasks
from mamlrl.distributions import Distribution
from mamlrl.learners.adaptations import Adaptation, Adapts
from mamlrl.learners.base import LearnerState
from mamlrl.learners.kronecker import KroneckerPreconditioner
from mamlrl.objectives import likelihood_ratio_loss, mean_kl, with_derivatives_of
from mamlrl.policies.base import Factored, Linearization, Policy
from mamlrl.structs import AnyData, Batch, Data, MetaBatch, MetaParams, Params, flatten, unflatten

RoundLoss = Callable[[Distribution, Tensor, Any, Tensor], Tensor]
"""(distribution, outputs [M, B, T, Z], data of the round, outputs where the objective was built) -> [M]"""
ObjectiveOf = Callable[[Adaptation, LearnerState, MetaBatch, "torch.Generator | None"], Any]
"""The objective of an outer step, a `mamlrl.outer.objective.Objective`, built where the state is."""


def surrogate(distribution: Distribution, outputs: Tensor, batch: Batch, built: Tensor) -> Tensor:
    """TRPO's surrogate, `likelihood_ratio_loss`, as a `RoundLoss`."""
    return likelihood_ratio_loss(distribution, outputs, batch)


def weighted(loss: RoundLoss, weight: float) -> RoundLoss:
    """A loss times a number."""

    def times(distribution: Distribution, outputs: Tensor, batch: Data, built: Tensor) -> Tensor:
        return weight * loss(distribution, outputs, batch, built)

    return times


class Losses(NamedTuple):
    """What the outer step lowers: losses on the data of some rounds, at the parameters of that round, added up."""

    query: RoundLoss = surrogate
    support: Sequence[RoundLoss | None] = ()
    """on the batch of each inner step, or on `MetaBatch.along`, at the parameters before it; None, or left out at the
    end, for none"""

    def of_round(self, number: int, steps: int) -> RoundLoss | None:
        """That of a round, `steps` being the number of the query round."""
        if number == steps:
            return self.query
        return self.support[number] if number < len(self.support) else None


class Path(NamedTuple):
    """The inner steps from what is meta-learned to the adapted parameters, and J as products with vectors."""

    meta: MetaParams
    start: Params
    steps: tuple[InnerStep, ...]

    @property
    def adapted(self) -> Params:
        """The parameters after all steps."""
        return self.steps[-1].params if self.steps else self.start

    def pushforward(self, tangent: MetaParams) -> Params:
        """J v: how the adapted parameters follow a change of what is meta-learned, stacked."""
        params = {name: tangent.init.get(name, torch.zeros_like(leaf)) for name, leaf in self.start.items()}
        for number, step in enumerate(self.steps):
            sizes = tangent.step_sizes_of(number) if tangent.step_sizes else None
            params = step.pushforward(params, sizes)
        return params

    def pullback(self, cotangent: Params, along: Sequence[Params | None] = ()) -> MetaParams:
        """J^T u, averaged over tasks.

        Args:
            cotangent: u, by the adapted parameters, stacked.
            along: cotangents by the parameters before each inner step, which are added on the way back; None for none.
        """
        num_tasks = next(iter(cotangent.values())).shape[0]
        sizes = [
            {name: leaf.new_zeros(num_tasks, *leaf.shape) for name, leaf in entry.items()}
            for entry in self.meta.step_sizes
        ]
        for number, step in reversed(list(enumerate(self.steps))):
            if sizes:
                entry = self.meta.entry_of(number)
                by_size = step.pullback_to_sizes(cotangent)
                sizes[entry] = {name: leaf + by_size.get(name, 0.0) for name, leaf in sizes[entry].items()}
            cotangent = step.pullback(cotangent)
            if number < len(along) and (more := along[number]) is not None:
                cotangent = {name: leaf + more[name] for name, leaf in cotangent.items()}
        init = {name: cotangent[name] for name in self.meta.init}
        means = iter(means_over_tasks([leaf for params in (init, *sizes) for leaf in params.values()]))
        averaged, *averaged_sizes = ({name: next(means) for name in params} for params in (init, *sizes))
        return MetaParams(averaged, tuple(averaged_sizes))


def adapt_along(learner: Adapts, meta: MetaParams, support: Sequence[Data], near: Sequence[InnerStep] = ()) -> Path:
    """Adapt on the support batches, one after the other.

    Args:
        learner: how it adapts.
        meta: what is meta-learned.
        support: the batches.
        near: inner steps on the same batches from a point nearby, if there are; see `step_near`.

    Raises:
        ValueError: the learner's start has not all meta-learned parameters as they are. `Path` takes the derivative of
            the start for the identity, and the meta-gradient would be wrong.
    """
    start = params = learner.start(meta)
    changed = [name for name, leaf in meta.init.items() if start.get(name) is not leaf]
    if changed:
        raise ValueError(
            f"start must hand on the meta-learned parameters themselves, not what is computed from them, for the "
            f"meta-gradient to be right; it does not hand on {', '.join(changed)}"
        )
    steps: list[InnerStep] = []
    for number, batch in enumerate(support):
        step = step_near(near[number] if near else None, learner, meta, params, batch, number)
        steps.append(with_products(step))
        params = steps[-1].params
    return Path(meta, start, tuple(steps))


def step_near(
    near: InnerStep | None, learner: Adapts, meta: MetaParams, params: Params, batch: Data, number: int
) -> InnerStep:
    """An inner step; one that has to be solved for begins where that from a point nearby ended."""
    return near.moved(params) if isinstance(near, SolvedStep) else learner.adapt(meta, params, batch, number)


class AdaptedObjective:
    """Losses along the adaptation and mean KL of the adapted policies, as functions of all that is meta-learned.

    Args:
        learner: how it adapts, and its policy.
        meta: where the KL is measured from and where curvature is taken: the point at which the objective is built.
        meta_batch: support and query batches. Ratios are taken to the policies that sampled them, so that an objective
            built anew at another point, on the same data, is right too.
        losses: what is lowered; by default TRPO's surrogate of the adapted policies.
        draw: (batch, whether of whole rollouts) -> a smaller one, for the curvature products; None for all of the data.

    Attributes:
        point: `meta` as a vector, [D].
    """

    def __init__(
        self,
        learner: Adapts,
        meta: MetaParams,
        meta_batch: MetaBatch,
        losses: Losses = Losses(),  # noqa: B008 (immutable)
        draw: Callable[[Any, bool], Any] | None = None,
    ):
        self._learner, self._meta, self._meta_batch = learner, meta, meta_batch
        self._losses, self._draw = losses, draw
        self.point = flatten(meta, meta)
        self.path = adapt_along(learner, meta, meta_batch.support)
        self._adapted = learner.policy.linearize(self.path.adapted, meta_batch.query.observations)

    def loss_and_gradient(self, point: Tensor | None = None) -> tuple[float, Tensor]:
        """The loss and its gradient [D], where the objective was built or at another point [D]."""
        path, adapted = self.path, self._adapted
        if point is not None:
            meta = unflatten(point, self._meta)
            path = adapt_along(self._learner, meta, self._meta_batch.support, self.path.steps)
            adapted = self._learner.policy.linearize(path.adapted, self._meta_batch.query.observations)
        linearized = self._built if point is None else self._linearized(path, adapted)
        rounds = [self._loss_of_round(number, one) for number, one in enumerate(linearized)]
        *along, query = (one and one.gradient() for one in rounds)
        assert query is not None
        loss = sum(means_over_tasks([one.loss for one in rounds if one]))
        return float(loss), flatten(path.pullback(query, along), self._meta)

    def _loss_of_round(self, number: int, linearization: Linearization | None) -> LossAtPoint | None:
        loss, built = self._losses.of_round(number, len(self._meta_batch.support)), self._built[number]
        if loss is None or linearization is None or built is None:
            return None
        bound = with_derivatives_of(loss, partial(_without_built, loss=loss, built=built.outputs))
        return loss_on(linearization, self._learner.policy, self._meta_batch.measured(number), bound)

    @cached_property
    def _built(self) -> list[Linearization | None]:
        """`_linearized` where the objective was built."""
        return self._linearized(self.path, self._adapted)

    def _linearized(self, path: Path, adapted: Linearization) -> list[Linearization | None]:
        """The policies of each round on the data that its loss is taken on; None where there is no loss."""
        along: list[Linearization | None] = []
        for number, step in enumerate(path.steps):
            if self._losses.of_round(number, len(path.steps)) is None:
                along.append(None)
            elif self._meta_batch.along:
                data = self._meta_batch.along[number]
                along.append(self._learner.policy.linearize(step.start, data.observations))
            else:
                along.append(step.loss.linearization)
        return [*along, adapted]

    def curvature_product(self, vector: Tensor) -> Tensor:
        """H v, [D], at the point where the objective was built."""
        return flatten(self._curvature.product(unflatten(vector, self._meta)), self._meta)

    @cached_property
    def _curvature(self) -> Curvature:
        """The curvature on all time steps, or on those that are drawn; made at the first product.

        Whole rollouts are drawn, in every round, where an inner loss couples their time steps.
        """
        learner, query = self._learner, self._meta_batch.query
        if self._draw is None:
            return Curvature(learner.policy, self.path, self._adapted, query)
        whole = any(step.loss.couples_time for step in self.path.steps)
        steps = tuple(
            self._thinned(step, self._draw(batch, whole), number)
            for number, (step, batch) in enumerate(zip(self.path.steps, self._meta_batch.support, strict=True))
        )
        query = self._draw(query, whole)
        adapted = learner.policy.linearize(self.path.adapted, query.observations)
        return Curvature(learner.policy, self.path._replace(steps=steps), adapted, query)

    def _thinned(self, step: InnerStep, batch: Data, number: int) -> InnerStep:
        """An inner step with its derivative on fewer data."""
        if isinstance(step, SolvedStep):
            return step.thinned(batch)
        return self._learner.adapt(self._meta, step.start, batch, number)

    def preconditioner(self, damping: float) -> Callable[[Tensor], Tensor]:
        """About (H + damping)^-1, as a function [D] to [D]."""
        approximate = self._curvature.preconditioner(damping)
        return lambda vector: flatten(approximate(unflatten(vector, self._meta)), self._meta)

    @torch.no_grad()
    def evaluate(self, point: Tensor) -> tuple[float, float]:
        """Loss, and mean KL of the adapted policies from where the objective was built, at `point`, in one pass."""
        policy, support, query = self._learner.policy, self._meta_batch.support, self._meta_batch.query
        meta = unflatten(point, self._meta)
        params, losses = self._learner.start(meta), []
        for number, batch in enumerate(support):  # keeps no step: there is nothing to go back through
            step = step_near(self.path.steps[number], self._learner, meta, params, batch, number)
            built = self._built[number]
            if built is not None and (loss := self._losses.of_round(number, len(support))):
                data = self._meta_batch.measured(number)
                on_support = data is batch
                outputs = step.loss.linearization.outputs if on_support else policy.outputs(params, data.observations)
                losses.append(loss(policy.distribution, outputs, data, built.outputs))
            params = step.params
        outputs, built = policy.outputs(params, query.observations), self._adapted.outputs
        losses.append(self._losses.query(policy.distribution, outputs, query, built))
        kl = mean_kl(policy.distribution, built, outputs, query.weights)
        *means, mean_of_kl = means_over_tasks([*losses, kl])
        return float(sum(means)), float(mean_of_kl)


def _without_built(
    distribution: Distribution, outputs: Tensor, batch: Data, *, loss: RoundLoss, built: Tensor
) -> Tensor:
    return loss(distribution, outputs, batch, built)


class Curvature(NamedTuple):
    """H = 1/M sum_i J_i^T F_i J_i on some time steps of the meta-batch."""

    policy: Policy
    path: Path
    adapted: Linearization
    """the adapted policies on query observations"""
    query: Data
    """sampled by the adapted policies"""

    def product(self, vector: MetaParams) -> MetaParams:
        """H v."""
        tangent = self.adapted.pushforward(self.path.pushforward(vector))
        information = self.policy.distribution.fisher_product(self.adapted.outputs, tangent)
        return self.path.pullback(self.adapted.pullback(self.query.weights.unsqueeze(-1) * information))

    def preconditioner(self, damping: float) -> KroneckerPreconditioner:
        """From the scores of the actions that were sampled: their second moment is the Fisher matrix of the outputs."""
        assert isinstance(self.adapted, Factored)  # as the learner has made sure
        outputs = self.adapted.outputs.clone().requires_grad_()
        with torch.enable_grad():
            log_probs = self.policy.distribution.log_prob(outputs, self.query.actions)
            (scores,) = torch.autograd.grad(log_probs.sum(), outputs)
        return KroneckerPreconditioner(self.adapted.factors(scores, self.query.weights), damping)


def draw_share(
    batch: AnyData, whole_rollouts: bool, fraction: float, generator: torch.Generator | None, first: int = 0
) -> AnyData:
    """`draw_rollouts` or `draw_steps`."""
    return (draw_rollouts if whole_rollouts else draw_steps)(batch, fraction, generator, first)


def draw_steps(batch: AnyData, fraction: float, generator: torch.Generator | None, first: int = 0) -> AnyData:
    """A share of the valid time steps of each task, at least one, without their order: [M, 1, n, ...].

    Weights sum to one again. A task with fewer valid time steps than others has padding. Only for policies without
    memory and losses that do not couple time steps.

    Args:
        batch: of M tasks.
        fraction: the share, in (0, 1].
        generator: on the CPU.
        first: number of the batch's first task among those of all ranks.
    """
    num_tasks, rollouts, steps = batch.weights.shape
    valid = batch.weights.flatten(1) > 0
    counts = (fraction * valid.sum(1)).round().clamp(min=1).long()
    device = valid.device
    # by time step first: what is drawn for one does not depend on how long the longest rollout is
    keys = _keys(num_tasks, (steps, rollouts), generator, first).mT.flatten(1).to(device)
    order = keys.masked_fill(~valid, 2.0).argsort(1)[:, : int(counts.max())]  # padding comes last

    def drawn(leaf: Tensor) -> Tensor:
        rows = leaf.flatten(1, 2)
        index = order.reshape(*order.shape, *[1] * (rows.dim() - 2)).expand(-1, -1, *rows.shape[2:])
        return rows.gather(1, index).unsqueeze(1)

    kept = torch.arange(order.shape[1], device=device) < counts.unsqueeze(1)
    weights = (kept / counts.unsqueeze(1)).to(batch.weights.dtype).unsqueeze(1)
    return type(batch)(*map(drawn, batch))._replace(weights=weights)


def draw_rollouts(batch: AnyData, fraction: float, generator: torch.Generator | None, first: int = 0) -> AnyData:
    """A share of the rollouts of each task, at least one, whole: [M, n, T, ...].

    Weights sum to one again. For losses that couple the time steps of a rollout.

    Args:
        batch: of M tasks.
        fraction: the share, in (0, 1].
        generator: on the CPU.
        first: number of the batch's first task among those of all ranks.
    """
    num_tasks, rollouts = batch.weights.shape[:2]
    order = drawn_numbers(num_tasks, rollouts, fraction, generator, first).to(batch.weights.device)
    drawn = type(batch)(*(leaf[torch.arange(num_tasks, device=order.device)[:, None], order] for leaf in batch))
    return drawn._replace(weights=drawn.weights / drawn.weights.sum((1, 2), keepdim=True))


def drawn_numbers(
    num_tasks: int, rollouts: int, fraction: float, generator: torch.Generator | None, first: int = 0
) -> Tensor:
    """Numbers of a share of the rollouts of each task, at least one, [M, n]; as `draw_rollouts` takes them."""
    keys = _keys(num_tasks, (rollouts,), generator, first)
    return keys.argsort(1)[:, : max(1, round(fraction * rollouts))]


def _keys(num_tasks: int, shape: tuple[int, ...], generator: torch.Generator | None, first: int) -> Tensor:
    """Uniform numbers, float64 [M, *shape]; those of a task depend on its number among all tasks alone."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    rows = [np.random.default_rng((seed, first + task)).random(shape) for task in range(num_tasks)]
    return torch.from_numpy(np.stack(rows))
