"""Model-agnostic meta-learning (Finn, Abbeel, Levine 2017, Algorithm 3) and its nearest kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mamlrl.config import Config
from mamlrl.errors import ConfigError
from mamlrl.learners.adaptations import GradientSteps, LearnedSteps
from mamlrl.learners.gradient import GradientLearner, gradient_learner
from mamlrl.learners.objective import Path
from mamlrl.policies.base import Policy


@dataclass(frozen=True)
class MAMLSettings:
    """Settings of the learner maml."""

    first_order: bool = False
    """Take the Jacobian of the inner step as the identity (first-order MAML, as the learner fomaml)."""


def make_maml(policy: Policy, config: Config, settings: MAMLSettings) -> GradientLearner:
    """An outer step on the initialisation, differentiating through the inner steps.

    Without support batches the objective is that of the unadapted policy: policy optimisation over all tasks.
    """
    return gradient_learner(GradientSteps(policy, config.adaptation, settings.first_order), config)


def make_fomaml(policy: Policy, config: Config, settings: Any) -> GradientLearner:
    """MAML with the Jacobian of the inner step taken as the identity."""
    return make_maml(policy, config, MAMLSettings(first_order=True))


def make_plain(policy: Policy, config: Config, settings: Any) -> GradientLearner:
    """MAML without settings of its own: what baselines adapt by."""
    return make_maml(policy, config, MAMLSettings())


def make_anil(policy: Policy, config: Config, settings: Any) -> GradientLearner:
    """Almost no inner loop: only the last layer adapts (Raghu et al. 2020). The meta-update moves all layers.

    Raises:
        ConfigError: the network does not say which of its parameters are the last layer.
    """
    head = head_of(policy)
    return gradient_learner(GradientSteps(policy, config.adaptation, leaves=head), config)


def head_of(policy: Policy) -> frozenset[str]:
    """Names of the parameters of the last layer.

    Raises:
        ConfigError: the network does not say which they are.
    """
    head = getattr(policy, "head", frozenset())
    if not head:
        raise ConfigError(
            "learner anil adapts the last layer, and policy.network does not say which of its parameters that is; it "
            "must have an attribute head, their names"
        )
    return frozenset(head)


def make_metasgd(policy: Policy, config: Config, settings: Any) -> GradientLearner:
    """Meta-SGD (Li et al. 2017): a step size for each parameter, learned with the initialisation, of either sign."""
    return gradient_learner(LearnedSteps(policy, config.adaptation, per_parameter=True), config, measure=step_sizes)


def step_sizes(path: Path) -> dict[str, float]:
    """Mean and extremes of the learned step sizes, before the update."""
    sizes = [leaf for entry in path.meta.step_sizes for leaf in entry.values()]
    total, count = sum(float(leaf.sum()) for leaf in sizes), sum(leaf.numel() for leaf in sizes)
    return {
        "step_size/mean": total / count,
        "step_size/min": min(float(leaf.min()) for leaf in sizes),
        "step_size/max": max(float(leaf.max()) for leaf in sizes),
    }
