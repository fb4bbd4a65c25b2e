"""Proximal meta-policy search (Rothfuss et al. 2019, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mamlrl.config import Config
from mamlrl.config.schema import require
from mamlrl.distributions import Distribution
from mamlrl.learners.adaptations import GradientSteps
from mamlrl.learners.base import LearnerState
from mamlrl.learners.gradient import GradientLearner, gradient_learner, query_loss
from mamlrl.learners.objective import Losses
from mamlrl.objectives import mean_kl
from mamlrl.policies.base import Policy
from mamlrl.structs import Data, MetaBatch


@dataclass(frozen=True)
class ProMPSettings:
    """Settings of the learner promp."""

    kl_penalty: float = 5e-4
    """Factor on the mean KL from the policies that sampled the support data to those before each inner step (eta)."""

    def __post_init__(self) -> None:
        require(0 <= self.kl_penalty <= 1e6, "learner_settings.kl_penalty", self.kl_penalty, "in [0, 1e6]")


def make_promp(policy: Policy, config: Config, settings: ProMPSettings) -> GradientLearner:
    """Several steps on the clipped surrogate of the adapted policies, and a penalty on the KL before adaptation.

        loss = 1/M sum_i [ S_clip,i(phi_i) + eta sum_k KL(pi_k,sampled || pi_k) ]

    pi_k being the policies before inner step k. The inner loss is `adaptation.inner_loss`, in the paper
    likelihood_ratio; clip range, rate and number of steps are those of `adam`.
    """

    def penalty(distribution: Distribution, outputs: torch.Tensor, batch: Data, built: torch.Tensor) -> torch.Tensor:
        return settings.kl_penalty * mean_kl(distribution, built, outputs, batch.weights)

    def losses(state: LearnerState, meta_batch: MetaBatch) -> Losses:
        return Losses(query_loss(config), [penalty] * len(meta_batch.support))

    return gradient_learner(GradientSteps(policy, config.adaptation), config, losses)
