"""Model-agnostic meta-learning with TRPO (Finn, Abbeel, Levine 2017, Algorithm 3).

With phi_i(theta) the parameters adapted to task i, J_i = d phi_i / d theta, S_i the surrogate loss on task i's query
batch and F_i the Fisher matrix of the adapted policy on its states, the meta-gradient and the Hessian of the mean KL
at theta are

    g = 1/M sum_i J_i^T grad S_i(phi_i)              H = 1/M sum_i J_i^T F_i J_i .

The second is exact: at theta the gradient of the KL is zero, so no derivative of J is left.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

import torch
from torch import Tensor

from mamlrl.adaptation import AdaptationPath, adapt, descend, loss_at, loss_on
from mamlrl.config import Config
from mamlrl.learners.base import LearnerState
from mamlrl.objectives import (
    INNER_LOSSES,
    likelihood_ratio_loss,
    mean_kl,
    mean_over_tasks,
    mean_params_over_tasks,
)
from mamlrl.outer.trust_region import trust_region_step
from mamlrl.policies.base import Linearization, Policy
from mamlrl.structs import Batch, MetaBatch, Params


def flatten(params: Params) -> Tensor:
    """One vector [D] from a parameter dict, in the dict's order."""
    return torch.cat([leaf.reshape(-1) for leaf in params.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """The parameter dict whose `flatten` is the vector: views, shapes and order as in `like`."""
    pieces = vector.split([leaf.numel() for leaf in like.values()])
    return {name: piece.view_as(leaf) for (name, leaf), piece in zip(like.items(), pieces, strict=True)}


class MAML:
    """MAML: TRPO on the initialisation, differentiating through the inner steps.

    Attributes:
        adapted_leaves: the parameters that the inner step changes; None for all.
    """

    adapted_leaves: Set[str] | None = None

    def __init__(self, policy: Policy, config: Config):
        self.policy = policy
        self.settings = config.adaptation
        self.trust_region = config.trust_region
        self.inner_loss = INNER_LOSSES[config.adaptation.inner_loss]

    def init(self, params: Params) -> LearnerState:
        """The state before the first meta-iteration."""
        return LearnerState(params)

    def adapt(self, params: Params, batch: Batch, step_size: float | None = None) -> Params:
        """One inner gradient step on every task."""
        step_size = self.settings.step_size if step_size is None else step_size
        return adapt(self.policy, params, batch, self.inner_loss, step_size, self.adapted_leaves)

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, dict[str, float]]:
        """One TRPO step on theta."""
        objective = AdaptedSurrogate(self, state.params, meta_batch, generator)
        theta, stats = trust_region_step(objective, flatten(state.params), objective.loss, self.trust_region)
        params = unflatten(theta, state.params) if stats.accepted else state.params
        metrics = {f"trust_region/{name}": float(value) for name, value in stats._asdict().items()}
        return LearnerState(params), metrics


class AdaptedSurrogate:
    """Surrogate loss and mean KL of the adapted policies, as functions of theta: the objective of the meta-step.

    Args:
        learner: its policy and settings.
        params: theta, where gradient and curvature are taken.
        meta_batch: support and query batches.
        generator: draws the rows that curvature products use.

    Attributes:
        loss: the surrogate at theta.
        query: the query batch, with log-probabilities of the adapted policies at theta.
        old_outputs: outputs of the adapted policies at theta on the query batch.
    """

    def __init__(self, learner: MAML, params: Params, meta_batch: MetaBatch, generator: torch.Generator):
        self._learner = learner
        self._support = meta_batch.support
        self._points, self._path = self._adapt(params)
        old_policy = learner.policy.linearize(self._points[-1], meta_batch.query.observations)
        self.old_outputs = old_policy.outputs
        # ratios are taken to the policy as computed here, so that at theta they are 1 to the last bit
        log_probs = learner.policy.distribution.log_prob(old_policy.outputs, meta_batch.query.actions)
        self.query = meta_batch.query._replace(log_probs=log_probs)
        self._surrogate = loss_on(old_policy, learner.policy, self.query, likelihood_ratio_loss)
        self._curvature = self._make_curvature(generator)
        self.loss = float(mean_over_tasks(self._surrogate.loss))

    def _adapt(self, params: Params) -> tuple[list[Params], AdaptationPath]:
        """The points phi_0 = theta, phi_1, ..., phi_K of the inner loop, and its Jacobian."""
        learner = self._learner
        points, hessians = [params], []
        for batch in self._support:
            inner = loss_at(learner.policy, points[-1], batch, learner.inner_loss)
            if not learner.settings.first_order:
                hessians.append(inner.hessian())
            step_size, leaves = learner.settings.step_size, learner.adapted_leaves
            points.append(descend(points[-1], inner.gradient(), step_size, leaves))
        return points, AdaptationPath(hessians, learner.settings.step_size, learner.adapted_leaves)

    def _make_curvature(self, generator: torch.Generator) -> Curvature:
        """The curvature on all rows, or on the configured share of them."""
        learner, fraction = self._learner, self._learner.trust_region.curvature_fraction
        if fraction == 1:
            return Curvature(learner.policy, self._path, self._surrogate.linearization, self.query.weights)
        hessians = []
        if not learner.settings.first_order:
            for point, batch in zip(self._points, self._support, strict=False):
                rows = draw_rows(batch, fraction, generator)
                hessians.append(loss_at(learner.policy, point, rows, learner.inner_loss).hessian())
        query = draw_rows(self.query, fraction, generator)
        adapted = learner.policy.linearize(self._points[-1], query.observations)
        path = AdaptationPath(hessians, learner.settings.step_size, learner.adapted_leaves)
        return Curvature(learner.policy, path, adapted, query.weights)

    def gradient(self) -> Tensor:
        """The meta-gradient g = 1/M sum_i J_i^T grad S_i(phi_i), [D]."""
        return flatten(mean_params_over_tasks(self._path.pullback(self._surrogate.gradient())))

    def fisher_vector_product(self, vector: Tensor) -> Tensor:
        """The curvature product H v = 1/M sum_i J_i^T F_i J_i v, [D]."""
        return flatten(self._curvature.product(unflatten(vector, self._points[0])))

    @torch.no_grad()
    def evaluate(self, point: Tensor) -> tuple[float, float]:
        """Surrogate and mean KL when theta is `point`, in one adapted pass."""
        learner, policy = self._learner, self._learner.policy
        params = unflatten(point, self._points[0])
        for batch in self._support:
            params = learner.adapt(params, batch)
        outputs = policy.outputs(params, self.query.observations)
        losses = likelihood_ratio_loss(policy.distribution, outputs, self.query)
        kl = mean_kl(policy.distribution, self.old_outputs, outputs, self.query.weights)
        return float(mean_over_tasks(losses)), float(mean_over_tasks(kl))


class Curvature(NamedTuple):
    """H = 1/M sum_i J_i^T F_i J_i on some rows of the meta-batch."""

    policy: Policy
    path: AdaptationPath
    adapted: Linearization
    """the adapted policies on query rows"""
    weights: Tensor
    """of the query rows, [M, R]"""

    def product(self, vector: Params) -> Params:
        """H v."""
        tangent = self.adapted.pushforward(self.path.pushforward(vector))
        information = self.policy.distribution.fisher_product(self.adapted.outputs, tangent)
        cotangent = self.adapted.pullback(self.weights.unsqueeze(-1) * information)
        return mean_params_over_tasks(self.path.pullback(cotangent))


def draw_rows(batch: Batch, fraction: float, generator: torch.Generator) -> Batch:
    """A share of the rows, the same for every task, with weights that sum to one again."""
    num_rows = batch.weights.shape[1]
    count = max(1, round(fraction * num_rows))
    rows = torch.randperm(num_rows, generator=generator)[:count].to(batch.weights.device)
    drawn = Batch(*(leaf[:, rows] for leaf in batch))
    total = drawn.weights.sum(1, keepdim=True)
    return drawn._replace(weights=drawn.weights / total.clamp(min=torch.finfo(total.dtype).tiny))
