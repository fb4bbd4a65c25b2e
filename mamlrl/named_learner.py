"""A user's learner, whose failures are told with its name and the method, as those of environments are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from mamlrl.adaptation import InnerStep
from mamlrl.errors import LearnerFailure, UserError, described
from mamlrl.learners.base import Learner, LearnerState, Outcome
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params


class NamedLearner:
    """A user's learner; what goes wrong in a method is a LearnerFailure, which says where.

    Args:
        learner: the user's.
        name: as it is given in the settings.
    """

    def __init__(self, learner: Learner, name: str):
        self._learner, self._name, self.policy = learner, name, learner.policy
        objective = getattr(learner, "objective", None)  # a learner need not have one
        if objective is not None:
            self.objective = objective

    def init(self, params: Params) -> LearnerState:
        """The state before the first meta-iteration, unchecked: `experiment.start_learner` says what is wrong."""
        return self._learner.init(params)

    def start(self, meta: MetaParams) -> Params:
        """Parameters before adaptation, as `Learner.start`."""
        with self._naming("start"):
            params = self._learner.start(meta)
            self._check("start", params, isinstance(params, dict), "a dict of parameters")
            return params

    def adapt(self, meta: MetaParams, params: Params, batch: Batch, step: int = 0, scale: float = 1.0) -> InnerStep:
        """An inner step, as `Learner.adapt`."""
        with self._naming("adapt"):
            adapted = self._learner.adapt(meta, params, batch, step, scale)
            # taken here, where a failure is the learner's
            self._check("adapt", adapted, isinstance(getattr(adapted, "params", None), dict), "an InnerStep")
            return adapted

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, Outcome]:
        """One meta-update, as `Learner.meta_step`."""
        with self._naming("meta_step"):
            result = self._learner.meta_step(state, meta_batch, generator)
            fits = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], LearnerState)
            self._check("meta_step", result, fits and hasattr(result[1], "metrics"), "a LearnerState and an Outcome")
            return result

    def _check(self, method: str, value: object, fits: bool, wanted: str) -> None:
        if not fits:
            given = type(value).__name__
            raise LearnerFailure(f"learner {self._name}: {method} returned a {given}; it must return {wanted}")

    @contextlib.contextmanager
    def _naming(self, method: str) -> Iterator[None]:
        try:
            yield
        except (UserError, LearnerFailure):
            raise
        except Exception as error:  # whatever a user's class raises
            raise LearnerFailure(f"learner {self._name}: {method} raised {described(error)}") from error
