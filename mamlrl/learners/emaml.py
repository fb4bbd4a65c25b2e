"""E-MAML (Stadie et al. 2018): the adapted return is credited to the rollouts that were adapted on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mamlrl.config import Config
from mamlrl.config.schema import require
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
    """Factor on the credit of the adapted return: 1 is the gradient of the expected return after adaptation to sampled
    rollouts, less of it has less variance, 0 is MAML."""

    def __post_init__(self) -> None:
        require(0 <= self.credit <= 1e6, "learner_settings.credit", self.credit, "in [0, 1e6]")


def make_emaml(policy: Policy, config: Config, settings: EMAMLSettings) -> GradientLearner:
    """MAML, and the score of the support rollouts times the return after adapting to them.

        grad E[R(phi(tau))] = E[ J' grad R(phi(tau))  +  R(phi(tau)) sum_b grad log pi(tau_b) ]

    phi is a function of all B rollouts tau of a task, so that each is credited with the whole (Rothfuss et al. 2019,
    formulation II; Stadie et al. 2018 take the mean over rollouts, which is `credit` = 1 / B).
    """

    def losses(state: LearnerState, meta_batch: MetaBatch) -> Losses:
        credit = settings.credit * adapted_advantage(meta_batch.query)

        def credited(distribution: Distribution, outputs: Tensor, batch: Batch, built: Tensor) -> Tensor:
            log_probs = distribution.log_prob(outputs, batch.actions)
            return -credit * torch.where(batch.weights > 0, log_probs, 0.0).sum((1, 2))

        return Losses(query_loss(config), [credited] * len(meta_batch.support))

    return gradient_learner(GradientSteps(policy, config.adaptation), config, losses)


def adapted_advantage(query: Batch) -> Tensor:
    """By how much the return of each task's adapted policy exceeds the mean of the other tasks', [M].

    The mean of the others does not depend on the rollouts that are credited. Per time step and in units of the task's
    advantages, as the surrogate is.
    """
    returns = query.returns[:, :, 0].mean(1)
    others = (returns.sum() - returns) / (len(returns) - 1) if len(returns) > 1 else torch.zeros_like(returns)
    length = (query.weights > 0).to(returns.dtype).sum((1, 2)) / query.weights.shape[1]
    return (returns - others) / length
