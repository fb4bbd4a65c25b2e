"""Learners that adapt only a context, learned extra inputs; the network stays as it was meta-learned.

`context` is what the MAML paper calls so (Finn, Abbeel, Levine 2017, section 5.3): the context starts from a
meta-learned value. In `cavia` (Zintgraf et al. 2019) it starts from zero for every task.
"""

from __future__ import annotations

from dataclasses import dataclass

from mamlrl.config import Config
from mamlrl.config.schema import require
from mamlrl.learners.adaptations import FromZero, GradientSteps
from mamlrl.learners.gradient import GradientLearner, gradient_learner
from mamlrl.policies.base import Policy
from mamlrl.policies.context import CONTEXT, ContextPolicy


@dataclass(frozen=True)
class ContextSettings:
    """Settings of the learners context and cavia."""

    size: int = 10
    """Learned extra inputs of the policy, the only parameters that adapt."""

    def __post_init__(self) -> None:
        require(self.size >= 1, "learner_settings.size", self.size, "at least 1")


def make_context(policy: Policy, config: Config, settings: ContextSettings) -> GradientLearner:
    """MAML on a policy with a context, the only parameters that adapt; the meta-update moves all of them."""
    policy = ContextPolicy(policy, settings.size)
    return gradient_learner(GradientSteps(policy, config.adaptation, leaves=frozenset({CONTEXT})), config)


def make_cavia(policy: Policy, config: Config, settings: ContextSettings) -> GradientLearner:
    """Context adaptation: from zero, the only parameters that adapt; the meta-update moves the others."""
    return gradient_learner(
        FromZero(ContextPolicy(policy, settings.size), config.adaptation, frozenset({CONTEXT})), config
    )
