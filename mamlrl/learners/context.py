"""Context-only adaptation: the inner step changes learned extra inputs, and the network stays as it was meta-learned.

What the MAML paper calls so (Finn, Abbeel, Levine 2017, section 5.3): the context starts from a meta-learned value. It
is not CAVIA (Zintgraf et al. 2019), whose context starts from zero for every task.
"""

from __future__ import annotations

from dataclasses import dataclass

from mamlrl.config import Config
from mamlrl.errors import ConfigError
from mamlrl.learners.maml import MAML
from mamlrl.policies.base import Policy
from mamlrl.policies.context import CONTEXT, ContextPolicy


@dataclass(frozen=True)
class ContextSettings:
    """Settings of the learner context."""

    size: int = 10
    """Learned extra inputs of the policy, the only parameters that adapt."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"learner_settings.size is {self.size}; it must be at least 1")


def make_context(policy: Policy, config: Config, settings: ContextSettings) -> MAML:
    """MAML on a policy with a context, the only parameters that adapt; the meta-update moves all of them."""
    return MAML(ContextPolicy(policy, settings.size), config, leaves=frozenset({CONTEXT}))
