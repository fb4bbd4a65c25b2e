"""E-MAML (Stadie et al. 2018): the adapted return is credited to the rollouts that were adapted on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from mamlrl.config import Config
from mamlrl.config.schema import require
from mamlrl.distributed import sums_over_tasks
from mamlrl.distributions import Distribution
from mamlrl.learners.adaptations import GradientSteps
from mamlrl.learners.base import LearnerState
from mamlrl.learners.gradient import GradientLearner, gradient_learner, query_loss
from mamlrl.learners.objective import Losses
from mamlrl.policies.base import Policy
from mamlrl.structs import Batch, MetaBatch


@dataclass(frozen=True)
class EMAMLSettings:
    """Settings of the learner emaml."""

    credit: float = 1.0
    """Factor on the credit, which is the mean over the rollouts that were adapted on: 1 as in the paper; the number of
    rollouts (sampling.rollouts) for the gradient of the expected return after adapting to them, and for its square as
    much variance; 0 is MAML."""

    def __post_init__(self) -> None:
        require(0 <= self.credit <= 1e6, "learner_settings.credit", self.credit, "in [0, 1e6]")


def make_emaml(policy: Policy, config: Config, settings: EMAMLSettings) -> GradientLearner:
    """MAML, and the score of the support rollouts times the advantage of the return after adapting to them.

        grad E[R(phi(tau))] = E[ J' grad R(phi(tau))  +  (R(phi(tau)) - b) sum_b grad log pi(tau_b) ]

    phi is a function of all B rollouts tau of a task, so that in the gradient of the expectation each of them is
    credited with the whole (Rothfuss et al. 2019, formulation II). Stadie et al. 2018 take the mean over rollouts in
    place of the sum, whose variance is B^2 times as large. So does this: a rollout's score, the sum of grad log pi over
    its time steps, weighs `credit` / B. With the inner loss log_prob and `credit` = B the meta-gradient is unbiased.
    """

    def losses(state: LearnerState, meta_batch: MetaBatch) -> Losses:
        advantage = adapted_advantage(meta_batch.query)

        def credited(distribution: Distribution, outputs: Tensor, batch: Batch, built: Tensor) -> Tensor:
            log_probs = distribution.log_prob(outputs, batch.actions)
            scores = torch.where(batch.weights > 0, log_probs, 0.0).sum(2)
            return -settings.credit * advantage * scores.mean(1)

        return Losses(query_loss(config), [credited] * len(meta_batch.support))

    # the credit has no ratio to the policy that sampled: it is one of the first step on the data
    config = dataclasses.replace(config, adam=dataclasses.replace(config.adam, updates=config.adam.updates or 1))
    return gradient_learner(GradientSteps(policy, config.adaptation), config, losses)


def adapted_advantage(query: Batch) -> Tensor:
    """By how much each task's adapted return exceeds the mean of the other tasks', in units of the surrogate, [M].

        ((R_i - mean of R_j over j != i) / T_i) / std_i

    R_i is the discounted return from the first time step on, mean over rollouts; the difference is one of raw returns.
    T_i, the mean length of a rollout, and std_i, by which the task's query advantages were divided, make of it what the
    query surrogate lowers: advantages of unit spread, mean over time steps. The mean of the others does not depend on
    the rollouts that are credited, and so adds no bias; one task alone has no baseline.
    """
    returns = query.returns[:, :, 0].mean(1)
    total, count = sums_over_tasks([returns, torch.ones_like(returns)])
    others = (total - returns) / (count - 1) if count > 1 else torch.zeros_like(returns)
    length = (query.weights > 0).to(returns.dtype).sum((1, 2)) / query.weights.shape[1]
    return (returns - others) / length / query.advantage_std[:, 0, 0]
