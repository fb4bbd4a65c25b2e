"""Learners and a network of the tests' own, named from outside of the package as ``tests.core.outside:Name``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep, inner_step
from mamlrl.config import Config, PolicyConfig
from mamlrl.learners.base import LearnerState
from mamlrl.learners.maml import MAML
from mamlrl.objectives import INNER_LOSSES
from mamlrl.outer.trust_region import TrustRegionOutcome
from mamlrl.policies.base import Policy
from mamlrl.policies.context import CONTEXT, ContextPolicy
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params


@dataclass(frozen=True)
class StepSizeSettings:
    entries: int = 2
    per_parameter: bool = True
    only: tuple[str, ...] = ()


class LearnedSteps(MAML):
    """Step sizes meta-learned with the initialisation (as Meta-SGD), for each inner step or for all of them.

    It has an optimiser state besides, so that one is carried through everything.
    """

    Settings = StepSizeSettings

    def __init__(self, policy: Policy, config: Config, settings: StepSizeSettings):
        super().__init__(policy, config)
        self._settings, self._initial = settings, config.adaptation.step_size
        self._loss = INNER_LOSSES[config.adaptation.inner_loss]

    def init(self, params: Params) -> LearnerState:
        own = self._settings
        sizes = {
            name: torch.full_like(leaf if own.per_parameter else leaf.new_zeros(()), self._initial)
            for name, leaf in params.items()
            if name in (own.only or params)
        }
        optimiser = {"updates": 0, "moments": ({"first": torch.zeros(3), "second": (torch.ones(()), 0.5)}, [1, 2.5])}
        return LearnerState(MetaParams(params, (sizes,) * own.entries), optimiser)

    def adapt(self, meta: MetaParams, params: Params, batch: Batch, step: int = 0, scale: float = 1.0) -> InnerStep:
        return inner_step(self.policy, params, batch, self._loss, meta.step_sizes_of(step), scale)

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, TrustRegionOutcome]:
        moved, outcome = super().meta_step(state, meta_batch, generator)
        if outcome.accepted:
            moved = moved._replace(optimiser={**moved.optimiser, "updates": moved.optimiser["updates"] + 1})
        return moved, outcome


class ZeroContext(MAML):
    """Only a context adapts, from zero for every task (as CAVIA): `start` adds a leaf that is not meta-learned."""

    def __init__(self, policy: Policy, config: Config, settings: object = None):
        super().__init__(ContextPolicy(policy, 2), config, leaves=frozenset({CONTEXT}))

    def init(self, params: Params) -> LearnerState:
        return LearnerState(MetaParams({name: leaf for name, leaf in params.items() if name != CONTEXT}))

    def start(self, meta: MetaParams) -> Params:
        return {CONTEXT: next(iter(meta.init.values())).new_zeros(2), **meta.init}


class HeadOnly(MAML):
    """Overrides `adapt` alone: only the leaves of the last layer adapt."""

    def __init__(self, policy: Policy, config: Config, settings: object = None):
        super().__init__(policy, config)
        self._size, self._loss = config.adaptation.step_size, INNER_LOSSES[config.adaptation.inner_loss]

    def adapt(self, meta: MetaParams, params: Params, batch: Batch, step: int = 0, scale: float = 1.0) -> InnerStep:
        sizes = {name: 2 * self._size for name in list(params)[-2:]}
        return inner_step(self.policy, params, batch, self._loss, sizes, scale)


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
