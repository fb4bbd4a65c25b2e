"""Learners and a network of the tests' own, named from outside of the package as ``tests.core.outside:Name``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep, inner_step
from mamlrl.config import Config, PolicyConfig
from mamlrl.learners import LearnerRow
from mamlrl.learners.adaptations import GradientSteps
from mamlrl.learners.base import LearnerState
from mamlrl.learners.gradient import GradientLearner, gradient_learner
from mamlrl.learners.objective import AdaptedObjective
from mamlrl.objectives import INNER_LOSSES
from mamlrl.outer.trust_region import TrustRegionOutcome, trust_region_step
from mamlrl.policies.base import Policy
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params, unflatten


@dataclass(frozen=True)
class StepSizeSettings:
    entries: int = 2
    per_parameter: bool = True
    only: tuple[str, ...] = ()


class OwnStepSizes:
    """Stands alone: step sizes of some leaves, meta-learned with the initialisation, and a trust-region step.

    It has an optimiser state besides, so that one is carried through everything.
    """

    Settings = StepSizeSettings

    def __init__(self, policy: Policy, config: Config, settings: StepSizeSettings):
        self.policy, self._config, self._settings = policy, config, settings
        self._loss = INNER_LOSSES[config.adaptation.inner_loss]

    def init(self, params: Params) -> LearnerState:
        own, size = self._settings, self._config.adaptation.step_size
        sizes = {
            name: torch.full_like(leaf if own.per_parameter else leaf.new_zeros(()), size)
            for name, leaf in params.items()
            if name in (own.only or params)
        }
        optimiser = {"updates": 0, "moments": ({"first": torch.zeros(3), "second": (torch.ones(()), 0.5)}, [1, 2.5])}
        return LearnerState(MetaParams(params, (sizes,) * own.entries), optimiser)

    def start(self, meta: MetaParams) -> Params:
        return meta.init

    def adapt(self, meta: MetaParams, params: Params, batch: Batch, step: int = 0, scale: float = 1.0) -> InnerStep:
        return inner_step(self.policy, params, batch, self._loss, meta.step_sizes_of(step), scale)

    def objective(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator | None = None
    ) -> AdaptedObjective:
        return AdaptedObjective(self, state.meta, meta_batch)

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, TrustRegionOutcome]:
        point, outcome = trust_region_step(self.objective(state, meta_batch), self._config.trust_region)
        updates = state.optimiser["updates"] + outcome.accepted
        return LearnerState(unflatten(point, state.meta), {**state.optimiser, "updates": updates}), outcome


class TwoLeaves(GradientSteps):
    """Overrides `adapt` alone: only the last two leaves adapt."""

    def __init__(self, policy: Policy, config: Config):
        super().__init__(policy, config.adaptation)
        self._size, self._loss = config.adaptation.step_size, INNER_LOSSES[config.adaptation.inner_loss]

    def adapt(self, meta: MetaParams, params: Params, batch: Batch, step: int = 0, scale: float = 1.0) -> InnerStep:
        sizes = {name: 2 * self._size for name in list(params)[-2:]}
        return inner_step(self.policy, params, batch, self._loss, sizes, scale)


def make_head_only(policy: Policy, config: Config, settings: Any) -> GradientLearner:
    """Of the package's parts, but for the adaptation."""
    return gradient_learner(TwoLeaves(policy, config), config)


HeadOnly = LearnerRow(make_head_only)


class GatedNetwork:
    """tanh(o G) * (o V) * exp(t) + b: bends in the gate G and in t, is linear in V and b, ignores one leaf."""

    def __init__(self, config: PolicyConfig, observation_dim: int, num_outputs: int):
        self._shapes = {
            "gate": (observation_dim, num_outputs),
            "value": (observation_dim, num_outputs),
            "temperature": (),
            "ignored": (2,),
            "bias": (num_outputs,),
        }

    def init_params(self, generator: torch.Generator) -> Params:
        return {name: 0.3 * torch.randn(shape, generator=generator).float() for name, shape in self._shapes.items()}

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        gate = torch.einsum("mbto,moz->mbtz", observations, params["gate"]).tanh()
        value = torch.einsum("mbto,moz->mbtz", observations, params["value"])
        temperature = params["temperature"].exp()[:, None, None, None]
        return gate * value * temperature + params["bias"][:, None, None]
