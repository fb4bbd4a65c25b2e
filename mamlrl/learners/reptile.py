"""Reptile (Nichol, Achiam, Schulman 2018): towards the mean of the adapted parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from mamlrl.config import Config
from mamlrl.learners.adaptations import Adaptation, GradientSteps
from mamlrl.learners.base import LearnerState
from mamlrl.learners.chunks import in_chunks
from mamlrl.learners.gradient import GradientLearner
from mamlrl.learners.objective import adapt_along
from mamlrl.objectives import mean_over_tasks
from mamlrl.outer import adam, sgd
from mamlrl.policies.base import Policy
from mamlrl.structs import MetaBatch, flatten, flatten_stacked


class Towards:
    """1/2 of the mean squared distance to the adapted parameters phi_i, held fixed; its gradient is theta - mean phi_i.

    The last inner step is taken on the query batch, so that no data are left aside.

    Args:
        adaptation: how it adapts.
        state: of the learner.
        meta_batch: support and query batches.

    Attributes:
        point: theta as a vector, [D].
        path: from theta to the adapted parameters.
    """

    def __init__(self, adaptation: Adaptation, state: LearnerState, meta_batch: MetaBatch):
        self.point = flatten(state.meta, state.meta)
        self.path = adapt_along(adaptation, state.meta, (*meta_batch.support, meta_batch.query))
        self._adapted = flatten_stacked({name: self.path.adapted[name] for name in state.meta.init})

    def loss_and_gradient(self, point: Tensor | None = None) -> tuple[float, Tensor]:
        """The loss and theta - mean phi_i, [D]."""
        point = self.point if point is None else point
        # of differences: what no task has changed must not move by the rounding of a mean, which Adam would magnify
        return self.evaluate(point)[0], mean_over_tasks(point - self._adapted)

    def evaluate(self, point: Tensor) -> tuple[float, float]:
        """The loss; there is no divergence (NaN)."""
        distances = 0.5 * (point - self._adapted).square().sum(1)
        return float(mean_over_tasks(distances)), float("nan")


def make_reptile(policy: Policy, config: Config, settings: Any) -> GradientLearner:
    """Inner steps on all rounds of rollouts, then an outer step along theta - mean phi_i."""
    adaptation = GradientSteps(policy, config.adaptation, first_order=True)
    outer = adam(config) if config.outer == "adam" else sgd(config)

    def objective(
        adaptation: Adaptation, state: LearnerState, meta_batch: MetaBatch, generator: torch.Generator | None
    ) -> Towards:
        return Towards(adaptation, state, meta_batch)

    return GradientLearner(adaptation, in_chunks(objective, config), dataclasses.replace(outer, divergence=False))
