"""RL2 (Duan et al. 2016; Wang et al. 2016): a recurrent policy that learns within a trial, by its memory alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep
from mamlrl.config import Config
from mamlrl.config.schema import require
from mamlrl.errors import ConfigError, UserError
from mamlrl.learners.base import LearnerState, Outcome
from mamlrl.learners.gradient import Measured
from mamlrl.learners.trials import Draws, Terms, TrialObjective
from mamlrl.outer import OuterStep, make_outer
from mamlrl.outer.descent import Descent, cosine
from mamlrl.policies.base import Policy
from mamlrl.policies.recurrent import RecurrentPolicy
from mamlrl.policies.values import WithValues
from mamlrl.structs import Data, MetaBatch, MetaParams, Params, cloned, flatten, unflatten

PASSES = 3
"""Of Adam through the trials of an iteration, where the settings do not say how many updates there are."""


@dataclass(frozen=True)
class RL2Settings:
    """Settings of the learner rl2."""

    baseline: Literal["auto", "value", "own_value", "time", "linear"] = "auto"
    """What returns are compared with: value, a value function on the policy's recurrent layer; own_value, one with a
    recurrent network of its own; time, the mean return of all trials at the same time step; linear, a regression on
    observation and time. auto takes value with Adam and time with a trust region, which takes no value function."""
    value_weight: float = 0.5
    """Factor on the squared error of the value function."""
    prediction_weight: float = 1.0
    """Factor on the mean squared error of predictions, where `sampling.predicted_infos` names some."""
    entropy: float = 0.02
    """Factor on the policy's entropy, nats, which is added to what is to grow."""
    final_entropy: float = 0.0
    """Factor to which it falls along a half cosine."""
    anneal_iterations: int = 0
    """Meta-updates over which it falls; afterwards it stays. 0 takes the `iterations` that the run begins with, which
    it stores."""
    minibatches: int = 4
    """Shares of the trials that Adam's updates are taken on in turn; with adam.updates 0 each of them 3 times. Not
    more than there are trials."""

    def __post_init__(self) -> None:
        for name in ("value_weight", "prediction_weight", "entropy", "final_entropy"):
            value = getattr(self, name)
            require(0 <= value <= 1e6, f"learner_settings.{name}", value, "in [0, 1e6]")
        for name, least in (("anneal_iterations", 0), ("minibatches", 1)):
            value = getattr(self, name)
            require(least <= value <= 10**9, f"learner_settings.{name}", value, f"in [{least}, {10**9}]")


class Counted(NamedTuple):
    """An outer step that counts how often it was taken, as Adam does by itself."""

    outer: OuterStep

    def init(self, point: Tensor) -> dict[str, Any]:
        """None so far."""
        return {"done": torch.zeros(()), "outer": self.outer.init(point)}

    def step(self, objective: Any, memory: dict[str, Any]) -> tuple[Tensor, dict[str, Any], Any]:
        """The step; one that is refused does not count."""
        point, outer, outcome = self.outer.step(objective, memory["outer"])
        return point, memory if point is objective.point else {"done": memory["done"] + 1, "outer": outer}, outcome


class RL2:
    """theta <- outer step on the surrogate over whole trials.

    Args:
        policy: with its value function and predictions.
        config: of the run: discount, lambda, the outer step.
        settings: its own.
    """

    def __init__(self, policy: WithValues, config: Config, settings: RL2Settings):
        self.policy: Policy = policy
        self._policy, self._config, self._settings = policy, config, settings
        self._outer: OuterStep = _outer(config, settings)

    def init(self, params: Params) -> LearnerState:
        """The policy's initial parameters, and an outer step that remembers nothing yet."""
        meta = MetaParams(params)
        return LearnerState(meta, self._outer.init(flatten(meta, meta)))

    def start(self, meta: MetaParams) -> Params:
        """Theta."""
        return meta.init

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """There is no inner step.

        Raises:
            UserError: always.
        """
        raise UserError("learner rl2 takes no gradient steps: its policy adapts by its memory, within a trial")

    def objective(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator | None = None
    ) -> TrialObjective:
        """What the outer step lowers, built where the state is; on minibatches of trials if there is a generator."""
        config, settings = self._config, self._settings
        adam = config.outer == "adam"
        done = int(state.optimiser["done"])
        entropy = cosine(settings.entropy, settings.final_entropy, settings.anneal_iterations, done)
        terms = Terms(
            baseline=_baseline(config, settings),
            clip=config.adam.clip if adam else None,
            value_weight=settings.value_weight,
            entropy=entropy,
            prediction_weight=settings.prediction_weight,
        )
        minibatches = settings.minibatches if adam and generator is not None else 1
        draws = Draws(minibatches, config.trust_region.curvature_fraction, generator)
        return TrialObjective(self._policy, state.meta, meta_batch, terms, config.sampling, draws)

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, Outcome]:
        """One outer step; the old state where it is refused."""
        objective = self.objective(state, meta_batch, generator)
        point, memory, outcome = self._outer.step(objective, state.optimiser)
        measures = {"baseline/explained_variance": objective.credit.explained_variance}
        if objective.predictions_explained is not None:
            measures["prediction/explained_variance"] = objective.predictions_explained
        return LearnerState(cloned(unflatten(point, state.meta)), memory), Measured(outcome, measures)


def _baseline(config: Config, settings: RL2Settings) -> Literal["value", "own_value", "time", "linear"]:
    if settings.baseline == "auto":
        return "value" if config.outer == "adam" else "time"
    return settings.baseline


def _outer(config: Config, settings: RL2Settings) -> OuterStep:
    """Adam on minibatches of trials, or a trust region that counts."""
    outer = make_outer(config)
    if not isinstance(outer, Descent):
        return Counted(outer)
    minibatches = min(settings.minibatches, config.sampling.tasks * config.sampling.rollouts)
    updates = config.adam.updates or PASSES * minibatches
    return dataclasses.replace(outer, updates=updates, on_minibatches=settings.minibatches > 1)


def make_rl2(policy: Policy, config: Config, settings: RL2Settings) -> RL2:
    """Policy gradient over trials of several episodes, through which the policy remembers.

        loss = -E[ min(r A, clip(r) A) ] - entropy H + value_weight E[(V - target)^2]
             + prediction_weight E[mean (p - i)^2]

    over the time steps of whole trials; with a trust region without the clip. Advantages A are discounted over the ends
    of episodes: what an episode finds out pays in the later ones. Predictions p are of numbers i in the environment's
    info, an auxiliary loss (Jaderberg et al. 2017; Mirowski et al. 2017).

    Raises:
        ConfigError: the policy is not one of the package's recurrent ones, the outer step takes no value function or no
            predictions, or a preconditioner is asked for.
    """
    if not isinstance(policy, RecurrentPolicy):
        raise ConfigError(f"learner rl2 needs a recurrent policy of the package; it got a {type(policy).__name__}")
    if config.outer == "trust_region" and config.trust_region.preconditioner != "none":
        raise ConfigError(
            f"trust_region.preconditioner is {config.trust_region.preconditioner!r}, which knows no recurrent layers; "
            "with learner rl2 it must be none"
        )
    baseline, predictions = _baseline(config, settings), len(config.sampling.predicted_infos)
    if predictions and config.outer != "adam":
        raise ConfigError(
            f"sampling.predicted_infos is {list(config.sampling.predicted_infos)}; a trust region does not bound "
            f"predictions, so that with outer {config.outer} it must be empty"
        )
    if baseline in ("value", "own_value"):
        if config.outer != "adam":
            raise ConfigError(
                f"learner_settings.baseline is {baseline!r}, which a trust region does not bound; with outer "
                f"{config.outer} it must be time or linear"
            )
        return RL2(WithValues(policy, baseline, predictions), config, settings)
    return RL2(WithValues(policy, "", predictions), config, settings)
