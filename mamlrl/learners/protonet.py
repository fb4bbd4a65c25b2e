"""Prototypical networks (Snell, Swersky, Zemel 2017): a class is the mean of what the network makes of its examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mamlrl.adaptation import InnerStep, LossAtPoint, loss_at
from mamlrl.config import Config
from mamlrl.errors import ConfigError
from mamlrl.learners.adaptations import FromZero
from mamlrl.learners.gradient import GradientLearner, gradient_learner
from mamlrl.objectives import cross_entropy_loss
from mamlrl.policies.base import Policy
from mamlrl.structs import Data, MetaParams, Params


def make_protonet(policy: Policy, config: Config, settings: Any) -> GradientLearner:
    """The last layer is set from the support examples, and all before it is meta-learned.

    Raises:
        ConfigError: the network does not say what its last layer sees, or nothing tells classes apart.
    """
    if getattr(policy, "features", None) is None or config.adaptation.inner_loss != "cross_entropy":
        raise ConfigError(
            "learner protonet needs examples of classes, and a policy.network that tells what its last layer sees, "
            "such as conv"
        )
    return gradient_learner(Prototypes(policy, config), config)


class Prototypes(FromZero):
    """Inner steps that set the last layer by the mean features c of each class's examples.

    With weights 2 c and biases -|c|^2 its logits are, but for what is the same for all classes, -|f - c|^2.

    Args:
        policy: of a network with a linear last layer, ``weight`` [E, Z] and ``bias`` [Z].
        config: settings of the run.
    """

    def __init__(self, policy: Policy, config: Config):
        super().__init__(policy, config.adaptation, frozenset({"weight", "bias"}))

    def adapt(self, meta: MetaParams, params: Params, batch: Data, step: int = 0, scale: float = 1.0) -> InnerStep:
        """The last layer from the examples; one step is all that there is to take."""
        return PrototypeStep(self.policy, params, batch)


@dataclass(frozen=True)
class PrototypeStep:
    """Phi' is phi with another last layer, a function of the other layers.

    Args:
        policy: the predictor.
        start: phi, shared or stacked.
        batch: examples of M tasks.
    """

    policy: Policy
    start: Params
    batch: Data

    @cached_property
    def _loss(self) -> LossAtPoint:
        return loss_at(self.policy, self.start, self.batch, cross_entropy_loss)

    @property
    def loss(self) -> LossAtPoint:
        """The cross entropy at phi."""
        return self._loss

    def head(self, body: Params) -> Params:
        """The last layer of each task, ``weight`` [M, E, Z] and ``bias`` [M, Z], from the layers before it."""
        tell: Any = self.policy.features  # type: ignore[attr-defined] # as `make_protonet` has made sure
        features: Tensor = tell({**self.start, **body}, self.batch.observations)
        classes = torch.nn.functional.one_hot(self.batch.targets.flatten(1), self.policy.distribution.num_outputs)
        shares = classes.to(features.dtype) / classes.sum(1, keepdim=True).clamp(min=1)
        prototypes = shares.mT @ features
        return {"weight": 2 * prototypes.mT, "bias": -prototypes.square().sum(-1)}

    @cached_property
    def _body(self) -> Params:
        """Phi but for its last layer, stacked."""
        num_tasks, stacked = len(self.batch.observations), self.start["bias"].dim() == 2
        rest = {name: leaf.detach() for name, leaf in self.start.items() if name not in ("weight", "bias")}
        return rest if stacked else {name: leaf.repeat(num_tasks, *[1] * leaf.dim()) for name, leaf in rest.items()}

    @cached_property
    def _params(self) -> Params:
        with torch.no_grad():
            head = self.head(self._body)
        return {name: head.get(name, leaf) for name, leaf in self.start.items()}

    @property
    def params(self) -> Params:
        """Phi'."""
        return self._params

    def pushforward(self, tangent: Params, size_tangent: Params | None = None) -> Params:
        """How phi' follows a change of phi."""
        change = {name: tangent[name].expand_as(leaf).contiguous() for name, leaf in self._body.items()}
        head = torch.func.jvp(self.head, (self._body,), (change,))[1]
        return {name: head.get(name, leaf) for name, leaf in tangent.items()}

    def pullback(self, cotangent: Params) -> Params:
        """The transpose of `pushforward`, per task: nothing comes from the old last layer."""
        pull = torch.func.vjp(self.head, self._body)[1]
        (through,) = pull({name: cotangent[name] for name in ("weight", "bias")})
        return {
            name: leaf + through[name] if name in through else torch.zeros_like(leaf)
            for name, leaf in cotangent.items()
        }

    def pullback_to_sizes(self, cotangent: Params) -> Params:
        """Nothing: there are no step sizes."""
        return {}
