"""Losses on the outputs of a policy: one number per task, a weighted sum over the rows of the task.

Weights of a batch sum to one over the valid rows of a task, so that every loss is the mean over valid time steps.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.structs import Batch, Params

Loss = Callable[[Distribution, Tensor, Batch], Tensor]
"""(distribution, outputs [M, R, Z], batch) -> [M]"""


def log_prob_loss(distribution: Distribution, outputs: Tensor, batch: Batch) -> Tensor:
    """REINFORCE: -mean(log pi(a|o) advantage), [M] (Williams 1992; Finn et al. 2017, equation 4)."""
    log_probs = distribution.log_prob(outputs, batch.actions)
    return -(batch.weights * batch.advantages * log_probs).sum(-1)


def likelihood_ratio_loss(distribution: Distribution, outputs: Tensor, batch: Batch) -> Tensor:
    """Importance-weighted return: -mean(pi(a|o) / pi_sampled(a|o) advantage), [M].

    Its gradient at the sampling policy is REINFORCE's; its second derivative keeps the outer product of the score
    (the LVC estimator of Rothfuss et al. 2019, ProMP, section 5). It is also TRPO's surrogate.
    """
    log_ratios = distribution.log_prob(outputs, batch.actions) - batch.log_probs
    return -(batch.weights * batch.advantages * log_ratios.exp()).sum(-1)


INNER_LOSSES: dict[str, Loss] = {"log_prob": log_prob_loss, "likelihood_ratio": likelihood_ratio_loss}


def mean_kl(distribution: Distribution, outputs: Tensor, new_outputs: Tensor, weights: Tensor) -> Tensor:
    """Mean over valid time steps of KL(old || new), nats, [M]."""
    return (weights * distribution.kl(outputs, new_outputs)).sum(-1)


def mean_over_tasks(values: Tensor) -> Tensor:
    """The mean over the leading M. Every mean over tasks goes through here."""
    return values.mean(0)


def mean_params_over_tasks(stacked: Params) -> Params:
    """`mean_over_tasks` of every leaf."""
    return {name: mean_over_tasks(leaf) for name, leaf in stacked.items()}
