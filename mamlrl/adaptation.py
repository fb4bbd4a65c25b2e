"""The inner loop: gradient steps of a loss, for all tasks at once, and their derivative in the initial parameters.

Nothing here knows reinforcement learning: the loss is an argument. A step is

    phi = theta - alpha grad L(theta)          with Jacobian          J = I - alpha H(theta),

H being the Hessian of the task's loss. Where only some leaves of the parameters adapt, with P the projection on them,
phi = theta - alpha P grad L and J = I - alpha P H. J is never formed: `AdaptationPath` multiplies with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mamlrl.objectives import Loss
from mamlrl.policies.base import Linearization, Policy
from mamlrl.structs import Batch, Params


class LossAtPoint(NamedTuple):
    """A task loss at fixed parameters, with its first derivatives and the means for second ones."""

    loss: Tensor
    """[M]"""
    linearization: Linearization
    cotangent: Tensor
    """derivative of the loss by the outputs of the policy, [M, R, Z]"""
    output_hessian: Callable[[Tensor], Tensor]
    """second derivative of the loss by the outputs, times a tangent [M, R, Z]"""

    def gradient(self) -> Params:
        """Gradient of each task's loss in that task's parameters, stacked."""
        return self.linearization.pullback(self.cotangent)

    def hessian(self) -> Callable[[Params], Params]:
        """Hessian of each task's loss, as a function from tangents (stacked or shared) to stacked Params."""
        return self.linearization.hessian(self.cotangent, self.output_hessian)


def loss_on(linearization: Linearization, policy: Policy, batch: Batch, loss: Loss) -> LossAtPoint:
    """A loss and its derivatives where the policy is linearized; only the loss itself goes through autograd.

    Args:
        linearization: of the policy on the batch's observations.
        policy: the policy.
        batch: rows of M tasks.
        loss: (distribution, outputs, batch) -> [M].
    """
    outputs = linearization.outputs.detach().requires_grad_()
    with torch.enable_grad():
        losses = loss(policy.distribution, outputs, batch)
        (cotangent,) = torch.autograd.grad(losses.sum(), outputs, create_graph=True)

    def output_hessian(tangent: Tensor) -> Tensor:
        return torch.autograd.grad(cotangent, outputs, tangent, retain_graph=True)[0]  # symmetric: vjp = jvp

    return LossAtPoint(losses.detach(), linearization, cotangent.detach(), output_hessian)


def loss_at(policy: Policy, params: Params, batch: Batch, loss: Loss) -> LossAtPoint:
    """`loss_on` the policy at stacked or shared parameters."""
    return loss_on(policy.linearize(params, batch.observations), policy, batch, loss)


def descend(params: Params, gradient: Params, step_size: float, leaves: Set[str] | None = None) -> Params:
    """Params - step_size * gradient on the named leaves (None: on all), which become stacked; the others stay."""
    return {
        name: params[name] - step_size * leaf if leaves is None or name in leaves else params[name]
        for name, leaf in gradient.items()
    }


def adapt(
    policy: Policy, params: Params, batch: Batch, loss: Loss, step_size: float, leaves: Set[str] | None = None
) -> Params:
    """One inner gradient step on every task: stacked parameters phi_i = theta_i - alpha grad L_i(theta_i).

    Finn et al. 2017, Algorithm 3, line 7. Sampling, meta-objective and evaluation all adapt through this function.

    Args:
        policy: the policy.
        params: theta, shared or stacked.
        batch: rows of M tasks.
        loss: the inner loss.
        step_size: alpha.
        leaves: those that adapt; None for all. The others stay as they are, shared or stacked.
    """
    return descend(params, loss_at(policy, params, batch, loss).gradient(), step_size, leaves)


@dataclass(frozen=True)
class AdaptationPath:
    """The Jacobian of K inner steps, J = (I - alpha P H_K) ... (I - alpha P H_1), as products with vectors.

    Args:
        hessians: the Hessians of the inner losses at phi_0 = theta, ..., phi_{K-1}; empty for the first-order
            approximation J = I.
        step_size: alpha.
        leaves: those that adapt, on which P projects; None for all, P = I.
    """

    hessians: Sequence[Callable[[Params], Params]]
    step_size: float
    leaves: Set[str] | None = None

    def pushforward(self, tangent: Params) -> Params:
        """J v: how the adapted parameters follow a change of the initial ones."""
        for hessian in self.hessians:
            tangent = descend(tangent, hessian(tangent), self.step_size, self.leaves)
        return tangent

    def pullback(self, cotangent: Params) -> Params:
        """J^T u per task: the factors (I - alpha P H)^T = I - alpha H P in the opposite order."""
        for hessian in reversed(self.hessians):
            cotangent = descend(cotangent, hessian(self._project(cotangent)), self.step_size)
        return cotangent

    def _project(self, params: Params) -> Params:
        """P u: zeros but on the leaves that adapt."""
        if self.leaves is None:
            return params
        return {name: leaf if name in self.leaves else torch.zeros_like(leaf) for name, leaf in params.items()}
