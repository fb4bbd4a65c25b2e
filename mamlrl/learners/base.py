"""What a learner is: an initial state, an inner step, and a meta-update."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import torch

from mamlrl.adaptation import InnerStep
from mamlrl.config import Config
from mamlrl.policies.base import Policy
from mamlrl.structs import Data, MetaBatch, MetaParams, Params


class LearnerState(NamedTuple):
    """All that a learner carries from one meta-iteration to the next."""

    meta: MetaParams
    """what is meta-learned"""
    optimiser: Any = None
    """state of the outer optimiser, tensors and numbers in dicts and tuples; None where it has none"""


class Outcome(Protocol):
    """What became of a meta-update. One that was not tried may say why by an attribute `refused`, text."""

    @property
    def not_finite(self) -> bool:
        """Whether the update was refused because a number was not finite."""
        ...

    def metrics(self) -> dict[str, float]:
        """What happened, as numbers by name."""
        ...


class Refused(NamedTuple):
    """The outcome of an update that was not tried: what it would follow is not to be trusted."""

    refused: str
    """why, for the line of progress"""

    @property
    def not_finite(self) -> bool:
        """Another reason than that."""
        return False

    def metrics(self) -> dict[str, float]:
        """None of its own."""
        return {}


def undone(outcome: Outcome) -> Outcome:
    """The outcome of an update that was refused after all, because a number was not finite.

    That of a user's learner, which need not know of this, stays as it is.
    """
    undo = getattr(outcome, "undone", None)
    return undo() if undo else outcome


class Updated(NamedTuple):
    """The outcome of an update that is never refused."""

    values: dict[str, float] = {}  # noqa: RUF012 (never written to)
    """metrics by name"""

    @property
    def not_finite(self) -> bool:
        """Never."""
        return False

    def metrics(self) -> dict[str, float]:
        """The values."""
        return self.values


class Learner(Protocol):
    """A meta-learner: pure functions of its state and of the data. It never sees an environment.

    Attributes:
        policy: what it trains: the policy that it was made with, or one built on it.
    """

    policy: Policy

    def init(self, params: Params) -> LearnerState:
        """The state before the first meta-iteration, from the initial parameters of the policy.

        All of it, also what an optimiser remembers: the states that follow have the same structure, shapes and types,
        and a checkpoint is read back into this one.
        """
        ...

    def start(self, meta: MetaParams) -> Params:
        """Parameters before adaptation, shared by all tasks; most often `meta.init`.

        The tensors of `meta.init` themselves, and constants besides: what is computed from `meta` belongs into `adapt`,
        whose derivative is known.
        """
        ...

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """Inner step `step` (from 0) on every task, from `params`; its step sizes times `scale`."""
        ...

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, Outcome]:
        """One meta-update, and what became of it."""
        ...


def with_anneal_iterations(settings: Any, config: Config) -> Any:
    """A learner's own settings with the meta-updates that something falls over, also where these are the run's."""
    return dataclasses.replace(settings, anneal_iterations=settings.anneal_iterations or config.iterations)
