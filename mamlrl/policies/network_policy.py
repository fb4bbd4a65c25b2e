"""Policies without memory: an action distribution whose parameters are the outputs of a network."""

from __future__ import annotations

from collections.abc import Callable, Set

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.policies.base import Linearization, Network, constant, tells_factors
from mamlrl.policies.linearization import AutogradLinearization
from mamlrl.structs import Params, check_shapes, stack


class NetworkPolicy:
    """pi(a | o) = distribution(network(scale * o)).

    Args:
        network: from observations to distribution parameters. If it has a method `linearize(params, observations)`, its
            derivatives are taken from there, else by automatic differentiation.
        distribution: of the actions.
        observation_scale: constant factor on each observation; empty for none.
    """

    def __init__(self, network: Network, distribution: Distribution, observation_scale: tuple[float, ...] = ()):
        self.network = network
        self.distribution: Distribution = distribution
        self._scale = observation_scale
        self._shapes = {name: tuple(leaf.shape) for name, leaf in network.init_params(torch.Generator()).items()}

    @property
    def head(self) -> frozenset[str]:
        """Names of the parameters of the last layer, where the network says which they are."""
        return frozenset(getattr(self.network, "head", ()))

    @property
    def normalization(self) -> frozenset[str]:
        """Names of the parameters of batch normalisation, where the network says which they are."""
        return frozenset(getattr(self.network, "normalization", ()))

    @property
    def tells_factors(self) -> bool:
        """Whether its linearization has `factors`."""
        return tells_factors(self.network)

    @property
    def features(self) -> Callable[[Params, Tensor], Tensor] | None:
        """(params, observations) -> what the last layer sees [M, B * T, E], where the network tells it.

        The parameters need not hold the last layer.
        """
        tell = getattr(self.network, "features", None)
        return tell and (lambda params, observations: tell(*self._inputs(params, observations, self.head)))

    def init_params(self, generator: torch.Generator) -> Params:
        """Those of the network."""
        return self.network.init_params(generator)

    def initial_state(self, num_tasks: int, rollouts: int) -> None:
        """Nothing: the policy has no memory."""

    def step(self, params: Params, observations: Tensor, state: None) -> tuple[Tensor, None]:
        """Distribution parameters [M, B, Z] for observations [M, B, O]."""
        return self.outputs(params, observations.unsqueeze(2)).squeeze(2), state

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Distribution parameters [M, B, T, Z]; differentiable.

        Raises:
            ValueError: the observations have another number of dimensions, or of numbers than there are scales.
        """
        return self.network.outputs(*self._inputs(params, observations))

    def linearize(self, params: Params, observations: Tensor) -> Linearization:
        """Distribution parameters with products of their derivatives."""
        return linearize(self.network, *self._inputs(params, observations))

    def _inputs(self, params: Params, observations: Tensor, without: Set[str] = frozenset()) -> tuple[Params, Tensor]:
        """Stacked parameters, and the observations as the network sees them."""
        known = {"O": len(self._scale)} if self._scale else {}
        check_shapes(("observations", observations, "MBTO"), **known)
        if self._scale:
            observations = observations * constant(tuple(self._scale), observations.dtype, observations.device)
        shapes = {name: shape for name, shape in self._shapes.items() if name not in without}
        return stack(params, len(observations), shapes), observations


def linearize(network: Network, params: Params, observations: Tensor) -> Linearization:
    """A network at stacked parameters and observations: by its own `linearize`, or by automatic differentiation."""
    own = getattr(network, "linearize", None)
    return AutogradLinearization(network.outputs, params, observations) if own is None else own(params, observations)


class WithFreeOutputs:
    """A network whose outputs are followed by others that ignore the observation: parameters themselves.

    The log standard deviation of a Gaussian policy is such a one.

    Args:
        network: the network.
        count: F, how many.
        value: their initial value.
    """

    def __init__(self, network: Network, count: int, value: float):
        self._network, self._count, self._value = network, count, value
        self.head = getattr(network, "head", ())

    def init_params(self, generator: torch.Generator) -> Params:
        """Those of the network, and ``free`` [F].

        Raises:
            ValueError: the network has a parameter of that name.
        """
        params = self._network.init_params(generator)
        if "free" in params:
            raise ValueError("the network has a parameter named free, which is the name of the free outputs")
        return {**params, "free": torch.full((self._count,), self._value)}

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """[M, B, T, Z + F]."""
        return _followed(self._network.outputs(_of_network(params), observations), params["free"])

    def linearize(self, params: Params, observations: Tensor) -> LinearizedWithFreeOutputs:
        """The outputs with products of their derivatives."""
        return LinearizedWithFreeOutputs(linearize(self._network, _of_network(params), observations), params["free"])


def _of_network(params: Params) -> Params:
    return {name: leaf for name, leaf in params.items() if name != "free"}


def _followed(values: Tensor, free: Tensor) -> Tensor:
    """Numbers [M, B, T, Z] followed by free ones, [M, F] or [F] for all tasks: [M, B, T, Z + F]."""
    return torch.cat([values, free[..., None, None, :].expand(*values.shape[:-1], -1)], dim=-1)


class LinearizedWithFreeOutputs:
    """A network with free outputs at fixed parameters and inputs; the free ones are linear, and nothing bends them.

    Attributes:
        outputs: [M, B, T, Z + F].
    """

    def __init__(self, network: Linearization, free: Tensor):
        self._network, self._width = network, network.outputs.shape[-1]
        self.outputs = _followed(network.outputs, free.detach())

    def pushforward(self, tangent: Params) -> Tensor:
        """Jacobian-vector product, [M, B, T, Z + F]."""
        return _followed(self._network.pushforward(_of_network(tangent)), tangent["free"])

    def pullback(self, cotangent: Tensor) -> Params:
        """Vector-Jacobian product per task, stacked Params."""
        values, free = self._split(cotangent)
        return {**self._network.pullback(values), "free": free}

    def hessian(self, cotangent: Tensor, output_hessian: Callable[[Tensor], Tensor]) -> Callable[[Params], Params]:
        """Hessian of a loss on the outputs: that of the network, in which the free outputs have a part by the loss."""
        tangent_of_free = gradient_of_free = cotangent  # of the product at work

        def output_hessian_of_network(output_tangent: Tensor) -> Tensor:
            nonlocal gradient_of_free
            values, gradient_of_free = self._split(output_hessian(_followed(output_tangent, tangent_of_free)))
            return values

        of_network = self._network.hessian(self._split(cotangent)[0], output_hessian_of_network)

        def product(tangent: Params) -> Params:
            nonlocal tangent_of_free
            tangent_of_free = tangent["free"]
            return {**of_network(_of_network(tangent)), "free": gradient_of_free}

        return product

    def _split(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """The network's part [M, B, T, Z] of a cotangent [M, B, T, Z + F], and the gradient of the rest, [M, F]."""
        return cotangent[..., : self._width].contiguous(), cotangent[..., self._width :].sum((1, 2))
