"""Trained policies in mazes that they have not seen: how often, and how soon, they find the target in each episode.

Source: Duan et al. (2016), "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mamlrl.config import Config
from mamlrl.envs.making import make_task_envs
from mamlrl.errors import ConfigError
from mamlrl.evaluation.cells import Cell
from mamlrl.evaluation.methods import group_methods
from mamlrl.evaluation.tables import markdown, write_csv
from mamlrl.evaluation.trained_trials import Run, params_of
from mamlrl.evaluation.trials import Acting, Played, play_tasks
from mamlrl.experiment import make_experiment
from mamlrl.messages import say
from mamlrl.seeding import Stream, Streams

MAZES_FILE = "mazes.csv"
INSTANCES = 1_000
"""As many as in the paper."""


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
    errors: tuple[float, ...] = ()
    """standard errors of `steps`; none of published ones"""


PUBLISHED = {
    5: Mazes("  published", Cell("maze", 2, (("size", 5),), 250), (0.993, 0.996), (52.4, 39.1), 0.917),
    9: Mazes("  published", Cell("maze", 2, (("size", 9),), 1000), (0.971, 0.967), (180.1, 151.8), 0.714),
}
"""By size; the paper's pictures, steps and turns are others."""


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
    results = []
    for cell in cells:
        for method, some in group_methods(runs).items():
            say(f"{method}, mazes of {cell.name}")
            played = [_played(run, cell, instances, seed, device) for run in some]
            results.append(measured(method, cell, Played(*map(np.concatenate, zip(*played, strict=True)))))
    return results


def _played(run: Run, cell: Cell, instances: int, seed: int, device: str) -> Played:
    """One trial on each of N mazes, [N, n] each."""
    config = _in_tests(run.config, cell)
    maker: Any = make_task_envs(config.env, 1, cell.horizon, config.environment.kwargs)
    tasks = maker.sample_tasks(instances, Streams(seed).test().numpy(Stream.TASKS, 0))
    small = dataclasses.replace(config.sampling, tasks=1, rollouts=1)
    experiment = make_experiment(dataclasses.replace(config, sampling=small, device=device))
    try:
        acting = Acting(experiment.policy, params_of(run, experiment, device), greedy=False)
        played = play_tasks(experiment.config, acting, tasks, cell.episodes, seed)
        return Played(*(numbers[:, 0] for numbers in played))
    finally:
        experiment.envs.close()


def _in_tests(config: Config, cell: Cell) -> Config:
    kwargs = {**config.environment.kwargs, **dict(cell.kwargs), "split": "test", "smallest": cell.size}
    environment = dataclasses.replace(config.environment, kwargs=kwargs, horizon=cell.horizon)
    return dataclasses.replace(config, environment=environment)


def measured(method: str, cell: Cell, played: Played) -> Mazes:
    """What a method did, of trials [N, n] each."""
    found, lengths = played.successes > 0, np.where(played.successes > 0, played.lengths, np.nan)
    counts = found.sum(0)
    steps = np.where(counts > 0, np.nansum(lengths, 0) / np.maximum(counts, 1), np.nan)
    spread = np.sqrt(np.nansum(np.square(lengths - steps), 0) / np.maximum(counts - 1, 1))
    sooner = float((played.lengths[:, -1] < played.lengths[:, 0]).mean())
    errors = spread / np.sqrt(np.maximum(counts, 1))
    return Mazes(method, cell, tuple(found.mean(0).tolist()), tuple(steps.tolist()), sooner, tuple(errors.tolist()))


def tables(results: Sequence[Mazes]) -> str:
    """For each cell: methods against what they did in each episode, published numbers beneath."""
    parts = []
    for cell in dict.fromkeys(result.cell for result in results):
        some = [result for result in results if result.cell == cell]
        known = PUBLISHED.get(cell.size)
        if known and (known.cell.episodes, known.cell.horizon) == (cell.episodes, cell.horizon):
            some.append(known)
        numbers = range(1, cell.episodes + 1)
        head = ["", *(f"found in {n}" for n in numbers), *(f"steps in {n}" for n in numbers)]
        last = f"sooner in {cell.episodes} than in 1"
        rows = [[one.method, *map(_percent, one.found), *_steps(one), _percent(one.sooner)] for one in some]
        parts += [f"Mazes, {cell.name}: target found in episode n, mean steps to it", markdown([[*head, last], *rows])]
    return "\n\n".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _steps(result: Mazes) -> Iterator[str]:
    for number, mean in enumerate(result.steps):
        yield f"{mean:.1f} ± {result.errors[number]:.1f}" if result.errors else f"{mean:.1f}"


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
