"""The inner step: a gradient step of a loss, for all tasks at once, together with its derivative.

Nothing here knows reinforcement learning: the loss is an argument. A step is

    phi' = phi - a * grad L(phi),          d phi' = d phi - a * H d phi - d a * grad L(phi),

H being the Hessian of the task's loss and a the step sizes. The derivative is never formed: an `InnerStep` multiplies
with it and with its transpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mamlrl.objectives import Loss, does_couple_time
from mamlrl.policies.base import Linearization, Policy
from mamlrl.policies.linearization import pullback_and_keep
from mamlrl.structs import Data, Params, StepSizes


class LossAtPoint(NamedTuple):
    """A task loss at fixed parameters, with its first derivatives and the means for second ones."""

    loss: Tensor
    """[M]"""
    linearization: Linearization
    cotangent: Tensor
    """derivative of the loss by the outputs of the policy, [M, B, T, Z]"""
    output_hessian: Callable[[Tensor], Tensor]
    """second derivative of the loss by the outputs, times a tangent [M, B, T, Z]"""
    couples_time: bool = False
    """whether time steps of a rollout depend on each other in it"""

    def gradient(self) -> Params:
        """Gradient of each task's loss in that task's parameters, stacked."""
        return self.linearization.pullback(self.cotangent)

    def gradient_before_hessian(self) -> Params:
        """The same, in a way that `hessian` can begin with."""
        return pullback_and_keep(self.linearization, self.cotangent)

    def hessian(self) -> Callable[[Params], Params]:
        """Hessian of each task's loss, as a function from tangents (stacked or shared) to stacked Params."""
        return self.linearization.hessian(self.cotangent, self.output_hessian)


def loss_on(linearization: Linearization, policy: Policy, batch: Data, loss: Loss) -> LossAtPoint:
    """A loss and its derivatives where the policy is linearized; only the loss itself goes through autograd, if at all.

    Args:
        linearization: of the policy on the batch's observations.
        policy: the policy.
        batch: of M tasks.
        loss: (distribution, outputs, batch) -> [M].
    """
    if in_closed_form := getattr(loss, "derivatives", None):
        found = in_closed_form(policy.distribution, linearization.outputs, batch)
        return LossAtPoint(found.loss, linearization, found.cotangent, found.output_hessian)
    outputs = linearization.outputs.detach().requires_grad_()
    with torch.enable_grad():
        losses = loss(policy.distribution, outputs, batch)
        (cotangent,) = torch.autograd.grad(losses.sum(), outputs, create_graph=True)

    def output_hessian(tangent: Tensor) -> Tensor:
        return torch.autograd.grad(cotangent, outputs, tangent, retain_graph=True)[0]  # symmetric: vjp = jvp

    return LossAtPoint(losses.detach(), linearization, cotangent.detach(), output_hessian, does_couple_time(loss))


def loss_at(policy: Policy, params: Params, batch: Data, loss: Loss) -> LossAtPoint:
    """`loss_on` the policy at stacked or shared parameters."""
    return loss_on(policy.linearize(params, batch.observations), policy, batch, loss)


def loss_and_gradient(policy: Policy, params: Params, batch: Data, loss: Loss) -> tuple[Tensor, Params]:
    """The loss [M] and its gradient, stacked, as `loss_at` has them, without the means for second derivatives."""
    linearization = policy.linearize(params, batch.observations)
    outputs = linearization.outputs.detach().requires_grad_()
    with torch.enable_grad():
        losses = loss(policy.distribution, outputs, batch)
        (cotangent,) = torch.autograd.grad(losses.sum(), outputs)
    return losses.detach(), linearization.pullback(cotangent)


class InnerStep(Protocol):
    """Parameters after an inner step, and the derivative of the step as products with it and with its transpose.

    Whoever adapts in another way has another meta-gradient with it.
    """

    @property
    def start(self) -> Params:
        """Phi, before the step; shared or stacked."""
        ...

    @property
    def loss(self) -> LossAtPoint:
        """The inner loss at phi."""
        ...

    @property
    def params(self) -> Params:
        """Phi', after the step: stacked where a leaf adapts; the others stay as they are."""
        ...

    def pushforward(self, tangent: Params, size_tangent: Params | None = None) -> Params:
        """How phi' follows a change of phi (shared or stacked) and of the step sizes."""
        ...

    def pullback(self, cotangent: Params) -> Params:
        """The transpose of `pushforward` in phi, per task."""
        ...

    def pullback_to_sizes(self, cotangent: Params) -> Params:
        """The transpose of `pushforward` in the step sizes, per task, [M, ...] with their shapes."""
        ...


@runtime_checkable
class SolvedStep(Protocol):
    """An inner step that is the solution of a problem by iteration has these besides: it need not be solved anew."""

    def moved(self, start: Params) -> InnerStep:
        """The same step from another phi nearby, where the solution is sought from this one's."""
        ...

    def thinned(self, batch: Data) -> InnerStep:
        """The same step to the same phi', with its derivative on fewer data."""
        ...


@runtime_checkable
class PreparedStep(Protocol):
    """An inner step that is taken in another way, for less in all, where products with its derivative will follow."""

    def with_products(self) -> InnerStep:
        """The same step, taken in that way."""
        ...


def with_products(step: InnerStep) -> InnerStep:
    """The same step, with products with its derivative in view."""
    return step.with_products() if isinstance(step, PreparedStep) else step


@dataclass(frozen=True)
class GradientStep:
    """An inner step that is a gradient step.

    Args:
        start: phi, shared or stacked.
        loss: the inner loss at phi.
        step_sizes: a; leaves that it leaves out do not adapt.
        first_order: take the derivative as the identity in phi (the Hessian as zero).
        scale: constant factor on all step sizes.
        prepares_hessian: take the gradient in the way that the Hessian begins with.
    """

    start: Params
    loss: LossAtPoint
    step_sizes: StepSizes
    first_order: bool = False
    scale: float = 1.0
    prepares_hessian: bool = False

    @cached_property
    def gradient(self) -> Params:
        """The gradient of the inner loss at phi, stacked, in the order of phi."""
        gradient = self.loss.gradient_before_hessian() if self.prepares_hessian else self.loss.gradient()
        return {name: gradient[name] for name in self.start}

    def with_products(self) -> GradientStep:
        """The same step, whose gradient is taken in the way that the Hessian begins with, if there will be one."""
        return replace(self, prepares_hessian=not self.first_order)

    @property
    def params(self) -> Params:
        """Phi' = phi - a * grad L(phi): stacked where a leaf adapts; the others stay as they are.

        Raises:
            ValueError: a step size has neither its leaf's shape nor none.
        """
        return self._params

    @cached_property
    def _params(self) -> Params:
        self._check_sizes()
        return {
            name: leaf - self._size(name) * self.gradient[name] if name in self.step_sizes else leaf
            for name, leaf in self.start.items()
        }

    def pushforward(self, tangent: Params, size_tangent: Params | None = None) -> Params:
        """How phi' follows a change of phi and of the step sizes: d phi - a * H d phi - d a * grad L.

        Args:
            tangent: d phi, shared or stacked.
            size_tangent: d a, with the shapes of the step sizes; None for no change of them. That of a leaf without a
                step size changes nothing.
        """
        result = dict(tangent)
        if not self.first_order:
            bent = self._hessian(tangent)
            result = {
                name: leaf - self._size(name) * bent[name] if name in self.step_sizes else leaf
                for name, leaf in result.items()
            }
        for name, change in (size_tangent or {}).items():
            if name in self.step_sizes:
                result[name] = result[name] - self.scale * change * self.gradient[name]
        return result

    def pullback(self, cotangent: Params) -> Params:
        """The transpose of `pushforward` in phi, per task: u - H (a * u)."""
        if self.first_order:
            return cotangent
        scaled = {
            name: self._size(name) * leaf if name in self.step_sizes else torch.zeros_like(leaf)
            for name, leaf in cotangent.items()
        }
        bent = self._hessian(scaled)
        return {name: leaf - bent[name] for name, leaf in cotangent.items()}

    def pullback_to_sizes(self, cotangent: Params) -> Params:
        """The transpose of `pushforward` in the step sizes, per task: -u * grad L, [M, ...] with their shapes."""
        result = {}
        for name, size in self.step_sizes.items():
            product = -self.scale * cotangent[name] * self.gradient[name]
            whole_leaf = not isinstance(size, Tensor) or size.dim() == 0
            result[name] = product.reshape(len(product), -1).sum(1) if whole_leaf else product
        return result

    def _size(self, name: str) -> float | Tensor:
        return self.scale * self.step_sizes[name]

    def _check_sizes(self) -> None:
        for name, size in self.step_sizes.items():
            shape = list(self.gradient[name].shape[1:])
            if isinstance(size, Tensor) and list(size.shape) not in ([], shape):
                raise ValueError(f"the step size of {name} has shape {list(size.shape)}; it must be {shape} or []")

    @cached_property
    def _hessian(self) -> Callable[[Params], Params]:
        """Prepared at the first product: sampling pays for none."""
        return self.loss.hessian()


def inner_step(
    policy: Policy,
    params: Params,
    batch: Data,
    loss: Loss,
    step_sizes: StepSizes | float,
    scale: float = 1.0,
    first_order: bool = False,
) -> GradientStep:
    """One gradient step on every task: phi_i' = phi_i - a * grad L_i(phi_i).

    Finn et al. 2017, Algorithm 3, line 7. Sampling, meta-objective, line search, evaluation, films and deployment all
    adapt by the step that a learner makes here.

    Args:
        policy: the policy.
        params: phi, shared or stacked.
        batch: of M tasks.
        loss: the inner loss.
        step_sizes: a, by leaf; a number stands for all leaves.
        scale: constant factor on all step sizes, such as 1/2 for steps beyond those of training.
        first_order: take the derivative of the step as the identity.

    Raises:
        ValueError: a step size is of no leaf of the parameters.
    """
    sizes = dict.fromkeys(params, step_sizes) if isinstance(step_sizes, int | float) else step_sizes
    unknown = [name for name in sizes if name not in params]
    if unknown:
        raise ValueError(f"there are step sizes of {', '.join(unknown)}; the parameters are {', '.join(params)}")
    return GradientStep(params, loss_at(policy, params, batch, loss), sizes, first_order, scale)
