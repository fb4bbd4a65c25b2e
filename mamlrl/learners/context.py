"""Context-only adaptation: the inner step changes learned extra inputs, and the network stays as it was meta-learned.

Sources: the context vector of Finn, Abbeel, Levine (2017), section 5.3; Zintgraf et al. (2019), CAVIA.
"""

from __future__ import annotations

from mamlrl.config import Config
from mamlrl.learners.maml import MAML
from mamlrl.policies.base import Policy
from mamlrl.policies.context import CONTEXT, ContextPolicy


class Context(MAML):
    """MAML on a policy with a context, the only parameters that adapt; the meta-update moves all of them."""

    adapted_leaves = frozenset({CONTEXT})

    def __init__(self, policy: Policy, config: Config):
        super().__init__(ContextPolicy(policy, config.adaptation.context_size), config)
