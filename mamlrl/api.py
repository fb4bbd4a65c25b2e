"""Training, evaluation and loading from Python: what the package offers as ``mamlrl.train`` and so on.

Imports nothing heavy: torch comes with the first call.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import numpy as np

from mamlrl.errors import ConfigError, UserError, shown
from mamlrl.messages import silence
from mamlrl.options import usable_path

if TYPE_CHECKING:
    pass

AnyPath = str | PathLike[str]
Callback = Callable[[int, dict[str, float | None]], bool | None]

P = ParamSpec("P")
R = TypeVar("R")


def _names_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose errors name its arguments in place of the flags of the command."""

    @functools.wraps(function)
    def called(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return function(*arguments, **named)
        except UserError as error:
            message, command, rest = str(error).partition("python -m ")  # a command keeps its flags
            error.args = (re.sub(r"(?<![\w-])--(?=[a-z])", "", message) + command + rest,)
            raise

    return called


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """A training that has ended.

    Args:
        folder: the run folder, absolute; `mamlrl.load` and `mamlrl.evaluate` take it.
        metrics: a row per iteration, by name as in metrics.csv; NaN where nothing was measured.
        best: what the best checkpoint was chosen by, the return or error after adaptation; None without one.
        quantity: "return", or what is measured of supervised tasks.
    """

    folder: Path
    metrics: list[dict[str, float]]
    best: float | None
    quantity: str = "return"

    def __repr__(self) -> str:
        best = "" if self.best is None else f", best {self.quantity} {self.best:.2f}"
        return f"Run({str(self.folder)!r}: {len(self.metrics)} iterations{best})"


@_names_arguments
def train(
    env: str | None = None,
    *,
    config: AnyPath | None = None,
    out: AnyPath | None = None,
    resume: AnyPath | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    **settings: Any,
) -> Run:
    """Meta-train a policy, as ``python -m mamlrl.train`` does.

    Ctrl-C, or a notebook's stop button, ends the iteration, saves it, and raises KeyboardInterrupt; a second one does
    not wait. The process stays as it was: threads of torch, signal handlers, memory.

    Args:
        env: a short name such as "cheetah-vel", or a Gymnasium id with its module.
        config: YAML file of settings.
        out: run folder in place of ``runs/<name>/<learner>/seed-<seed>-<time>``.
        resume: run folder to go on with; "auto" goes on with `out` if it holds a run, and else begins one there.
        callback: (iterations done, metrics of the last one by name) -> whether to stop. What it raises ends the run,
            which can be resumed, and is raised here.
        progress: whether to print what the command prints.
        **settings: those of the command line: ``iterations=20, trust_region={"max_kl": 0.02}``. They go over those
            of the file, and these over those of the short name.

    Raises:
        mamlrl.errors.UserError: a setting is wrong (ConfigError), or something failed that the message names.
        OSError: the run folder cannot be written.
    """
    from mamlrl.config.command_line import make_command

    if callback is not None and not callable(callback):
        raise ConfigError(f"callback is {shown(callback)}; it must be a function of (iteration, metrics)")
    given = _plain(settings if env is None else {"env": env, **settings})
    paths = {"config": config, "out": out, "resume": resume}
    command = make_command(given, *(None if path is None else _path(name, path) for name, path in paths.items()))
    from mamlrl.run_folder.folder import METRICS_FILE
    from mamlrl.run_folder.history import read_metrics
    from mamlrl.training.interrupts import StopRequest
    from mamlrl.training.run import run

    called, interrupts = _Called(callback), StopRequest(whole_process=False)
    with _as_a_guest(progress):
        ended = run(command, called, interrupts)
    if called.error is not None:
        raise called.error
    if interrupts.signal is not None:
        raise KeyboardInterrupt
    columns = {name: column.tolist() for name, column in read_metrics(ended.folder / METRICS_FILE).items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    from mamlrl.supervised import quantity_of

    quantity = quantity_of(command.config.env)
    best = quantity.score(ended.progress.best_return)
    return Run(ended.folder, rows, best if np.isfinite(best) else None, quantity.name)


class _Called:
    """A user's callback, whose exception ends the run in good order and is kept."""

    def __init__(self, callback: Callback | None):
        self._callback, self.error = callback, None

    def __call__(self, iteration: int, metrics: Mapping[str, float | None]) -> bool:
        if self._callback is None:
            return False
        try:
            return bool(self._callback(iteration, dict(metrics)))
        except BaseException as error:
            self.error = error
            return True


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """Return against number of gradient steps. Printed, and in a notebook, it is a table.

    Args:
        rows: one per method, seed of training, number of gradient steps and task, as in evaluation.csv.
        summary: one per quantity, method and number of gradient steps, with mean and interval, as in summary.csv.
        text: the table, in Markdown.
    """

    rows: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


@_names_arguments
def evaluate(
    runs: AnyPath | Iterable[AnyPath],
    *,
    steps: int | None = None,
    tasks: int | None = None,
    rollouts: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    step_size_schedule: Literal["halve", "constant"] | None = None,
    seed: int = 1,
    protocol: Literal["paper"] | None = None,
    random: bool = False,
    mismatched: bool = False,
    interval: Literal["student", "bootstrap", "standard_error"] = "student",
    device: str = "cpu",
    threads: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Adapt trained policies to the same held-out tasks, as ``python -m mamlrl.evaluate`` does. Writes nothing.

    Args:
        runs: a run folder, a checkpoint or a folder of runs, or several of them.
        steps: gradient steps on each task, 3 by default; of supervised tasks this and what follows is by default as in
            the `eval` of the run.
        tasks: held-out tasks, 40 by default.
        rollouts: rollouts per task and gradient step, 20 by default.
        shots: examples that supervised tasks are adapted to on.
        queries: examples that the error is measured on.
        step_size_schedule: of gradient steps beyond those of training: "halve", the default, or "constant".
        seed: of the tasks and of all noise.
        protocol: "paper" for tasks, data and step sizes of the MAML paper.
        random: also evaluate the untrained policy.
        mismatched: also adapt every trained policy to another task than it then acts in.
        interval: kind of interval around a mean.
        device: of the policies.
        threads: of simulation and arithmetic; 0 takes all processors.
        progress: whether to print what is being evaluated.

    Raises:
        mamlrl.errors.UserError: an argument is wrong (ConfigError), a path holds no policy, or the policies are of
            different environments.
    """
    from mamlrl.evaluation.protocols import eval_settings
    from mamlrl.statistics import INTERVALS

    options = {"steps": steps, "tasks": tasks, "rollouts": rollouts, "shots": shots, "queries": queries}
    options |= {"step_size_schedule": step_size_schedule, "seed": seed, "device": device, "threads": threads}
    given = _plain(options)
    eval_settings(given, protocol)  # what is wrong is said before anything is read
    if interval not in tuple(INTERVALS):
        raise ConfigError(f"interval is {shown(interval)}; it must be one of {', '.join(INTERVALS)}")
    paths = _paths("runs", runs)
    from mamlrl.evaluation import comparison

    with _as_a_guest(progress):
        entries = comparison.find_entries(paths, random, mismatched)
        settings = eval_settings(given, protocol, base=comparison.base_settings(entries[0].config))
        plan = comparison.Plan(settings, seed, None, device, threads)
        if protocol:
            plan = comparison.of_paper(plan, entries[0].config)
        results, comparisons = comparison.carry_out(entries, plan, interval)
    rows, summary = list(comparison.result_rows(results)), comparison.summary(comparisons)
    return Evaluation(rows, summary, comparison.report(comparisons))


def load(path: AnyPath) -> Any:
    """A meta-trained policy, to be adapted in an environment of one's own; or a predictor, to be adapted to examples.

    Of a learner with a memory a policy whose `start` gives an agent that learns as it acts.

    Args:
        path: a run folder, whose best checkpoint is taken, or a checkpoint.

    Returns:
        A `mamlrl.deploy.MetaPolicy`, a `mamlrl.deploy.MetaPredictor` of supervised tasks, or a
        `mamlrl.deploy.RememberingPolicy`.

    Raises:
        mamlrl.errors.UserError: there is no readable checkpoint, or not one alone.
    """
    from mamlrl.deploy import load_policy

    return load_policy(_path("path", path))


def load_adapted(path: AnyPath) -> Any:
    """An adapted policy or predictor, as `AdaptedPolicy.save` or `Predictor.save` wrote it.

    Args:
        path: the file.

    Returns:
        A `mamlrl.deploy.AdaptedPolicy` or a `mamlrl.deploy.Predictor`.

    Raises:
        mamlrl.errors.UserError: it is no such file, or damaged.
    """
    from mamlrl.deploy import load_adapted

    return load_adapted(_path("path", path))


@contextmanager
def _as_a_guest(progress: bool) -> Iterator[None]:
    """Work in somebody else's process: silently, and with nothing changed for it afterwards."""
    import torch

    from mamlrl.training.memory import freed_memory_kept

    threads = torch.get_num_threads()
    with silence(not progress), freed_memory_kept():
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _path(name: str, path: Any) -> Path:
    """The path of an argument."""
    try:
        return usable_path(os.fspath(path))
    except (TypeError, ArgumentTypeError) as error:
        raise ConfigError(f"{name}: {error}") from error


def _paths(name: str, given: Any) -> list[Path]:
    """One path or several; none is too few."""
    given = [given] if isinstance(given, str | bytes | PathLike) else given
    if not isinstance(given, Iterable):
        raise ConfigError(f"{name} is {shown(given)}; it must be a path, or a list of paths")
    found = [_path(name, one) for one in given]
    if not found:
        raise ConfigError(f"{name} is empty; it must name at least one run")
    return found


def _plain(value: Any) -> Any:
    """Settings as YAML would give them: numbers of numpy, and tuples, become Python's and lists."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
