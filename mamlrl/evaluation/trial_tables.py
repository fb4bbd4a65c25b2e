"""`--protocol rl2`: from cells and runs to tables, CSV files and figures in a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mamlrl.config.schema import require
from mamlrl.envs.workers import num_processors
from mamlrl.errors import ConfigError
from mamlrl.evaluation import maze_trials, rl2
from mamlrl.evaluation.cells import MAZE, Cell, paper_cells, parse_cell
from mamlrl.evaluation.rl2_figures import FIGURES, trial_figures
from mamlrl.evaluation.trained_trials import Run, find_runs, trained_trials
from mamlrl.messages import counted, say
from mamlrl.run_folder import folder as run_folder
from mamlrl.run_folder.figures import save_figure
from mamlrl.seeding import Streams

FILES = (rl2.CELLS_FILE, rl2.EPISODES_FILE, rl2.TUNED_FILE, maze_trials.MAZES_FILE, *FIGURES.values())


class TrialPlan(NamedTuple):
    """What is evaluated, and how."""

    cells: Sequence[str] = ()
    """as of the command line; empty for those of the runs, or all of the paper's"""
    instances: int | None = None
    """N; None for 10 000, or 1000 in mazes and when parameters are tuned"""
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
    if plan.instances is not None:
        require(plan.instances >= 2, "--tasks", plan.instances, "at least 2")
    require(plan.seed >= 0, "--seed", plan.seed, "at least 0")
    for name in FILES:
        run_folder.check_results(folder, name)
    found = find_runs(runs)
    for run in found:
        say(f"plays: {run.path}")
    cells = chosen_cells(plan.cells) or list(dict.fromkeys(run.cell for run in found)) or paper_cells()
    designed = [cell for cell in cells if cell.family != MAZE]
    mazes = [cell for cell in cells if cell not in designed]
    in_mazes = [run for run in found if run.cell.family == MAZE]
    others = [run for run in found if run.cell.family != MAZE]
    trials = trained_trials(others, designed, plan.seed, plan.device)
    if plan.tune:
        if mazes or in_mazes:
            raise ConfigError("--tune: mazes have no algorithms whose parameters could be found")
        settings = rl2.tune(designed, plan.instances or rl2.TUNING_INSTANCES, Streams(plan.seed).evaluation())
        rl2.write_settings(folder, settings)
        return rl2.settings_table(settings)
    maze_trials.check(in_mazes, mazes)
    torch.set_num_threads(plan.threads or num_processors())
    tables = [_with_rivals(designed, trials, plan, folder)] if designed else []
    if mazes:
        tables.append(_in_mazes(in_mazes, mazes, plan, folder))
    return "\n" + "\n\n".join(tables) + "\n"


def _with_rivals(cells: Sequence[Cell], trials: Sequence[rl2.Trial], plan: TrialPlan, folder: Path) -> str:
    instances = plan.instances or rl2.INSTANCES
    say(f"{counted(len(cells), 'cell')}, {instances} instances")
    results = rl2.play_cells(cells, instances, Streams(plan.seed).test(), trials)
    rl2.write_tables(folder, results)
    for name, canvas in trial_figures(results).items():
        save_figure(canvas, folder / name)
    return rl2.tables(results)


def _in_mazes(runs: Sequence[Run], cells: Sequence[Cell], plan: TrialPlan, folder: Path) -> str:
    instances = plan.instances or maze_trials.INSTANCES
    results = maze_trials.play_mazes(runs, cells, instances, plan.seed, plan.device)
    maze_trials.write_mazes(folder, results)
    return maze_trials.tables(results)


def chosen_cells(texts: Sequence[str]) -> list[Cell]:
    """Cells of the command line, each once."""
    return list(dict.fromkeys(cell for text in texts for cell in parse_cell(text)))
