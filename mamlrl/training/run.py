"""A run from its command to its end: folder, checkpoints, signals, failures."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gymnasium.vector import VectorEnv

from mamlrl.config import Config
from mamlrl.config.command import Command
from mamlrl.config.files import CONFIG_FILE, check_unchanged, differences, to_settings
from mamlrl.distributed import from_first, is_first, local_size, share_of, size
from mamlrl.envs.errors import EnvironmentFailure
from mamlrl.errors import ConfigError, LearnerFailure, OutputError, RankFailure, UserError, described, said
from mamlrl.evaluation.examples import SupervisedEvaluation
from mamlrl.evaluation.held_out import Evaluation
from mamlrl.experiment import (
    Experiment,
    SupervisedExperiment,
    check_training_memory,
    horizon_note,
    initial_state,
    make_experiment,
    make_supervised,
    num_threads,
    set_threads,
    spaces_of,
)
from mamlrl.learner_settings import completed
from mamlrl.learners import (
    check_inner_loss,
    check_names,
    check_outer_settings,
    check_trial_settings,
    evaluation_steps,
    find_learner,
    training_steps,
)
from mamlrl.learners.base import LearnerState
from mamlrl.messages import say
from mamlrl.run_folder import dashboard
from mamlrl.run_folder import folder as run_folder
from mamlrl.run_folder.checkpoints import (
    BEST,
    Checkpoint,
    CheckpointError,
    CheckpointFolder,
    Progress,
    iteration_file,
    latest_checkpoint,
    plain,
    restore,
)
from mamlrl.run_folder.files import keep_aside
from mamlrl.run_folder.lock import locked
from mamlrl.run_folder.metrics_log import MetricsLog
from mamlrl.run_folder.metrics_table import Written
from mamlrl.run_folder.pretrained import started_from
from mamlrl.run_folder.spaces import of_policy
from mamlrl.structs import Metrics
from mamlrl.supervised import find_task_set, quantity_of
from mamlrl.training.examples import supervised_iteration
from mamlrl.training.interrupts import StopRequest
from mamlrl.training.iteration import meta_iteration
from mamlrl.training.loop import Evaluate, Hooks, Iterate, meta_train
from mamlrl.training.memory import keep_freed_memory
from mamlrl.training.untold import note_untold


class Work(NamedTuple):
    """What a run works with, and what it does in an iteration: all that depends on the kind of its data."""

    experiment: Experiment | SupervisedExperiment
    iterate: Iterate
    evaluate: Evaluate | None
    """on held-out tasks, if there is an evaluation"""


class RunFailure(UserError):
    """What ended a run in its midst, where its traceback is, and how to go on."""


class Ended(NamedTuple):
    """How a run ended."""

    folder: Path
    """the run folder, absolute"""
    progress: Progress
    exit_code: int
    """0, or 128 + the signal that stopped it"""


def run(
    command: Command,
    callback: Callable[[int, Metrics], bool | None] | None = None,
    interrupts: StopRequest | None = None,
) -> Ended:
    """Start or resume a run and see it to its end.

    Args:
        command: what to run.
        callback: sees the metrics of every iteration; a true answer stops the run after it.
        interrupts: what stops the run; None for the signals of a process of its own.

    Raises:
        UserError: something that the user can put right; nothing was overwritten.
        OSError: the run folder cannot be written.
    """
    start = Path.cwd()  # an environment may change the working directory
    if not find_learner(command.config.learner).trained:
        raise ConfigError(
            f"learner is {command.config.learner!r}, which has nothing to train; evaluate it beside a trained run: "
            "python -m mamlrl.evaluate RUN --random"
        )
    check_outer_settings(command.config, command.chosen)
    check_inner_loss(command.config, command.chosen)
    check_trial_settings(command.config, command.chosen)
    check_names("a key of learners in --config", command.learners)
    keep_freed_memory()
    config = dataclasses.replace(command.config, threads=threads_of(command))
    set_threads(config.threads)
    # Signals are handled before environments fork processes of their own.
    with interrupts or StopRequest() as stop, contextlib.ExitStack() as stack:
        if command.resume is not None and is_first():
            stack.enter_context(locked(command.resume))
        if command.out is not None and is_first():
            run_folder.check_free(start / command.out, command.out)
        experiment, iterate, evaluate = prepare(config, command.notes, stack)
        folder, checkpoint = from_first(lambda: open_folder(start, command, experiment, stack))
        checkpoint = on_this_device(checkpoint, experiment)
        shown = command.out or command.resume or folder.relative_to(start)
        stop.resume = resume_command(shown)
        with reported_failures(folder, shown):
            with opened_log(experiment, folder, checkpoint) as (log, checkpoints):
                say(f"run folder: {shown}")
                if checkpoint.progress.iteration:
                    done, planned = checkpoint.progress.iteration, experiment.config.iterations
                    say(f"going on after iteration {done} of {planned}")
                say(f"charts: tensorboard --logdir {shlex.quote(str(shown))}, at {dashboard.ADDRESS}")
                after = partial(after_iteration, experiment, callback)
                hooks = Hooks(evaluate, make_recorder(experiment, folder, log), after)
                progress = meta_train(iterate, checkpoint.progress, experiment.config, log, checkpoints, stop, hooks)
            if progress.iteration == experiment.config.iterations:
                run_folder.remove_error(folder)
            report(shown, progress, experiment.config)
        return Ended(folder, progress, stop.exit_code)


def threads_of(command: Command) -> int:
    """Those that the run began with, wherever it goes on; fewer where ranks would have more than the processors."""
    threads = num_threads(command.config)
    if command.resume is None or size() == 1 or "threads" in command.chosen:
        return threads
    return min(threads, num_threads(dataclasses.replace(command.config, threads=0)))


def prepare(config: Config, notes: Iterable[str], stack: contextlib.ExitStack) -> Work:
    """What a run works with, found to fit the machine before anything is written; its notes are said.

    Args:
        config: settings of the run.
        notes: what the user should know about them.
        stack: closes the environments.
    """
    work = with_examples(config) if find_task_set(config.env) else with_environments(config, stack)
    horizon = horizon_note(work.experiment.config) if isinstance(work.experiment, Experiment) else None
    for note in filter(None, (*notes, horizon)):
        say(f"note: {note}")
    return work


def with_examples(config: Config) -> Work:
    """The work of a run on supervised tasks."""
    share_of(config.sampling.tasks)  # there are not more ranks than tasks
    if config.eval.every:
        share_of(config.eval.tasks, "eval.tasks")
    experiment = make_supervised(config)
    evaluate = SupervisedEvaluation(experiment) if config.eval.every else None
    return Work(experiment, partial(supervised_iteration, experiment), evaluate)


def with_environments(config: Config, stack: contextlib.ExitStack) -> Work:
    """The work of a run in environments, which are closed with the stack."""
    experiment = make_experiment(config)
    stack.callback(close, experiment.envs)
    check_training_memory(experiment)
    if config.video.every:
        from mamlrl.recording.recorder import check_recording  # drawing and ffmpeg: not needed otherwise

        check_recording(experiment)
    evaluate = Evaluation(experiment) if config.eval.every else None
    if evaluate:
        stack.callback(close, evaluate)
    return Work(experiment, partial(meta_iteration, experiment), evaluate)


def open_folder(
    start: Path, command: Command, experiment: Experiment | SupervisedExperiment, stack: contextlib.ExitStack
) -> tuple[Path, Checkpoint]:
    """The run folder, locked, with settings and versions in it, and where the run stands.

    Args:
        start: the working directory when the command was given.
        command: a folder to be resumed is locked already.
        experiment: what the run works with.
        stack: gives the lock back.

    Returns:
        The folder, as an absolute path, and the checkpoint that the run goes on from.
    """
    config = experiment.config
    fresh = Checkpoint(Progress(initial_state(experiment)), config, Written())
    if command.resume is None:
        checkpoint = begun(fresh, start)
        folder = make_folder(start, command.out, config)
        stack.enter_context(locked(folder))
        if command.out is not None:
            run_folder.check_free(folder, command.out)  # another run may have come and gone since
        run_folder.create(folder, config)
    else:
        folder = start / command.resume
        checkpoint = load_checkpoint(folder, fresh)
        checkpoint = begun(fresh, start) if checkpoint is fresh else checkpoint
        run_folder.reopen(folder, config, checkpoint.progress.iteration)
    note_threads(config, stays=command.resume is not None and checkpoint.config.threads == config.threads)
    return folder, checkpoint


def begun(fresh: Checkpoint, start: Path) -> Checkpoint:
    """The start of a run, with the policy that it is to begin with.

    Args:
        fresh: with random parameters.
        start: the working directory when the command was given.
    """
    if not fresh.config.start_from:
        return fresh
    path = start / fresh.config.start_from
    return fresh._replace(progress=Progress(started_from(path, fresh.config, fresh.progress.state)))


def on_this_device(checkpoint: Checkpoint, experiment: Experiment | SupervisedExperiment) -> Checkpoint:
    """The checkpoint that the first rank has opened, with its tensors where those of this rank are."""
    if is_first():
        return checkpoint
    progress = checkpoint.progress
    state = restore(plain(progress.state), initial_state(experiment))
    return checkpoint._replace(progress=progress._replace(state=state))


def after_iteration(
    experiment: Experiment | SupervisedExperiment,
    callback: Callable[[int, Metrics], bool | None] | None,
    iteration: int,
    metrics: Metrics,
) -> bool:
    """What is to be said after the first iteration, and the user's callback; whether it stops the run."""
    if not is_first():
        return False
    if iteration == 1 and isinstance(experiment, Experiment):
        note_untold(experiment, metrics)
    return bool(callback and callback(iteration, metrics))


def make_folder(start: Path, out: Path | None, config: Config) -> Path:
    """The folder of a new run, as an absolute path.

    Args:
        start: the working directory.
        out: the folder that the user named.
        config: settings of the run, which name the default folder.

    Raises:
        OSError: it cannot be made.
    """
    if out is None:
        return run_folder.make_default_folder(start, config)
    (start / out).mkdir(parents=True, exist_ok=True)
    return start / out


@contextlib.contextmanager
def opened_log(
    experiment: Experiment | SupervisedExperiment, folder: Path, checkpoint: Checkpoint
) -> Iterator[tuple[MetricsLog, CheckpointFolder]]:
    """The metrics and the checkpoints of a run, from where it stands; a new run has a checkpoint at once.

    The first rank alone writes them.
    """
    if not is_first():
        nowhere: Any = Nowhere()
        yield nowhere, nowhere
        return
    config, progress = experiment.config, checkpoint.progress
    with MetricsLog(folder, progress.iteration, checkpoint.written) as log:
        spaces = of_policy(*spaces_of(experiment))
        settings = to_settings(config)
        checkpoints = CheckpointFolder(folder / run_folder.CHECKPOINTS, settings, config.checkpoint.keep, log, spaces)
        if progress.iteration == 0:
            checkpoints.save(progress)
        log.describe(config, progress.iteration)
        yield log, checkpoints


class Nowhere:
    """In place of the log and the checkpoints of ranks that write none: takes every call, and does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **named: None


def make_recorder(
    experiment: Experiment | SupervisedExperiment, folder: Path, log: MetricsLog
) -> Callable[[LearnerState, int], None] | None:
    """What films the policy during training; None where no films are wanted, and on all ranks but the first."""
    if not (is_first() and experiment.config.video.every and isinstance(experiment, Experiment)):
        return None
    from mamlrl.recording.recorder import Recorder  # drawing and ffmpeg: not needed otherwise

    return Recorder(experiment, folder, log)


def close(envs: VectorEnv | Evaluation) -> None:
    """Close environments; one that fails even in that does not hide how the run went."""
    try:
        envs.close()
    except (Exception, SystemExit) as error:
        say(f"note: the environments could not be closed: {in_words(error)}")


def load_checkpoint(folder: Path, fresh: Checkpoint) -> Checkpoint:
    """Where a run to be resumed stands.

    Args:
        folder: the run folder.
        fresh: the start of the run: a model of the learner's state, and the settings, changed where flags say so.

    Raises:
        UserError: no checkpoint is usable, or the settings are not those of the run.
    """
    try:
        checkpoint, passed_over = latest_checkpoint(folder / run_folder.CHECKPOINTS, fresh.progress.state)
    except CheckpointError as error:
        anew = f"python -m mamlrl.train --config {shlex.quote(str(folder / CONFIG_FILE))}"
        raise CheckpointError(f"{error}; none is left to go on from; to start anew: {anew}") from error
    if checkpoint is None:
        say("note: the run has no checkpoint yet; it begins at iteration 0")
        metrics = folder / run_folder.METRICS_FILE
        if metrics.is_file() and metrics.stat().st_size:
            say(f"note: the metrics that are there are kept as {keep_aside(metrics).name}")
        return fresh
    config, iteration = fresh.config, checkpoint.progress.iteration
    same_learner = checkpoint.config.learner == config.learner
    settings = to_settings(completed(checkpoint.config, outside=same_learner))
    check_unchanged(settings, to_settings(config))  # config.yaml may have been edited
    if iteration > config.iterations:
        raise ConfigError(f"iterations is {config.iterations}, but the run has done {iteration} already")
    for name, (old, new) in differences(settings, to_settings(config)).items():
        if name in ("device", "threads"):
            say(f"note: {name} was {old} and is now {new}; results may differ in the last bits")
    for path, problem in passed_over.items():  # set aside, so that none is taken for a newer one than those to come
        say(f"note: {problem}; going back to iteration {iteration}; the file is kept as {keep_aside(path).name}")
    return checkpoint


def note_threads(config: Config, stays: bool) -> None:
    """Say where the number of threads is not that of the processors here, and it was not chosen just now.

    Args:
        config: settings of the run.
        stays: whether the run is resumed with the number that it had.
    """
    here = num_threads(dataclasses.replace(config, threads=0))
    if config.threads > here:
        say(f"note: threads is {config.threads}, more than there are processors here; --threads {here} is faster")
    elif stays and config.threads < here:
        say(f"note: threads stays {config.threads}, as the run began; --threads {here} takes all processors here")


@contextlib.contextmanager
def reported_failures(folder: Path, shown: Path) -> Iterator[None]:
    """What ends the block unexpectedly is told in a line, with its traceback in error.txt of the run folder.

    Args:
        folder: the run folder.
        shown: the same, as the user wrote it.

    Raises:
        RunFailure: in place of an environment's, a learner's or a file's exception.
    """
    if not is_first():  # the first one tells of the others
        yield
        return
    try:
        yield
    except RankFailure as error:
        if error.traceback is None:
            raise
        raise run_failure(error, error.traceback, folder, shown) from error
    except (UserError, OutputError):
        raise
    except (Exception, SystemExit) as error:
        text = "".join(traceback.format_exception(error))
        raise run_failure(error, f"{getattr(error, 'user_traceback', '')}\n{text}", folder, shown) from error


def run_failure(error: BaseException, text: str, folder: Path, shown: Path) -> RunFailure:
    """What ended a run, in a line; its traceback, a text, is written into the run folder."""
    written = text and run_folder.write_error(folder, text.lstrip())
    where = f"; its traceback is in {shown / run_folder.ERROR_FILE}" if written else ""
    return RunFailure(f"{in_words(error)}{where}; to go on: {resume_command(shown)}")


def resume_command(shown: Path) -> str:
    """What goes on with the run in a folder, with as many ranks where they are all on this machine."""
    start = "python" if size() == 1 else "torchrun (as before)"
    if size() == local_size() > 1:
        start = f"torchrun --standalone --nproc-per-node {size()}"
    return f"{start} -m mamlrl.train --resume {shlex.quote(str(shown))}"


def in_words(error: BaseException) -> str:
    """An exception in a line that is not too long."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return said(error) if isinstance(error, EnvironmentFailure | LearnerFailure | UserError) else described(error)


def report(shown: Path, progress: Progress, config: Config) -> None:
    """Say how the run ended, and how to go on with it."""
    if progress.iteration < config.iterations:
        say(f"stopped after iteration {progress.iteration} of {config.iterations}; go on with")
        say(f"  {resume_command(shown)}")
        return
    say(f"done: {progress.iteration} {'iteration' if progress.iteration == 1 else 'iterations'}")
    checkpoints = shown / run_folder.CHECKPOINTS
    if math.isfinite(progress.best_return):
        where = f" in iteration {progress.best_iteration}" if progress.best_iteration else ""
        untrained = progress.best_iteration == 1 and not config.eval.every  # measured before the update
        begun = ", the one that it began with" if config.start_from else ", the untrained one"
        policy = f"{checkpoints / BEST}{begun * untrained}"
        best = quantity_of(config.env).score(progress.best_return)
        digits = 2 if quantity_of(config.env).name == "return" else 4
        say(f"best {best_metric(config)}: {best:.{digits}f}{where}; its policy is {policy}")
    else:
        last = checkpoints / iteration_file(progress.iteration)
        say(f"no evaluation was due (eval.every is {config.eval.every}), so none is best; the last policy is {last}")


def best_metric(config: Config) -> str:
    """The metric that the best checkpoint is chosen by."""
    quantity = quantity_of(config.env).name
    if not config.eval.every:
        return f"{quantity}/step_{training_steps(config)}"
    steps = evaluation_steps(config)
    return f"mean of eval/{quantity}/step_1 to step_{steps}" if steps > 1 else f"eval/{quantity}/step_{steps}"
