"""The evaluation protocol of RL^2: learned and designed algorithms on the same instances, cell by cell of its tables.

Source: Duan et al. (2016), "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", tables 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamlrl.envs.tabular_mdp import MDPSpace
from mamlrl.evaluation.cells import FAMILIES, Cell, published
from mamlrl.evaluation.rival_trials import BLOCKS, draw_instances, methods_of, rival_returns
from mamlrl.evaluation.tables import markdown, write_csv
from mamlrl.progress import progress_bar
from mamlrl.rivals.bayes import MOST_PULLS, bayes_optimum, best_arms, known_mdps
from mamlrl.rivals.tuned import Setting, read_tuned, tuned_parameter
from mamlrl.seeding import Streams
from mamlrl.statistics import standard_error

INSTANCES, TUNING_INSTANCES = 10_000, 1_000
CELLS_FILE, EPISODES_FILE, TUNED_FILE = "cells.csv", "episodes.csv", "tuned.csv"
KNOWN, BAYES = "task known", "Bayes optimum"
"""What is no algorithm: what who knows the task earns, and the most that can be earned without."""

Array = NDArray[np.float64]


class Result(NamedTuple):
    """What a method earned in a cell."""

    method: str
    cell: Cell
    returns: Array
    """mean over the instances of the return of each episode, [n]; one number where it is the same in all"""
    mean: float
    """of the total over the episodes"""
    error: float
    """its standard error; NaN of what was computed exactly"""
    detail: str = ""
    """the number that it was tuned to, or what a run was trained for"""
    at_most: float = math.nan
    """what who knows the tasks earns in an episode, on average"""


class Trial(NamedTuple):
    """Something that plays: a method's name, what is said of it, and how it plays a cell's instances."""

    method: str
    cells: list[Cell]
    """that it plays, on the same tasks; they differ in n, and the first episodes of the longest serve them all"""
    detail: str
    returns: Callable[[Cell, Array], Iterator[Array]]
    """of the instances [N, P], block by block: the return of each episode [block, n]"""


def play_cells(cells: Sequence[Cell], instances: int, streams: Streams, more: Sequence[Trial] = ()) -> list[Result]:
    """Play all algorithms that there are for some cells, and what else is given.

    Args:
        cells: in the order of the results.
        instances: N, the same tasks for all methods.
        streams: of tasks and noise.
        more: trained policies.
    """
    results: dict[tuple[str, Cell], Result] = {}
    for group in grouped(cells):
        tasks = draw_instances(group[0], instances, streams)
        at_most = known_returns(group[0], tasks)
        trials = [*rival_trials(group, read_tuned(), streams), *(one for one in more if one.cells[0] in group)]
        for one in trials:
            results |= {(one.method, cell): result for cell, result in play_trial(one, tasks, at_most).items()}
        for cell in group:
            results[KNOWN, cell] = _known(cell, at_most)
            pulls = cell.episodes * cell.horizon
            if cell.family == "bandit" and pulls <= MOST_PULLS and "reward" not in dict(cell.kwargs):
                optimum = bayes_optimum(pulls, cell.size)
                results[BAYES, cell] = Result(BAYES, cell, np.array([optimum / cell.episodes]), optimum, math.nan)
    order = {cell: number for number, cell in enumerate(cells)}
    return sorted(results.values(), key=lambda result: order[result.cell])


def grouped(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that are played on the same tasks, together."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in dict.fromkeys(cells):
        groups.setdefault(cell.tasks, []).append(cell)
    return list(groups.values())


def rival_trials(group: Sequence[Cell], tuned: list[Setting], streams: Streams) -> list[Trial]:
    """The algorithms for a group of cells, each as often as it has different parameters in them."""
    trials = []
    for method, row in methods_of(group[0]).items():
        by_parameter: dict[float, list[Cell]] = {}
        for cell in group:
            number = tuned_parameter(tuned, cell.family, method, cell.episodes, cell.size) if row.parameter else 0.0
            by_parameter.setdefault(row.grid[len(row.grid) // 2] if number is None else number, []).append(cell)
        for number, cells in by_parameter.items():
            detail = f"{row.parameter} {number:g}" if row.parameter else ""
            trials.append(Trial(method, cells, detail, _rival(method, number, streams)))
    return trials


def _rival(method: str, parameter: float, streams: Streams) -> Callable[[Cell, Array], Iterator[Array]]:
    return lambda cell, tasks: rival_returns(cell, method, parameter, tasks, streams)


def play_trial(trial: Trial, tasks: Array, at_most: Array) -> dict[Cell, Result]:
    """Play the longest of a trial's cells, and read off what it earned in each of them."""
    longest = max(trial.cells, key=lambda cell: cell.episodes)
    blocks = math.ceil(len(tasks) / BLOCKS[longest.family])
    name = f"{longest.name}, {trial.method}"
    returns = np.concatenate(list(progress_bar(trial.returns(longest, tasks), name, blocks)))
    found = {}
    for cell in trial.cells:
        part = returns[:, : cell.episodes]
        totals = part.sum(axis=1)
        error = float(standard_error(totals))
        found[cell] = Result(
            trial.method, cell, part.mean(axis=0), float(totals.mean()), error, trial.detail, float(at_most.mean())
        )
    return found


def known_returns(cell: Cell, tasks: Array) -> Array:
    """What who knows the task [N, P] earns in an episode, [N]."""
    if cell.family == "bandit":
        return cell.horizon * best_arms(tasks)
    sizes = dict(cell.kwargs)
    return known_mdps(*MDPSpace(sizes["states"], sizes["actions"]).split(tasks), cell.horizon)


def _known(cell: Cell, at_most: Array) -> Result:
    mean = float(at_most.mean())
    error = cell.episodes * float(standard_error(at_most))
    return Result(KNOWN, cell, np.array([mean]), cell.episodes * mean, error, at_most=mean)


def tune(cells: Sequence[Cell], instances: int, streams: Streams) -> list[Setting]:
    """Find for every cell the number of each algorithm that earns most, on tasks and noise of their own.

    Args:
        cells: any.
        instances: N.
        streams: disjoint from those of the evaluation.
    """
    settings = []
    for group in grouped(cells):
        tasks = draw_instances(group[0], instances, streams)
        at_most = known_returns(group[0], tasks)
        for method, row in methods_of(group[0]).items():
            if not row.parameter:
                continue
            tried = {
                number: play_trial(Trial(method, list(group), "", _rival(method, number, streams)), tasks, at_most)
                for number in row.grid
            }
            for cell in group:
                best = max(row.grid, key=lambda number: tried[number][cell].mean)
                settings.append(Setting(cell.family, method, cell.episodes, cell.size, best))
    return settings


def tables(results: Sequence[Result]) -> str:
    """For each family methods against cells, published means beneath; and what the methods were tuned to."""
    parts = []
    for family in dict.fromkeys(result.cell.family for result in results):
        some = [result for result in results if result.cell.family == family]
        env = FAMILIES[family].env.rpartition("/")[2]
        parts += [f"{env}: mean total reward and standard error", _table(some)]
        if any(result.detail for result in some):
            parts += ["Tuned to, or trained for:", _details(some)]
    return "\n\n".join(parts)


def _table(results: Sequence[Result]) -> str:
    cells = list(dict.fromkeys(result.cell for result in results))
    by_place = {(result.method, result.cell): result for result in results}
    others = {cell: published(cell) for cell in cells}
    rows = [["", *(cell.name for cell in cells)]]
    for method in ordered_methods(results):
        rows.append([method, *(_cell_text(by_place.get((method, cell))) for cell in cells)])
        numbers = [others[cell].get(method) for cell in cells]
        if any(number is not None for number in numbers):
            rows.append(["  published", *("" if number is None else f"{number:.1f}" for number in numbers)])
    return markdown(rows)


def ordered_methods(results: Sequence[Result]) -> list[str]:
    """Names of methods: algorithms, trained policies, and last what is no algorithm."""
    names = list(dict.fromkeys(result.method for result in results))
    return sorted(names, key=lambda name: (name in (BAYES, KNOWN), name == KNOWN))


def _cell_text(result: Result | None) -> str:
    if result is None:
        return ""
    digits = 3 if result.cell.episodes <= 10 and result.cell.family == "bandit" else 2 if result.mean < 100 else 1
    mean = f"{result.mean:.{digits}f}"
    return mean if math.isnan(result.error) else f"{mean} ± {result.error:.{digits}f}"


def _details(results: Sequence[Result]) -> str:
    cells = list(dict.fromkeys(result.cell for result in results))
    details = {(result.method, result.cell): result.detail for result in results}
    told = [method for method in ordered_methods(results) if any(details.get((method, cell)) for cell in cells)]
    rows = [[method, *(details.get((method, cell), "") for cell in cells)] for method in told]
    return markdown([["", *(cell.name for cell in cells)], *rows])


def write_tables(folder: Path, results: Sequence[Result]) -> None:
    """Write CSV files of the cells, and of the mean return by episode.

    Raises:
        OSError: one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / CELLS_FILE, map(_cell_row, results))
    write_csv(folder / EPISODES_FILE, (row for result in results for row in _episode_rows(result)))


def write_settings(folder: Path, settings: Sequence[Setting]) -> None:
    """Write what was tuned as a CSV file, of the form of the one that is shipped.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / TUNED_FILE, (setting._asdict() for setting in settings))


def settings_table(settings: Sequence[Setting]) -> str:
    """What was tuned, as Markdown."""
    rows = [[str(value) for value in setting] for setting in settings]
    return markdown([list(Setting._fields), *rows])


def _cell_row(result: Result) -> Mapping[str, Any]:
    return {
        "family": result.cell.family,
        "cell": result.cell.name,
        "method": result.method,
        "mean": result.mean,
        "standard_error": result.error,
        "published": published(result.cell).get(result.method, math.nan),
        "detail": result.detail,
    }


def _episode_rows(result: Result) -> Iterator[Mapping[str, Any]]:
    for episode, value in enumerate(np.broadcast_to(result.returns, result.cell.episodes).tolist(), 1):
        yield {
            "family": result.cell.family,
            "cell": result.cell.name,
            "method": result.method,
            "episode": episode,
            "return": value,
        }
