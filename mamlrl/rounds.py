"""Rounds of adaptation: data on the current parameters, a batch, an inner step, and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from mamlrl.advantages import make_batch
from mamlrl.config import SamplingConfig
from mamlrl.learners.base import Learner
from mamlrl.structs import Batch, Data, MetaParams, Params, Rollouts


class Round(NamedTuple):
    """One round of rollouts on all tasks."""

    step: int
    """inner steps before it"""
    params: Params
    """that sampled it, shared or stacked"""
    rollouts: Rollouts
    batch: Batch
    explained_variance: Tensor
    """[M], share of the variance of each task's returns that the baseline explains"""
    adapted: Params | None
    """the parameters after the inner step on it; None for the query round, on which none is taken"""


def adaptation_rounds(
    learner: Learner,
    meta: MetaParams,
    sample: Callable[[Params, int], Rollouts],
    steps: int,
    sampling: SamplingConfig,
    scale: Callable[[int], float] = lambda step: 1.0,
    query: bool = True,
    params: Params | None = None,
    done: int = 0,
    batch_of: Callable[[Rollouts, SamplingConfig], tuple[Batch, Tensor]] = make_batch,
) -> Iterator[Round]:
    """Sample, adapt, `steps` times; then sample once more with the adapted parameters, the query round.

    Training, evaluation, films and deployment adapt here.

    Args:
        learner: takes the inner steps.
        meta: what is meta-learned.
        sample: (params, number of inner steps before) -> rollouts.
        steps: K.
        sampling: discount and lambda of the advantages.
        scale: factor on the step sizes of inner step k, from 0.
        query: whether there is a query round.
        params: to go on from; None begins with the learner's start.
        done: inner steps that led to them.
        batch_of: what a loss needs of rollouts, and how much of their returns a baseline explains.
    """
    params = learner.start(meta) if params is None else params
    for step in range(done, done + steps + query):
        rollouts = sample(params, step)
        batch, explained = batch_of(rollouts, sampling)
        adapted = learner.adapt(meta, params, batch, step, scale(step)).params if step < done + steps else None
        yield Round(step, params, rollouts, batch, explained, adapted)
        if adapted is not None:
            params = adapted


def adapted_on(
    learner: Learner,
    meta: MetaParams,
    batches: Iterable[Data],
    scale: Callable[[int], float] = lambda step: 1.0,
    params: Params | None = None,
    done: int = 0,
) -> Iterator[Params]:
    """The parameters after 0, 1, ... inner steps on data that are there already: examples.

    Args:
        learner: takes the inner steps.
        meta: what is meta-learned.
        batches: what each step is taken on.
        scale: factor on the step sizes of inner step k, from 0.
        params: to go on from; None begins with the learner's start.
        done: inner steps that led to them.
    """
    params = learner.start(meta) if params is None else params
    yield params
    for step, batch in enumerate(batches, start=done):
        params = learner.adapt(meta, params, batch, step, scale(step)).params
        yield params
