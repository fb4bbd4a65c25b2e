"""Bias and noise of estimators of the meta-gradient, from many independent meta-batches for the same tasks.

The reference is the mean over meta-batches of many more rollouts each, on random streams of its own. All estimators
see the same noise, so that they differ by what they make of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from mamlrl.config import Config
from mamlrl.diagnosis.estimators import (
    REFERENCE,
    begin,
    check_objective,
    curvature_products,
    estimator_config,
    meta_gradient,
)
from mamlrl.experiment import Experiment, check_training_memory, draw_tasks, make_experiment
from mamlrl.learners import training_steps
from mamlrl.learners.base import LearnerState
from mamlrl.progress import progress_bar
from mamlrl.rounds import adaptation_rounds
from mamlrl.sampler import collect
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import MetaBatch, Params, Rollouts

QUANTITIES = ("meta-gradient", "H v, v random", "H v, v the meta-gradient")
"""What is estimated; H is the Hessian of the inner loss."""


class Plan(NamedTuple):
    """How much is drawn."""

    estimators: Sequence[str]
    rollouts: Sequence[int]
    """per task and round, B"""
    repeats: int
    """independent meta-batches"""
    tasks: int
    reference: int
    """rollouts per task and round of the reference's meta-batches"""
    seed: int


class Mean(NamedTuple):
    """The mean of independent draws."""

    value: np.ndarray
    """[D]"""
    error: float
    """its expected squared distance to the expectation: trace of the covariance / number of draws"""


class Row(NamedTuple):
    """What is known of an estimator at a number of rollouts."""

    quantity: str
    estimator: str
    rollouts: int
    bias: float
    """|mean - reference| / |reference|"""
    noise_floor: float
    """what the bias would be about, were there none, from the noise of both means"""
    variance: float
    """trace of the covariance of one draw / |reference|^2"""
    snr: float
    """|expectation|^2 / trace of the covariance; NaN for what is always zero, infinite for what is always the same"""
    cosine: float
    """mean cosine to the reference of a draw that is not zero; NaN where all are"""
    zeros: int
    """draws that are zero, which have no direction"""


def mean_of(draws: np.ndarray) -> Mean:
    """The mean of draws [R, D]."""
    return Mean(draws.mean(0), _scatter(draws) / len(draws))


def _scatter(draws: np.ndarray) -> float:
    """Trace of the covariance."""
    return float(draws.var(0, ddof=1).sum())


def compare(draws: np.ndarray, reference: Mean) -> dict[str, float]:
    """Bias, noise floor, variance, signal-to-noise ratio, cosine and zeros of draws [R, D], as in `Row`.

    The squared norm of a mean is too large by the noise of the mean; that is taken away for the signal. What is
    relative to a reference of zero is NaN.
    """
    size, scatter, mean = float(np.linalg.norm(reference.value)), _scatter(draws), mean_of(draws)
    pointing = draws[draws.any(1)]
    cosines = pointing @ reference.value / np.linalg.norm(pointing, axis=1)
    signal = max(0.0, float(mean.value @ mean.value) - mean.error)
    return {
        "bias": ratio(float(np.linalg.norm(mean.value - reference.value)), size),
        "noise_floor": ratio(math.sqrt(mean.error + reference.error), size),
        "variance": ratio(scatter, size**2),
        "snr": ratio(signal, scatter) if scatter or not signal else math.inf,
        "cosine": ratio(float(cosines.mean()), size) if len(pointing) else math.nan,
        "zeros": len(draws) - len(pointing),
    }


def ratio(part: float, whole: float) -> float:
    """NaN to a whole of zero."""
    return part / whole if whole else math.nan


class Reference(NamedTuple):
    """What estimators are held against."""

    tasks: np.ndarray
    """[M, P]"""
    directions: list[torch.Tensor]
    """v of each product, [D]"""
    means: list[Mean]
    """by quantity"""

    def noise(self) -> list[float]:
        """Relative error of each mean; NaN of one that is zero."""
        return [ratio(math.sqrt(mean.error), float(np.linalg.norm(mean.value))) for mean in self.means]


class Subject(NamedTuple):
    """Where estimators are held against each other."""

    config: Config
    """of the run"""
    trained: LearnerState | None
    """of the run's learner; None for an untrained one"""
    theta: Params
    """the initialisation"""


def make_subject(config: Config, trained: LearnerState | None) -> Subject:
    """A run where it stands, or at the initialisation that it would begin with.

    Args:
        config: of the run.
        trained: state of its learner; None for an untrained one.
    """
    if trained:
        return Subject(config, trained, trained.meta.init)
    sampling = dataclasses.replace(config.sampling, tasks=1, rollouts=1)
    experiment = make_experiment(dataclasses.replace(estimator_config(REFERENCE, config), sampling=sampling))
    try:
        return Subject(config, None, experiment.policy.init_params(experiment.streams.torch(Stream.INITIALISATION)))
    finally:
        experiment.envs.close()


def make_reference(subject: Subject, plan: Plan) -> Reference:
    """Draw the tasks and compute the reference: a first half for the direction, a second one for products along it."""
    streams = Streams(plan.seed).diagnosis()
    with estimator(REFERENCE, subject, plan, plan.reference) as (experiment, state):
        tasks = draw_tasks(experiment.envs, plan.tasks, streams.numpy(Stream.TASKS, 0))
        first = draw(experiment, state, tasks, streams.part(0), plan.repeats, [], "reference, first half")[0]
        gradient = torch.from_numpy(first.mean(0)).to(next(iter(state.meta.init.values())).dtype)
        noise = torch.randn(gradient.shape, generator=streams.torch(Stream.CURVATURE, 0), dtype=gradient.dtype)
        directions = [noise, gradient]
        second = draw(experiment, state, tasks, streams.part(1), plan.repeats, directions, "reference, second half")
    return Reference(tasks, directions, [mean_of(np.concatenate([first, second[0]])), *map(mean_of, second[1:])])


def diagnose(config: Config, trained: LearnerState | None, plan: Plan) -> tuple[list[Row], Reference]:
    """Hold estimators against a reference, for tasks drawn once.

    Args:
        config: of the run.
        trained: state of its learner; None for an untrained one.
        plan: estimators, and how much to draw.

    Returns:
        A row for each quantity, estimator and number of rollouts, and the reference.

    Raises:
        UserError: an estimator or environment cannot be made, does not fit the initialisation, or needs more memory
            than there is.
    """
    subject = make_subject(config, trained)
    most = [(REFERENCE, plan.reference), *((name, max(plan.rollouts)) for name in plan.estimators)]
    for name, rollouts in most:  # what is wrong is told before anything is drawn
        with estimator(name, subject, plan, 1) as (experiment, _):
            check_training_memory(experiment._replace(config=_sampling(experiment.config, plan, rollouts)))
    reference = make_reference(subject, plan)
    streams = Streams(plan.seed).diagnosis().part(2)
    rows = []
    for name, rollouts in itertools.product(plan.estimators, plan.rollouts):
        with estimator(name, subject, plan, rollouts) as (experiment, state):
            label = f"{name}, {rollouts} rollouts"
            draws = draw(experiment, state, reference.tasks, streams, plan.repeats, reference.directions, label)
        for quantity, values, mean in zip(QUANTITIES, draws, reference.means, strict=True):
            rows.append(Row(quantity, name, rollouts, **compare(values, mean)))  # type: ignore[arg-type]
    return sorted(rows, key=lambda row: QUANTITIES.index(row.quantity)), reference


def _sampling(config: Config, plan: Plan, rollouts: int) -> Config:
    """The settings with so many rollouts per task, and without evaluations."""
    sampling = dataclasses.replace(config.sampling, tasks=plan.tasks, rollouts=rollouts)
    return dataclasses.replace(config, sampling=sampling, eval=dataclasses.replace(config.eval, every=0))


@contextmanager
def estimator(name: str, subject: Subject, plan: Plan, rollouts: int) -> Iterator[tuple[Experiment, LearnerState]]:
    """An estimator with environments for so many rollouts per task, and its state.

    That is the subject's, if it has one of the same learner, else the first one at the same initialisation.
    """
    config = estimator_config(name, subject.config)
    experiment = make_experiment(_sampling(config, plan, rollouts))
    try:
        check_objective(name, experiment.learner)
        if subject.trained and config.learner == subject.config.learner:
            yield experiment, subject.trained
        else:
            who = f"the reference, {name}," if name == REFERENCE else f"--estimators has {name}, which"
            yield experiment, begin(who, experiment.learner, experiment.config, subject.theta)
    finally:
        experiment.envs.close()


def draw(
    experiment: Experiment,
    state: LearnerState,
    tasks: np.ndarray,
    streams: Streams,
    repeats: int,
    directions: Sequence[torch.Tensor],
    label: str,
) -> list[np.ndarray]:
    """Meta-gradients [R, D], and products with the curvature along each direction [R, D], of independent meta-batches.

    Args:
        experiment: environments, policy and learner.
        state: of the learner.
        tasks: [M, P].
        streams: of the draws.
        repeats: R.
        directions: [D] each.
        label: for the progress bar.
    """
    learner = experiment.learner
    draws = []
    for number in progress_bar(range(repeats), label):
        meta_batch = sample(experiment, state, tasks, streams, number)
        products = curvature_products(learner, state, meta_batch, directions)
        draws.append(torch.stack([meta_gradient(learner, state, meta_batch), *products]))
    return list(torch.stack(draws, dim=1).double().numpy())


def sample(experiment: Experiment, state: LearnerState, tasks: np.ndarray, streams: Streams, number: int) -> MetaBatch:
    """One meta-batch, as a meta-iteration samples it."""
    config, envs, policy, learner, _ = experiment

    def collected(params: Params, step: int) -> Rollouts:
        return collect(envs, policy, params, tasks, streams.rollouts(number, step), config.environment)

    rounds = adaptation_rounds(learner, state.meta, collected, training_steps(config), config.sampling)
    *support, query = (one.batch for one in rounds)
    return MetaBatch(tuple(support), query)
