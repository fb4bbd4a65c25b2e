"""A policy with learned extra inputs, the context: parameters that can be adapted while the network stays.

Source: the context vector of Finn, Abbeel, Levine (2017), section 5.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.errors import ConfigError
from mamlrl.policies.base import Factored, LayerFactors, Linearization, Policy, tells_factors
from mamlrl.structs import Params

CONTEXT, WEIGHT, BIAS = "context", "context_weight", "bias_0"


class ContextPolicy:
    """A policy whose first layer sees [observation, context]: W o + U c + b.

    The context c [C] is the same for every observation, so U c is a part of the first layer's bias. Its parameters are
    those of the policy, and ``context`` [C] and ``context_weight`` [C, H].

    Args:
        policy: a policy whose first layer has the bias ``bias_0``.
        size: C.
    """

    def __init__(self, policy: Policy, size: int):
        self._policy, self._size = policy, size

    @property
    def distribution(self) -> Distribution:
        """That of the policy."""
        return self._policy.distribution

    @property
    def tells_factors(self) -> bool:
        """As the policy."""
        return tells_factors(self._policy)

    def init_params(self, generator: torch.Generator) -> Params:
        """Those of the policy, a context of zeros, Xavier-uniform weights.

        Raises:
            ConfigError: the policy has no such first layer.
        """
        params = self._policy.init_params(generator)
        if BIAS not in params:
            theirs = ", ".join(name for name in params if name != "free")  # which the policy has added to the network
            raise ConfigError(
                f"a context needs a network that names the bias of its first layer {BIAS}; its parameters are {theirs}"
            )
        weight = torch.empty(self._size, len(params[BIAS]))
        torch.nn.init.xavier_uniform_(weight, generator=generator)
        return {**params, CONTEXT: torch.zeros(self._size), WEIGHT: weight}

    def initial_state(self, num_tasks: int, rollouts: int) -> Any:
        """That of the policy."""
        return self._policy.initial_state(num_tasks, rollouts)

    def step(self, params: Params, observations: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Distribution parameters [M, B, Z] for observations [M, B, O], and the new state."""
        return self._policy.step(fold(params), observations, state)

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Distribution parameters [M, B, T, Z]; differentiable."""
        return self._policy.outputs(fold(params), observations)

    def linearize(self, params: Params, observations: Tensor) -> LinearizedContext:
        """Distribution parameters with products of their derivatives."""
        return LinearizedContext(self._policy.linearize(fold(params), observations), params)


def fold(params: Params) -> Params:
    """Parameters of the policy alone, with b + U c as the bias of its first layer."""
    rest = {name: leaf for name, leaf in params.items() if name not in (CONTEXT, WEIGHT)}
    return {**rest, BIAS: params[BIAS] + through(params[CONTEXT], params[WEIGHT])}


def through(context: Tensor, weight: Tensor) -> Tensor:
    """U c: context [..., C] times weight [..., C, H]."""
    return (context.unsqueeze(-2) @ weight).squeeze(-2)


def outer(context: Tensor, errors: Tensor) -> Tensor:
    """Products of context [..., C] and errors [..., H], [..., C, H]."""
    return context.unsqueeze(-1) * errors.unsqueeze(-2)


class LinearizedContext:
    """A context policy at fixed parameters and inputs, by the chain rule through `fold`.

    Attributes:
        outputs: [M, B, T, Z].
    """

    def __init__(self, policy: Linearization, params: Params):
        self._policy = policy
        self._context, self._weight = params[CONTEXT].detach(), params[WEIGHT].detach()
        self.outputs = policy.outputs

    def _fold_tangent(self, tangent: Params) -> Params:
        """Derivative of `fold`: db + U dc + dU c."""
        change = through(tangent[CONTEXT], self._weight) + through(self._context, tangent[WEIGHT])
        rest = {name: leaf for name, leaf in tangent.items() if name not in (CONTEXT, WEIGHT)}
        return {**rest, BIAS: tangent[BIAS] + change}

    def _unfold(self, gradient: Params) -> Params:
        """Transpose of `_fold_tangent`: the gradient by the bias, carried on to the context and its weights."""
        errors = gradient[BIAS]
        return {**gradient, CONTEXT: through(errors, self._weight.mT), WEIGHT: outer(self._context, errors)}

    def pushforward(self, tangent: Params) -> Tensor:
        """Jacobian-vector product, [M, B, T, Z]."""
        return self._policy.pushforward(self._fold_tangent(tangent))

    def pullback(self, cotangent: Tensor) -> Params:
        """Vector-Jacobian product per task, stacked Params."""
        return self._unfold(self._policy.pullback(cotangent))

    def factors(self, cotangent: Tensor, weights: Tensor) -> list[LayerFactors]:
        """Those of the policy; the context and its weights have none."""
        assert isinstance(self._policy, Factored)
        return self._policy.factors(cotangent, weights)

    def hessian(self, cotangent: Tensor, output_hessian: Callable[[Tensor], Tensor]) -> Callable[[Params], Params]:
        """Hessian of a loss on the outputs: that of the policy through `fold`, and what U c itself bends."""
        policy_hessian = self._policy.hessian(cotangent, output_hessian)
        errors = self._policy.pullback(cotangent)[BIAS]

        def product(tangent: Params) -> Params:
            result = self._unfold(policy_hessian(self._fold_tangent(tangent)))
            result[CONTEXT] = result[CONTEXT] + through(errors, tangent[WEIGHT].mT)
            result[WEIGHT] = result[WEIGHT] + outer(tangent[CONTEXT], errors)
            return result

        return product
