"""Adaptation without a gradient: some parameters are computed from the examples and from the other parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep, LossAtPoint, loss_at
from mamlrl.config import AdaptationConfig
from mamlrl.objectives import EXAMPLE_LOSSES, Loss
from mamlrl.policies.base import Policy
from mamlrl.structs import Data, MetaParams, Params, stack

Fill = Callable[[Params, Data], Params]
"""(parameters, each stacked for M tasks or shared, data) -> other leaves, stacked; differentiable"""


class Filled:
    """Leaves that are not meta-learned: constants before adaptation, and then a function of the others and of the data.

    Args:
        policy: the predictor.
        settings: names the inner loss.
        empty: the leaves before adaptation.
        fill: what they are afterwards; it reads none of them.
    """

    def __init__(self, policy: Policy, settings: AdaptationConfig, empty: Params, fill: Fill):
        self.policy = policy
        self._loss, self._empty, self._fill = EXAMPLE_LOSSES[settings.inner_loss], empty, fill
        params = policy.init_params(torch.Generator())
        self._shapes = {name: tuple(leaf.shape) for name, leaf in params.items() if name not in empty}

    def init(self, params: Params) -> MetaParams:
        """The policy's initial parameters but for those that are filled."""
        return MetaParams({name: params[name] for name in self._shapes})

    def start(self, meta: MetaParams) -> Params:
        """Theta, and the constants."""
        leaf = next(iter(meta.init.values()))
        return {**meta.init, **{name: value.to(leaf) for name, value in self._empty.items()}}

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """Fill the leaves, whatever they were: a second step on the same data changes nothing."""
        return FilledStep(self.policy, params, batch, self._loss, self._shapes, self._fill)


@dataclass(frozen=True)
class FilledStep:
    """Phi' is phi with psi = f(rest of phi, data) in some leaves; its derivative is that of f.

    Args:
        policy: the predictor.
        start: phi, shared or stacked.
        batch: data of M tasks.
        inner_loss: of them.
        shapes: of the leaves that stay, without a leading M.
        fill: f.
    """

    policy: Policy
    start: Params
    batch: Data
    inner_loss: Loss
    shapes: Mapping[str, tuple[int, ...]]
    fill: Fill

    @cached_property
    def _loss(self) -> LossAtPoint:
        return loss_at(self.policy, self.start, self.batch, self.inner_loss)

    @property
    def loss(self) -> LossAtPoint:
        """The inner loss at phi."""
        return self._loss

    @cached_property
    def _rest(self) -> Params:
        """What f reads; autograd watches it."""
        return {name: self.start[name].detach().requires_grad_() for name in self.shapes}

    @cached_property
    def _filled(self) -> Params:
        """Psi, with the way that it came about."""
        with torch.enable_grad():
            return self.fill(self._rest, self.batch)

    @property
    def params(self) -> Params:
        """Phi': psi is stacked, the rest as it was."""
        filled = self._filled
        return {name: filled[name].detach() if name in filled else leaf for name, leaf in self.start.items()}

    def pushforward(self, tangent: Params, size_tangent: Params | None = None) -> Params:
        """How phi' follows a change of phi, shared or stacked."""
        stacked = stack(self.start, len(self.batch.observations), self.shapes)
        rest = {name: leaf.detach().contiguous() for name, leaf in stacked.items()}
        change = {name: tangent[name].expand_as(leaf).contiguous() for name, leaf in rest.items()}
        names = list(self._filled)

        def fill(*leaves: Tensor) -> tuple[Tensor, ...]:
            filled = self.fill(dict(zip(rest, leaves, strict=True)), self.batch)
            return tuple(filled[name] for name in names)

        _, tangents = torch.autograd.functional.jvp(fill, tuple(rest.values()), tuple(change.values()))
        filled = dict(zip(names, tangents, strict=True))
        return {name: filled.get(name, leaf) for name, leaf in tangent.items()}

    def pullback(self, cotangent: Params) -> Params:
        """The transpose of `pushforward`, per task: nothing comes from the old psi.

        Of a leaf that all tasks share, which no step before this one has adapted, only the mean over tasks is ever
        asked for: it stands for each of them, and f need not be followed back task by task.
        """
        filled = {
            name: leaf for name, leaf in self._filled.items() if leaf.requires_grad
        }  # others come from data alone
        gradients = torch.autograd.grad(
            list(filled.values()),
            list(self._rest.values()),
            [cotangent[name].contiguous() for name in filled],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        through = dict(zip(self._rest, gradients, strict=True))
        result = {}
        for name, leaf in cotangent.items():
            if name not in through:
                result[name] = torch.zeros_like(leaf)
            elif through[name].dim() == leaf.dim():
                result[name] = leaf + through[name]
            else:
                result[name] = (leaf.mean(0) + through[name] / len(leaf)).expand_as(leaf)
        return result

    def pullback_to_sizes(self, cotangent: Params) -> Params:
        """Nothing: there are no step sizes."""
        return {}
