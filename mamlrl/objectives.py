"""Losses on the outputs of a policy: one number per task, a weighted sum over the time steps of the task.

Weights of a batch sum to one over the valid time steps of a task, so that every loss is the mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.structs import Batch, Params, check_shapes

Loss = Callable[[Distribution, Tensor, Batch], Tensor]
"""(distribution, outputs [M, B, T, Z], batch) -> [M]"""


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over rollouts and time steps, [M, B, T] -> [M]."""
    return (weights * values).flatten(1).sum(-1)


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
    log_ratios = distribution.log_prob(outputs, batch.actions) - batch.log_probs
    # padding was not sampled by anything: its ratio may be infinite, and 0 times that is no number
    log_ratios = torch.where(batch.weights > 0, log_ratios, 0.0)
    return -weighted_sum(batch.weights * batch.advantages, log_ratios.exp())


INNER_LOSSES: dict[str, Loss] = {"log_prob": log_prob_loss, "likelihood_ratio": likelihood_ratio_loss}


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
    """The mean over the leading M. Every mean over tasks goes through here."""
    return values.mean(0)


def mean_params_over_tasks(stacked: Params) -> Params:
    """`mean_over_tasks` of every leaf."""
    return {name: mean_over_tasks(leaf) for name, leaf in stacked.items()}


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
