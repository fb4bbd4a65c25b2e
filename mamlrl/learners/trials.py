"""What RL2 lowers: a surrogate over whole trials, an entropy bonus, the errors of a value function and of predictions.

All trials of all tasks are one batch [1, N, T, ...] here: parameters are shared, and a recurrent network sees them as N
rows. Where tasks are spread over ranks, each has the rows of its own tasks, and a loss is a sum over those of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mamlrl.advantages import (
    advantages_of_returns,
    baseline_features,
    fit_baseline,
    moments_by_time,
    normalize,
)
from mamlrl.config import SamplingConfig
from mamlrl.distributed import gather, sum_over_ranks, sums_over_ranks
from mamlrl.learners.objective import Path, drawn_numbers
from mamlrl.learners.predictions import (
    PredictionTargets,
    explained_variance,
    prediction_targets,
    squared_errors,
)
from mamlrl.objectives import clipped_loss, likelihood_ratio_loss, mean_kl, weighted_sum
from mamlrl.policies.base import Linearization
from mamlrl.policies.values import Outputs, WithValues
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params, flatten, unflatten

SMALLEST_STD = 1e-3
"""Of the returns at a time step, relative to all returns: where few trials get, they may hardly differ."""


class Terms(NamedTuple):
    """What the loss is made of."""

    baseline: Literal["value", "own_value", "time", "linear"]
    clip: float | None
    """of the surrogate; None for none"""
    value_weight: float
    """factor on the squared error of the value function"""
    entropy: float
    """factor on the entropy of the policy"""
    prediction_weight: float
    """factor on the mean squared error of predictions"""


def pooled(batch: Batch) -> Batch:
    """All trials [M, B, T, ...] as those of one task, [1, M B, T, ...].

    All time steps of all ranks weigh the same, so that what is lowered has the gradient of the mean return of a trial:
    a long one counts as much a step as a short one. T becomes that of the rank with the longest trials.
    """
    steps = max(gather(batch.weights.shape[2]))
    one = Batch(*(joined_trials(leaf, steps) for leaf in batch))
    valid = (one.weights > 0).to(one.weights)
    return one._replace(weights=valid / sum_over_ranks(valid.sum()))


def joined_trials(leaf: Tensor, steps: int) -> Tensor:
    """[M, B, T, ...] as [1, M B, steps, ...], with zeros behind."""
    one, more = leaf.flatten(0, 1).unsqueeze(0), steps - leaf.shape[2]
    return torch.cat([one, one.new_zeros(*one.shape[:2], more, *one.shape[3:])], dim=2) if more else one


class Draws(NamedTuple):
    """Parts of the trials, drawn at random, that losses, gradients and curvature products are taken on."""

    minibatches: int = 1
    """parts that losses and gradients are taken on in turn; 1 for all trials"""
    curvature: float = 1.0
    """share of the trials that curvature products use"""
    generator: torch.Generator | None = None
    """the same on all ranks"""


class Credit(NamedTuple):
    """Advantages of trials, and what their value function should have said."""

    advantages: Tensor
    """[1, N, T], of mean 0 and standard deviation 1 over valid time steps"""
    targets: Tensor
    """[1, N, T], of a value function in units of the returns at its time step"""
    explained_variance: float
    """share of the variance of the returns about their means by time step that the baseline explains"""


def credit(batch: Batch, values: Tensor, baseline: str, sampling: SamplingConfig) -> Credit:
    """Advantages over whole trials.

    The baseline is the mean return of all trials at the same time step, with a value function plus what that says in
    units of their standard deviation there; or a ridge regression on features of observation and time.

    Args:
        batch: of `pooled`.
        values: what the value function says, [1, N, T]; zeros without one.
        baseline: "time", "value", "own_value" or "linear".
        sampling: discount and lambda.
    """
    mask = (batch.weights > 0).double()
    returns = torch.where(mask > 0, batch.returns.double(), 0.0)
    mean, std = moments_by_time(returns, mask)
    squares, count = sums_over_ranks([returns.square().sum(), mask.sum()])
    overall = (squares / count).sqrt()
    std = std.clamp(min=SMALLEST_STD * overall) + 1e-8
    if baseline == "linear":
        expected = fit_baseline(baseline_features(batch.observations), returns, mask, sum_over_ranks)
    else:
        expected = mean + std * values.double()
    advantages = advantages_of_returns(returns, expected, mask, sampling.discount, sampling.gae_lambda)
    spread, left = sums_over_ranks([(one * mask).square().sum() for one in (returns - mean, returns - expected)])
    dtype = batch.returns.dtype
    return Credit(
        normalize(advantages, mask, sum_over_ranks)[0].to(dtype),
        ((returns - mean) / std * mask).to(dtype),
        float(1 - left / spread) if spread > 0 else 0.0,
    )


def minibatches_of(trials: int, number: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Numbers of trials in minibatches, at random, without end: each trial once, then each once more, and so on.

    Minibatches differ by one trial at most, and have one at least: there are not more of them than trials.
    """
    while True:
        yield from torch.randperm(trials, generator=generator).tensor_split(min(number, trials))


class TrialData(NamedTuple):
    """What the loss is taken on, of N trials."""

    batch: Batch
    """of `pooled`, with advantages"""
    targets: Tensor
    """of the value function, [1, N, T]"""
    predicted: PredictionTargets

    def of(self, rows: Tensor, steps: int) -> TrialData:
        """Some trials, up to a time step."""
        batch = Batch(*(leaf[:, rows, :steps] for leaf in self.batch))
        return TrialData(batch, self.targets[:, rows, :steps], self.predicted.of(rows, steps))


class TrialObjective:
    """The loss over trials, and the mean KL of the policy, as functions of what is meta-learned.

    Args:
        policy: the policy with its value function.
        meta: where the objective is built.
        meta_batch: trials of M tasks, sampled anywhere near, its query batch.
        terms: of the loss.
        sampling: discount and lambda.
        draws: parts of the trials that are taken.

    Attributes:
        point: `meta` as a vector, [D].
        path: from there to the policy that acts: no step.
        credit: of the trials.
        predictions_explained: `explained_variance` of what is predicted where the objective is built; None if that is
            nothing.
    """

    def __init__(
        self,
        policy: WithValues,
        meta: MetaParams,
        meta_batch: MetaBatch,
        terms: Terms,
        sampling: SamplingConfig,
        draws: Draws = Draws(),  # noqa: B008 (immutable)
    ):
        self._policy, self._meta, self._terms, self._draws = policy, meta, terms, draws
        self.point, self.path = flatten(meta, meta), Path(meta, meta.init, ())
        batch = pooled(meta_batch.query)
        self._first = meta_batch.first_task * meta_batch.query.weights.shape[1]
        self._all = sum(gather(batch.weights.shape[1]))
        self._linearized: tuple[Linearization, Tensor] | None = None
        self._minibatches: Iterator[Tensor] | None = None
        if draws.minibatches > 1:
            self._minibatches = minibatches_of(self._all, draws.minibatches, draws.generator)
        with torch.no_grad():
            outputs = self._outputs(meta.init, batch)
        self._built = outputs.actions
        self.credit = credit(batch, outputs.values, terms.baseline, sampling)
        batch = batch._replace(advantages=self.credit.advantages)
        infos = None if meta_batch.infos is None else joined_trials(meta_batch.infos, batch.weights.shape[2])
        predicted = prediction_targets(infos, batch)
        self._data = TrialData(batch, self.credit.targets, predicted)
        self.predictions_explained = None if infos is None else explained_variance(outputs.predictions, predicted)
        self._at_point = sum_over_ranks(self._loss(outputs, self._data))

    def loss_and_gradient(self, point: Tensor | None = None) -> tuple[float, Tensor]:
        """The loss and its gradient [D], where it was built or at another point [D]; on the next minibatch."""
        data = self._data if self._minibatches is None else self._taken(next(self._minibatches))
        vector = (self.point if point is None else point).detach().requires_grad_()
        with torch.enable_grad():
            loss = self._loss(self._outputs(unflatten(vector, self._meta).init, data.batch), data)
            (gradient,) = torch.autograd.grad(loss, vector)
        loss, gradient = sums_over_ranks([loss.detach(), gradient])
        return float(loss), gradient

    def _taken(self, trials: Tensor) -> TrialData:
        """Trials by their numbers among those of all ranks: those that are here, up to the longest's end.

        A rank that has none of them takes one for which nothing counts.
        """
        weights = self._data.batch.weights
        rows = trials - self._first
        rows = rows[(rows >= 0) & (rows < weights.shape[1])].to(weights.device)
        counts = len(rows) > 0
        rows = rows if counts else rows.new_zeros(1)
        longest = 1 + int((weights[0, rows] > 0).any(0).nonzero().max())
        data = self._data.of(rows, longest)
        weights = data.batch.weights if counts else torch.zeros_like(data.batch.weights)
        return data._replace(batch=data.batch._replace(weights=weights / sum_over_ranks(weights.sum())))

    @torch.no_grad()
    def evaluate(self, point: Tensor) -> tuple[float, float]:
        """Loss on all trials, and mean KL from the policy where the objective was built, at a point [D]."""
        if point is self.point:
            return float(self._at_point), 0.0
        batch = self._data.batch
        outputs = self._outputs(unflatten(point, self._meta).init, batch)
        kl = mean_kl(self._policy.distribution, self._built, outputs.actions, batch.weights).squeeze(0)
        loss, kl = sums_over_ranks([self._loss(outputs, self._data), kl])
        return float(loss), float(kl)

    def _outputs(self, params: Params, batch: Batch) -> Outputs:
        return self._policy.all_outputs(params, batch.observations, batch.weights > 0)

    def _loss(self, outputs: Outputs, data: TrialData) -> Tensor:
        batch, distribution, terms = data.batch, self._policy.distribution, self._terms
        if terms.clip is None:
            loss = likelihood_ratio_loss(distribution, outputs.actions, batch)
        else:
            loss = clipped_loss(distribution, outputs.actions, batch, terms.clip)
        valid = batch.weights > 0
        if terms.entropy:
            entropy = torch.where(valid, distribution.entropy(outputs.actions), 0.0)
            loss = loss - terms.entropy * weighted_sum(batch.weights, entropy)
        if self._policy.has_values:
            errors = torch.where(valid, outputs.values - data.targets, 0.0)
            loss = loss + terms.value_weight * weighted_sum(batch.weights, errors.square())
        if self.predictions_explained is not None:
            squares = squared_errors(outputs.predictions, data.predicted)
            loss = loss + terms.prediction_weight * weighted_sum(batch.weights, squares.mean(-1))
        return loss.sum()

    def curvature_product(self, vector: Tensor) -> Tensor:
        """Hessian of the mean KL where the objective was built, times a vector, [D]: J^T F J v."""
        if self._linearized is None:
            self._linearized = self._linearize()
        linearization, weights = self._linearized
        tangent = linearization.pushforward(unflatten(vector, self._meta).init)
        information = self._policy.distribution.fisher_product(linearization.outputs, tangent)
        product = linearization.pullback(weights.unsqueeze(-1) * information)
        mine = flatten(MetaParams({name: leaf.squeeze(0) for name, leaf in product.items()}), self._meta)
        return sum_over_ranks(mine)

    def _linearize(self) -> tuple[Linearization, Tensor]:
        batch, draws = self._data.batch, self._draws
        if draws.curvature < 1:
            batch = self._taken(drawn_numbers(1, self._all, draws.curvature, draws.generator)[0]).batch
        return self._policy.linearize(self._meta.init, batch.observations), batch.weights
