"""The nouns that the modules exchange, and the legend of their shapes.

M tasks in the meta-batch, B rollouts per task, T time steps, R = B * T rows, O observation, A action,
P task parameters, Z numbers that a policy outputs per row (the parameters of its action distribution),
K adaptation steps. A parameter dict is *stacked* when every leaf leads with M: one policy per task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

Params = dict[str, Tensor]

Metrics = Mapping[str, float | None]
"""Numbers of one meta-iteration by name; None where one was not measured in it."""


class Rollouts(NamedTuple):
    """What `sampler.collect` returns: B rollouts for each of M tasks, padded to T steps."""

    observations: Tensor
    """[M, B, T, O], the observation that each action was chosen on."""
    actions: Tensor
    """[M, B, T, A] in policy units, before clipping ([M, B, T] for discrete actions)."""
    log_probs: Tensor
    """[M, B, T], log-probability of each action under the policy that sampled it."""
    rewards: Tensor
    """[M, B, T], 0 after the end of the rollout."""
    terminated: Tensor
    """[M, B, T], 1 where the task itself ended the episode (not the time limit)."""
    mask: Tensor
    """[M, B, T], 1 while the rollout is alive."""
    final_observations: Tensor
    """[M, B, O], the observation after the last step of each rollout."""


class Batch(NamedTuple):
    """What a policy-gradient loss needs of one round of rollouts, a row per time step."""

    observations: Tensor
    """[M, R, O]"""
    actions: Tensor
    """[M, R, A], or [M, R] for discrete actions"""
    log_probs: Tensor
    """[M, R], under the policy that sampled the batch"""
    advantages: Tensor
    """[M, R], normalised per task over valid rows"""
    weights: Tensor
    """[M, R], 1 / (number of valid rows of the task) on valid rows, 0 on padding: a weighted sum is a mean."""


class MetaBatch(NamedTuple):
    """Everything that one meta-update sees."""

    support: tuple[Batch, ...]
    """K batches, one per adaptation step, each sampled by the policy adapted so far."""
    query: Batch
    """sampled by the adapted policies"""
