"""Returns, the linear feature baseline, and generalised advantage estimation, for all tasks at once in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mamlrl.config import SamplingConfig
from mamlrl.distributed import sum_over_ranks
from mamlrl.structs import Batch, Rollouts, check_shapes

RIDGE = 1e-5
"""Regulariser of the baseline's normal equations (rllab's value)."""


CONSTANT = 1e-10
"""Variance of returns, relative to their mean square, below which they count as constant: what is left is the error of
the regularised fit, of which no share can be explained."""


Total = Callable[[Tensor], Tensor]
"""From sums over the tasks that are here, [M, ...] each for itself, to those of all that is fitted together."""


def of_each_task(sums: Tensor) -> Tensor:
    """Every task for itself: the sums as they are."""
    return sums


class Advantages(NamedTuple):
    """Outcome of `estimate_advantages`."""

    advantages: Tensor
    """[M, B, T] float64, 0 on padding, not normalised"""
    explained_variance: Tensor
    """[M], share of the variance of the returns that the baseline explains; 0 where they do not vary"""
    returns: Tensor
    """[M, B, T] float64, discounted, 0 on padding"""


def discounted_returns(rewards: Tensor, discount: float) -> Tensor:
    """G_t = r_t + discount G_{t+1} along the last dimension; rewards are 0 after the end of a rollout."""
    returns = torch.empty_like(rewards)
    running = torch.zeros_like(rewards[..., 0])
    for t in reversed(range(rewards.shape[-1])):
        running = rewards[..., t] + discount * running
        returns[..., t] = running
    return returns


def baseline_features(observations: Tensor) -> Tensor:
    """[o, o^2, t, t^2, t^3, 1] with o clipped to +-10 and t in units of 100 steps, [M, B, T, 2 O + 4].

    Duan et al. 2016, "Benchmarking deep reinforcement learning", section 6.1 (linear feature baseline).
    """
    clipped = observations.double().clamp(-10, 10)
    num_steps = clipped.shape[2]
    time = torch.arange(num_steps, dtype=torch.float64, device=clipped.device) / 100
    powers = torch.stack([time, time**2, time**3, torch.ones_like(time)], dim=-1)
    return torch.cat([clipped, clipped.square(), powers.expand(*clipped.shape[:2], -1, -1)], dim=-1)


def fit_baseline(features: Tensor, returns: Tensor, mask: Tensor, total: Total = of_each_task) -> Tensor:
    """Values [M, B, T] of a ridge regression of the returns on the features, one per task, over valid rows.

    Solves (X^T X + ridge I) w = X^T y by Cholesky factorisation, which the ridge keeps possible whatever the rows.
    """
    valid = (features * mask.unsqueeze(-1)).flatten(1, 2)
    gram = total(valid.mT @ valid)
    gram.diagonal(dim1=-2, dim2=-1).add_(RIDGE)
    moments = total(valid.mT @ returns.flatten(1).unsqueeze(-1))
    weights = torch.cholesky_solve(moments, torch.linalg.cholesky(gram))
    return (valid @ weights).view_as(returns)


def generalized_advantages(rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float) -> Tensor:
    """A_t = sum_k (discount lambda)^k delta_{t+k}, delta_t = r_t + discount V_{t+1} - V_t (Schulman et al. 2016).

    The value after the last step of a rollout is 0, at a time limit too: the horizon belongs to the task, and the
    baseline sees the time.
    """
    next_values = torch.zeros_like(values)
    next_values[..., :-1] = values[..., 1:] * mask[..., 1:]
    deltas = (rewards + discount * next_values - values) * mask
    return discounted_returns(deltas, discount * gae_lambda) * mask


def estimate_advantages(rollouts: Rollouts, discount: float, gae_lambda: float) -> Advantages:
    """Fit the baseline to each task's own rollouts and estimate the advantages with it."""
    check_shapes(
        ("rewards", rollouts.rewards, "MBT"),
        ("mask", rollouts.mask, "MBT"),
        ("observations", rollouts.observations, "MBTO"),
    )
    mask = rollouts.mask.double()
    rewards = rollouts.rewards.double() * mask
    returns = discounted_returns(rewards, discount) * mask
    values = fit_baseline(baseline_features(rollouts.observations), returns, mask)
    advantages = generalized_advantages(rewards, values, mask, discount, gae_lambda)
    mean, variance = _masked_moments(returns, mask)
    _, error_variance = _masked_moments((returns - values) * mask, mask)
    varies = variance > CONSTANT * (mean.square() + variance)
    return Advantages(advantages, torch.where(varies, 1 - error_variance / variance, 0.0), returns)


def normalize(advantages: Tensor, mask: Tensor, total: Total = of_each_task) -> tuple[Tensor, Tensor]:
    """Mean 0 and standard deviation 1 over the valid rows of each task; 0 on padding.

    Returns:
        The normalised advantages, and the standard deviations [M, 1, 1] that they were divided by.
    """
    mean, variance = _masked_moments(advantages, mask, total)
    std = variance.sqrt()[:, None, None] + 1e-8
    return (advantages - mean[:, None, None]) / std * mask, std


def _masked_moments(values: Tensor, mask: Tensor, total: Total = of_each_task) -> tuple[Tensor, Tensor]:
    """Mean and variance [M] over the valid rows of each task."""
    count = total(mask.sum((1, 2)))
    mean = total((values * mask).sum((1, 2))) / count
    variance = total(((values - mean[:, None, None]).square() * mask).sum((1, 2))) / count
    return mean, variance


def make_batch(rollouts: Rollouts, config: SamplingConfig) -> tuple[Batch, Tensor]:
    """What a policy-gradient loss needs of the rollouts, with normalised advantages.

    Returns:
        The batch, in the precision of the rollouts, and the share of the variance of each task's returns that the
        baseline explains, [M].

    Raises:
        ValueError: the shapes of the rollouts do not agree.
    """
    mask = rollouts.mask.double()
    estimated = estimate_advantages(rollouts, config.discount, config.gae_lambda)
    advantages, std = normalize(estimated.advantages, mask)
    dtype = rollouts.observations.dtype
    batch = Batch(
        observations=rollouts.observations,
        actions=rollouts.actions,
        log_probs=rollouts.log_probs,
        advantages=advantages.to(dtype),
        weights=(mask / mask.sum((1, 2), keepdim=True)).to(dtype),
        returns=estimated.returns.to(dtype),
        advantage_std=std.expand_as(mask).to(dtype),
    )
    return batch, estimated.explained_variance


def make_trial_batch(rollouts: Rollouts, config: SamplingConfig) -> tuple[Batch, Tensor]:
    """What a learner with a baseline of its own needs of trials: their returns, over the ends of episodes.

    Returns:
        The batch, whose advantages are the returns, without a baseline, and zeros [M], the share of their variance that
        none explains.

    Raises:
        ValueError: the shapes of the rollouts do not agree.
    """
    check_shapes(("rewards", rollouts.rewards, "MBT"), ("mask", rollouts.mask, "MBT"))
    mask = rollouts.mask
    returns = discounted_returns(rollouts.rewards * mask, config.discount) * mask
    weights = mask / mask.sum((1, 2), keepdim=True)
    batch = Batch(
        rollouts.observations, rollouts.actions, rollouts.log_probs, returns, weights, returns, torch.ones_like(mask)
    )
    return batch, torch.zeros(len(mask), dtype=torch.float64)


def advantages_of_returns(returns: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float) -> Tensor:
    """`generalized_advantages`, from returns G in place of rewards, [M, B, T].

    With e_t = G_t - V_t, and so delta_t = e_t - discount e_{t+1},

        A_t = sum_k (discount lambda)^k delta_{t+k}.

    Args:
        returns: discounted.
        values: V.
        mask: 1 on valid time steps.
        discount: of the returns.
        gae_lambda: lambda.
    """
    errors = (returns - values) * mask
    later = torch.zeros_like(errors)
    later[..., :-1] = errors[..., 1:]
    return discounted_returns(errors - discount * later, discount * gae_lambda) * mask


def moments_by_time(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over all rollouts of all tasks at each time step, [T]; over valid ones, else 0.

    Also over those of other ranks, whose T must be the same.
    """
    count = sum_over_ranks(mask.sum((0, 1))).clamp(min=1)
    mean = sum_over_ranks((values * mask).sum((0, 1))) / count
    return mean, (sum_over_ranks(((values - mean).square() * mask).sum((0, 1))) / count).sqrt()
