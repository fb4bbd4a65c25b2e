"""One meta-iteration on supervised tasks: many meta-updates, each on examples of new tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mamlrl.distributed import gather, share_of
from mamlrl.evaluation.examples import Measured, estimates_of, joined, measure, metrics_of
from mamlrl.experiment import SupervisedExperiment, draw_examples
from mamlrl.learners import training_steps
from mamlrl.learners.base import LearnerState, Outcome
from mamlrl.seeding import Stream
from mamlrl.structs import MetaBatch
from mamlrl.supervised import TASK_SETS
from mamlrl.training.iteration import IterationOutcome, Stopwatch


def supervised_iteration(
    experiment: SupervisedExperiment, state: LearnerState, iteration: int
) -> tuple[LearnerState, IterationOutcome]:
    """`data.updates` meta-updates (Finn, Abbeel, Levine 2017, Algorithm 2).

    Errors are those of the first update's tasks, before any update. A meta-update that is refused is skipped and
    counted, and the line of progress says why the first one was.

    Args:
        experiment: tasks, predictor, learner and settings.
        state: the learner's state.
        iteration: number of the meta-iteration, from 0; picks the random streams.
    """
    config, row, watch = experiment.config, TASK_SETS[experiment.config.env], Stopwatch()
    first, updates, outcomes = iteration * config.data.updates, config.data.updates, list[Outcome]()
    measured: Measured = {}
    for number in range(first, first + updates):
        with watch("sample"):
            meta_batch = draw_meta_batch(experiment, number)
        if number == first:
            with watch("measure"):
                measured = joined(gather(measure(experiment, state.meta, meta_batch.support, meta_batch.query)))
        with watch("update"):
            generator = experiment.streams.torch(Stream.CURVATURE, number)
            state, outcome = experiment.learner.meta_step(state, meta_batch, generator)
        outcomes.append(outcome)
    quantity = row.quantity.name
    by_step = estimates_of(measured[quantity])
    reasons, not_finite = list(filter(None, map(_why_refused, outcomes))), all(one.not_finite for one in outcomes)
    told = reasons and not not_finite  # of which the loop tells
    return state, IterationOutcome(
        metrics={
            **metrics_of(measured),
            **means([outcome.metrics() for outcome in outcomes]),
            "updates": float((iteration + 1) * updates),
            "refused_updates": float(len(reasons)),
            **{f"time/{part}": seconds for part, seconds in watch.seconds.items()},
        },
        estimates={quantity: by_step},
        env_steps=0,
        score=row.quantity.score(by_step[-1].mean),
        status=f"{quantity} "
        + " -> ".join(f"{one.mean:.3f}" for one in [*by_step[:1], *by_step[1:][-1:]])
        + (f", {len(reasons)} of {updates} updates refused: {reasons[0]}" if told else ""),
        not_finite=not_finite,
    )


def _why_refused(outcome: Outcome) -> str:
    return getattr(outcome, "refused", None) or ("not finite" if outcome.not_finite else "")


def draw_meta_batch(experiment: SupervisedExperiment, update: int) -> MetaBatch:
    """This rank's share of the data of a meta-update, numbered from 0.

    Every inner step is on the same support examples.
    """
    config, streams = experiment.config, experiment.streams
    share = share_of(config.sampling.tasks)
    tasks = experiment.tasks.sample_tasks(config.sampling.tasks, streams.numpy(Stream.TASKS, update))
    rng = streams.numpy(Stream.ENVIRONMENT, update)
    support, query = draw_examples(experiment, tasks, config.data.shots, config.data.queries, rng, share.rows)
    steps = training_steps(config)
    return MetaBatch((support,) * steps, query, (query,) * steps, share.first)


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over the meta-updates in which it is a finite number; NaN where it is in none."""
    result = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
        result[name] = sum(values) / len(values) if values else math.nan
    return result
