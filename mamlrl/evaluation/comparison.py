"""Return or error against number of gradient steps, method by method: evaluation of runs, tables, CSV, figures."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from mamlrl.config import Config, EvalConfig, SamplingConfig
from mamlrl.config.files import differences
from mamlrl.errors import ConfigError
from mamlrl.evaluation.examples import DIVERGED, evaluate_supervised, held_out_tasks, nearest_neighbour
from mamlrl.evaluation.held_out import AdaptationResult, evaluate_adaptation
from mamlrl.evaluation.methods import environment_settings, group_methods
from mamlrl.evaluation.protocols import paper_settings
from mamlrl.evaluation.tables import markdown, mean_with_interval, write_csv
from mamlrl.experiment import (
    SupervisedExperiment,
    draw_tasks,
    initial_state,
    make_envs,
    make_experiment,
    make_supervised,
    num_threads,
    set_threads,
)
from mamlrl.learner_settings import completed
from mamlrl.learners import LEARNERS, evaluation_steps, find_learner
from mamlrl.messages import counted, say
from mamlrl.run_folder.events import naming_events, restore_hook, silence_writer_threads
from mamlrl.run_folder.figures import Comparison, Curve, Published, figure, save_figure
from mamlrl.run_folder.pretrained import Trained, find_checkpoints, read_trained
from mamlrl.sampler import shown_episodes
from mamlrl.seeding import Stream, Streams
from mamlrl.statistics import INTERVALS, bounds, nan_mean, nan_median
from mamlrl.structs import MetaParams, on_device
from mamlrl.supervised import find_task_set

CSV_FILE, SUMMARY_FILE, FIGURE_FILE, EVENTS_FOLDER = "evaluation.csv", "summary.csv", "evaluation.png", "tensorboard"
FITS_FILE = "fits.png"
RESULTS = (CSV_FILE, SUMMARY_FILE, FIGURE_FILE, FITS_FILE, EVENTS_FOLDER)
"""All that `write_results` may leave in a folder."""


DIGITS = {"error": 3, "median error": 3, "diverged": 3}
"""Of means in tables, behind the point; 2 of other quantities."""
RANDOM = "random"
"""Learner whose policy is not trained."""
MOST_COLUMNS = 5
"""Gradient steps that a table shows all of."""


class Entry(NamedTuple):
    """What is evaluated under the name of a method."""

    method: str
    config: Config
    trained: Trained | None
    """None for the untrained initialisation"""
    mismatched: bool = False
    """whether it is adapted to another task than it acts in"""


class Plan(NamedTuple):
    """How policies are evaluated, the same for all that are compared."""

    settings: EvalConfig = EvalConfig()
    seed: int = 1
    """of the held-out tasks and of all noise"""
    tasks: np.ndarray | None = None
    """[M, P] in place of drawn ones"""
    device: str = "cpu"
    threads: int = 0
    published: Published = {}  # noqa: RUF012 (never written to)
    """returns of others under the same plan"""


class Evaluated(NamedTuple):
    """What one run did on the held-out tasks."""

    method: str
    learner: str
    seed: int
    """of the training"""
    tasks: np.ndarray
    """[M, P]"""
    measured: dict[str, np.ndarray]
    """by number of gradient steps and task [steps + 1, M]: "return", and what the environment measures, if anything;
    or what the supervised tasks measure, such as "error". Of trials by number of the episode"""
    used: tuple[int, ...] = ()
    """episodes on a task before each row, where runs are compared by these: some of them learn within trials"""
    mismatched: bool = False
    """whether it was adapted to other tasks than it acted in"""


def of_paper(plan: Plan, config: Config) -> Plan:
    """The plan with tasks and amounts of data of the MAML paper, for the environment of a run.

    Raises:
        ConfigError: the paper has no such environment.
    """
    changes, tasks, published = paper_settings(config)
    settings = dataclasses.replace(plan.settings, **changes)
    return plan._replace(settings=settings, tasks=tasks, published=published)


def base_settings(config: Config) -> EvalConfig:
    """What an evaluation takes where it is not told otherwise: of supervised tasks the settings of the run.

    Of runs that are compared, the first one's also where a setting of the evaluation is that of the training.
    """
    if not find_task_set(config.env):
        return EvalConfig()
    held_out, data = config.eval, config.data
    return dataclasses.replace(held_out, shots=held_out.shots or data.shots, queries=held_out.queries or data.queries)


def find_entries(paths: Iterable[Path], random: bool = False, mismatched: bool = False) -> list[Entry]:
    """The trained policies in run folders, checkpoints and folders of runs, with the names of their methods.

    Methods are in the order of LEARNERS.

    Args:
        paths: of run folders, checkpoints, or folders of runs; what is named twice counts once.
        random: also the untrained policy of every seed.
        mismatched: also every trained policy that adapts by gradient steps on rollouts, to be adapted to another task
            than it acts in.

    Raises:
        UserError: a path holds no policy, policies are not of the same environment, or none is to be mismatched.
    """
    found: dict[Path, Path] = {}
    for path in (path for run in paths for path in find_checkpoints(run)):
        found.setdefault(path.resolve(), path)
    trained = [read_trained(path) for path in found.values()]
    for run in trained[1:]:
        check_same_environment(trained[0], run)
    trained = [run._replace(config=completed(run.config, outside=True)) for run in trained]  # they will adapt
    methods = group_methods(trained)
    by_learner = sorted(methods, key=lambda method: _place(methods[method][0].config.learner))
    entries = [Entry(method, run.config, run) for method in by_learner for run in methods[method]]
    if mismatched:
        entries = [one for entry in entries for one in (entry, *_mismatched(entry))]
        if not any(entry.mismatched for entry in entries):
            raise ConfigError(
                "mismatched (--mismatched) is of policies that adapt by gradient steps on rollouts; none of these does"
            )
    return entries + (_untrained(trained) if random else [])


def _place(learner: str) -> int:
    """Where a learner stands in tables: in the order of LEARNERS, those of one's own at the end."""
    return [*LEARNERS, learner].index(learner)


def _mismatched(entry: Entry) -> list[Entry]:
    if find_task_set(entry.config.env) or not evaluation_steps(entry.config):
        return []
    return [entry._replace(method=f"{entry.method}, adapted to another task", mismatched=True)]


def _untrained(trained: Sequence[Trained]) -> list[Entry]:
    """The untrained policies of runs, each once; where networks or inner steps differ, the names say in what.

    Of learners with the same network one has to do, the first in the order of LEARNERS, and its inner steps.
    """
    first: dict[tuple[object, ...], str] = {}
    of_runs: dict[tuple[object, ...], Trained] = {}
    for run in sorted(trained, key=lambda run: (_place(run.config.learner), run.config.seed)):
        config = untrained_config(run.config)
        network = config.learner, config.name, config.policy
        if first.setdefault(network, run.config.learner) == run.config.learner:
            key = *network, config.seed, config.adaptation, config.sampling, config.data
            of_runs.setdefault(key, run._replace(config=config))
    methods = group_methods(of_runs.values())
    return [
        Entry(method if run.config.learner == RANDOM else f"{RANDOM} ({method})", run.config, None)
        for method, runs in methods.items()
        for run in runs
    ]


def untrained_config(ours: Config) -> Config:
    """Settings of the untrained policy of a run: of a learner with a memory its own, else all that matters to it."""
    if find_learner(ours.learner).recurrent:
        return ours
    return Config(
        env=ours.env,
        name=ours.name,
        learner=RANDOM,
        seed=ours.seed,
        environment=ours.environment,
        policy=ours.policy,
        sampling=SamplingConfig(discount=ours.sampling.discount, gae_lambda=ours.sampling.gae_lambda),
        data=ours.data,
        adaptation=ours.adaptation,
    )


def evaluate_runs(
    entries: Sequence[Entry], plan: Plan, announce: Callable[[Entry], None] | None = None
) -> list[Evaluated]:
    """Adapt policies to the same held-out tasks and measure the return after every gradient step.

    Args:
        entries: the policies.
        plan: the tasks, and how to adapt.
        announce: told of each policy before its turn.

    Raises:
        UserError: an environment cannot be made, or a checkpoint does not fit it.
    """
    changes = {"eval": plan.settings, "device": plan.device, "threads": plan.threads}
    configs = [dataclasses.replace(entry.config, **changes) for entry in entries]
    given = plan.tasks
    if any(entry.mismatched for entry in entries):
        given = _held_out_tasks(configs[0], plan)
        other_tasks(given)  # refused before the first evaluation, which takes its time
    results = []
    by_episodes = any(find_learner(config.learner).recurrent for config in configs)
    for entry, config in zip(entries, configs, strict=True):
        if announce:
            announce(entry)
        if find_task_set(config.env):
            tasks, measured = _evaluate_supervised(config, entry.trained, plan.seed)
        else:
            tasks, result = evaluate_config(config, entry.trained, plan.seed, given, entry.mismatched)
            measured = {"return": result.returns, **result.measures}
            if result.episodes is not None:
                measured = {"return": result.episodes}
        used = _episodes_used(config, len(measured["return"])) if by_episodes else ()
        learner = config.learner if entry.trained else RANDOM
        results.append(Evaluated(entry.method, learner, config.seed, tasks, measured, used, entry.mismatched))
    row = find_task_set(configs[0].env)
    if row and row.quantity.name == "accuracy":
        results.append(_nearest_neighbour(configs[0], plan.seed))
    return results


def _held_out_tasks(config: Config, plan: Plan) -> np.ndarray:
    """Those of an evaluation on rollouts, [M, P]."""
    if plan.tasks is not None:
        return plan.tasks
    envs = make_envs(config, 1)
    try:
        return draw_tasks(envs, config.eval.tasks, Streams(plan.seed).test().numpy(Stream.TASKS, 0))
    finally:
        envs.close()


def _episodes_used(config: Config, rows: int) -> tuple[int, ...]:
    """Episodes on a task before each row of returns: those of a trial, or the rollouts of gradient steps."""
    each = 1 if find_learner(config.learner).recurrent else config.eval.rollouts
    return tuple(each * row for row in range(rows))


def carry_out(
    entries: Sequence[Entry], plan: Plan, interval: str = "student"
) -> tuple[list[Evaluated], list[Comparison]]:
    """Evaluate policies and set them beside each other, as the command and `mamlrl.evaluate` do.

    Args:
        entries: the policies, at least one.
        plan: the tasks, and how to adapt.
        interval: its kind, a name in `statistics.INTERVALS`.

    Raises:
        UserError: an environment cannot be made, or a checkpoint does not fit it.
    """
    first = entries[0].config
    set_threads(num_threads(dataclasses.replace(first, threads=plan.threads)))
    results = evaluate_runs(entries, plan, announce)
    return results, compare(
        results, title_of([entry.config for entry in entries], plan.settings), interval, plan.published
    )


def announce(entry: Entry) -> None:
    """Say which policy is evaluated now."""
    say(f"{entry.method}, seed {entry.config.seed}: {entry.trained.path if entry.trained else 'untrained'}")


def supervised_entry(config: Config, trained: Trained | None) -> tuple[SupervisedExperiment, MetaParams]:
    """Held-out supervised tasks with the predictor of a checkpoint, and what was meta-learned.

    Raises:
        UserError: the tasks cannot be made, or the checkpoint does not fit them.
    """
    experiment = make_supervised(config, "test")
    state = initial_state(experiment)
    return experiment, on_device(state.meta if trained is None else trained.meta(state), config.device)


def _evaluate_supervised(
    config: Config, trained: Trained | None, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The tasks [M, P], and what was measured of them after every gradient step."""
    experiment, meta = supervised_entry(config, trained)
    tasks, streams = held_out_tasks(experiment, seed)
    return tasks, evaluate_supervised(experiment, meta, tasks, streams)


def _nearest_neighbour(config: Config, seed: int) -> Evaluated:
    """What is to be had without learning, on the same tasks and examples."""
    experiment = make_supervised(config, "test")
    tasks, streams = held_out_tasks(experiment, seed)
    return Evaluated("nearest neighbour", "", 0, tasks, nearest_neighbour(experiment, tasks, streams))


def evaluate_config(
    config: Config, trained: Trained | None, seed: int, tasks: np.ndarray | None, mismatched: bool = False
) -> tuple[np.ndarray, AdaptationResult]:
    """Adapt on `config.eval.tasks` held-out tasks and measure the return after every gradient step.

    Args:
        config: settings of the run, with those of the evaluation in `config.eval`.
        trained: the checkpoint; None for the untrained initialisation.
        seed: of the held-out tasks and of all noise.
        tasks: [M, P] in place of drawn ones.
        mismatched: whether the steps are taken on `other_tasks`.

    Returns:
        The tasks [M, P], and what they gave.

    Raises:
        UserError: the environment cannot be made, the checkpoint does not fit it, or there are no other tasks.
    """
    sampling = dataclasses.replace(config.sampling, tasks=config.eval.tasks, rollouts=config.eval.rollouts)
    experiment = make_experiment(dataclasses.replace(config, sampling=sampling))
    try:
        state = initial_state(experiment)
        meta = on_device(state.meta if trained is None else trained.meta(state), config.device)
        streams = Streams(seed).test()
        if tasks is None:
            tasks = draw_tasks(experiment.envs, config.eval.tasks, streams.numpy(Stream.TASKS, 0))
        adapted_to = other_tasks(tasks) if mismatched else None
        return tasks, evaluate_adaptation(experiment, experiment.envs, meta, tasks, streams, adapted_to=adapted_to)
    finally:
        experiment.envs.close()


def other_tasks(tasks: np.ndarray) -> np.ndarray:
    """For each task [M, P] the next one that differs, from the first on again after the last.

    Raises:
        ConfigError: all are the same.
    """
    others, same = tasks.copy(), np.ones(len(tasks), bool)
    for distance in range(1, len(tasks)):
        others[same] = np.roll(tasks, -distance, axis=0)[same]
        same = (others == tasks).all(axis=1)
        if not same.any():
            return others
    same_ones = "there is one" if len(tasks) == 1 else f"all {len(tasks)} are the same"
    raise ConfigError(
        f"mismatched (--mismatched) needs tasks that differ; {same_ones}: ask for more by tasks (--tasks)"
    )


def check_same_environment(run: Trained, other: Trained) -> None:
    """Two runs were trained on the same environment: returns on different ones do not compare.

    Raises:
        ConfigError: names what differs.
    """
    changed = differences(environment_settings(run.config), environment_settings(other.config))
    if changed:
        named = {"env": changed["env"]} if "env" in changed else changed  # other families have other arguments
        listed = "; ".join(f"{name} is {theirs!r}, not {ours!r}" for name, (ours, theirs) in named.items())
        raise ConfigError(f"{other.path} is of another environment than {run.path}: {listed}")


def quantities(results: Sequence[Evaluated]) -> list[str]:
    """All that was measured: "return" first."""
    return list(dict.fromkeys(name for result in results for name in result.measured))


def pool(
    results: Sequence[Evaluated], interval: str = "student", quantity: str = "return", median: bool = False
) -> list[Curve]:
    """One curve a method: interval over seeds where a method has several runs, else over tasks.

    Args:
        results: of `evaluate_runs`.
        interval: its kind, a name in `statistics.INTERVALS`.
        quantity: one of `quantities`; runs that did not measure it are left out.
        median: take the median over the tasks of a run in place of the mean; it has an interval over seeds alone.
    """
    middle = nan_median if median else nan_mean
    curves = []
    measured = [result for result in results if quantity in result.measured]
    for method in dict.fromkeys(result.method for result in measured):
        runs = [result for result in measured if result.method == method]
        if len(runs) > 1:
            values, over = np.stack([middle(run.measured[quantity], 1) for run in runs], axis=1), f"{len(runs)} seeds"
        elif median:
            values, over = middle(runs[0].measured[quantity], 1)[:, None], ""
        else:
            values = runs[0].measured[quantity]
            over = f"{values.shape[1]} tasks" if values.shape[1] > 1 else ""
        each = values.T.tolist() if len(runs) > 1 else []
        with np.errstate(invalid="ignore"):  # of errors without bound
            ends = [bounds(row[~np.isnan(row)], interval).tolist() for row in values]
        means, (first, *_) = nan_mean(values, 1).tolist(), runs
        curves.append(Curve(method, first.learner, means, ends, over, each, first.used, first.mismatched))
    return curves


def title_of(configs: Sequence[Config], settings: EvalConfig) -> str:
    """What was measured, in a line, of runs in the same environment."""
    config = configs[0]
    name, horizon = config.env.rpartition("/")[2], config.environment.horizon
    if row := find_task_set(config.env):
        shots, queries = settings.shots or config.data.shots, settings.queries or config.data.queries
        examples, others = counted(shots, "example"), counted(queries, "other")
        if row.loss == "cross_entropy":
            examples += " of each class"
        return f"{name}: {settings.tasks} held-out tasks, adapted to on {examples}, measured on {others}"
    episodes = [one.sampling.episodes for one in configs if find_learner(one.learner).recurrent]
    steps, rollouts = counted(horizon, "step"), counted(settings.rollouts, "rollout")
    data = f"{settings.min_steps} steps in rollouts of {horizon}" if settings.min_steps else f"{rollouts} of {steps}"
    if len(episodes) == len(configs):
        data = f"{counted(settings.rollouts, 'trial')} of {counted(max(episodes), 'episode')} of {steps}"
    elif episodes:
        data += f", or trials of {counted(max(episodes), 'episode')}"
    return f"{name}: {settings.tasks} held-out tasks, {data}"


def compare(
    results: Sequence[Evaluated], title: str, interval: str = "student", published: Published | None = None
) -> list[Comparison]:
    """Methods beside each other, for everything that was measured: returns or errors first; of errors medians too.

    Of simulations that diverged only where there are some.

    Args:
        results: of `evaluate_runs`.
        title: what was evaluated, in a line.
        interval: its kind, a name in `statistics.INTERVALS`.
        published: returns or errors that others have published.
    """
    comparisons, kind, names = [], INTERVALS[interval], quantities(results)
    never = all((result.measured.get(DIVERGED, np.zeros(1)) == 0).all() for result in results)
    if "return" in names and never:
        names = [name for name in names if name != DIVERGED]
    for number, quantity in enumerate(names):
        beside = published if published and number == 0 else {}
        comparisons.append(Comparison(title, kind, pool(results, interval, quantity), beside, quantity))
        if quantity == "error":  # of which a few tasks that diverge ruin the mean
            medians = pool(results, interval, quantity, median=True)
            comparisons.append(Comparison(title, kind, medians, {}, "median error"))
    return comparisons


def summary(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """A row per quantity, method and number of gradient steps: mean, interval, and what this is."""
    return [
        {
            "quantity": comparison.quantity,
            "method": curve.method,
            "learner": curve.learner,
            "mismatched": curve.mismatched,
            "step": step,
            **({"episodes": curve.used[step]} if curve.used else {}),
            "mean": mean,
            "lower": lower,
            "upper": upper,
            "interval": comparison.interval if curve.over else "",
            "over": curve.over,
        }
        for comparison in comparisons
        for curve in comparison.curves
        for step, (mean, (lower, upper)) in enumerate(zip(curve.means, curve.bounds, strict=True))
    ]


def shown_steps(last: int) -> list[int]:
    """Numbers of gradient steps that a table shows: all where they are few."""
    if last <= MOST_COLUMNS:
        return list(range(last + 1))
    return sorted({0, 1, last, *(step for step in (5, 10, 20, 50, 100) if step < last)})


def table(comparison: Comparison) -> str:
    """Methods against gradient steps, mean and interval, as Markdown; published means after a learner's rows.

    Where intervals are over different things, a last column says over what.
    """
    curves, digits = comparison.curves, DIGITS.get(comparison.quantity, 2)
    if any(curve.used for curve in curves):
        return _table_by_episodes(comparison)
    steps = shown_steps(max(len(curve.means) for curve in curves) - 1)
    rows = [["method", *(f"{n} steps" if n != 1 else "1 step" for n in steps), "over"]]
    last = {curve.learner: curve for curve in curves if not curve.mismatched}
    for curve in curves:
        cells = [mean_with_interval(*numbers, digits) for numbers in zip(curve.means, curve.bounds, strict=True)]
        rows.append([curve.method, *(cells[n] if n < len(cells) else "" for n in steps), curve.over])
        if curve is last.get(curve.learner) and (means := comparison.published.get(curve.learner)):
            cells = ["" if math.isnan(mean) else f"{mean:.2f}" for mean in means]
            rows.append(["  published", *(cells[n] if n < len(cells) else "" for n in steps), ""])
    return markdown(rows if len(_over(comparison)) > 1 else [row[:-1] for row in rows])


def _table_by_episodes(comparison: Comparison) -> str:
    """Methods against the episodes that they had on a task before: all numbers after gradient steps, some in trials."""
    shown = {used for curve in comparison.curves for used in _shown(curve.used)}
    columns = sorted(shown)
    digits = DIGITS.get(comparison.quantity, 2)
    rows = [["method", *("1 episode" if n == 1 else f"{n} episodes" for n in columns), "over"]]
    for curve in comparison.curves:
        cells = [mean_with_interval(*numbers, digits) for numbers in zip(curve.means, curve.bounds, strict=True)]
        at = dict(zip(curve.at(), cells, strict=True))
        rows.append([curve.method, *(at.get(n, "") for n in columns), curve.over])
    return markdown(rows if len(_over(comparison)) > 1 else [row[:-1] for row in rows])


def _shown(used: Sequence[int]) -> list[int]:
    """Of trials of many episodes some of the numbers."""
    return [used[number] for number in shown_episodes(len(used))]


def caption(comparison: Comparison) -> str:
    """What a table's numbers are: the kind of interval, whose name is too long for a column, and over what it is."""
    over = _over(comparison)
    if over == [""]:
        return "Mean"
    return f"Mean and {comparison.interval} over {over[0] if len(over) == 1 else 'what the last column says'}"


def _over(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(curve.over for curve in comparison.curves))


def report(comparisons: Sequence[Comparison]) -> str:
    """The title, what the numbers are, and all tables."""
    tables = [table(one) if one.quantity == "return" else f"{one.quantity}:\n\n{table(one)}" for one in comparisons]
    return "\n\n".join([comparisons[0].title, caption(comparisons[0]), *tables])


def write_results(
    folder: Path, results: Sequence[Evaluated], comparisons: Sequence[Comparison], fits: Figure | None = None
) -> None:
    """Write what was measured, its summary, the figures, and TensorBoard events into a folder.

    All of RESULTS or, after an error, none: the same folder can be named again.

    Raises:
        OSError: it cannot be written; names the file.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_csv(folder / CSV_FILE, result_rows(results))
        write_csv(folder / SUMMARY_FILE, summary(comparisons))
        canvas = figure(comparisons[0])
        save_figure(canvas, folder / FIGURE_FILE)
        if fits is not None:
            save_figure(fits, folder / FITS_FILE)
        _write_events(folder / EVENTS_FOLDER, canvas, report(comparisons))
    except BaseException:
        with contextlib.suppress(OSError):
            _remove_results(folder, is_new)
        raise


def _write_events(folder: Path, canvas: Figure, text: str) -> None:
    """Figure and table for TensorBoard; no scalars, which it would smooth over gradient steps."""
    hooks = silence_writer_threads()
    with naming_events(folder), SummaryWriter(str(folder)) as writer:
        writer.add_figure("evaluation", canvas)
        writer.add_text("evaluation", text)
    restore_hook(hooks)  # after an error the thread may be about to print it


def _remove_results(folder: Path, is_new: bool) -> None:
    for name in (CSV_FILE, SUMMARY_FILE, FIGURE_FILE, FITS_FILE):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / EVENTS_FOLDER, ignore_errors=True)
    if is_new:
        folder.rmdir()


def result_rows(results: Sequence[Evaluated]) -> Iterable[dict[str, Any]]:
    """A row per method, seed, number of gradient steps and task."""
    names = quantities(results)
    for result in results:
        for step in range(len(result.measured[names[0]])):
            for number, task in enumerate(result.tasks.tolist()):
                yield {
                    "method": result.method,
                    "seed": result.seed,
                    "task": number,
                    **{f"task_{n}": value for n, value in enumerate(task)},
                    "step": step,
                    **({"episodes": result.used[step]} if result.used else {}),
                    **{
                        name: float(result.measured[name][step, number]) if name in result.measured else math.nan
                        for name in names
                    },
                }
