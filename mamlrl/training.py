"""Meta-training: Algorithm 3 of the MAML paper, and around it the run's folder, checkpoints and signals."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from mamlrl import dashboard, run_folder
from mamlrl.advantages import make_batch
from mamlrl.checkpoint import CheckpointFolder, Progress, latest_checkpoint
from mamlrl.cli import Command, check_unchanged, differences, make_config, to_settings
from mamlrl.config import Config, PolicyConfig
from mamlrl.distributions import DiagonalGaussian
from mamlrl.envs.base import make_task_envs
from mamlrl.envs.observe_task import ObserveTaskVector
from mamlrl.errors import ConfigError, UserError
from mamlrl.evaluation import evaluate_adaptation, interval
from mamlrl.interrupt import StopRequest
from mamlrl.learners import LEARNERS, OBSERVE_TASK, UNTRAINED, evaluation_steps, training_steps
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.logger import MetricsLog, ProgressLine
from mamlrl.memory import keep_freed_memory
from mamlrl.policies import make_policy
from mamlrl.policies.base import Policy
from mamlrl.sampler import collect, mean_returns
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import MetaBatch, Metrics, Params, Rollouts

MAX_NONFINITE_STEPS = 3
"""Meta-updates in a row that may be refused for a non-finite number before the run ends."""


class Experiment(NamedTuple):
    """What a meta-iteration works with, all of it the same from the first to the last."""

    config: Config
    envs: VectorEnv
    policy: Policy
    learner: Learner
    streams: Streams


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


def draw_tasks(envs: VectorEnv, num_tasks: int, rng: np.random.Generator) -> np.ndarray:
    """Tasks [M, P] from the environment's distribution."""
    try:
        return envs.sample_tasks(num_tasks, rng)  # type: ignore[attr-defined]
    except ValueError as error:
        raise UserError(str(error)) from error


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


def make_envs(config: Config, num_envs: int) -> VectorEnv:
    """The configured environment, `num_envs` times; with the task in the observation for a learner that sees it.

    Raises:
        ConfigError: there is no such environment, or it is no family of tasks.
    """
    settings = config.environment
    try:
        envs = make_task_envs(
            config.env, num_envs, settings.horizon, settings.kwargs, settings.vectorization, num_threads(config)
        )
        return ObserveTaskVector(envs) if config.learner in OBSERVE_TASK else envs
    except ValueError as error:
        raise ConfigError(str(error)) from error


def num_threads(config: Config) -> int:
    """The configured number of threads, or one for each processor that this process may use."""
    if config.threads > 0:
        return config.threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_experiment(config: Config) -> Experiment:
    """Environments, policy, learner and streams of a run. Writes nothing.

    Raises:
        UserError: a setting names something that does not exist here or does not fit the environment.
    """
    if config.learner not in LEARNERS:
        nearest = difflib.get_close_matches(config.learner, LEARNERS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ConfigError(f"learner is {config.learner!r}; it must be one of {', '.join(LEARNERS)}{hint}")
    check_device(config.device)
    envs = make_envs(config, config.sampling.tasks * config.sampling.rollouts)
    policy = make_policy(policy_config(config, envs), envs.single_observation_space, envs.single_action_space)
    learner = LEARNERS[config.learner](policy, config)
    return Experiment(config, envs, learner.policy, learner, Streams(config.seed))


def policy_config(config: Config, envs: VectorEnv) -> PolicyConfig:
    """Settings of the policy; a task in the observation is not scaled."""
    scale = config.policy.observation_scale
    if scale and isinstance(envs, ObserveTaskVector):
        scale = (*scale, *[1.0] * envs.task_dim)
    return dataclasses.replace(config.policy, observation_scale=scale)


def check_device(device: str) -> None:
    """A CUDA device, if one is asked for, is there."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device != "cpu" and int(device.partition(":")[2] or 0) >= available:
        raise UserError(f"device is {device!r}, but there are {available} CUDA devices here; --device cpu needs none")


def initial_state(experiment: Experiment) -> LearnerState:
    """The learner's state before the first meta-iteration."""
    config, _, policy, learner, streams = experiment
    params = policy.init_params(streams.torch(Stream.INITIALISATION))
    return learner.init({name: leaf.to(config.device) for name, leaf in params.items()})


def run(command: Command) -> int:
    """Start or resume a run and see it to its end.

    Returns:
        The exit code: 0, or 128 + the signal that stopped it.

    Raises:
        UserError: something that the user can put right; nothing was overwritten.
        OSError: the run folder cannot be written.
    """
    config = command.config
    if config.learner in UNTRAINED:
        raise ConfigError(
            f"learner is {config.learner!r}, which has nothing to train; evaluate it beside a trained run: "
            "python -m mamlrl.evaluate RUN --random"
        )
    keep_freed_memory()
    torch.set_num_threads(num_threads(config))
    with StopRequest() as stop, contextlib.ExitStack() as stack:  # before environments fork processes of their own
        if command.out is not None:
            run_folder.check_free(command.out)
        experiment = make_experiment(config)
        stack.callback(experiment.envs.close)
        evaluate = Evaluation(experiment) if config.eval.every else None
        if evaluate:
            stack.callback(evaluate.close)
        progress = Progress(initial_state(experiment))
        if command.resume is None:
            folder = command.out or run_folder.default_folder(config)
            run_folder.create(folder, config)
        else:
            folder = command.resume
            progress = load_progress(folder, progress, config)
            run_folder.reopen(folder, config, progress.iteration)
        checkpoints = CheckpointFolder(folder / run_folder.CHECKPOINTS, to_settings(config), config.checkpoint.keep)
        if progress.iteration == 0:
            checkpoints.save(progress)
        log = MetricsLog(folder, progress.iteration)
        stack.callback(log.close)
        log.describe(config, progress.iteration)
        print(f"run folder: {folder}")
        print(f"charts: tensorboard --logdir {shlex.quote(str(folder))}, at {dashboard.ADDRESS}", flush=True)
        record = None
        if config.video.every:
            from mamlrl.video import Recorder  # not needed otherwise, and it imports this module

            record = Recorder(experiment, folder, log)
        progress = meta_train(experiment, progress, log, checkpoints, evaluate, record, stop)
        report(folder, progress, config)
        return stop.exit_code


def load_progress(folder: Path, start: Progress, config: Config) -> Progress:
    """Where a run to be resumed stands.

    Args:
        folder: the run folder.
        start: progress at the start of the run, as a model of the learner's state.
        config: the run's settings, changed where flags say so.

    Raises:
        UserError: there is no usable checkpoint, or the settings are not those of the run.
    """
    progress, settings, passed_over = latest_checkpoint(folder / run_folder.CHECKPOINTS, start.state)
    settings = to_settings(make_config(settings))  # fields that are newer than the checkpoint take their defaults
    check_unchanged(settings, to_settings(config))  # config.yaml may have been edited
    for name, (old, new) in differences(settings, to_settings(config)).items():
        if name in ("device", "threads"):
            print(f"note: {name} was {old} and is now {new}; results may differ in the last bits")
    for problem in passed_over:
        print(f"note: {problem}; going back to iteration {progress.iteration}")
    if progress.iteration > config.iterations:
        raise ConfigError(f"iterations is {config.iterations}, but the run has done {progress.iteration} already")
    return progress


def report(folder: Path, progress: Progress, config: Config) -> None:
    """Say how the run ended, and how to go on with it."""
    if progress.iteration < config.iterations:
        print(f"stopped after iteration {progress.iteration} of {config.iterations}; go on with")
        print(f"  python -m mamlrl.train --resume {shlex.quote(str(folder))}", flush=True)
    else:
        measured = math.isfinite(progress.best_return)  # else it was too short for an evaluation
        best = f", best return after adaptation {progress.best_return:.2f}" if measured else ""
        print(f"done: {progress.iteration} iterations{best}", flush=True)
