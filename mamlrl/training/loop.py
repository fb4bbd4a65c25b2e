"""Meta-training: Algorithm 3 of the MAML paper."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from mamlrl.advantages import make_batch
from mamlrl.distributions import DiagonalGaussian
from mamlrl.errors import UserError
from mamlrl.evaluation.held_out import evaluate_adaptation
from mamlrl.experiment import Experiment, draw_tasks, make_envs
from mamlrl.learners import evaluation_steps, training_steps
from mamlrl.learners.base import LearnerState
from mamlrl.policies.base import Policy
from mamlrl.run_folder.checkpoints import CheckpointFolder, Progress
from mamlrl.run_folder.metrics_log import MetricsLog
from mamlrl.sampler import collect, mean_returns
from mamlrl.seeding import Stream
from mamlrl.statistics import interval
from mamlrl.structs import MetaBatch, Metrics, Params, Rollouts
from mamlrl.training.interrupts import StopRequest
from mamlrl.training.progress import ProgressLine

MAX_NONFINITE_STEPS = 3
"""Meta-updates in a row that may be refused for a non-finite number before the run ends."""


def meta_iteration(
    experiment: Experiment, state: LearnerState, iteration: int
) -> tuple[LearnerState, dict[str, float]]:
    """Sample, adapt, sample, meta-update (Finn, Abbeel, Levine 2017, Algorithm 3).

    Args:
        experiment: environments, policy, learner and settings.
        state: the learner's state; its `params` are theta.
        iteration: number of the meta-iteration, from 0; picks the random streams.

    Returns:
        The learner's new state, and the metrics of the iteration.
    """
    config, envs, policy, learner, streams = experiment
    watch, metrics, env_steps = Stopwatch(), {}, 0
    tasks = draw_tasks(envs, config.sampling.tasks, streams.numpy(Stream.TASKS, iteration))
    params, batches, steps = state.params, [], training_steps(config)
    for step in range(steps + 1):
        with watch("sample"):
            rollouts = collect(envs, policy, params, tasks, streams.rollouts(iteration, step), config.environment)
        metrics |= return_metrics(rollouts, step)
        env_steps += int(rollouts.mask.sum())
        if step == 0:
            metrics |= policy_metrics(policy, params, rollouts, config.environment.action_scale)
        with watch("adapt"):
            batch, baseline_metrics = make_batch(rollouts, config.sampling)
            if step < steps:
                params = learner.adapt(params, batch)
        batches.append(batch)
    *support, query = batches
    with watch("update"):
        generator = streams.torch(Stream.CURVATURE, iteration)
        state, update_metrics = learner.meta_step(state, MetaBatch(tuple(support), query), generator)
    times = {f"time/{part}": seconds for part, seconds in watch.seconds.items()}
    return state, {**metrics, **baseline_metrics, **update_metrics, **times, "env_steps": env_steps}


def meta_train(
    experiment: Experiment,
    progress: Progress,
    log: MetricsLog,
    checkpoints: CheckpointFolder,
    evaluate: Evaluation | None,
    record: Callable[[Params, int], None] | None,
    stop: StopRequest,
) -> Progress:
    """Meta-iterations until the configured number is done or a stop is asked for; logs and checkpoints each.

    Raises:
        UserError: three meta-updates in a row were refused because a number was not finite.
    """
    config = experiment.config
    line = ProgressLine(progress.iteration, config.iterations)
    saved = progress.iteration
    try:
        while progress.iteration < config.iterations and stop.signal is None:
            start = time.perf_counter()
            state, metrics = meta_iteration(experiment, progress.state, progress.iteration)
            new_steps, adapted_return = metrics["env_steps"], metrics[f"return/step_{training_steps(config)}"]
            before = progress
            progress = progress._replace(
                state=state,
                iteration=progress.iteration + 1,
                env_steps=progress.env_steps + int(new_steps),
                nonfinite_steps=progress.nonfinite_steps + 1 if metrics.get("trust_region/nonfinite") else 0,
            )
            evaluated: Metrics = evaluate(state.params, progress.iteration) if evaluate else {}
            # the returns of a meta-iteration are those of the parameters before its update
            measured, value = (progress, held_out_return(evaluated)) if evaluate else (before, adapted_return)
            progress = save_if_best(checkpoints, progress, measured, value)
            log.write(progress.iteration, {**metrics, "env_steps": progress.env_steps, **evaluated})
            if record:
                record(state.params, progress.iteration)
            if progress.iteration % config.checkpoint.every == 0:
                checkpoints.save(progress)
                saved = progress.iteration
            seconds = time.perf_counter() - start
            line.update(progress.iteration, metrics["return/step_0"], adapted_return, new_steps / seconds)
            if progress.nonfinite_steps >= MAX_NONFINITE_STEPS:
                raise UserError(
                    f"{MAX_NONFINITE_STEPS} meta-updates in a row were refused for a non-finite number; a smaller "
                    "adaptation.step_size or a larger trust_region.cg_damping may help"
                )
        if saved < progress.iteration:
            checkpoints.save(progress)
    finally:
        line.close()
    return progress


def save_if_best(
    checkpoints: CheckpointFolder, progress: Progress, measured: Progress, value: float | None
) -> Progress:
    """Keep what was measured as the best checkpoint if its return, if it has one, is the highest yet."""
    if value is None or value <= progress.best_return:
        return progress
    checkpoints.save_best(measured._replace(best_return=value))
    return progress._replace(best_return=value)


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


def return_metrics(rollouts: Rollouts, step: int) -> dict[str, float]:
    """Mean over tasks of the mean undiscounted return, and the half width of its 95% interval."""
    returns = mean_returns(rollouts)
    return {
        f"return/step_{step}": float(returns.mean()),
        f"return_interval/step_{step}": interval(returns.cpu().numpy()),
    }


@torch.no_grad()
def policy_metrics(policy: Policy, params: Params, rollouts: Rollouts, action_scale: float) -> dict[str, float]:
    """Spread of the policy's actions, over the first rollout of each task, and how many leave the action bounds.

    The entropy is the mean over its steps, in nats; for a Gaussian policy the standard deviation too, in policy units.
    """
    outputs, alive = policy.outputs(params, rollouts.observations[:, 0]), rollouts.mask[:, 0].bool()
    metrics = {"policy/entropy": float(policy.distribution.entropy(outputs)[alive].mean())}
    if isinstance(policy.distribution, DiagonalGaussian):
        actions = rollouts.actions[rollouts.mask.bool()]
        metrics["policy/std"] = float(policy.distribution.std(outputs)[alive].mean())
        metrics["policy/saturated_fraction"] = float((actions.abs() > action_scale).double().mean())
    return metrics


class Evaluation:
    """Evaluation on held-out tasks, drawn once, every `eval.every` meta-iterations.

    Args:
        experiment: what is trained.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        config = experiment.config
        self._envs = make_envs(config, config.eval.tasks * config.eval.rollouts)
        self._streams = experiment.streams.evaluation()
        self._tasks = draw_tasks(self._envs, config.eval.tasks, self._streams.numpy(Stream.TASKS, 0))

    def __call__(self, params: Params, iteration: int) -> Metrics:
        """Mean returns by number of gradient steps; None where no evaluation is due after this iteration."""
        config, _, policy, learner, _ = self._experiment
        steps = range(evaluation_steps(config) + 1)
        names = [f"eval/{value}/step_{step}" for value in ("return", "return_interval") for step in steps]
        if iteration % config.eval.every:
            return dict.fromkeys(names)
        returns = evaluate_adaptation(
            self._envs, policy, learner, params, self._tasks, self._streams, config, iteration
        )
        half_widths = [interval(row) for row in returns.cpu().numpy()]
        return dict(zip(names, returns.mean(1).tolist() + half_widths, strict=True))

    def close(self) -> None:
        """Close its environments."""
        self._envs.close()


def held_out_return(evaluated: Metrics) -> float | None:
    """Mean over adaptation steps of the held-out return after adaptation; None where no evaluation was due.

    A policy that does not adapt has the return before any.
    """
    returns = [value for name, value in evaluated.items() if name.startswith("eval/return/")]
    adapted = [value for value in returns[1:] or returns if value is not None]
    return sum(adapted) / len(adapted) if adapted else None
