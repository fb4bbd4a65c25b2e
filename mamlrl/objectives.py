"""Losses on the outputs of a policy or a predictor: one number per task, a weighted sum over its data.

Weights of a batch sum to one over the valid time steps of a task, so that every loss is the mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mamlrl.distributed import means_over_tasks
from mamlrl.distributions import Distribution
from mamlrl.structs import Batch, Examples, Params, check_shapes

Loss = Callable[[Distribution, Tensor, Any], Tensor]
"""(distribution, outputs [M, B, T, Z], a `Batch` of rollouts or `Examples`) -> [M]"""
AnyLoss = TypeVar("AnyLoss", bound=Callable[..., Tensor])
"""The same, perhaps with further arguments."""


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over rollouts and time steps, [M, B, T] -> [M]."""
    return (weights * values).flatten(1).sum(-1)


def couples_time(loss: AnyLoss) -> AnyLoss:
    """Mark a loss in which the time steps of a rollout depend on each other, as a decorator.

    Where curvature is taken on a share of the data, that is one of whole rollouts then, and else of single time steps.
    """
    loss.couples_time = True  # type: ignore[attr-defined]
    return loss


def does_couple_time(loss: Loss) -> bool:
    """Whether the loss is marked by `couples_time`, also where some of its arguments are bound."""
    return getattr(loss.func if isinstance(loss, partial) else loss, "couples_time", False)


def log_prob_loss(distribution: Distribution, outputs: Tensor, batch: Batch) -> Tensor:
    """REINFORCE: -mean(log pi(a|o) advantage), [M] (Williams 1992; Finn et al. 2017, equation 4).

    Raises:
        ValueError: the outputs do not belong to the batch.
    """
    _check(distribution, outputs, batch)
    log_probs = distribution.log_prob(outputs, batch.actions)
    return -weighted_sum(batch.weights * batch.advantages, log_probs)


def likelihood_ratio_loss(distribution: Distribution, outputs: Tensor, batch: Batch) -> Tensor:
    """Importance-weighted return: -mean(pi(a|o) / pi_sampled(a|o) advantage), [M].

    Its gradient at the sampling policy is REINFORCE's; its second derivative keeps the outer product of the score
    (the LVC estimator of Rothfuss et al. 2019, ProMP, section 5). It is also TRPO's surrogate.

    Raises:
        ValueError: the outputs do not belong to the batch.
    """
    _check(distribution, outputs, batch)
    return -weighted_sum(batch.weights * batch.advantages, _log_ratios(distribution, outputs, batch).exp())


def clipped_loss(distribution: Distribution, outputs: Tensor, batch: Batch, clip: float) -> Tensor:
    """Clipped surrogate: -mean(min(r A, clamp(r, 1 - clip, 1 + clip) A)), r the ratio of `likelihood_ratio_loss`, [M].

    Schulman et al. 2017 (PPO), equation 7.

    Raises:
        ValueError: the outputs do not belong to the batch.
    """
    _check(distribution, outputs, batch)
    ratios = _log_ratios(distribution, outputs, batch).exp()
    advantages = batch.advantages
    gains = torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)
    return -weighted_sum(batch.weights, torch.where(batch.weights > 0, gains, 0.0))


@couples_time
def dice_loss(distribution: Distribution, outputs: Tensor, batch: Batch) -> Tensor:
    """DiCE with advantages: -mean((box_t - box_{t-1}) A_t), box_t the ratio of all actions up to time t, [M].

    With returns in place of advantages it is the objective of Foerster et al. 2018, equation 10, the mean of
    box_t r_t; with any baseline derivatives of every order stay unbiased (Farquhar et al. 2019, Loaded DiCE). Its first
    derivative at the sampling policy is REINFORCE's. Its second one couples time steps,

        A_t (score_t score_t' + grad score_t + score_t sum_{s<t} score_s' + sum_{s<t} score_s score_t'),

    of which `likelihood_ratio_loss` leaves out the last two: a bias that vanishes at a local optimum, for less variance
    (Rothfuss et al. 2019, section 5).

    Raises:
        ValueError: the outputs do not belong to the batch.
    """
    _check(distribution, outputs, batch)
    boxes = _log_ratios(distribution, outputs, batch).cumsum(2).exp()
    before = torch.cat([torch.ones_like(boxes[..., :1]), boxes[..., :-1]], dim=2)
    return -weighted_sum(batch.weights * batch.advantages, boxes - before)


class LossDerivatives(NamedTuple):
    """A loss and its derivatives by the outputs, in closed form."""

    loss: Tensor
    """[M]"""
    cotangent: Tensor
    """first derivative, [M, B, T, Z]"""
    output_hessian: Callable[[Tensor], Tensor]
    """second derivative times a tangent [M, B, T, Z]"""


def in_closed_form(derivatives: Callable[[Distribution, Tensor, Any], LossDerivatives]) -> Callable[[AnyLoss], AnyLoss]:
    """Give a loss derivatives that need no autograd, as a decorator; those of small networks are much faster."""

    def marked(loss: AnyLoss) -> AnyLoss:
        loss.derivatives = derivatives  # type: ignore[attr-defined]
        return loss

    return marked


def with_derivatives_of(other: Callable[..., Tensor], loss: AnyLoss) -> AnyLoss:
    """A loss that is another in a form of its own, with the derivatives that the other has in closed form, if any."""
    if derivatives := getattr(other, "derivatives", None):
        loss.derivatives = derivatives  # type: ignore[attr-defined]
    return loss


def _of_squared_error(distribution: Distribution, outputs: Tensor, batch: Examples) -> LossDerivatives:
    """Of outputs that are the means themselves."""
    _check_targets(outputs, batch)
    slope = batch.weights.unsqueeze(-1) * (2 / outputs.shape[-1])
    residuals = distribution.mode(outputs) - batch.targets
    cotangent = slope * residuals
    return LossDerivatives((cotangent * residuals).flatten(1).sum(-1) / 2, cotangent, lambda tangent: slope * tangent)


def _check_targets(outputs: Tensor, batch: Examples) -> None:
    check_shapes(("weights", batch.weights, "MBT"), ("targets", batch.targets, "MBTA"), ("outputs", outputs, "MBTA"))


@in_closed_form(_of_squared_error)
def squared_error_loss(distribution: Distribution, outputs: Tensor, batch: Examples) -> Tensor:
    """Mean squared error over examples and components of the target, [M].

    Raises:
        ValueError: the outputs do not belong to the examples.
    """
    _check_targets(outputs, batch)
    return weighted_sum(batch.weights, (distribution.mode(outputs) - batch.targets).square().mean(-1))


def cross_entropy_loss(distribution: Distribution, outputs: Tensor, batch: Examples) -> Tensor:
    """Mean of -log p(class | input), nats, [M].

    Raises:
        ValueError: the outputs do not belong to the examples.
    """
    check_shapes(
        ("weights", batch.weights, "MBT"),
        ("targets", batch.targets, "MBT"),
        ("outputs", outputs, "MBTZ"),
        Z=distribution.num_outputs,
    )
    return -weighted_sum(batch.weights, distribution.log_prob(outputs, batch.targets))


INNER_LOSSES: dict[str, Loss] = {
    "log_prob": log_prob_loss,
    "likelihood_ratio": likelihood_ratio_loss,
    "dice": dice_loss,
}
"""Of rollouts."""


def accuracy(distribution: Distribution, outputs: Tensor, batch: Examples) -> Tensor:
    """Share of examples whose class is the likeliest one, in percent, [M]."""
    return 100 * weighted_sum(batch.weights, (distribution.mode(outputs) == batch.targets).to(batch.weights.dtype))


EXAMPLE_LOSSES: dict[str, Loss] = {"squared_error": squared_error_loss, "cross_entropy": cross_entropy_loss}
"""Of examples: what an inner step lowers, and what the meta-update lowers on the query examples."""


def mean_kl(distribution: Distribution, outputs: Tensor, new_outputs: Tensor, weights: Tensor) -> Tensor:
    """Mean over valid time steps of KL(old || new), nats, [M].

    Raises:
        ValueError: the shapes do not agree.
    """
    check_shapes(
        ("outputs", outputs, "MBTZ"),
        ("new_outputs", new_outputs, "MBTZ"),
        ("weights", weights, "MBT"),
        Z=distribution.num_outputs,
    )
    return weighted_sum(weights, distribution.kl(outputs, new_outputs))


def mean_over_tasks(values: Tensor) -> Tensor:
    """The mean over the leading M, and over the tasks of all ranks. Every mean of a meta-update goes through here.

    What has several means to take takes them in one reduction, by `mean_params_over_tasks` or `means_over_tasks`.
    """
    return means_over_tasks([values])[0]


def mean_params_over_tasks(stacked: Params) -> Params:
    """`mean_over_tasks` of every leaf."""
    return dict(zip(stacked, means_over_tasks(list(stacked.values())), strict=True)) if stacked else {}


def _log_ratios(distribution: Distribution, outputs: Tensor, batch: Batch) -> Tensor:
    """Log of the ratio to the policy that sampled, [M, B, T]; 0 on padding.

    Padding was not sampled by anything: its ratio may be infinite, and 0 times that is no number.
    """
    log_ratios = distribution.log_prob(outputs, batch.actions) - batch.log_probs
    return torch.where(batch.weights > 0, log_ratios, 0.0)


def _check(distribution: Distribution, outputs: Tensor, batch: Batch) -> None:
    check_shapes(
        ("weights", batch.weights, "MBT"),
        ("outputs", outputs, "MBTZ"),
        ("log_probs", batch.log_probs, "MBT"),
        ("advantages", batch.advantages, "MBT"),
        ("actions", batch.actions, "MBTA"[: 3 + len(distribution.noise_shape)]),
        A=math.prod(distribution.noise_shape),  # an action is as large as its noise
        Z=distribution.num_outputs,
    )
