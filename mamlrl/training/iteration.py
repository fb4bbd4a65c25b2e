"""One meta-iteration: Algorithm 3 of the MAML paper, and what it tells of itself."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from gymnasium.vector import VectorEnv

from mamlrl.config import SamplingConfig
from mamlrl.distributions import DiagonalGaussian
from mamlrl.envs.trials import TrialVector
from mamlrl.evaluation.trials import shown_episodes
from mamlrl.experiment import Experiment, draw_tasks
from mamlrl.learners import batches_of, training_steps
from mamlrl.learners.base import LearnerState, undone
from mamlrl.policies.base import Policy
from mamlrl.rounds import Round, adaptation_rounds
from mamlrl.sampler import collect, episode_returns, mean_measures, mean_returns
from mamlrl.seeding import Stream
from mamlrl.statistics import Estimate, Estimates, interval, nan_mean
from mamlrl.structs import MetaBatch, Metrics, Params, Rollouts


class IterationOutcome(NamedTuple):
    """What the loop needs to know of a meta-iteration."""

    metrics: Metrics
    estimates: Estimates
    """of the metrics, those that are drawn with their intervals"""
    env_steps: int
    """environment steps that it took; 0 where there is no environment"""
    score: float
    """how good the state before the update was, the larger the better: the return after adaptation"""
    status: str
    """for the line of progress"""
    not_finite: bool
    """whether the update was refused because a number was not finite"""


def meta_iteration(
    experiment: Experiment, state: LearnerState, iteration: int
) -> tuple[LearnerState, IterationOutcome]:
    """Sample, adapt, sample, meta-update (Finn, Abbeel, Levine 2017, Algorithm 3).

    Args:
        experiment: environments, policy, learner and settings.
        state: the learner's state.
        iteration: number of the meta-iteration, from 0; picks the random streams.

    Returns:
        The learner's new state, the old one where its policy could act no more, and what happened.
    """
    config, envs, policy, learner, streams = experiment
    watch = Stopwatch()
    if isinstance(envs, TrialVector):
        envs.trial_episodes = config.sampling.episodes_at(iteration)
    tasks = draw_tasks(envs, config.sampling.tasks, streams.numpy(Stream.TASKS, iteration))

    def sample(params: Params, step: int) -> Rollouts:
        with watch("sample"):
            return collect(envs, policy, params, tasks, streams.rollouts(iteration, step), config.environment)

    with watch("rounds"):
        steps, batch_of = training_steps(config), batches_of(config)
        rounds = list(adaptation_rounds(learner, state.meta, sample, steps, config.sampling, batch_of=batch_of))
    *support, query = (one.batch for one in rounds)
    with watch("update"):
        generator = streams.torch(Stream.CURVATURE, iteration)
        new_state, update = learner.meta_step(state, MetaBatch(tuple(support), query), generator)
        usable = can_act(policy, learner.start(new_state.meta), rounds[0].rollouts)
        update = update if usable else undone(update)

    refused = getattr(update, "refused", None)
    returns = round_returns(rounds)
    seconds = watch.seconds
    return new_state if usable else state, IterationOutcome(
        metrics={
            **round_metrics(rounds, returns),
            **trial_metrics(rounds[-1].rollouts, config.sampling),
            **policy_metrics(policy, rounds[0], config.environment.action_scale),
            "baseline/explained_variance": rounds[-1].explained_variance,
            **update.metrics(),
            "time/sample": seconds["sample"],
            "time/adapt": seconds["rounds"] - seconds["sample"],
            "time/update": seconds["update"],
        },
        estimates={"return": returns},
        env_steps=sum(int(one.rollouts.mask.sum()) for one in rounds),
        score=trial_score(returns[-1].mean, envs, config.sampling),
        status="return "
        + " -> ".join(f"{one.mean:.2f}" for one in [*returns[:1], *returns[1:][-1:]])
        + (f", update refused: {refused}" if refused else ""),
        not_finite=update.not_finite or not usable,
    )


def trial_score(mean_return: float, envs: VectorEnv, sampling: SamplingConfig) -> float:
    """The return after adaptation; of trials that are shorter than those that are learned for minus infinity."""
    shorter = isinstance(envs, TrialVector) and envs.trial_episodes < sampling.episodes
    return -math.inf if shorter else mean_return


def trial_metrics(rollouts: Rollouts, sampling: SamplingConfig) -> dict[str, float | None]:
    """Mean return of some episodes of trials, by their numbers; None of those that shorter trials do not have."""
    if rollouts.episodes is None:
        return {}
    returns = episode_returns(rollouts, sampling.episodes).mean((0, 1))
    length = int(rollouts.episodes.max()) + 1
    shown = shown_episodes(sampling.episodes)
    values = {f"return/episode_{number}": float(returns[number]) if number < length else None for number in shown}
    return {**values, "trial/episodes": float(length)}


def round_returns(rounds: list[Round]) -> list[Estimate]:
    """Mean undiscounted return of each round over tasks."""
    returns = [mean_returns(one.rollouts) for one in rounds]
    return [Estimate(float(values.mean()), interval(values.cpu().numpy())) for values in returns]


def round_metrics(rounds: list[Round], returns: list[Estimate]) -> dict[str, float]:
    """Of each round: the return with its interval, and what the environment measures."""
    metrics = {}
    for one, estimate in zip(rounds, returns, strict=True):
        metrics[f"return/step_{one.step}"] = estimate.mean
        metrics[f"return_interval/step_{one.step}"] = estimate.half_width
    for one in rounds:
        for name, values in mean_measures(one.rollouts).items():
            metrics[f"{name}/step_{one.step}"] = float(nan_mean(values.cpu().numpy()))
    return metrics


@torch.no_grad()
def policy_metrics(policy: Policy, first: Round, action_scale: float) -> dict[str, float]:
    """Spread of the policy's actions, over the first rollout of each task, and how many leave the action bounds.

    The entropy is the mean over its steps, in nats; for a Gaussian policy the standard deviation too, in policy units.
    """
    rollouts = first.rollouts
    outputs, alive = policy.outputs(first.params, rollouts.observations[:, :1]), rollouts.mask[:, :1].bool()
    metrics = {"policy/entropy": float(policy.distribution.entropy(outputs)[alive].mean())}
    if isinstance(policy.distribution, DiagonalGaussian):
        actions = rollouts.actions[rollouts.mask.bool()]
        metrics["policy/std"] = float(policy.distribution.std(outputs)[alive].mean())
        metrics["policy/saturated_fraction"] = float((actions.abs() > action_scale).double().mean())
    return metrics


@torch.no_grad()
def can_act(policy: Policy, params: Params, rollouts: Rollouts) -> bool:
    """Whether a policy has actions, and finite log-probabilities of them, where the first rollout of each task was.

    Parameters can be finite, and so large that it has none.
    """
    outputs = policy.outputs(params, rollouts.observations[:, :1])
    noise = outputs.new_full((*outputs.shape[:-1], *policy.distribution.noise_shape), 0.5)
    actions = policy.distribution.sample(outputs, noise)
    return bool(policy.distribution.log_prob(outputs, actions).isfinite().all())


class Stopwatch:
    """Adds up wall-clock seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
