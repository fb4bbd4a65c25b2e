"""An adapted policy as a `torch.nn.Module`, for programs that have torch and not this package."""

from __future__ import annotations

from typing import cast

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal

from mamlrl.distributions import DiagonalGaussian
from mamlrl.policies.base import Policy
from mamlrl.structs import Params


class PolicyModule(nn.Module):
    """Observations [N, ...] to the likeliest actions [N, A] ([N] for discrete ones), in the environment's units.

    It can be exported: ``torch.export.export(module, (observations,))``. What it returns needs no gradient, until its
    parameters are to be trained further: ``module.requires_grad_()``.

    Args:
        policy: a policy without memory.
        params: adapted parameters, stacked for one task or shared.
        action_space: of the environment that it acts in.
        action_scale: policy units that span half of the action range.
    """

    low: Tensor
    high: Tensor

    def __init__(self, policy: Policy, params: Params, action_space: spaces.Space, action_scale: float):
        super().__init__()
        self._policy = policy
        self._names = list(params)
        self.leaves = nn.ParameterDict(
            {_key(name): nn.Parameter(leaf.detach().clone(), requires_grad=False) for name, leaf in params.items()}
        )
        self._start = int(action_space.start) if isinstance(action_space, spaces.Discrete) else None
        if isinstance(action_space, spaces.Box):
            low, high = (torch.from_numpy(bound.astype("float32")) for bound in (action_space.low, action_space.high))
            self.register_buffer("low", low)
            self.register_buffer("high", high)
            self._scale = action_scale

    def forward(self, observations: Tensor) -> Tensor:
        """The likeliest actions; continuous ones within their bounds."""
        actions = self._policy.distribution.mode(self._outputs(observations))
        if self._start is not None:
            return actions + self._start
        return self._in_environment_units(actions / self._scale).clamp(self.low, self.high)

    def distribution(self, observations: Tensor) -> Distribution:
        """The distributions that actions are drawn from: their mean and standard deviation, or their probabilities.

        A `Normal` in the environment's units, [N, A], before actions are clipped to their bounds; a `Categorical`, [N],
        whose first action is number 0.
        """
        outputs, distribution = self._outputs(observations), self._policy.distribution
        if self._start is not None:
            return Categorical(logits=outputs)
        gaussian = cast(DiagonalGaussian, distribution)
        mean = self._in_environment_units(gaussian.mode(outputs) / self._scale)
        return Normal(mean, gaussian.std(outputs) / self._scale * (self.high - self.low) / 2)

    def _outputs(self, observations: Tensor) -> Tensor:
        """Parameters of the distributions, [N, Z]."""
        params = {name: self.leaves[_key(name)] for name in self._names}
        rows = observations.to(next(iter(params.values())).dtype).flatten(1).unsqueeze(0)
        return self._policy.step(params, rows, None)[0].squeeze(0)

    def _in_environment_units(self, actions: Tensor) -> Tensor:
        """[-1, 1] onto the bounds."""
        return (self.high + self.low) / 2 + (self.high - self.low) / 2 * actions


def _key(name: str) -> str:
    """A parameter's name as a module may have it: without dots, and not that of a method, as `keys` is."""
    return f"leaf_{name.replace('.', '/')}"
