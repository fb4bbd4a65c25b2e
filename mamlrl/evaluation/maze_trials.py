"""Trained policies in mazes that they have not seen: how often, and how soon, they find the target in each episode.

Source: Duan et al. (2016), "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mamlrl.errors import ConfigError
from mamlrl.evaluation.cells import MAZE, Cell, paper_cells
from mamlrl.evaluation.methods import group_methods
from mamlrl.evaluation.tables import markdown, write_csv
from mamlrl.evaluation.trained_trials import Run, playing
from mamlrl.evaluation.trials import Acting, Played, play_tasks
from mamlrl.experiment import draw_tasks
from mamlrl.messages import say
from mamlrl.seeding import Stream, Streams
from mamlrl.statistics import standard_error

MAZES_FILE = "mazes.csv"
INSTANCES = 1_000
"""As many as in the paper."""
LAYOUTS = "loops", "smallest"
"""Arguments of the environment that say which layouts there are: as by default, whatever they were in training."""


class Mazes(NamedTuple):
    """What a method did in the mazes of a cell."""

    method: str
    cell: Cell
    found: tuple[float, ...]
    """share of the mazes in which the target was reached, by episode"""
    steps: tuple[float, ...]
    """mean number of time steps of the episodes in which it was, by episode"""
    sooner: float
    """share of the mazes in which the last episode was shorter than the first"""
    errors: tuple[float, ...]
    """standard errors of `steps`: over mazes, or over seeds where there are several; NaN where there is none"""


SMALL, LARGE = paper_cells(MAZE)
NONE = math.nan, math.nan
PUBLISHED = [
    Mazes("  published", SMALL, (0.993, 0.996), (52.4, 39.1), 0.917, NONE),
    Mazes("  published", LARGE, (0.971, 0.967), (180.1, 151.8), 0.714, NONE),
]
"""Of the paper, whose pictures, steps and turns are others, and which does not tell the horizon of large mazes."""


def check(runs: Sequence[Run], cells: Sequence[Cell]) -> None:
    """There are both runs and cells, or neither.

    Raises:
        ConfigError: one is missing.
    """
    if cells and not runs:
        raise ConfigError("--cell maze: nothing was designed for mazes; name runs that were trained in them")
    if runs and not cells:
        raise ConfigError(f"{runs[0].path} was trained in mazes; the cells are of other families")


def play_mazes(runs: Sequence[Run], cells: Sequence[Cell], instances: int, seed: int, device: str) -> list[Mazes]:
    """Play all runs in layouts that are for tests alone, actions sampled as in training.

    Args:
        runs: trained policies; those of several seeds that differ in nothing else are one method.
        cells: of mazes, of any size.
        instances: N, the same mazes for all runs.
        seed: of mazes and noise.
        device: that the policies run on.

    Raises:
        UserError: an environment cannot be made.
    """
    for run in runs:
        for reason in _may_have_seen(run, cells):
            say(f"note: {run.path} was trained on {reason}; it may have seen some of these")
    results = []
    for cell in cells:
        for method, some in group_methods(runs).items():
            say(f"{method}, mazes of {cell.name}")
            results.append(
                pooled([measured(method, cell, _played(run, cell, instances, seed, device)) for run in some])
            )
    return results


def _may_have_seen(run: Run, cells: Sequence[Cell]) -> Iterator[str]:
    """What mazes of a run's training have to do with those of the cells."""
    kwargs = run.config.environment.kwargs
    split, size = kwargs.get("split", "train"), kwargs.get("size", SMALL.size)
    if split != "train":
        yield f"layouts of split {split!r}"
    # which part a smaller maze is of, within the larger square, says nothing of the part that it is of by itself
    smaller = [cell.name for cell in cells if (kwargs.get("smallest") or size) <= cell.size < size]
    if smaller:
        yield f"mazes within {size} x {size}, {' and '.join(smaller)} too"


def _played(run: Run, cell: Cell, instances: int, seed: int, device: str) -> Played:
    """One trial on each of N mazes, [N, n] each."""
    own = {name: value for name, value in run.config.environment.kwargs.items() if name not in LAYOUTS}
    kwargs = {**own, **dict(cell.kwargs), "split": "test"}
    environment = dataclasses.replace(run.config.environment, kwargs=kwargs, horizon=cell.horizon)
    config = dataclasses.replace(run.config, environment=environment)
    with playing(config, run, device) as (experiment, params):
        tasks = draw_tasks(experiment.envs, instances, Streams(seed).test().numpy(Stream.TASKS, 0))
        acting = Acting(experiment.policy, params, greedy=False)
        played = play_tasks(experiment.config, acting, tasks, cell.episodes, seed)
        return Played(*(numbers[:, 0] for numbers in played))


def measured(method: str, cell: Cell, played: Played) -> Mazes:
    """What one policy did, of trials [N, n] each."""
    found = played.successes > 0
    lengths = [played.lengths[mask, episode] for episode, mask in enumerate(found.T)]
    return Mazes(
        method,
        cell,
        tuple(found.mean(0).tolist()),
        tuple(float(one.mean()) if len(one) else math.nan for one in lengths),
        float((played.lengths[:, -1] < played.lengths[:, 0]).mean()),
        tuple(float(standard_error(one)) for one in lengths),
    )


def pooled(seeds: Sequence[Mazes]) -> Mazes:
    """The mean over seeds; one seed as it is."""
    first = seeds[0]
    if len(seeds) == 1:
        return first
    found, steps = (np.array([getattr(one, name) for one in seeds]) for name in ("found", "steps"))
    return Mazes(
        f"{first.method} ({len(seeds)} seeds)",
        first.cell,
        tuple(found.mean(0).tolist()),
        tuple(steps.mean(0).tolist()),
        float(np.mean([one.sooner for one in seeds])),
        tuple(standard_error(steps).tolist()),
    )


def tables(results: Sequence[Mazes]) -> str:
    """For each cell: methods against what they did in each episode, published numbers beneath."""
    parts = []
    for cell in dict.fromkeys(result.cell for result in results):
        some = [result for result in results if result.cell == cell]
        some += [known for known in PUBLISHED if known.cell == cell]
        numbers = range(1, cell.episodes + 1)
        head = ["", *(f"found in {n}" for n in numbers), *(f"steps in {n}" for n in numbers)]
        rows = [[*head, f"sooner in {cell.episodes} than in 1"]]
        rows += [[one.method, *map(_percent, one.found), *_steps(one), _percent(one.sooner)] for one in some]
        if cell.episodes == 1:
            rows = [row[:-1] for row in rows]
        title = f"Mazes, {cell.name}: target found in episode n, mean steps to it and standard error"
        parts += [title, markdown(rows)]
    return "\n\n".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _steps(result: Mazes) -> Iterator[str]:
    for mean, error in zip(result.steps, result.errors, strict=True):
        told = "" if math.isnan(error) else f" ± {error:.1f}"
        yield "" if math.isnan(mean) else f"{mean:.1f}{told}"


def write_mazes(folder: Path, results: Sequence[Mazes]) -> None:
    """Write a CSV file, a row for each method, cell and episode.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / MAZES_FILE, (row for result in results for row in _rows(result)))


def _rows(result: Mazes) -> Iterator[Mapping[str, Any]]:
    for episode in range(result.cell.episodes):
        yield {
            "cell": result.cell.name,
            "method": result.method,
            "episode": episode + 1,
            "found": result.found[episode],
            "steps": result.steps[episode],
            "standard_error": result.errors[episode],
            "sooner_in_the_last": result.sooner,
        }
