"""Action distributions, as functions of the numbers that a policy outputs for each row.

An `outputs` tensor [..., Z] holds the parameters of one distribution per row. All results are sums over action
dimensions, so that they belong to the joint action: log-probabilities [...], KL divergences and entropies in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """What policies, losses and the sampler need of an action distribution."""

    @property
    def noise(self) -> Literal["normal", "uniform"]:
        """Kind of noise that `sample` turns into actions."""
        ...

    @property
    def num_outputs(self) -> int:
        """Z, the numbers per row that parameterise the distribution."""
        ...

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one action."""
        ...

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-probability (density) of the actions, [...]."""
        ...

    def kl(self, outputs: Tensor, new_outputs: Tensor) -> Tensor:
        """KL(outputs || new_outputs), [...]."""
        ...

    def entropy(self, outputs: Tensor) -> Tensor:
        """Entropy, [...]."""
        ...

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Actions from noise."""
        ...

    def mode(self, outputs: Tensor) -> Tensor:
        """The likeliest actions."""
        ...

    def fisher_product(self, outputs: Tensor, tangent: Tensor) -> Tensor:
        """Fisher information of `outputs` times a tangent, [..., Z]: the Hessian of `kl` at equal arguments."""
        ...


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normal action components; outputs are [mean, log std], Z = 2 A.

    Args:
        action_dim: A.
        min_std: lower bound of the standard deviation; below it the log std has no gradient.
    """

    action_dim: int
    min_std: float = 1e-6
    noise: Literal["normal", "uniform"] = "normal"

    @property
    def num_outputs(self) -> int:
        """Mean and log standard deviation of each component."""
        return 2 * self.action_dim

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """A standard normal number per component."""
        return (self.action_dim,)

    def _mean_and_log_std(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = outputs.split(self.action_dim, dim=-1)
        return mean, log_std.clamp(min=math.log(self.min_std))

    def std(self, outputs: Tensor) -> Tensor:
        """Standard deviations [..., A]."""
        return self._mean_and_log_std(outputs)[1].exp()

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log density: -1/2 sum(((a - mu) / sigma)^2 + 2 log sigma + log 2 pi)."""
        mean, log_std = self._mean_and_log_std(outputs)
        deviations = (actions - mean) * torch.exp(-log_std)
        return -0.5 * (deviations.square() + 2 * log_std).sum(-1) - 0.5 * self.action_dim * math.log(2 * math.pi)

    def kl(self, outputs: Tensor, new_outputs: Tensor) -> Tensor:
        """KL(old || new): sum(log(s'/s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2)."""
        mean, log_std = self._mean_and_log_std(outputs)
        new_mean, new_log_std = self._mean_and_log_std(new_outputs)
        precision = torch.exp(-2 * new_log_std)
        spread = (torch.exp(2 * log_std) + (mean - new_mean).square()) * precision
        return (new_log_std - log_std + 0.5 * spread - 0.5).sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Differential entropy: sum(log sigma) + A/2 log(2 pi e)."""
        _, log_std = self._mean_and_log_std(outputs)
        return log_std.sum(-1) + 0.5 * self.action_dim * math.log(2 * math.pi * math.e)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Reparameterised sample: mu + sigma * noise, noise standard normal [..., A]."""
        mean, log_std = self._mean_and_log_std(outputs)
        return torch.addcmul(mean, log_std.exp(), noise)

    def mode(self, outputs: Tensor) -> Tensor:
        """The means, [..., A]."""
        return self._mean_and_log_std(outputs)[0]

    def fisher_product(self, outputs: Tensor, tangent: Tensor) -> Tensor:
        """Fisher product: 1 / sigma^2 on the means, 2 on the log stds (0 where the std is clamped)."""
        _, log_std = outputs.split(self.action_dim, dim=-1)
        free = log_std >= math.log(self.min_std)  # at the bound itself the gradient of clamp passes
        precision = torch.exp(-2 * log_std.clamp(min=math.log(self.min_std)))
        return tangent * torch.cat([precision, 2 * free.to(precision.dtype)], dim=-1)


@dataclass(frozen=True)
class UnitGaussian:
    """Independent normal components of standard deviation 1: what a squared error is the likelihood of; Z = A.

    Args:
        size: A.
    """

    size: int
    noise: Literal["normal", "uniform"] = "normal"

    @property
    def num_outputs(self) -> int:
        """A mean per component."""
        return self.size

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """A standard normal number per component."""
        return (self.size,)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log density: -1/2 sum((a - mu)^2 + log 2 pi)."""
        return -0.5 * (actions - outputs).square().sum(-1) - 0.5 * self.size * math.log(2 * math.pi)

    def kl(self, outputs: Tensor, new_outputs: Tensor) -> Tensor:
        """KL(old || new): half the squared distance of the means."""
        return 0.5 * (outputs - new_outputs).square().sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Differential entropy: A/2 log(2 pi e)."""
        return torch.full_like(outputs[..., 0], 0.5 * self.size * math.log(2 * math.pi * math.e))

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """The means plus noise, standard normal [..., A]."""
        return outputs + noise

    def mode(self, outputs: Tensor) -> Tensor:
        """The means, [..., A]."""
        return outputs

    def fisher_product(self, outputs: Tensor, tangent: Tensor) -> Tensor:
        """Fisher product: the identity."""
        return tangent


@dataclass(frozen=True)
class Categorical:
    """One of n actions; outputs are unnormalised log-probabilities, Z = n.

    Args:
        num_actions: n.
    """

    num_actions: int
    noise: Literal["normal", "uniform"] = "uniform"

    @property
    def num_outputs(self) -> int:
        """A logit per action."""
        return self.num_actions

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One uniform number per action drawn."""
        return ()

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-probability of integer actions [...]."""
        return outputs.log_softmax(-1).gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def kl(self, outputs: Tensor, new_outputs: Tensor) -> Tensor:
        """KL(old || new): sum(p (log p - log p'))."""
        log_p, new_log_p = outputs.log_softmax(-1), new_outputs.log_softmax(-1)
        return (log_p.exp() * (log_p - new_log_p)).sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """Entropy: -sum(p log p)."""
        log_p = outputs.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Inverse of the cumulative distribution at uniform noise [...]; int64 [...]."""
        cumulative = outputs.softmax(-1).cumsum(-1)
        return (noise.unsqueeze(-1) >= cumulative[..., :-1]).sum(-1)

    def mode(self, outputs: Tensor) -> Tensor:
        """The likeliest actions, int64 [...]."""
        return outputs.argmax(-1)

    def fisher_product(self, outputs: Tensor, tangent: Tensor) -> Tensor:
        """Fisher product: (diag(p) - p p^T) tangent."""
        p = outputs.softmax(-1)
        return p * (tangent - (p * tangent).sum(-1, keepdim=True))
