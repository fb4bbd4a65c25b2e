"""What a memory learns to predict besides: numbers that the environment tells of a time step, once that is over.

An auxiliary loss, with the knowledge of a simulator (Mirowski et al. 2017; Jaderberg et al. 2017).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mamlrl.distributed import sums_over_ranks
from mamlrl.structs import Batch


class PredictionTargets(NamedTuple):
    """What predictions should have said, [1, N, T, n] each."""

    values: Tensor
    counts: Tensor
    """1 where there is one, else 0"""

    def of(self, rows: Tensor, steps: int) -> PredictionTargets:
        """Of some trials, up to a time step."""
        return PredictionTargets(*(leaf[:, rows, :steps] for leaf in self))


def prediction_targets(infos: Tensor | None, batch: Batch) -> PredictionTargets:
    """The infos of a time step where its end is seen: at the next one, if that is of the same episode.

    Args:
        infos: after each time step, [1, N, T, n], NaN where there was none; None for n = 0.
        batch: [1, N, T]; the last number of an observation is 1 where the time step before ended an episode.
    """
    if infos is None:
        infos = batch.weights.new_zeros(*batch.weights.shape, 0)
    values = infos.roll(1, dims=2)
    goes_on = (batch.weights > 0) & (batch.observations[..., -1] == 0)
    goes_on[:, :, 0] = False
    counts = goes_on.unsqueeze(-1) & values.isfinite()
    return PredictionTargets(torch.where(counts, values, 0.0), counts.to(values.dtype))


def squared_errors(predictions: Tensor, targets: PredictionTargets) -> Tensor:
    """Of each prediction, [1, N, T, n]; 0 where there is no target."""
    return ((predictions - targets.values) * targets.counts).square()


def explained_variance(predictions: Tensor, targets: PredictionTargets) -> float:
    """Share of the variance of the targets that is predicted, mean over the n numbers; 0 for one that is constant."""
    values, counts = targets.values.double(), targets.counts.double()
    sums, count = sums_over_ranks([one.sum((0, 1, 2)) for one in (values, counts)])
    deviations = (values - sums / count.clamp(min=1)) * counts
    errors = squared_errors(predictions.double(), PredictionTargets(values, counts))
    spread, left = sums_over_ranks([one.sum((0, 1, 2)) for one in (deviations.square(), errors)])
    varies = spread > 1e-12 * (values.square() * counts).sum((0, 1, 2))
    return float(torch.where(varies, 1 - left / spread, 0.0).mean())
