"""Model-agnostic meta-learning with TRPO (Finn, Abbeel, Levine 2017, Algorithm 3)."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import torch

from mamlrl.adaptation import InnerStep, inner_step
from mamlrl.config import Config
from mamlrl.learners.base import LearnerState
from mamlrl.learners.objective import AdaptedSurrogate
from mamlrl.objectives import INNER_LOSSES
from mamlrl.outer.trust_region import TrustRegionOutcome, trust_region_step
from mamlrl.policies.base import Policy
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params, unflatten


@dataclass(frozen=True)
class MAMLSettings:
    """Settings of the learner maml."""

    first_order: bool = False
    """Take the Jacobian of the inner step as the identity (first-order MAML, as the learner fomaml)."""


class MAML:
    """TRPO on the initialisation, differentiating through the inner steps.

    Without support batches the surrogate is that of the unadapted policy, and this is TRPO on the mean return over all
    tasks.

    Args:
        policy: the policy.
        config: inner loop and trust region.
        first_order: take the Jacobian of the inner step as the identity.
        leaves: the parameters that the inner step changes; None for all. The meta-update moves all of them.
    """

    def __init__(self, policy: Policy, config: Config, first_order: bool = False, leaves: Set[str] | None = None):
        self.policy = policy
        self._step_size, self._inner_loss = config.adaptation.step_size, INNER_LOSSES[config.adaptation.inner_loss]
        self._trust_region = config.trust_region
        self._first_order, self._leaves = first_order, leaves

    def init(self, params: Params) -> LearnerState:
        """The policy's initial parameters."""
        return LearnerState(MetaParams(params))

    def start(self, meta: MetaParams) -> Params:
        """Theta."""
        return meta.init

    def adapt(self, meta: MetaParams, params: Params, batch: Batch, step: int = 0, scale: float = 1.0) -> InnerStep:
        """One policy-gradient step on every task."""
        sizes = dict.fromkeys(params if self._leaves is None else self._leaves, self._step_size)
        return inner_step(self.policy, params, batch, self._inner_loss, sizes, scale, self._first_order)

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, TrustRegionOutcome]:
        """One TRPO step on theta, through the inner steps."""
        settings = self._trust_region
        objective = AdaptedSurrogate(self, state.meta, meta_batch, settings.curvature_fraction, generator)
        point, outcome = trust_region_step(objective, settings)
        meta = unflatten(point, state.meta) if outcome.accepted else state.meta
        return state._replace(meta=meta), outcome
