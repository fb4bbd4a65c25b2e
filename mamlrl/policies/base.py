"""What a policy is: a network over stacked parameters and an action distribution on its outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.structs import Params


@functools.lru_cache(maxsize=64)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor, made once for a device: a copy to a GPU at every time step would be waited for."""
    return torch.tensor(values, dtype=dtype, device=device)


class LayerFactors(NamedTuple):
    """Second moments of what goes into a linear layer and of what comes back to it, for M tasks."""

    weight: str | None
    """name of its weight [I, H]; None for a bias alone, I = 0"""
    bias: str
    """name of its bias [H]"""
    inputs: Tensor
    """E[a a'], [M, I + 1, I + 1], a the inputs of the layer and a 1"""
    errors: Tensor
    """E[e e'], [M, H, H], e a cotangent at its outputs"""


class Linearization(Protocol):
    """A network at fixed parameters and inputs, with products of its derivatives."""

    outputs: Tensor
    """[M, B, T, Z]"""

    def pushforward(self, tangent: Params) -> Tensor:
        """Jacobian-vector product, [M, B, T, Z]."""
        ...

    def pullback(self, cotangent: Tensor) -> Params:
        """Vector-Jacobian product per task, stacked Params."""
        ...

    def hessian(self, cotangent: Tensor, output_hessian: Callable[[Tensor], Tensor]) -> Callable[[Params], Params]:
        """Hessian of a loss on the outputs, as a function of a tangent (stacked or shared)."""
        ...


@runtime_checkable
class Factored(Linearization, Protocol):
    """A linearization that tells the factors of its layers, for a preconditioner."""

    def factors(self, cotangent: Tensor, weights: Tensor) -> list[LayerFactors]:
        """Second moments, over rows of weights [M, B, T], of the layers' inputs and of a cotangent [M, B, T, Z]."""
        ...


def tells_factors(policy_or_network: Any) -> bool:
    """Whether its linearization is `Factored`."""
    return getattr(policy_or_network, "tells_factors", False)


class Network(Protocol):
    """From observations to numbers. It holds no parameters: they are handed to it, stacked.

    `init_params` and `outputs` are all that a network must have; what it has besides, such as a `linearize` as in
    `Policy`, is there for speed.
    """

    def init_params(self, generator: torch.Generator) -> Params:
        """Initial parameters of one network, float32, on the CPU."""
        ...

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Outputs [M, B, T, Z] of M networks on observations [M, B, T, O]; differentiable.

        Args:
            params: every leaf leads with M.
            observations: those of task m are for network m.
        """
        ...


class Policy(Protocol):
    """A stochastic policy. It holds no parameters: they are handed to it, stacked or shared."""

    @property
    def distribution(self) -> Distribution:
        """What the outputs are the parameters of."""
        ...

    def init_params(self, generator: torch.Generator) -> Params:
        """Initial parameters, float32, on the CPU."""
        ...

    def initial_state(self, num_tasks: int, rollouts: int) -> Any:
        """What the policy remembers at the start of a rollout (None for a policy without memory)."""
        ...

    def step(self, params: Params, observations: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Distribution parameters [M, B, Z] for observations [M, B, O], and the new state."""
        ...

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Distribution parameters [M, B, T, Z] on observations [M, B, T, O]; differentiable."""
        ...

    def linearize(self, params: Params, observations: Tensor) -> Linearization:
        """The policy's outputs on observations [M, B, T, O] with products of their derivatives."""
        ...
