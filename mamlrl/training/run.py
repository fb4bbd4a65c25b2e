"""A run from its command to its end: folder, checkpoints, signals."""

from __future__ import annotations

import contextlib
import math
import shlex
from functools import partial
from pathlib import Path

import torch

from mamlrl.config import Config
from mamlrl.config.command_line import Command
from mamlrl.config.files import check_unchanged, differences, make_config, to_settings
from mamlrl.errors import ConfigError
from mamlrl.evaluation.held_out import Evaluation
from mamlrl.experiment import check_training_memory, horizon_note, initial_state, make_experiment, num_threads
from mamlrl.learners import find_learner
from mamlrl.run_folder import dashboard
from mamlrl.run_folder import folder as run_folder
from mamlrl.run_folder.checkpoints import CheckpointFolder, Progress, latest_checkpoint
from mamlrl.run_folder.metrics_log import MetricsLog
from mamlrl.training.interrupts import StopRequest
from mamlrl.training.iteration import meta_iteration
from mamlrl.training.loop import Hooks, meta_train
from mamlrl.training.memory import keep_freed_memory


def run(command: Command) -> int:
    """Start or resume a run and see it to its end.

    Returns:
        The exit code: 0, or 128 + the signal that stopped it.

    Raises:
        UserError: something that the user can put right; nothing was overwritten.
        OSError: the run folder cannot be written.
    """
    config = command.config
    if not find_learner(config.learner).trained:
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
        config = experiment.config
        check_training_memory(experiment)
        for note in filter(None, (*command.notes, horizon_note(config))):
            print(f"note: {note}")
        stack.callback(experiment.envs.close)
        if config.video.every:
            from mamlrl.recording.recorder import Recorder, check_recording  # drawing and ffmpeg: not needed otherwise

            check_recording(experiment)
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
        record = Recorder(experiment, folder, log) if config.video.every else None
        progress = meta_train(
            partial(meta_iteration, experiment), progress, config, log, checkpoints, stop, Hooks(evaluate, record)
        )
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
