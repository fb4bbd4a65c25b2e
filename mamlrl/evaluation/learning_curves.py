"""Learning curves of runs: means and intervals over seeds, method by method, environment by environment."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mamlrl.errors import ConfigError, UserError, suggestion
from mamlrl.evaluation.methods import differing_settings, environment_settings, first_unique, group_methods
from mamlrl.evaluation.tables import markdown, mean_with_interval
from mamlrl.learners import find_learner
from mamlrl.run_folder.figures import steps_name
from mamlrl.run_folder.history import Run
from mamlrl.statistics import INTERVALS, bounds


class Band(NamedTuple):
    """A mean over the runs of one method, against something."""

    label: str
    method: str
    metric: str
    x: np.ndarray
    """[N]"""
    mean: np.ndarray
    """[N]"""
    bounds: np.ndarray
    """lower and upper end of the interval [2, N]; NaN for a single run"""
    runs: list[tuple[np.ndarray, np.ndarray]]
    """each run's own x and values, also beyond the end of the shortest one"""


class Reference(NamedTuple):
    """A published return."""

    name: str
    """of the configuration or environment"""
    step: int
    """number of gradient steps"""
    value: float


class Panel(NamedTuple):
    """Bands in one pair of axes."""

    environment: str
    title: str
    ylabel: str
    bands: list[Band]
    references: list[Reference]


class Choice(NamedTuple):
    """What is drawn of the runs."""

    metric: str = "return"
    """a column of metrics.csv, or the name before /step_ for all numbers of gradient steps"""
    against: str = "iterations"
    """a name in AXES"""
    interval: str = "student"
    """a name in `statistics.INTERVALS`"""
    smooth: int = 1
    """measurements that each point is the mean of, an odd number"""


AXES = {"iterations": "meta-iterations", "env_steps": "environment steps", "seconds": "seconds of training"}
"""What curves are drawn against, and its name on the axis."""

PLACES = {"": "on training tasks", "eval/": "on held-out tasks"}
YLABELS = {
    f"{prefix}{name}": f"{name} {where}" for name in ("return", "error", "accuracy") for prefix, where in PLACES.items()
}


def choose_metrics(runs: Sequence[Run], name: str) -> list[str]:
    """The columns that a name stands for: itself, or of ``return`` all of return/step_0, return/step_1, ...

    Raises:
        ConfigError: no run has it; names what there is.
    """
    known = list(dict.fromkeys(column for run in runs for column in run.metrics if column != "iteration"))
    steps: dict[str, list[int]] = {}
    for column in known:
        family, step = family_and_step(column)
        if step is not None:
            steps.setdefault(family, []).append(step)
    if name in known:
        return [name]
    if name not in steps:
        families = [f"{family} (/step_{min(of)} to /step_{max(of)})" for family, of in steps.items()]
        there = ", ".join([*families, *(column for column in known if family_and_step(column)[1] is None)])
        raise ConfigError(f"--metric {name}: no run has it{suggestion(name, [*steps, *known])}; there are {there}")
    return [f"{name}/step_{step}" for step in sorted(steps[name])]


def family_and_step(metric: str) -> tuple[str, int | None]:
    """``return`` and 1 of return/step_1; the metric itself and None where it has no number of gradient steps."""
    match = re.fullmatch(r"(.+)/step_(\d+)", metric)
    return (match[1], int(match[2])) if match else (metric, None)


def environments(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by environment, each under its name: that of the configuration, the id, or with the settings that differ."""
    groups: list[list[Run]] = []
    for run in runs:
        settings = environment_settings(run.config)
        same = next((group for group in groups if environment_settings(group[0].config) == settings), None)
        groups.append([run]) if same is None else same.append(run)
    rivals = [environment_settings(group[0].config) for group in groups]
    rows = []
    for group, settings in zip(groups, rivals, strict=True):
        names, env = {run.config.name for run in group}, group[0].config.env
        different = differing_settings(settings, [rival for rival in rivals if rival["env"] == env])
        candidates = [
            names.pop() if len(names) == 1 else "",
            short_id(env),
            f"{short_id(env)} ({different})" if different else "",
            env,
            str(group[0].path),
        ]
        rows.append([name for name in candidates if name])
    return dict(zip(first_unique(rows), groups, strict=True))


def short_id(env: str) -> str:
    """An environment's id without its package."""
    return re.split(r"[/:]", env)[-1]


def make_panels(runs: Sequence[Run], choice: Choice, references: Sequence[Reference] = ()) -> list[Panel]:
    """Bands of all methods, in panels by environment.

    Where an environment has one method, its numbers of gradient steps share a panel; where it has several, each number
    of steps has a panel of its own with all methods: the curves of a panel are numbers of steps or methods, never both.
    Beside panels of several methods the title of one with numbers of steps names its method.

    Raises:
        UserError: no run has the metric, or a reference belongs to no panel.
    """
    metrics = choose_metrics(runs, choice.metric)
    family = family_and_step(metrics[0])[0]
    ylabel = YLABELS.get(family, family)
    panels = []
    by_environment = {environment: group_methods(members) for environment, members in environments(runs).items()}
    one_method_each = all(len(methods) == 1 for methods in by_environment.values())
    for environment, members in environments(runs).items():
        methods = by_environment[environment]
        bands = [
            make_band(method, metric, curves, choice.interval)
            for metric in metrics
            for method, group in methods.items()
            if (curves := [curve for run in group if (curve := curve_of(run, metric, choice))[0].size])
        ]
        bands = [one for one in bands if one.x.size]
        own = [reference for reference in references if reference.name in names_of(environment, members)]
        if bands and len(methods) == 1 and len(metrics) > 1:
            bands = [one._replace(label=steps_name(family_and_step(one.metric)[1] or 0)) for one in bands]
            title = environment if one_method_each else f"{environment}: {bands[0].method}"
            panels.append(Panel(environment, title, ylabel, bands, own))
            continue
        for metric in dict.fromkeys(one.metric for one in bands):
            step = family_and_step(metric)[1]
            title = environment if step is None else f"{environment}: {_name_of_step(step, members)}"
            fitting = [reference for reference in own if reference.step == step]
            panels.append(Panel(environment, title, ylabel, [one for one in bands if one.metric == metric], fitting))
    if not any(panel.bands for panel in panels):
        raise UserError(f"--metric {choice.metric}: was not measured yet, or at no point that the runs have in common")
    check_references(references, panels, environments(runs))
    return panels


def _name_of_step(step: int, runs: Sequence[Run]) -> str:
    """Number of gradient steps in words; a memory takes none, and what it has at number 0 is a whole trial."""
    trials = {find_learner(run.config.learner).recurrent for run in runs}
    if step or trials == {False}:
        return steps_name(step)
    return "whole trials" if trials == {True} else f"{steps_name(step)}, or whole trials"


def names_of(environment: str, runs: Sequence[Run]) -> set[str]:
    """What a reference may call an environment: as its panel does, by its id, or by a configuration."""
    return {environment, short_id(runs[0].config.env), runs[0].config.env, *(run.config.name for run in runs)}


def check_references(
    references: Sequence[Reference], panels: Sequence[Panel], environments: Mapping[str, Sequence[Run]]
) -> None:
    """Every published return is drawn.

    Raises:
        ConfigError: one is not, because there is no such environment or number of gradient steps.
    """
    known = [name for environment, runs in environments.items() for name in sorted(names_of(environment, runs)) if name]
    for reference in references:
        if reference.name not in known:
            hint = suggestion(reference.name, known)
            raise ConfigError(f"--reference {reference.name}: no run is of it{hint}; there are {', '.join(known)}")
        metrics = {one.metric for panel in panels if reference in panel.references for one in panel.bands}
        if reference.step not in {family_and_step(metric)[1] for metric in metrics}:
            raise ConfigError(
                f"--reference {reference.name}:{reference.step}: no curve is of {steps_name(reference.step)}"
            )


def missing(panels: Sequence[Panel], runs: Sequence[Run], choice: Choice) -> list[str]:
    """What the panels do not show, a sentence each: methods that lack the metric, runs that go on beyond a mean."""
    notes = []
    for environment, members in environments(runs).items():
        bands = [one for panel in panels if panel.environment == environment for one in panel.bands]
        drawn = {(one.method, one.metric) for one in bands}
        wanted = [
            (method, metric) for metric in choose_metrics(runs, choice.metric) for method in group_methods(members)
        ]
        notes += [
            f"{environment}: {method} has no {metric} to draw"
            for method, metric in wanted
            if (method, metric) not in drawn
        ]
        for one in bands:
            shortest, longest = min(x[-1] for x, _ in one.runs), max(x[-1] for x, _ in one.runs)
            if choice.against == "iterations" and shortest < longest:
                ends = f"{shortest:g} to {longest:g} iterations"
                notes.append(f"{environment}: runs of {one.method} end at {ends}; their mean goes as far as all do")
    return list(dict.fromkeys(notes))


def curve_of(run: Run, metric: str, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """Where a run measured a metric, and what: x and values [N], N = 0 where it never did.

    Raises:
        UserError: the run lacks what to draw against.
    """
    x, values = _x(run, choice.against), run.metrics.get(metric, np.full(len(run.metrics["iteration"]), math.nan))
    measured = np.isfinite(values) & np.isfinite(x)
    return x[measured], smooth(values[measured], choice.smooth)


def _x(run: Run, against: str) -> np.ndarray:
    """What a run's metrics are drawn against, [T]; evaluations, films and checkpoints are not in the seconds."""
    column = {"iterations": "iteration", "env_steps": "env_steps", "seconds": "time/"}[against]
    columns = [values for name, values in run.metrics.items() if name.startswith(column)]
    if not columns:
        raise UserError(f"{run.path}: its metrics have no {column}, which --against {against} needs")
    return np.nancumsum(np.sum(columns, axis=0)) if against == "seconds" else columns[0]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of a window around each value, as much of it as there is; the window is odd."""
    reach = window // 2
    return np.array([values[max(0, t - reach) : t + reach + 1].mean() for t in range(len(values))])


def make_band(method: str, metric: str, curves: Sequence[tuple[np.ndarray, np.ndarray]], interval: str) -> Band:
    """Mean and interval over runs, from where all have begun as far as all go.

    Runs that measured at different points are interpolated between theirs.

    Args:
        method: whose runs they are.
        metric: what was measured.
        curves: x and values of each run, at least one, none empty.
        interval: a name in `statistics.INTERVALS`.
    """
    begin, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    points = np.unique(np.concatenate([x for x, _ in curves]))
    points = points[(begin <= points) & (points <= end)]
    values = np.array([np.interp(points, x, y) for x, y in curves])
    return Band(method, method, metric, points, values.mean(0), bounds(values, interval), list(curves))


def rows_of(panels: Iterable[Panel], choice: Choice) -> Iterable[dict[str, Any]]:
    """A row per environment, method, metric and point of every band."""
    for panel in panels:
        for one in panel.bands:
            for x, mean, (lower, upper) in zip(one.x.tolist(), one.mean.tolist(), one.bounds.T.tolist(), strict=True):
                yield {
                    "environment": panel.environment,
                    "method": one.method,
                    "metric": one.metric,
                    choice.against: int(x) if choice.against != "seconds" else x,
                    "mean": mean,
                    "lower": lower,
                    "upper": upper,
                    "interval": INTERVALS[choice.interval] if len(one.runs) > 1 else "",
                    "runs": len(one.runs),
                }


def final_table(panels: Iterable[Panel], choice: Choice) -> str:
    """The last point of every band, as Markdown."""
    rows = [["environment", "method", "metric", choice.against, "mean", "over"]]
    for panel in panels:
        for one in panel.bands:
            over = f"{len(one.runs)} seeds" if len(one.runs) > 1 else ""
            mean = mean_with_interval(float(one.mean[-1]), one.bounds[:, -1].tolist())
            rows.append([panel.environment, one.method, one.metric, f"{one.x[-1]:.7g}", mean, over])
    interval = f" and {INTERVALS[choice.interval]}" if any(row[-1] for row in rows[1:]) else ""
    return f"Last points of the curves: mean{interval}\n\n{markdown(rows)}"
