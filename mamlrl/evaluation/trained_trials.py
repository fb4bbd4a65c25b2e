"""Trained policies with a memory at play in the cells of RL^2's tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mamlrl.config import Config
from mamlrl.errors import ConfigError
from mamlrl.evaluation.cells import FAMILIES, Cell, cell_of
from mamlrl.evaluation.methods import group_methods
from mamlrl.evaluation.rl2 import Array, Trial, grouped
from mamlrl.evaluation.trials import trial_returns
from mamlrl.experiment import Experiment, initial_state, make_experiment
from mamlrl.learners import find_learner
from mamlrl.run_folder.pretrained import Trained, find_checkpoints, read_trained
from mamlrl.structs import Params, on_device


class Run(NamedTuple):
    """A trained policy, and the cell it was trained for."""

    trained: Trained
    cell: Cell

    @property
    def path(self) -> Path:
        """Its folder or checkpoint."""
        return self.trained.path

    @property
    def config(self):
        """Its settings."""
        return self.trained.config


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """The trained policies in run folders, checkpoints and folders of runs; what is named twice counts once.

    Raises:
        UserError: a path holds no policy, or one that does not learn within trials of FAMILIES.
    """
    found: dict[Path, Path] = {}
    for path in (path for run in paths for path in find_checkpoints(run)):
        found.setdefault(path.resolve(), path)
    return [_run(read_trained(path)) for path in found.values()]


def _run(trained: Trained) -> Run:
    config = trained.config
    cell = cell_of(config)
    if cell is None:
        known = ", ".join(family.env for family in FAMILIES.values())
        raise ConfigError(f"{trained.path} is of {config.env}; --protocol rl2 is for {known}")
    if not find_learner(config.learner).recurrent:
        raise ConfigError(f"{trained.path}: learner {config.learner} has no memory, which --protocol rl2 is about")
    return Run(trained, cell)


def trained_trials(runs: Sequence[Run], cells: Sequence[Cell], seed: int, device: str) -> list[Trial]:
    """Policies in the cells of their tasks: in each those that were trained for its n, or else for the nearest.

    Args:
        runs: trained policies. Those of several seeds that differ in nothing else are one method, whose returns are
            averaged over the seeds.
        cells: in which they play.
        seed: of all noise.
        device: that they run on.

    Raises:
        UserError: a policy fits none of the cells, or its environment cannot be made.
    """
    for run in runs:
        if run.cell.tasks not in {cell.tasks for cell in cells}:
            given = {**dict(run.cell.kwargs), "horizon": run.cell.horizon}
            sizes = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ConfigError(
                f"{run.path} was trained for {run.cell.family}, {run.cell.name}; no cell has its {sizes} "
                "(n alone may be another)"
            )
    trials = []
    for group in grouped(cells):
        own = [run for run in runs if run.cell.tasks == group[0].tasks]
        for cell in group if own else ():
            # of two that are as near the one that was trained for more
            nearest = min({run.cell.episodes for run in own}, key=lambda n: (abs(math.log(n / cell.episodes)), -n))
            methods = group_methods([run for run in own if run.cell.episodes == nearest])
            for name, some in methods.items():
                seeds = f", {len(some)} seeds" if len(some) > 1 else ""
                trials.append(Trial(name, [cell], f"n={nearest}{seeds}", _mean_over(some, seed, device)))
    return trials


def _mean_over(runs: Sequence[Run], seed: int, device: str) -> Callable[[Cell, Array], Iterator[Array]]:
    def returns(cell: Cell, tasks: Array) -> Iterator[Array]:
        yield np.mean([_returns(run, cell, tasks, seed, device) for run in runs], axis=0)

    return returns


def _returns(run: Run, cell: Cell, tasks: Array, seed: int, device: str) -> Array:
    """The return of each episode, [N, n]."""
    with playing(run.config, run, device) as (experiment, params):
        return trial_returns(experiment.config, experiment.policy, params, tasks, cell.episodes, seed)[:, 0]


@contextmanager
def playing(config: Config, run: Run, device: str) -> Iterator[tuple[Experiment, Params]]:
    """An experiment of one trial with some settings, closed afterwards, and the parameters of a run's policy in it."""
    small = dataclasses.replace(config.sampling, tasks=1, rollouts=1)
    experiment = make_experiment(dataclasses.replace(config, sampling=small, device=device))
    try:
        yield experiment, experiment.learner.start(on_device(run.trained.meta(initial_state(experiment)), device))
    finally:
        experiment.envs.close()
