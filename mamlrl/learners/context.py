"""Learners that adapt only a context, learned extra inputs; the network stays as it was meta-learned.

`context` is what the MAML paper calls so (Finn, Abbeel, Levine 2017, section 5.3): the context starts from a
meta-learned value. In `cavia` (Zintgraf et al. 2019) it starts from zero for every task.
"""

from __future__ import annotations

from dataclasses import dataclass

from mamlrl.config import Config
from mamlrl.config.schema import require
from mamlrl.learners.adaptations import FromZero, GradientSteps
from mamlrl.learners.gradient import GradientLearner, LossesOf, gradient_learner, query_loss
from mamlrl.learners.objective import Losses, weighted
from mamlrl.policies.base import Policy
from mamlrl.policies.context import CONTEXT, ContextPolicy


@dataclass(frozen=True)
class ContextSettings:
    """Settings of the learners context and cavia."""

    size: int = 10
    """Learned extra inputs of the policy, the only parameters that adapt."""
    earlier_steps: float = 0.0
    """Weight of the loss after each earlier inner step, beside 1 for that after the last one."""

    def __post_init__(self) -> None:
        require(1 <= self.size <= 10**4, "learner_settings.size", self.size, f"in [1, {10**4}]")
        require(0 <= self.earlier_steps <= 1e6, "learner_settings.earlier_steps", self.earlier_steps, "in [0, 1e6]")


def make_context(policy: Policy, config: Config, settings: ContextSettings) -> GradientLearner:
    """MAML on a policy with a context, the only parameters that adapt; the meta-update moves all of them."""
    policy = ContextPolicy(policy, settings.size)
    adaptation = GradientSteps(policy, config.adaptation, leaves=frozenset({CONTEXT}))
    return gradient_learner(adaptation, config, _losses(config, settings))


def make_cavia(policy: Policy, config: Config, settings: ContextSettings) -> GradientLearner:
    """Context adaptation: from zero, the only parameters that adapt; the meta-update moves the others."""
    context = frozenset({CONTEXT})
    adaptation = FromZero(ContextPolicy(policy, settings.size), config.adaptation, context)
    return gradient_learner(adaptation, config, _losses(config, settings))


def _losses(config: Config, settings: ContextSettings) -> LossesOf:
    """The loss after the last inner step, and after earlier ones where they weigh anything."""
    query, weight = query_loss(config), settings.earlier_steps
    earlier = [weighted(query, weight)] * (config.adaptation.steps - 1) if weight else []
    return lambda state, meta_batch: Losses(query, [None, *earlier])
