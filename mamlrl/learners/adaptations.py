"""How learners adapt to a task: the start, and the inner steps from there. One of these is a part of every learner."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

import torch

from mamlrl.adaptation import InnerStep, inner_step
from mamlrl.config import AdaptationConfig
from mamlrl.objectives import EXAMPLE_LOSSES, INNER_LOSSES
from mamlrl.policies.base import Policy
from mamlrl.structs import Data, MetaParams, Params


class Adapts(Protocol):
    """From what is meta-learned to the parameters of each task; a part of every learner, and learners have it too.

    Attributes:
        policy: whose parameters adapt.
    """

    policy: Policy

    def start(self, meta: MetaParams) -> Params:
        """Parameters before adaptation, shared by all tasks."""
        ...

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """Inner step `step` (from 0) on every task, from `params`; its step sizes times `scale`."""
        ...


class Adaptation(Adapts, Protocol):
    """How to adapt, and what is meta-learned for it."""

    def init(self, params: Params) -> MetaParams:
        """What is meta-learned, at the start of training, from the initial parameters of the policy."""
        ...


class GradientSteps:
    """Gradient steps of one size from the meta-learned initialisation (Finn et al. 2017).

    Args:
        policy: the policy.
        settings: step size and inner loss.
        first_order: take the derivative of each step as the identity.
        leaves: the parameters that adapt; None for all.
    """

    def __init__(
        self, policy: Policy, settings: AdaptationConfig, first_order: bool = False, leaves: Set[str] | None = None
    ):
        self.policy = policy
        self._step_size, self._loss = settings.step_size, (INNER_LOSSES | EXAMPLE_LOSSES)[settings.inner_loss]
        self._first_order, self._leaves = first_order, leaves

    def init(self, params: Params) -> MetaParams:
        """The policy's initial parameters."""
        return MetaParams(params)

    def start(self, meta: MetaParams) -> Params:
        """Theta."""
        return meta.init

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """One gradient step on every task."""
        sizes = dict.fromkeys(params if self._leaves is None else self._leaves, self._step_size)
        return inner_step(self.policy, params, batch, self._loss, sizes, scale, self._first_order)


class LearnedSteps(GradientSteps):
    """Gradient steps whose sizes are meta-learned with the initialisation, from the configured size on.

    Args:
        policy: the policy.
        settings: initial step size and inner loss.
        per_parameter: a step size for each parameter (Meta-SGD); else one for each leaf (MAML++).
        entries: inner steps with step sizes of their own; later ones share the last.
        first_order: take the derivative of each step in the parameters as the identity.
        leaves: the parameters that adapt; None for all.
    """

    def __init__(
        self,
        policy: Policy,
        settings: AdaptationConfig,
        per_parameter: bool,
        entries: int = 1,
        first_order: bool = False,
        leaves: Set[str] | None = None,
    ):
        super().__init__(policy, settings, first_order, leaves)
        self._per_parameter, self._entries = per_parameter, entries

    def init(self, params: Params) -> MetaParams:
        """The policy's initial parameters, and step sizes."""
        sizes = {
            name: torch.full_like(leaf if self._per_parameter else leaf.new_empty(()), self._step_size)
            for name, leaf in params.items()
            if self._leaves is None or name in self._leaves
        }
        return MetaParams(params, (sizes,) * self._entries)

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """One gradient step on every task, with the sizes learned for it."""
        sizes = meta.step_sizes_of(step)
        return inner_step(self.policy, params, batch, self._loss, sizes, scale, self._first_order)


class FromZero(GradientSteps):
    """Gradient steps of some leaves that begin with zero on every task and are not meta-learned (CAVIA's context).

    Args:
        policy: the policy.
        settings: step size and inner loss.
        leaves: the parameters that begin with zero; they alone adapt.
    """

    def __init__(self, policy: Policy, settings: AdaptationConfig, leaves: Set[str]):
        super().__init__(policy, settings, leaves=leaves)
        self._shapes = {
            name: leaf.shape for name, leaf in policy.init_params(torch.Generator()).items() if name in leaves
        }

    def init(self, params: Params) -> MetaParams:
        """The policy's initial parameters but for those that begin with zero."""
        return MetaParams({name: leaf for name, leaf in params.items() if name not in self._shapes})

    def start(self, meta: MetaParams) -> Params:
        """Theta, and zeros."""
        leaf = next(iter(meta.init.values()))
        return {**meta.init, **{name: leaf.new_zeros(shape) for name, shape in self._shapes.items()}}
