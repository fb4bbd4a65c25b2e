"""`--protocol rl2`: from cells and runs to tables, CSV files and figures in a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mamlrl.config.schema import require
from mamlrl.envs.workers import num_processors
from mamlrl.evaluation import rl2
from mamlrl.evaluation.cells import Cell, paper_cells, parse_cell
from mamlrl.evaluation.rl2_figures import FIGURES, trial_figures
from mamlrl.evaluation.trained_trials import find_runs, trained_trials
from mamlrl.messages import say
from mamlrl.run_folder import folder as run_folder
from mamlrl.run_folder.figures import save_figure
from mamlrl.seeding import Streams

FILES = (rl2.CELLS_FILE, rl2.EPISODES_FILE, rl2.TUNED_FILE, *FIGURES.values())


class TrialPlan(NamedTuple):
    """What is evaluated, and how."""

    cells: Sequence[str] = ()
    """as of the command line; empty for those of the runs, or all of the paper's"""
    instances: int | None = None
    """N; None for 10 000, or 1000 when parameters are tuned"""
    seed: int = 1
    """of instances and all noise"""
    tune: bool = False
    """find the parameters of the algorithms anew, in place of an evaluation"""
    device: str = "cpu"
    """of trained policies"""
    threads: int = 0
    """of the arithmetic; 0 takes all processors"""


def results_folder() -> Path:
    """A folder that does not exist yet."""
    return Path("runs", "evaluations", time.strftime("rl2-%Y%m%d-%H%M%S"))


def carry_out(runs: Sequence[Path], plan: TrialPlan, folder: Path) -> str:
    """Evaluate, write the results, and return the tables.

    Args:
        runs: run folders, checkpoints, or folders of runs.
        plan: what is evaluated, and how.
        folder: of the results.

    Raises:
        UserError: a cell or a run is not right, or an environment cannot be made.
        OSError: a result cannot be written.
    """
    usual = rl2.TUNING_INSTANCES if plan.tune else rl2.INSTANCES
    instances = usual if plan.instances is None else plan.instances
    require(instances >= 2, "--tasks", instances, "at least 2")
    require(plan.seed >= 0, "--seed", plan.seed, "at least 0")
    for name in FILES:
        run_folder.check_results(folder, name)
    found = find_runs(runs)
    cells = chosen_cells(plan.cells) or list(dict.fromkeys(run.cell for run in found)) or paper_cells()
    trials = trained_trials(found, cells, plan.seed, plan.device)
    if plan.tune:
        settings = rl2.tune(cells, instances, Streams(plan.seed).evaluation())
        rl2.write_settings(folder, settings)
        return rl2.settings_table(settings)
    torch.set_num_threads(plan.threads or num_processors())
    say(f"{len(cells)} cells, {instances} instances")
    results = rl2.play_cells(cells, instances, Streams(plan.seed).test(), trials)
    rl2.write_tables(folder, results)
    for name, canvas in trial_figures(results).items():
        save_figure(canvas, folder / name)
    return f"\n{rl2.tables(results)}\n"


def chosen_cells(texts: Sequence[str]) -> list[Cell]:
    """Cells of the command line, each once."""
    return list(dict.fromkeys(cell for text in texts for cell in parse_cell(text)))
