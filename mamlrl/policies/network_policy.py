"""Policies without memory: an action distribution whose parameters are the outputs of a network."""

from __future__ import annotations

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.policies.base import Linearization, Network
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
        own = getattr(self.network, "linearize", None)
        if own is not None:
            return own(*self._inputs(params, observations))
        return AutogradLinearization(self.network.outputs, *self._inputs(params, observations))

    def _inputs(self, params: Params, observations: Tensor) -> tuple[Params, Tensor]:
        """Stacked parameters, and the observations as the network sees them."""
        known = {"O": len(self._scale)} if self._scale else {}
        check_shapes(("observations", observations, "MBTO"), **known)
        scaled = observations * observations.new_tensor(self._scale) if self._scale else observations
        return stack(params, len(observations), self._shapes), scaled


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
        rest = {name: leaf for name, leaf in params.items() if name != "free"}
        values = self._network.outputs(rest, observations)
        return torch.cat([values, params["free"][:, None, None].expand(*values.shape[:-1], -1)], dim=-1)
