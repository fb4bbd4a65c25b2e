"""Learners that follow a meta-gradient: an adaptation, an objective on what it leads to, and an outer step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from mamlrl.adaptation import InnerStep
from mamlrl.config import Config
from mamlrl.distributions import Distribution
from mamlrl.errors import ConfigError
from mamlrl.learners.adaptations import Adaptation
from mamlrl.learners.base import LearnerState, Outcome, Refused, undone
from mamlrl.learners.chunks import in_chunks
from mamlrl.learners.objective import (
    AdaptedObjective,
    Losses,
    ObjectiveOf,
    Path,
    RoundLoss,
    draw_share,
    surrogate,
)
from mamlrl.objectives import EXAMPLE_LOSSES, INNER_LOSSES, Loss, clipped_loss, with_derivatives_of
from mamlrl.outer import OuterStep, make_outer
from mamlrl.policies.base import Policy, tells_factors
from mamlrl.structs import Batch, Data, MetaBatch, MetaParams, Params, cloned, flatten, unflatten

LossesOf = Callable[[LearnerState, MetaBatch], Losses]
"""What a learner lowers, given its state and the data."""


class Measured(NamedTuple):
    """An outcome, and what a learner tells besides."""

    outcome: Outcome
    measures: dict[str, float]

    @property
    def not_finite(self) -> bool:
        """That of the outcome."""
        return self.outcome.not_finite

    @property
    def refused(self) -> str | None:
        """That of the outcome, if it has one."""
        return getattr(self.outcome, "refused", None)

    def undone(self) -> Measured:
        """The same measures of a step that was not taken."""
        return self._replace(outcome=undone(self.outcome))

    def metrics(self) -> dict[str, float]:
        """Both."""
        return {**self.outcome.metrics(), **self.measures}


class GradientLearner:
    """theta <- outer step on the objective of the adapted policies.

    Args:
        adaptation: how it adapts.
        objective: what the outer step lowers.
        outer: how it moves.
        measure: what else is to be told of the way from theta to the adapted parameters.
        refuse: why there is to be no step from there, None where there is to be one; asked before the step, and again
            when its products with the derivatives have been taken.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        objective: ObjectiveOf,
        outer: OuterStep,
        measure: Callable[[Path], dict[str, float]] | None = None,
        refuse: Callable[[Path], str | None] | None = None,
    ):
        self.policy = adaptation.policy
        self._adaptation, self._objective, self._outer = adaptation, objective, outer
        self._measure, self._refuse = measure, refuse

    def init(self, params: Params) -> LearnerState:
        """What the adaptation begins with, and an outer step that remembers nothing yet."""
        meta = self._adaptation.init(params)
        return LearnerState(meta, self._outer.init(flatten(meta, meta)))

    def start(self, meta: MetaParams) -> Params:
        """That of the adaptation."""
        return self._adaptation.start(meta)

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """That of the adaptation."""
        return self._adaptation.adapt(meta, params, batch, step, scale)

    def objective(self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator | None = None) -> Any:
        """What the outer step lowers, built where the state is."""
        return self._objective(self._adaptation, state, meta_batch, generator)

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, Outcome]:
        """One outer step on the objective; the old state where it is refused."""
        objective = self.objective(state, meta_batch, generator)
        after, outcome = self._step(objective, state)
        if self._measure:
            outcome = Measured(outcome, self._measure(objective.path))
        return after, outcome

    def _step(self, objective: Any, state: LearnerState) -> tuple[LearnerState, Outcome]:
        """The outer step, unless there is a reason against it: before, or from what came up on the way."""
        if self._refuse and (reason := self._refuse(objective.path)):
            return state, Refused(reason)
        point, memory, outcome = self._outer.step(objective, state.optimiser)
        if self._refuse and not outcome.not_finite and (reason := self._refuse(objective.path)):
            return state, Refused(reason)
        # in memory of its own, as that of a resumed run is: last bits of a product depend on where its factors begin
        return LearnerState(cloned(unflatten(point, state.meta)), memory), outcome


def gradient_learner(
    adaptation: Adaptation,
    config: Config,
    losses: LossesOf | None = None,
    outer: OuterStep | None = None,
    measure: Callable[[Path], dict[str, float]] | None = None,
    refuse: Callable[[Path], str | None] | None = None,
) -> GradientLearner:
    """A learner that lowers losses along the adaptation.

    Args:
        adaptation: how it adapts.
        config: names the outer step, and has its settings.
        losses: what it lowers; None for the query loss of the outer step alone.
        outer: how it moves, in place of the outer step of `config`.
        measure: what else is to be told; with `data.chunk` of a path without its steps.
        refuse: why there is to be no step, if so.

    Raises:
        ConfigError: the network has no factors for the preconditioner, or `data.chunk` is set where the outer step or
            `refuse` looks at all tasks.
    """
    if refuse and config.data.chunk:
        raise ConfigError(
            f"data.chunk is {config.data.chunk}; with learner {config.learner}, which looks at the inner steps of all "
            "tasks before it moves, it must be 0"
        )
    check_preconditioner(adaptation.policy, config)
    losses = losses or (lambda state, meta_batch: Losses(query_loss(config)))
    fraction = config.trust_region.curvature_fraction if config.outer == "trust_region" else 1.0

    def objective(
        adaptation: Adaptation, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator | None
    ) -> AdaptedObjective:
        whose = {"fraction": fraction, "generator": generator, "first": meta_batch.first_task}
        drawn = partial(draw_share, **whose) if fraction < 1 else None
        return AdaptedObjective(adaptation, state.meta, meta_batch, losses(state, meta_batch), drawn)

    return GradientLearner(adaptation, in_chunks(objective, config), outer or make_outer(config), measure, refuse)


def check_preconditioner(policy: Policy, config: Config) -> None:
    """The Kronecker factors come from the network.

    Raises:
        ConfigError: it tells none.
    """
    if config.outer == "trust_region" and config.trust_region.preconditioner == "kronecker":
        if not tells_factors(policy):
            raise ConfigError(
                f"trust_region.preconditioner is 'kronecker', and policy.network {config.policy.network!r} does not "
                "tell the factors of its layers; take none, or a network of gaussian_mlp or categorical_mlp"
            )


def query_loss(config: Config) -> RoundLoss:
    """The loss on the data of the adapted policies, as goes with the inner loss."""
    return QUERY_LOSSES[config.adaptation.inner_loss](config)


def _of_rollouts(config: Config) -> RoundLoss:
    """The surrogate, clipped where several steps are taken on the rollouts without a bound."""
    return partial(clipped_surrogate, clip=config.adam.clip) if config.outer == "adam" else surrogate


def _of_examples(loss: Loss, config: Config) -> RoundLoss:
    """The inner loss itself."""
    return with_derivatives_of(loss, partial(_as_round_loss, loss=loss))


def _as_round_loss(
    distribution: Distribution, outputs: torch.Tensor, batch: Data, built: torch.Tensor, loss: Loss
) -> torch.Tensor:
    return loss(distribution, outputs, batch)


def clipped_surrogate(
    distribution: Distribution, outputs: torch.Tensor, batch: Batch, built: torch.Tensor, clip: float
) -> torch.Tensor:
    """`clipped_loss` as a `RoundLoss`."""
    return clipped_loss(distribution, outputs, batch, clip)


QUERY_LOSSES: dict[str, Callable[[Config], RoundLoss]] = {
    **dict.fromkeys(INNER_LOSSES, _of_rollouts),
    **{name: partial(_of_examples, loss) for name, loss in EXAMPLE_LOSSES.items()},
}
"""Which loss is taken on the query data, by the inner loss."""
