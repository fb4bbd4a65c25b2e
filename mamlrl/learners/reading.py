"""Learners that read the examples of a task: what adapts is the context that a network makes of them, by no gradient.

`cnp` is a conditional neural process (Garnelo et al. 2018) without its variance: a mean over examples. `recurrent`
reads one after the other (Hochreiter, Younger, Conwell 2001; Santoro et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mamlrl.config import Config
from mamlrl.config.schema import require
from mamlrl.errors import ConfigError
from mamlrl.learners.filled import Filled
from mamlrl.learners.gradient import GradientLearner, gradient_learner
from mamlrl.learners.protonet import one_hot
from mamlrl.policies.base import Policy
from mamlrl.policies.context import CONTEXT
from mamlrl.policies.reading import Reader, ReadingPolicy, RecurrentReader, SetReader
from mamlrl.structs import Data, Params


@dataclass(frozen=True)
class ReadingSettings:
    """Settings of the learners cnp and recurrent."""

    size: int = 32
    """Numbers that the predictor is told of the examples, extra inputs of it."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of the hidden layers of the network that reads; of recurrent the last one is the recurrent one."""

    def __post_init__(self) -> None:
        require(1 <= self.size <= 10**4, "learner_settings.size", self.size, f"in [1, {10**4}]")
        fits = len(self.hidden_sizes) >= 1 and min(self.hidden_sizes) >= 1
        require(fits, "learner_settings.hidden_sizes", list(self.hidden_sizes), "layers of at least one unit")


def make_set(policy: Policy, config: Config, settings: ReadingSettings) -> GradientLearner:
    """The context is a mean over examples."""
    return _reading(policy, config, settings, SetReader)


def make_recurrent(policy: Policy, config: Config, settings: ReadingSettings) -> GradientLearner:
    """The context is the last output of a recurrent network."""
    return _reading(policy, config, settings, RecurrentReader)


def _reading(
    policy: Policy, config: Config, settings: ReadingSettings, make: Callable[[tuple[int, ...]], Reader]
) -> GradientLearner:
    """Raises ConfigError where the network has no first layer that a context could go into."""
    params = policy.init_params(torch.Generator())
    if not {"weight_0", "bias_0"} <= set(params) or params["weight_0"].dim() != 2:
        raise ConfigError(
            f"learner {config.learner} needs a network whose first layer is linear, with parameters weight_0 and "
            "bias_0, such as mlp"
        )
    of_classes, targets = config.adaptation.inner_loss == "cross_entropy", policy.distribution.num_outputs
    sizes = (len(params["weight_0"]) + targets, *settings.hidden_sizes, settings.size)
    reading = ReadingPolicy(policy, settings.size, make(sizes))

    def read(params: Params, batch: Data) -> Params:
        targets = one_hot(policy, batch) if of_classes else batch.targets.flatten(1, 2)
        pairs = torch.cat([batch.observations.flatten(1, 2), targets.to(batch.observations)], dim=-1)
        return reading.context(params, pairs, batch.weights.flatten(1))

    return gradient_learner(Filled(reading, config.adaptation, {CONTEXT: torch.zeros(settings.size)}, read), config)
