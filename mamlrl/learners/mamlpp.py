"""MAML++ (Antoniou, Edwards, Storkey 2019): MAML with what makes its training steadier."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mamlrl.adaptation import InnerStep, LossAtPoint, with_products
from mamlrl.config import AdaptationConfig, Config
from mamlrl.config.schema import require
from mamlrl.learners.adaptations import LearnedSteps
from mamlrl.learners.base import LearnerState, Outcome
from mamlrl.learners.gradient import GradientLearner, gradient_learner, query_loss
from mamlrl.learners.maml import step_sizes
from mamlrl.learners.objective import Losses, weighted
from mamlrl.outer import adam, sgd
from mamlrl.outer.descent import cosine
from mamlrl.policies.base import Policy
from mamlrl.policies.stepwise import StepwisePolicy
from mamlrl.structs import Data, MetaBatch, MetaParams, Params


@dataclass(frozen=True)
class MAMLPPSettings:
    """Settings of the learner mamlpp."""

    multi_step_iterations: int = 20
    """Meta-updates after which only the policy after the last inner step counts; before, those after the earlier ones
    do too, less and less."""
    first_order_iterations: int = 10
    """First meta-updates, which take the Jacobian of the inner step as the identity."""
    final_rate: float = 1e-5
    """Step length to which that of the outer step falls along a half cosine, in place of `adam.final_rate`."""
    anneal_iterations: int = 0
    """Meta-updates over which it falls; afterwards it stays. 0 takes the `iterations` that the run begins with, which
    it stores."""

    stepwise_normalization: bool = True
    """Whether scales and shifts of batch normalisation, where a network has them, are others after each inner step:
    meta-learned, and not adapted."""

    def __post_init__(self) -> None:
        for name in ("multi_step_iterations", "first_order_iterations", "anneal_iterations"):
            value = getattr(self, name)
            require(0 <= value <= 10**9, f"learner_settings.{name}", value, f"in [0, {10**9}]")
        require(0 < self.final_rate <= 1e30, "learner_settings.final_rate", self.final_rate, "positive")


def step_weights(steps: int, iterations: int, done: int) -> list[float]:
    """Weights of the losses after inner step 1 ... K: equal at first, after `iterations` of the last alone.

    Antoniou et al. 2019, section 4, multi-step loss optimisation. They sum to one.
    """
    earlier = max(0.0, 1 - done / iterations) / steps if iterations else 0.0
    return [earlier] * (steps - 1) + [1 - (steps - 1) * earlier]


class StepwiseNormalization(LearnedSteps):
    """Gradient steps on all leaves but those of batch normalisation, which take other values after each step.

    Antoniou et al. 2019, section 4, per-step batch normalisation weights and biases.

    Args:
        policy: holds those values.
        settings: initial step size and inner loss.
        entries: inner steps with step sizes of their own.
        first_order: take the derivative of each step in the parameters as the identity.
    """

    def __init__(self, policy: StepwisePolicy, settings: AdaptationConfig, entries: int, first_order: bool):
        held = {name for name in policy.init_params(torch.Generator()) if name.partition(".")[0] in policy.names}
        adapting = frozenset(policy.init_params(torch.Generator())) - held
        super().__init__(policy, settings, False, entries, first_order, adapting)
        self._stepwise = policy

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """One gradient step on every task, and the next values of normalisation."""
        return SwitchedStep(super().adapt(meta, params, batch, step, scale), self._stepwise.after(step))


@dataclass(frozen=True)
class SwitchedStep:
    """An inner step after which some leaves take the values of others.

    Args:
        step: the step.
        source: by leaf the name of that whose value it takes.
    """

    step: InnerStep
    source: Mapping[str, str]

    @property
    def start(self) -> Params:
        """Phi."""
        return self.step.start

    @property
    def loss(self) -> LossAtPoint:
        """The inner loss at phi."""
        return self.step.loss

    @property
    def first_order(self) -> bool:
        """Whether the derivative of the step is taken as the identity."""
        return getattr(self.step, "first_order", False)

    def with_products(self) -> SwitchedStep:
        """The same step, with products with its derivative in view."""
        return dataclasses.replace(self, step=with_products(self.step))

    @property
    def params(self) -> Params:
        """Phi'."""
        return self._switched(self.step.params)

    def pushforward(self, tangent: Params, size_tangent: Params | None = None) -> Params:
        """How phi' follows a change of phi and of the step sizes."""
        return self._switched(self.step.pushforward(tangent, size_tangent))

    def pullback(self, cotangent: Params) -> Params:
        """The transpose of `pushforward` in phi, per task."""
        return self.step.pullback(self._back(cotangent))

    def pullback_to_sizes(self, cotangent: Params) -> Params:
        """The transpose of `pushforward` in the step sizes, per task."""
        return self.step.pullback_to_sizes(self._back(cotangent))

    def _switched(self, params: Params) -> Params:
        return {name: params[self.source.get(name, name)] for name in params}

    def _back(self, cotangent: Params) -> Params:
        result = {name: torch.zeros_like(leaf) if name in self.source else leaf for name, leaf in cotangent.items()}
        for name, source in self.source.items():
            result[source] = result[source] + cotangent[name]
        return result


class MAMLPP:
    """Two learners in turn: the first-order one, then the exact one, which share a state.

    Args:
        first_order: the learner of the first meta-updates.
        exact: the learner afterwards.
        switch: meta-updates that the first one makes.
    """

    def __init__(self, first_order: GradientLearner, exact: GradientLearner, switch: int):
        self.policy = exact.policy
        self._first_order, self._exact, self._switch = first_order, exact, switch

    def init(self, params: Params) -> LearnerState:
        """The policy's initial parameters and step sizes."""
        return self._exact.init(params)

    def start(self, meta: MetaParams) -> Params:
        """Theta."""
        return self._exact.start(meta)

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """One gradient step on every task, with the sizes learned for it."""
        return self._exact.adapt(meta, params, batch, step, scale)

    def _learner(self, state: LearnerState) -> GradientLearner:
        return self._first_order if updates_done(state) < self._switch else self._exact

    def objective(self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator | None = None) -> object:
        """That of the learner whose turn it is."""
        return self._learner(state).objective(state, meta_batch, generator)

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, Outcome]:
        """An outer step of the learner whose turn it is."""
        return self._learner(state).meta_step(state, meta_batch, generator)


def updates_done(state: LearnerState) -> int:
    """Meta-updates so far, as the outer step remembers them."""
    return int(state.optimiser["done"])


def make_mamlpp(policy: Policy, config: Config, settings: MAMLPPSettings) -> MAMLPP:
    """Step sizes per leaf and inner step, annealed multi-step loss, annealed first order, annealed outer step.

    Where the network has batch normalisation, its scales and shifts are others after each inner step.
    """
    query, steps = query_loss(config), config.adaptation.steps
    horizon = settings.anneal_iterations

    def losses(state: LearnerState, meta_batch: MetaBatch) -> Losses:
        *earlier, last = step_weights(steps, settings.multi_step_iterations, updates_done(state))
        # what was sampled after k inner steps is the query data of those, and the support data of the next; of examples
        # the query data are those of every step
        return Losses(
            weighted(query, last), [None, *(weighted(query, weight) if weight else None for weight in earlier)]
        )

    names = getattr(policy, "normalization", frozenset()) if settings.stepwise_normalization else frozenset()
    stepwise = StepwisePolicy(policy, names, steps) if names else None

    def learner(first_order: bool) -> GradientLearner:
        if stepwise is None:
            adaptation = LearnedSteps(policy, config.adaptation, False, steps, first_order)
        else:
            adaptation = StepwiseNormalization(stepwise, config.adaptation, steps, first_order)
        return gradient_learner(adaptation, config, losses, annealed, step_sizes)

    outer, first = (adam(config), config.adam.rate) if config.outer == "adam" else (sgd(config), config.sgd.rate)
    annealed = dataclasses.replace(outer, rate=lambda done: cosine(first, settings.final_rate, horizon, done))
    return MAMLPP(learner(True), learner(False), settings.first_order_iterations)
