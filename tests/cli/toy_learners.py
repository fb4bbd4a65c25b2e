"""Learners and networks of the tests' own, named as ``tests.cli.toy_learners:Name``; some of them misbehave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep, inner_step
from mamlrl.config import Config, PolicyConfig
from mamlrl.learners.base import LearnerState, Updated
from mamlrl.objectives import INNER_LOSSES, mean_params_over_tasks
from mamlrl.policies.base import Policy
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params


@dataclass(frozen=True)
class ReptileSettings:
    rate: float = 0.5
    """Share of the way to the adapted parameters."""
    added: int = 3
    """As if a later version had added it."""


class Reptile:
    """As in the README: theta + rate * (mean of the adapted parameters - theta)."""

    Settings = ReptileSettings

    def __init__(self, policy: Policy, config: Config, settings: ReptileSettings):
        self.policy, self._rate, self._step_size = policy, settings.rate, config.adaptation.step_size
        self._loss = INNER_LOSSES[config.adaptation.inner_loss]

    def init(self, params: Params) -> LearnerState:
        return LearnerState(MetaParams(params))

    def start(self, meta: MetaParams) -> Params:
        return meta.init

    def adapt(self, meta: MetaParams, params: Params, batch: Batch, step: int = 0, scale: float = 1.0) -> InnerStep:
        return inner_step(self.policy, params, batch, self._loss, self._step_size, scale)

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, Updated]:
        theta = phi = self.start(state.meta)
        for step, batch in enumerate((*meta_batch.support, meta_batch.query)):
            phi = self.adapt(state.meta, phi, batch, step).params
        target = mean_params_over_tasks(phi)
        theta = {name: leaf + self._rate * (target[name] - leaf) for name, leaf in theta.items()}
        return LearnerState(MetaParams(theta)), Updated()


@dataclass(frozen=True)
class RequiredSettings(ReptileSettings):
    goal: str = field(kw_only=True)


class NeedsASetting(Reptile):
    Settings = RequiredSettings


class PlainSettings:
    rate = 0.5


class SettingsOfAnotherKind(Reptile):
    Settings = PlainSettings


@dataclass(frozen=True)
class PickySettings(ReptileSettings):
    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ValueError(f"rate is {self.rate};\nit must be at most 1")


class Picky(Reptile):
    Settings = PickySettings


@dataclass(frozen=True)
class UnknownTypeSettings:
    rate: NoSuchType = 0.5  # type: ignore[name-defined] # noqa: F821


class SettingsOfNoType(Reptile):
    Settings = UnknownTypeSettings


@dataclass(frozen=True)
class OpaqueSettings(ReptileSettings):
    place: object = object()


class SettingsThatNoFileHolds(Reptile):
    Settings = OpaqueSettings


class Moments(NamedTuple):
    first: Tensor
    updates: int


class LateMoments(Reptile):
    """An optimiser that remembers nothing before its first step."""

    def meta_step(
        self, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator
    ) -> tuple[LearnerState, Updated]:
        moved, outcome = super().meta_step(state, meta_batch, generator)
        before = state.optimiser or Moments(torch.zeros(2), 0)
        return LearnerState(moved.meta, before._replace(updates=before.updates + 1)), outcome


class EarlyMoments(LateMoments):
    def init(self, params: Params) -> LearnerState:
        return LearnerState(MetaParams(params), Moments(torch.zeros(2), 0))


class Linear:
    """The simplest network; those below give what they must not."""

    surplus = 0

    def __init__(self, config: PolicyConfig, observation_dim: int, num_outputs: int):
        self._shape = observation_dim, num_outputs + self.surplus

    def init_params(self, generator: torch.Generator) -> Params:
        return {"weight": torch.zeros(self._shape)}

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        return torch.einsum("mbto,moz->mbtz", observations, params["weight"])


class TooManyOutputs(Linear):
    surplus = 1


class NoTime(Linear):
    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        return super().outputs(params, observations).flatten(1, 2)


class WholeNumbers(Linear):
    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        return super().outputs(params, observations).long()


class NumpyNetwork(Linear):
    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        return super().outputs(params, observations).numpy()


class Failing(Linear):
    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        assert observations.shape[-1] == 7, "seven\nobservations"
        return observations


class NoParameters(Linear):
    def init_params(self, generator: torch.Generator) -> Params:
        return {}
