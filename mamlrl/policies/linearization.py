"""Products with the derivatives of any network, by automatic differentiation.

A network that brings products of its own, as the MLP does, is about twice as fast; the two are held against each other
in tests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from mamlrl.policies.base import Linearization
from mamlrl.structs import Params


class AutogradLinearization:
    """A network at fixed parameters and observations, its derivatives by reverse-mode automatic differentiation.

    With c a cotangent of the outputs, g(theta, c) = J^T c is linear in c. So one reverse sweep over g gives J v (its
    derivative by c) and the curvature term sum_z c_z d2z/dtheta2 v (its derivative by theta).

    Args:
        outputs: the network, (stacked params, observations) -> [M, B, T, Z].
        params: every leaf leads with M.
        observations: [M, B, T, O].

    Attributes:
        outputs: [M, B, T, Z].
    """

    def __init__(self, outputs: Callable[[Params, Tensor], Tensor], params: Params, observations: Tensor):
        self._params = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
        with torch.enable_grad():
            self._outputs = outputs(self._params, observations)
        self.outputs = self._outputs.detach()
        self._last: tuple[Tensor, _ReverseSweep] | None = None

    def pushforward(self, tangent: Params) -> Tensor:
        """Jacobian-vector product, [M, B, T, Z]."""
        return self._sweep.derivative(tangent)[1]

    @cached_property
    def _sweep(self) -> _ReverseSweep:
        """At any cotangent, made for the first product: an inner step that is only taken needs none."""
        return _ReverseSweep(self._outputs, self._params, torch.zeros_like(self.outputs))

    def pullback(self, cotangent: Tensor) -> Params:
        """Vector-Jacobian product per task, stacked Params."""
        return _gradient(self._outputs, self._params, cotangent, create_graph=False)

    def pullback_and_keep(self, cotangent: Tensor) -> Params:
        """`pullback`, of which the way is kept for `hessian` at the same cotangent, that does not go it again."""
        return self._swept(cotangent).value

    def _swept(self, cotangent: Tensor) -> _ReverseSweep:
        """At this very cotangent, once."""
        if self._last is None or self._last[0] is not cotangent:
            self._last = cotangent, _ReverseSweep(self._outputs, self._params, cotangent)
        return self._last[1]

    def hessian(self, cotangent: Tensor, output_hessian: Callable[[Tensor], Tensor]) -> Callable[[Params], Params]:
        """Hessian of a loss on the outputs: H v = J^T (d2L/dz2) J v + sum_z dL/dz d2z/dtheta2 v.

        Args:
            cotangent: dL/dz [M, B, T, Z] at these parameters.
            output_hessian: multiplies d2L/dz2 with a tangent of the outputs.
        """
        sweep = self._swept(cotangent)

        def product(tangent: Params) -> Params:
            curvature, output_tangent = sweep.derivative(tangent)
            through_loss = self.pullback(output_hessian(output_tangent))
            return {name: leaf + through_loss[name] for name, leaf in curvature.items()}

        return product


class _ReverseSweep:
    """g = J^T c at fixed parameters and cotangent, ready to be differentiated along tangents.

    Attributes:
        value: g, stacked Params.
    """

    def __init__(self, outputs: Tensor, params: Params, cotangent: Tensor):
        self._params, self._cotangent = params, cotangent.detach().requires_grad_()
        gradient = _gradient(outputs, params, self._cotangent, create_graph=True)
        self.value = {name: leaf.detach() for name, leaf in gradient.items()}
        # leaves of which the outputs are no function have a zero without a graph
        self._gradient = {name: leaf for name, leaf in gradient.items() if leaf.requires_grad}

    def derivative(self, tangent: Params) -> tuple[Params, Tensor]:
        """Of <g, tangent>: by the parameters (the curvature term), and by the cotangent (J tangent)."""
        *curvature, output_tangent = torch.autograd.grad(
            list(self._gradient.values()),
            [*self._params.values(), self._cotangent],
            [tangent[name].expand_as(leaf) for name, leaf in self._gradient.items()],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(self._params, curvature, strict=True)), output_tangent


def _gradient(outputs: Tensor, params: Params, cotangent: Tensor, create_graph: bool) -> Params:
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            outputs,
            list(params.values()),
            cotangent,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    return dict(zip(params, gradients, strict=True))


def pullback_and_keep(linearization: Linearization, cotangent: Tensor) -> Params:
    """`pullback`; where that spares work, in a way that `hessian` at the same cotangent begins with."""
    return getattr(linearization, "pullback_and_keep", linearization.pullback)(cotangent)


class WithIdle:
    """A network at fixed parameters and inputs, with further parameters of which its outputs are no function.

    Args:
        network: the network there.
        idle: those parameters, stacked.

    Attributes:
        outputs: [M, B, T, Z].
    """

    def __init__(self, network: Linearization, idle: Params):
        self._network, self.outputs = network, network.outputs
        self._zeros = {name: leaf.new_zeros(()).expand_as(leaf) for name, leaf in idle.items()}

    def pushforward(self, tangent: Params) -> Tensor:
        """Jacobian-vector product, [M, B, T, Z]."""
        return self._network.pushforward({name: leaf for name, leaf in tangent.items() if name not in self._zeros})

    def pullback(self, cotangent: Tensor) -> Params:
        """Vector-Jacobian product per task, stacked Params."""
        return {**self._network.pullback(cotangent), **self._zeros}

    def pullback_and_keep(self, cotangent: Tensor) -> Params:
        """That of the network."""
        return {**pullback_and_keep(self._network, cotangent), **self._zeros}

    def hessian(self, cotangent: Tensor, output_hessian: Callable[[Tensor], Tensor]) -> Callable[[Params], Params]:
        """Hessian of a loss on the outputs: that of the network."""
        product = self._network.hessian(cotangent, output_hessian)
        zeros = self._zeros
        return lambda tangent: {
            **product({name: leaf for name, leaf in tangent.items() if name not in zeros}),
            **zeros,
        }
