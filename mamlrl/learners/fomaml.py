"""First-order MAML: MAML whose inner step has the identity as its Jacobian (Finn, Abbeel, Levine 2017, section 5.2)."""

from __future__ import annotations

import dataclasses

from mamlrl.config import Config
from mamlrl.learners.maml import MAML
from mamlrl.policies.base import Policy


class FOMAML(MAML):
    """MAML with `adaptation.first_order`, whatever the settings say."""

    def __init__(self, policy: Policy, config: Config):
        adaptation = dataclasses.replace(config.adaptation, first_order=True)
        super().__init__(policy, dataclasses.replace(config, adaptation=adaptation))
