"""What a learner is: an initial state, an inner step, and a meta-update."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from mamlrl.policies.base import Policy
from mamlrl.structs import Batch, MetaBatch, Params


class LearnerState(NamedTuple):
    """All that a learner carries from one meta-iteration to the next."""

    params: Params
    """theta, the meta-learned initialisation"""


class Learner(Protocol):
    """A meta-learner: pure functions of its state and of the data.

    Attributes:
        policy: what it trains: the policy that it was made with, or one built on it.
    """

    policy: Policy

    def init(self, params: Params) -> LearnerState:
        """The state before the first meta-iteration."""
        ...

    def adapt(self, params: Params, batch: Batch, step_size: float | None = None) -> Params:
        """One inner step on every task; `step_size` in place of the configured one."""
        ...

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, dict[str, float]]:
        """One meta-update; metrics say what happened."""
        ...
