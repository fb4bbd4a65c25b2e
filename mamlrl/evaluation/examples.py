"""How well what was meta-learned adapts to supervised tasks, by number of gradient steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from mamlrl.config import Config
from mamlrl.distributed import gather, share_of
from mamlrl.evaluation.held_out import HeldOut
from mamlrl.experiment import SupervisedExperiment, draw_examples, supervised_tasks
from mamlrl.learners import evaluation_steps, step_scale
from mamlrl.learners.base import LearnerState
from mamlrl.learners.chunks import chunks_of
from mamlrl.rounds import adapted_on
from mamlrl.seeding import Stream, Streams
from mamlrl.statistics import Estimate, interval
from mamlrl.structs import Data, Examples, MetaBatch, MetaParams
from mamlrl.supervised import TASK_SETS
from mamlrl.supervised.base import ALL

Measured = dict[str, np.ndarray]
"""Quantities by name, that of the task set first: of each task after 0, 1, ... gradient steps, [K + 1, M]."""
DIVERGED = "diverged"
"""Quantity that is 1 where the error has grown `MANY_TIMES` beyond what it was before adaptation, mean over tasks."""
MANY_TIMES = 10.0


@torch.no_grad()
def measure(
    experiment: SupervisedExperiment,
    meta: MetaParams,
    batches: Sequence[Data],
    query: Data,
    scale: Callable[[int], float] = lambda step: 1.0,
) -> Measured:
    """Quantities on the query examples after each number of gradient steps.

    Args:
        experiment: predictor and learner.
        meta: what is meta-learned.
        batches: that each step is taken on.
        query: of M tasks.
        scale: factor on the step sizes of step k, from 0.
    """
    policy, config = experiment.policy, experiment.config
    measures = TASK_SETS[config.env].measures

    def measured(some: MetaBatch) -> Measured:
        rows: dict[str, list[np.ndarray]] = {name: [] for name in measures}
        for params in adapted_on(experiment.learner, meta, some.support, scale):
            outputs = policy.outputs(params, some.query.observations)
            for name, loss in measures.items():
                rows[name].append(loss(policy.distribution, outputs, some.query).double().cpu().numpy())
        return {name: np.stack(values) for name, values in rows.items()}

    return joined(
        [measured(some) for some in chunks_of(MetaBatch(tuple(batches), query), config.data.measured_at_once)]
    )


def estimates_of(values: np.ndarray) -> list[Estimate]:
    """Mean over tasks and its interval, of values [K + 1, M]."""
    return [Estimate(float(row.mean()), interval(row)) for row in values]


def metrics_of(measured: Measured, prefix: str = "") -> dict[str, float]:
    """Of each quantity the mean after each number of steps, and of the first one the half width of its interval."""
    quantity, *_ = measured
    means = {
        f"{prefix}{name}/step_{step}": float(row.mean())
        for name, rows in measured.items()
        for step, row in enumerate(rows)
    }
    return means | {
        f"{prefix}{quantity}_interval/step_{step}": one.half_width
        for step, one in enumerate(estimates_of(measured[quantity]))
    }


def with_divergence(measured: Measured) -> Measured:
    """The same, and which tasks diverged where errors are measured; what is no number but an accuracy is infinite."""
    told = {
        name: np.nan_to_num(rows, nan=math.inf, posinf=math.inf) if name in ("error", "loss") else rows
        for name, rows in measured.items()
    }
    if "error" not in told:
        return told
    errors = told["error"]
    diverged = ~np.isfinite(errors) | (errors > MANY_TIMES * errors[0].mean())
    return {**told, DIVERGED: diverged.astype(np.float64)}


def evaluate_supervised(
    experiment: SupervisedExperiment, meta: MetaParams, tasks: np.ndarray, streams: Streams
) -> Measured:
    """Adapt to tasks on `eval.shots` examples each, and measure on `eval.queries` others; each rank does its share.

    Args:
        experiment: of a split, with the predictor, the learner and the settings.
        meta: what is meta-learned.
        tasks: [M, P].
        streams: of the evaluation.
    """
    support, query = held_out_examples(experiment, tasks, streams, share_of(len(tasks), "eval.tasks").rows)
    config = experiment.config
    batches = [support] * evaluation_steps(config)
    measured = measure(experiment, meta, batches, query, lambda step: step_scale(config, step))
    return with_divergence(joined(gather(measured)))


def joined(measured: Sequence[Measured]) -> Measured:
    """What was measured of one group of tasks after the other."""
    return {name: np.concatenate([one[name] for one in measured], axis=1) for name in measured[0]}


def nearest_neighbour(experiment: SupervisedExperiment, tasks: np.ndarray, streams: Streams) -> Measured:
    """Accuracy in %, [1, M], of taking the class of the support example with the largest cosine: no learning at all."""
    support, query = held_out_examples(experiment, tasks, streams)
    known, asked = (
        torch.nn.functional.normalize(examples.observations.flatten(1, 2), dim=-1) for examples in (support, query)
    )
    nearest = (asked @ known.mT).argmax(-1)
    found = support.targets.flatten(1).gather(1, nearest) == query.targets.flatten(1)
    return {"accuracy": 100 * found.double().mean(1).cpu().numpy()[None]}


def held_out_tasks(experiment: SupervisedExperiment, seed: int) -> tuple[np.ndarray, Streams]:
    """The tasks [M, P] of an evaluation, and its streams: the same whatever is evaluated on them.

    Args:
        experiment: of the split "test".
        seed: of the evaluation.
    """
    streams = Streams(seed).test()
    return experiment.tasks.sample_tasks(experiment.config.eval.tasks, streams.numpy(Stream.TASKS, 0)), streams


def held_out_examples(
    experiment: SupervisedExperiment, tasks: np.ndarray, streams: Streams, rows: slice = ALL
) -> tuple[Examples, Examples]:
    """Support and query examples of an evaluation, of some of its tasks."""
    config = experiment.config
    shots, queries = config.eval.shots or config.data.shots, config.eval.queries or config.data.queries
    return draw_examples(experiment, tasks, shots, queries, streams.numpy(Stream.ENVIRONMENT, 0), rows)


class SupervisedEvaluation:
    """Evaluation on held-out tasks and examples, drawn once, every `eval.every` meta-iterations.

    Args:
        experiment: what is trained.
    """

    def __init__(self, experiment: SupervisedExperiment):
        config, self._streams = experiment.config, experiment.streams.evaluation()
        self._experiment = experiment._replace(tasks=supervised_tasks(config, "validation"))
        self._tasks = self._experiment.tasks.sample_tasks(config.eval.tasks, self._streams.numpy(Stream.TASKS, 0))

    def __call__(self, state: LearnerState, iteration: int) -> HeldOut:
        """Quantities by number of gradient steps, where an evaluation is due after this iteration.

        The score is the mean over steps of the quantity after adaptation; what does not adapt has that before any.
        """
        config = self._experiment.config
        if iteration % config.eval.every:
            return HeldOut(dict.fromkeys(_names(config)), None)
        measured = evaluate_supervised(self._experiment, state.meta, self._tasks, self._streams)
        row = TASK_SETS[config.env]
        values = measured[row.quantity.name]
        means = values.mean(1)
        score = row.quantity.score(float((means[1:] if len(means) > 1 else means).mean()))
        metrics = {**metrics_of(measured, "eval/"), **_medians(row.quantity.name, values)}
        return HeldOut(metrics, score, {row.quantity.name: estimates_of(values)})


def _medians(quantity: str, values: np.ndarray) -> dict[str, float]:
    return {f"eval/{quantity}_median/step_{step}": float(np.median(row)) for step, row in enumerate(values)}


def _names(config: Config) -> list[str]:
    """Metrics of an evaluation, for the iterations without one."""
    quantity, *others = TASK_SETS[config.env].measures
    told = [quantity, *others, *([DIVERGED] if quantity == "error" else [])]
    each = [*told, f"{quantity}_interval", f"{quantity}_median"]
    return [f"eval/{name}/step_{step}" for name in each for step in range(evaluation_steps(config) + 1)]
