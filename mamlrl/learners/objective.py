"""Surrogate loss and mean KL of the adapted policies, as functions of what is meta-learned.

With phi_i(theta) the parameters adapted to task i, J_i = d phi_i / d theta, S_i the surrogate loss on task i's query
batch and F_i the Fisher matrix of the adapted policy on its states,

    loss = 1/M sum_i S_i(phi_i)        g = 1/M sum_i J_i^T grad S_i(phi_i)        H = 1/M sum_i J_i^T F_i J_i .

Loss and gradient can be had at any theta. H is the Hessian of the mean KL from the adapted policies at one theta to
those at another, exact where the two are the same: there the gradient of the KL is zero, so no derivative of J is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep, loss_on
from mamlrl.objectives import likelihood_ratio_loss, mean_kl, mean_over_tasks, mean_params_over_tasks
from mamlrl.policies.base import Linearization, Policy
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params, flatten, unflatten


class Adapts(Protocol):
    """The part of a learner that the objective needs: see `mamlrl.learners.base.Learner`."""

    policy: Policy

    def start(self, meta: MetaParams) -> Params:
        """Parameters before adaptation."""
        ...

    def adapt(self, meta: MetaParams, params: Params, batch: Batch, step: int = 0, scale: float = 1.0) -> InnerStep:
        """One inner step."""
        ...


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

    def pullback(self, cotangent: Params) -> MetaParams:
        """J^T u, averaged over tasks."""
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
        init = {name: cotangent[name] for name in self.meta.init}
        return MetaParams(mean_params_over_tasks(init), tuple(mean_params_over_tasks(entry) for entry in sizes))


def adapt_along(learner: Adapts, meta: MetaParams, support: Sequence[Batch]) -> Path:
    """Adapt on the support batches, one after the other."""
    start = params = learner.start(meta)
    steps: list[InnerStep] = []
    for number, batch in enumerate(support):
        steps.append(learner.adapt(meta, params, batch, number))
        params = steps[-1].params
    return Path(meta, start, tuple(steps))


class AdaptedSurrogate:
    """Surrogate loss and mean KL of the adapted policies, as functions of the vector of all that is meta-learned.

    Args:
        learner: how it adapts, and its policy.
        meta: where the KL is measured from and where curvature is taken: the point at which the objective is built.
        meta_batch: support and query batches. Ratios are taken to the policies that sampled the query batch, so that
            an objective built anew at another point, on the same data, is right too.
        curvature_fraction: share of the valid time steps of each task that curvature products use.
        generator: draws them.

    Attributes:
        point: `meta` as a vector, [D].
    """

    def __init__(
        self,
        learner: Adapts,
        meta: MetaParams,
        meta_batch: MetaBatch,
        curvature_fraction: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        self._learner, self._meta, self._meta_batch = learner, meta, meta_batch
        self.point = flatten(meta, meta)
        self._path = adapt_along(learner, meta, meta_batch.support)
        self._adapted = learner.policy.linearize(self._path.adapted, meta_batch.query.observations)
        self._curvature = self._make_curvature(curvature_fraction, generator)

    def _make_curvature(self, fraction: float, generator: torch.Generator | None) -> Curvature:
        """The curvature on all time steps, or on the configured share of them."""
        learner, query = self._learner, self._meta_batch.query
        if fraction == 1:
            return Curvature(learner.policy, self._path, self._adapted, query.weights)
        steps = tuple(
            learner.adapt(self._meta, step.start, draw_steps(batch, fraction, generator), number)
            for number, (step, batch) in enumerate(zip(self._path.steps, self._meta_batch.support, strict=True))
        )
        query = draw_steps(query, fraction, generator)
        adapted = learner.policy.linearize(self._path.adapted, query.observations)
        return Curvature(learner.policy, self._path._replace(steps=steps), adapted, query.weights)

    def loss_and_gradient(self, point: Tensor | None = None) -> tuple[float, Tensor]:
        """The surrogate and its gradient [D], where the objective was built or at another point [D]."""
        policy, query = self._learner.policy, self._meta_batch.query
        path, adapted = self._path, self._adapted
        if point is not None:
            path = adapt_along(self._learner, unflatten(point, self._meta), self._meta_batch.support)
            adapted = policy.linearize(path.adapted, query.observations)
        surrogate = loss_on(adapted, policy, query, likelihood_ratio_loss)
        gradient = flatten(path.pullback(surrogate.gradient()), self._meta)
        return float(mean_over_tasks(surrogate.loss)), gradient

    def curvature_product(self, vector: Tensor) -> Tensor:
        """H v, [D], at the point where the objective was built."""
        return flatten(self._curvature.product(unflatten(vector, self._meta)), self._meta)

    @torch.no_grad()
    def evaluate(self, point: Tensor) -> tuple[float, float]:
        """Surrogate, and mean KL from where the objective was built, at `point`, in one adapted pass."""
        policy, query = self._learner.policy, self._meta_batch.query
        meta = unflatten(point, self._meta)
        params = self._learner.start(meta)
        for number, batch in enumerate(self._meta_batch.support):  # keeps no step: there is nothing to go back through
            params = self._learner.adapt(meta, params, batch, number).params
        outputs = policy.outputs(params, query.observations)
        losses = likelihood_ratio_loss(policy.distribution, outputs, query)
        kl = mean_kl(policy.distribution, self._adapted.outputs, outputs, query.weights)
        return float(mean_over_tasks(losses)), float(mean_over_tasks(kl))


class Curvature(NamedTuple):
    """H = 1/M sum_i J_i^T F_i J_i on some time steps of the meta-batch."""

    policy: Policy
    path: Path
    adapted: Linearization
    """the adapted policies on query observations"""
    weights: Tensor
    """of the query batch, [M, B, T]"""

    def product(self, vector: MetaParams) -> MetaParams:
        """H v."""
        tangent = self.adapted.pushforward(self.path.pushforward(vector))
        information = self.policy.distribution.fisher_product(self.adapted.outputs, tangent)
        return self.path.pullback(self.adapted.pullback(self.weights.unsqueeze(-1) * information))


def draw_steps(batch: Batch, fraction: float, generator: torch.Generator | None) -> Batch:
    """A share of the valid time steps of each task, at least one, without their order: [M, 1, n, ...].

    Weights sum to one again. A task with fewer valid time steps than others has padding. Only for policies without
    memory and losses that do not couple time steps.

    Args:
        batch: of M tasks.
        fraction: the share, in (0, 1].
        generator: on the CPU.
    """
    valid = batch.weights.flatten(1) > 0
    counts = (fraction * valid.sum(1)).round().clamp(min=1).long()
    device = valid.device
    keys = torch.rand(valid.shape, generator=generator, dtype=torch.float64).to(device)
    order = keys.masked_fill(~valid, 2.0).argsort(1)[:, : int(counts.max())]  # padding comes last

    def drawn(leaf: Tensor) -> Tensor:
        rows = leaf.flatten(1, 2)
        index = order.reshape(*order.shape, *[1] * (rows.dim() - 2)).expand(-1, -1, *rows.shape[2:])
        return rows.gather(1, index).unsqueeze(1)

    kept = torch.arange(order.shape[1], device=device) < counts.unsqueeze(1)
    weights = (kept / counts.unsqueeze(1)).to(batch.weights.dtype).unsqueeze(1)
    return Batch(*map(drawn, batch))._replace(weights=weights)
