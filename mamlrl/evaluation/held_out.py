"""How well what was meta-learned adapts to tasks that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from mamlrl.config import Config
from mamlrl.distributed import gather, share_of
from mamlrl.experiment import Experiment, draw_tasks, make_envs
from mamlrl.learners import batches_of, evaluation_steps, find_learner, step_scale
from mamlrl.learners.base import LearnerState
from mamlrl.progress import StepsBar
from mamlrl.rounds import Round, adaptation_rounds
from mamlrl.sampler import (
    collect_steps,
    longest_rollout,
    mean_episode_returns,
    mean_measures,
    mean_returns,
    shown_episodes,
)
from mamlrl.seeding import Stream, Streams
from mamlrl.statistics import Estimate, Estimates, interval, nan_mean
from mamlrl.structs import MetaParams, Metrics, Params, Rollouts


class HeldOut(NamedTuple):
    """Outcome of an evaluation on held-out tasks; without numbers where none was due."""

    metrics: Metrics
    score: float | None
    """how good the state is, the larger the better"""
    estimates: Estimates = {}  # noqa: RUF012 (never written to)
    """of the metrics, those that are drawn with their intervals"""
    episodes: Sequence[Estimate] = ()
    """return of each episode of trials, where there are some"""


class AdaptationResult(NamedTuple):
    """What tasks gave after 0, 1, ..., K gradient steps."""

    returns: np.ndarray
    """mean undiscounted return of each task, [K + 1, M]"""
    measures: dict[str, np.ndarray]
    """[K + 1, M] each: means over rollouts of what the environment measures, such as "success", NaN where it told none;
    may be empty"""
    episodes: np.ndarray | None = None
    """of a learner with trials: mean return of each of their E episodes on each task, [E, M]"""


def evaluate_adaptation(
    experiment: Experiment,
    envs: VectorEnv,
    meta: MetaParams,
    tasks: np.ndarray,
    streams: Streams,
    iteration: int = 0,
    adapted_to: np.ndarray | None = None,
) -> AdaptationResult:
    """Return of each task after 0, 1, ..., `evaluation_steps(config)` gradient steps; each rank adapts to its share.

    Each step is taken on fresh rollouts. Steps beyond those of training have half the step size (`step_scale`).

    Args:
        experiment: policy, learner and settings.
        envs: vector environment with `eval.rollouts` rows for each task of this rank's share.
        meta: what is meta-learned.
        tasks: [M, P].
        streams: of the evaluation.
        iteration: which evaluation of the run this is; each has noise of its own.
        adapted_to: [M, P], the tasks that steps are taken on where these are others than those that are acted in.
    """
    config, steps = experiment.config, evaluation_steps(experiment.config)
    elsewhere = adapted_to is not None
    bar = StepsBar(steps + 1 + elsewhere * steps, longest_rollout(envs, config.environment))
    counted, share = _Counted(envs, bar), share_of(len(tasks), "eval.tasks")

    def sample(params: Params, step: int, acted_in: np.ndarray = tasks) -> Rollouts:
        rollouts = collect_steps(
            counted,  # type: ignore[arg-type]
            experiment.policy,
            params,
            acted_in[share.rows],
            streams.rollouts(iteration, step, share.first),
            config.environment,
            config.eval.min_steps,
        )
        bar.end_round()
        return rollouts

    rounds = adaptation_rounds(
        experiment.learner,
        meta,
        sample if adapted_to is None else lambda params, step: sample(params, step, adapted_to),
        steps,
        config.sampling,
        lambda step: step_scale(config, step),
        query=not elsewhere,
        batch_of=batches_of(config),
    )
    if elsewhere:
        rounds = _acting(rounds, sample)
    with bar:
        return joined(gather(result_of(rounds)))


def _acting(rounds: Iterable[Round], sample: Callable[[Params, int], Rollouts]) -> Iterator[Round]:
    """Rounds of adaptation without a query round, with rollouts of their parameters elsewhere; and a query round."""
    one = None
    for one in rounds:
        yield one._replace(rollouts=sample(one.params, one.step))
    if one is not None and one.adapted is not None:
        last = one.step + 1
        yield one._replace(step=last, params=one.adapted, rollouts=sample(one.adapted, last), adapted=None)


class _Counted:
    """Environments whose time steps a bar counts. A `VectorWrapper` would close them when it is let go."""

    def __init__(self, envs: VectorEnv, bar: StepsBar):
        self._envs, self._bar = envs, bar

    def __getattr__(self, name: str) -> Any:
        return getattr(self._envs, name)

    def step(self, actions: Any) -> Any:
        self._bar.step()
        return self._envs.step(actions)


def result_of(rounds: Iterable[Round]) -> AdaptationResult:
    """Returns and measures of all rounds; a measure is NaN in a round that told nothing of it."""
    returns: list[np.ndarray] = []
    told: list[dict[str, np.ndarray]] = []
    episodes = None
    for one in rounds:
        if one.rollouts.episodes is not None:
            number = int(one.rollouts.episodes.max()) + 1
            episodes = mean_episode_returns(one.rollouts, number).T.cpu().numpy()
        returns.append(mean_returns(one.rollouts).cpu().numpy())
        told.append({name: values.cpu().numpy() for name, values in mean_measures(one.rollouts).items()})
    nothing = np.full_like(returns[0], np.nan)
    names = dict.fromkeys(name for measures in told for name in measures)
    measures = {name: np.stack([one.get(name, nothing) for one in told]) for name in names}
    return AdaptationResult(np.stack(returns), measures, episodes)


def joined(results: Sequence[AdaptationResult]) -> AdaptationResult:
    """Results of one group of tasks after the other; a measure is NaN for tasks that told nothing of it."""
    names = dict.fromkeys(name for one in results for name in one.measures)
    nothing = [np.full_like(one.returns, np.nan) for one in results]
    measures = {
        name: np.concatenate(
            [one.measures.get(name, absent) for one, absent in zip(results, nothing, strict=True)], axis=1
        )
        for name in names
    }
    trials = [one.episodes for one in results if one.episodes is not None]
    episodes = np.concatenate(trials, axis=1) if trials else None
    return AdaptationResult(np.concatenate([one.returns for one in results], axis=1), measures, episodes)


class Evaluation:
    """Evaluation on held-out tasks, drawn once, every `eval.every` meta-iterations.

    Args:
        experiment: what is trained.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        config = experiment.config
        self._envs = make_envs(config, share_of(config.eval.tasks, "eval.tasks").count * config.eval.rollouts)
        self._streams = experiment.streams.evaluation()
        self._tasks = draw_tasks(self._envs, config.eval.tasks, self._streams.numpy(Stream.TASKS, 0))

    def __call__(self, state: LearnerState, iteration: int) -> HeldOut:
        """Mean returns by number of gradient steps, where an evaluation is due after this iteration.

        The score is the mean over steps of the return after adaptation; a policy that does not adapt has the return
        before any.
        """
        config = self._experiment.config
        if iteration % config.eval.every:
            return HeldOut(dict.fromkeys(self._names(config)), None)
        result = evaluate_adaptation(self._experiment, self._envs, state.meta, self._tasks, self._streams, iteration)
        means = result.returns.mean(1)
        half_widths = [interval(row) for row in result.returns]
        of_episodes = [] if result.episodes is None else result.episodes.mean(1)[shown_episodes(len(result.episodes))]
        numbers = [*means.tolist(), *half_widths, *map(float, of_episodes)]
        metrics: Metrics = dict(zip(self._names(config), numbers, strict=True))
        measured = {
            f"eval/{name}/step_{step}": float(value)
            for name, rows in result.measures.items()
            for step, value in enumerate(nan_mean(rows, axis=1))
        }
        returns = [Estimate(*pair) for pair in zip(means.tolist(), half_widths, strict=True)]
        score = float((means[1:] if len(means) > 1 else means).mean())
        rows = () if result.episodes is None else result.episodes
        episodes = [Estimate(float(row.mean()), interval(row)) for row in rows]
        return HeldOut({**metrics, **measured}, score, {"return": returns}, episodes)

    @staticmethod
    def _names(config: Config) -> list[str]:
        steps = range(evaluation_steps(config) + 1)
        names = [f"eval/{value}/step_{step}" for value in ("return", "return_interval") for step in steps]
        trials = find_learner(config.learner).recurrent
        episodes = shown_episodes(config.sampling.episodes) if trials else ()
        return names + [f"eval/return/episode_{number}" for number in episodes]

    def close(self) -> None:
        """Close its environments."""
        self._envs.close()
