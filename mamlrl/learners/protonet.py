"""Classification by likeness: prototypical (Snell, Swersky, Zemel 2017) and matching networks (Vinyals et al. 2016).

A network is meta-learned that turns inputs into features; what adapts is only what features are compared with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mamlrl.config import Config
from mamlrl.errors import ConfigError
from mamlrl.learners.filled import Filled
from mamlrl.learners.gradient import GradientLearner, gradient_learner
from mamlrl.policies.base import Policy
from mamlrl.policies.matching import KEYS, VALUES, MatchingPolicy
from mamlrl.structs import Data, Params


def make_protonet(policy: Policy, config: Config, settings: Any) -> GradientLearner:
    """A class is the mean c of the features of its examples; logits are -|f - c|^2, but for what all classes share.

    So the last, linear layer has weights 2 c and biases -|c|^2.

    Raises:
        ConfigError: the network does not say what its last layer sees, or nothing tells classes apart.
    """
    tell = features_of(policy, config, "protonet")

    def prototypes(params: Params, batch: Data) -> Params:
        features, classes = tell(params, batch.observations), one_hot(policy, batch)
        shares = classes.to(features.dtype) / classes.sum(1, keepdim=True).clamp(min=1)
        means = shares.mT @ features
        return {"weight": 2 * means.mT, "bias": -means.square().sum(-1)}

    params = policy.init_params(torch.Generator())
    empty = {name: torch.zeros_like(params[name]) for name in ("weight", "bias")}
    return gradient_learner(Filled(policy, config.adaptation, empty, prototypes), config)


def make_matching(policy: Policy, config: Config, settings: Any) -> GradientLearner:
    """Examples vote for their classes, with the softmax of the cosines between their features and those asked.

    Vinyals et al. 2016, section 2.1.1, without full context embeddings.

    Raises:
        ConfigError: as `make_protonet`.
    """
    tell = features_of(policy, config, "matching")
    matching = MatchingPolicy(policy, tell)

    def examples(params: Params, batch: Data) -> Params:
        features = tell(params, batch.observations)
        return {KEYS: features, VALUES: one_hot(policy, batch).to(features.dtype)}

    empty = {name: leaf for name, leaf in matching.init_params(torch.Generator()).items() if name in (KEYS, VALUES)}
    return gradient_learner(Filled(matching, config.adaptation, empty, examples), config)


def one_hot(policy: Policy, batch: Data) -> Tensor:
    """Classes of examples, [M, B, Z]."""
    return torch.nn.functional.one_hot(batch.targets.flatten(1), policy.distribution.num_outputs)


def features_of(policy: Policy, config: Config, learner: str) -> Any:
    """(params, observations) -> what the last layer of the network sees, [M, B * T, E].

    Raises:
        ConfigError: the network does not tell, or nothing tells classes apart.
    """
    if getattr(policy, "features", None) is None or config.adaptation.inner_loss != "cross_entropy":
        raise ConfigError(
            f"learner {learner} needs examples of classes, and a policy.network that tells what its last layer "
            "sees, such as conv"
        )
    return policy.features  # type: ignore[attr-defined] # as was just seen
