"""One meta-iteration: Algorithm 3 of the MAML paper, and what it tells of itself."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mamlrl.config import Config, SamplingConfig
from mamlrl.distributed import gather, share_of
from mamlrl.distributions import DiagonalGaussian
from mamlrl.envs.trials import TrialVector
from mamlrl.evaluation.held_out import AdaptationResult, joined, result_of
from mamlrl.experiment import Experiment, draw_tasks
from mamlrl.learners import batches_of, training_steps
from mamlrl.learners.base import LearnerState, undone
from mamlrl.messages import counted
from mamlrl.policies.base import Policy
from mamlrl.rounds import Round, adaptation_rounds
from mamlrl.sampler import collect, shown_episodes
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

    Each rank does so with its share of the tasks.

    Args:
        experiment: environments, policy, learner and settings.
        state: the learner's state.
        iteration: number of the meta-iteration, from 0; picks the random streams.

    Returns:
        The learner's new state, the old one where its policy could act no more, and what happened.
    """
    config, envs, policy, learner, streams = experiment
    watch, share, shorter = Stopwatch(), share_of(config.sampling.tasks), False
    episodes = config.sampling.episodes_at(iteration)
    if isinstance(envs, TrialVector):
        envs.trial_episodes, envs.reward_info = episodes, config.sampling.reward_info
        shorter = episodes < config.sampling.episodes
    tasks = draw_tasks(envs, config.sampling.tasks, streams.numpy(Stream.TASKS, iteration))[share.rows]

    def sample(params: Params, step: int) -> Rollouts:
        with watch("sample"):
            round_streams = streams.rollouts(iteration, step, share.first)
            predicted = config.sampling.predicted_infos
            return collect(envs, policy, params, tasks, round_streams, config.environment, predicted)

    with watch("rounds"):
        steps, batch_of = training_steps(config), batches_of(config)
        rounds = list(adaptation_rounds(learner, state.meta, sample, steps, config.sampling, batch_of=batch_of))
    *support, query = (one.batch for one in rounds)
    with watch("update"):
        generator = streams.torch(Stream.CURVATURE, iteration)
        meta_batch = MetaBatch(tuple(support), query, first_task=share.first, infos=rounds[-1].rollouts.infos)
        new_state, update = learner.meta_step(state, meta_batch, generator)
        acts = can_act(policy, learner.start(new_state.meta), rounds[0].rollouts)

    seen = seen_by_all(gather(seen_in(rounds, policy, config, acts)))
    update = update if seen.acts else undone(update)
    refused = getattr(update, "refused", None)
    returns = estimates_of(seen.result.returns)
    seconds = watch.seconds
    quantity = f"return of {counted(episodes, 'episode')} " if shorter else "return "
    return new_state if seen.acts else state, IterationOutcome(
        metrics={
            **round_metrics(seen.result, returns),
            **trial_metrics(seen.result.episodes, config.sampling),
            **policy_metrics(seen),
            "baseline/explained_variance": _mean(seen.explained_variance),
            **update.metrics(),
            "time/sample": seconds["sample"],
            "time/adapt": seconds["rounds"] - seconds["sample"],
            "time/update": seconds["update"],
        },
        estimates={"return": returns},
        env_steps=seen.env_steps,
        # the best checkpoint is one of whole trials
        score=-math.inf if shorter else returns[-1].mean,
        status=quantity
        + " -> ".join(f"{one.mean:.2f}" for one in [*returns[:1], *returns[1:][-1:]])
        + (f", update refused: {refused}" if refused else ""),
        not_finite=update.not_finite or not seen.acts,
    )


def trial_metrics(episodes: np.ndarray | None, sampling: SamplingConfig) -> dict[str, float | None]:
    """Mean return of some episodes of trials, by their numbers; None of those that shorter trials do not have.

    Args:
        episodes: returns by number of the episode and task, [E, M]; None where rollouts are no trials.
        sampling: says how long whole trials are.
    """
    if episodes is None:
        return {}
    means, shown = episodes.mean(1), shown_episodes(sampling.episodes)
    values = {f"return/episode_{number}": float(means[number]) if number < len(means) else None for number in shown}
    return {**values, "trial/episodes": float(len(means))}


class Seen(NamedTuple):
    """What metrics are made of, of some tasks; K + 1 rounds."""

    result: AdaptationResult
    """returns and measures by round"""
    explained_variance: np.ndarray
    """[M], of the query round"""
    entropy: np.ndarray
    """of the action distributions in the first rollout of each task, [N], nats"""
    std: np.ndarray | None
    """likewise their standard deviations, [N, A]; None where they are no Gaussians"""
    saturated: tuple[int, int]
    """components of actions beyond the action bounds, and all of them"""
    env_steps: int
    acts: bool
    """whether the new policy can act"""


@torch.no_grad()
def seen_in(rounds: Sequence[Round], policy: Policy, config: Config, acts: bool) -> Seen:
    """What was seen in this rank's rounds."""
    first, distribution = rounds[0], policy.distribution
    scale = config.environment.action_scale
    outputs, alive = policy.outputs(first.params, first.rollouts.observations[:, :1]), first.rollouts.mask[:, :1].bool()
    actions = first.rollouts.actions[first.rollouts.mask.bool()]
    is_gaussian = isinstance(distribution, DiagonalGaussian)
    return Seen(
        result_of(rounds),
        rounds[-1].explained_variance.cpu().numpy(),
        distribution.entropy(outputs)[alive].cpu().numpy(),
        distribution.std(outputs)[alive].cpu().numpy() if is_gaussian else None,
        (int((actions.abs() > scale).sum()), actions.numel()) if is_gaussian else (0, 0),
        sum(int(one.rollouts.mask.sum()) for one in rounds),
        acts,
    )


def seen_by_all(parts: Sequence[Seen]) -> Seen:
    """What was seen by all ranks, in the order of tasks."""
    results, explained, entropies, stds, saturated, env_steps, acts = zip(*parts, strict=True)
    return Seen(
        joined(results),
        np.concatenate(explained),
        np.concatenate(entropies),
        None if stds[0] is None else np.concatenate(stds),
        (sum(beyond for beyond, _ in saturated), sum(all_of for _, all_of in saturated)),
        sum(env_steps),
        all(acts),
    )


def estimates_of(returns: np.ndarray) -> list[Estimate]:
    """Mean of each round over tasks, of returns [K + 1, M]."""
    return [Estimate(_mean(row), interval(row)) for row in returns]


def round_metrics(result: AdaptationResult, returns: list[Estimate]) -> dict[str, float]:
    """Of each round: the return with its interval, and what the environment measures."""
    metrics = {}
    for step, estimate in enumerate(returns):
        metrics[f"return/step_{step}"] = estimate.mean
        metrics[f"return_interval/step_{step}"] = estimate.half_width
    for step in range(len(returns)):
        for name, rows in result.measures.items():
            if not np.isnan(rows[step]).all():
                metrics[f"{name}/step_{step}"] = float(nan_mean(rows[step]))
    return metrics


def policy_metrics(seen: Seen) -> dict[str, float]:
    """Spread of the policy's actions, over the first rollout of each task, and how many leave the action bounds.

    The entropy is the mean over its steps, in nats; for a Gaussian policy the standard deviation too, in policy units.
    """
    metrics = {"policy/entropy": _mean(seen.entropy)}
    if seen.std is not None:
        beyond, all_of = seen.saturated
        metrics["policy/std"] = _mean(seen.std)
        metrics["policy/saturated_fraction"] = beyond / all_of
    return metrics


def _mean(values: np.ndarray) -> float:
    """By torch, whose sums round as they always did here."""
    return float(torch.from_numpy(values).mean())


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
