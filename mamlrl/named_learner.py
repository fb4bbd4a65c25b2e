"""A user's learner, whose failures are told with its name and the method, as those of environments are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep
from mamlrl.errors import LearnerFailure, UserError, described
from mamlrl.learners.base import Learner, LearnerState, Outcome
from mamlrl.structs import Data, MetaBatch, MetaParams, Params, flatten


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
            self.objective = self._named_objective(objective)

    def _named_objective(self, objective: Callable[..., Any]) -> Callable[..., Any]:
        def named(state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator | None = None) -> Any:
            with self._naming("objective"):
                size = len(flatten(state.meta, state.meta))
                return NamedObjective(objective(state, meta_batch, generator), self._name, size)

        return named

    def init(self, params: Params) -> LearnerState:
        """The state before the first meta-iteration, unchecked: `experiment.start_learner` says what is wrong."""
        return self._learner.init(params)

    def start(self, meta: MetaParams) -> Params:
        """Parameters before adaptation, as `Learner.start`."""
        with self._naming("start"):
            params = self._learner.start(meta)
            self._check("start", params, isinstance(params, dict), "a dict of parameters")
            return params

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
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
            self._check_shapes(state.meta.init, result[0].meta.init)
            return result

    def _check_shapes(self, before: Params, after: Params) -> None:
        for name in (*before, *after):
            wanted, given = (list(params[name].shape) if name in params else None for params in (before, after))
            if given != wanted:
                told = f"{name} of shape {given}; it must be {wanted}"
                raise LearnerFailure(f"learner {self._name}: meta_step returned {told}")

    def _check(self, method: str, value: object, fits: bool, wanted: str) -> None:
        check_returned(self._name, method, value, fits, wanted)

    def _naming(self, method: str) -> contextlib.AbstractContextManager[None]:
        return naming(self._name, method)


class NamedObjective:
    """A user's objective: what goes wrong in its gradient is told with the name of its learner.

    Args:
        objective: the user's.
        name: of the learner.
        size: D.
    """

    def __init__(self, objective: Any, name: str, size: int):
        self._objective, self._name, self._size = objective, name, size

    def loss_and_gradient(self, *point: Tensor) -> tuple[float, Tensor]:
        """As `mamlrl.outer.objective.Objective`."""
        with naming(self._name, "loss_and_gradient of objective"):
            result = self._objective.loss_and_gradient(*point)
            gradient = result[1] if isinstance(result, tuple) and len(result) == 2 else None
            fits = isinstance(gradient, Tensor) and list(gradient.shape) == [self._size]
            wanted = f"the loss and a gradient of shape [{self._size}]"
            check_returned(self._name, "loss_and_gradient of objective", result, fits, wanted)
            return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


def check_returned(learner: str, method: str, value: object, fits: bool, wanted: str) -> None:
    """What a method of a user's learner returned.

    Raises:
        LearnerFailure: it does not fit.
    """
    if not fits:
        raise LearnerFailure(f"learner {learner}: {method} returned a {type(value).__name__}; it must return {wanted}")


@contextlib.contextmanager
def naming(learner: str, method: str) -> Iterator[None]:
    """Whatever a method of a user's learner raises becomes a LearnerFailure."""
    try:
        yield
    except (UserError, LearnerFailure):
        raise
    except Exception as error:  # whatever a user's class raises
        raise LearnerFailure(f"learner {learner}: {method} raised {described(error)}") from error
