"""Return against number of gradient steps, method by method: evaluation of runs, table, CSV, figure, TensorBoard."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from mamlrl.config import Config
from mamlrl.evaluation.held_out import evaluate_adaptation
from mamlrl.experiment import draw_tasks, initial_state, make_experiment
from mamlrl.run_folder.figures import Curve, Published, figure, learner_of
from mamlrl.run_folder.pretrained import Trained
from mamlrl.seeding import Stream, Streams
from mamlrl.statistics import interval
from mamlrl.structs import on_device

CSV_FILE, FIGURE_FILE = "evaluation.csv", "evaluation.png"


class Evaluated(NamedTuple):
    """One run's returns on the held-out tasks."""

    method: str
    seed: int
    """of the training"""
    returns: np.ndarray
    """[steps + 1, M]"""


def evaluate_config(config: Config, trained: Trained | None, seed: int, tasks: np.ndarray | None) -> np.ndarray:
    """Adapt on `config.eval.tasks` held-out tasks and measure the return after every gradient step.

    Args:
        config: settings of the run, with those of the evaluation in `config.eval`.
        trained: the checkpoint; None for the untrained initialisation.
        seed: of the held-out tasks and of all noise, the same for every run that is compared.
        tasks: [M, P] in place of drawn ones.

    Returns:
        Mean return of each task, [steps + 1, M].

    Raises:
        UserError: the environment cannot be made, or the checkpoint does not fit it.
    """
    sampling = dataclasses.replace(config.sampling, tasks=config.eval.tasks, rollouts=config.eval.rollouts)
    experiment = make_experiment(dataclasses.replace(config, sampling=sampling))
    try:
        state = initial_state(experiment)
        meta = on_device(state.meta if trained is None else trained.meta(state), config.device)
        streams = Streams(seed).test()
        if tasks is None:
            tasks = draw_tasks(experiment.envs, config.eval.tasks, streams.numpy(Stream.TASKS, 0))
        return evaluate_adaptation(experiment, experiment.envs, meta, tasks, streams).returns
    finally:
        experiment.envs.close()


def pool(results: Sequence[Evaluated]) -> list[Curve]:
    """One curve a method: interval over seeds where a method has several runs, else over tasks."""
    curves = []
    for method in dict.fromkeys(result.method for result in results):
        runs = [result.returns for result in results if result.method == method]
        if len(runs) > 1:
            values, over = np.stack([returns.mean(1) for returns in runs], axis=1), f"{len(runs)} seeds"
        else:
            values, over = runs[0], f"{runs[0].shape[1]} tasks"
        curves.append(Curve(method, values.mean(1).tolist(), [interval(row) for row in values], over))
    return curves


def table(curves: Sequence[Curve], published: Published) -> str:
    """Methods against gradient steps, mean and 95% interval, as Markdown; published means after a learner's rows."""
    steps = max(len(curve.means) for curve in curves)
    rows = [["method", *(f"{step} steps" if step != 1 else "1 step" for step in range(steps)), "95% interval over"]]
    last = {learner_of(curve.method): curve for curve in curves}
    for curve in curves:
        cells = [
            f"{mean:.2f}" + ("" if np.isnan(half_width) else f" ± {half_width:.2f}")
            for mean, half_width in zip(curve.means, curve.half_widths, strict=True)
        ]
        over = "" if np.isnan(curve.half_widths[0]) else curve.over
        rows.append([curve.method, *cells, *[""] * (steps - len(cells)), over])
        learner = learner_of(curve.method)
        if curve is last[learner] and (means := published.get(learner)):
            cells = [f"{mean:.2f}" for mean in means[:steps]]
            rows.append(["  published", *cells, *[""] * (steps - len(cells)), ""])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * width for width in widths]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"| {line} |" for line in (padded[0], " | ".join(rule), *padded[1:]))


def write_results(
    folder: Path, results: Sequence[Evaluated], curves: Sequence[Curve], published: Published, title: str
) -> None:
    """Write evaluation.csv, the figure, and TensorBoard events into a folder.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / CSV_FILE, results)
    canvas = figure(curves, published, title)
    canvas.savefig(folder / FIGURE_FILE, dpi=150)
    for curve in curves:  # events of their own for every method: TensorBoard draws them in one chart
        with SummaryWriter(str(folder / "tensorboard" / curve.method)) as writer:
            for step, mean in enumerate(curve.means):
                writer.add_scalar("evaluation/return_by_gradient_steps", mean, step)
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        writer.add_figure("evaluation", canvas)
        writer.add_text("evaluation", table(curves, published))


def write_csv(path: Path, results: Sequence[Evaluated]) -> None:
    """A row per method, seed, task and number of gradient steps, atomically."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["method", "seed", "task", "step", "return"])
            for result in results:
                for step, returns in enumerate(result.returns.tolist()):
                    writer.writerows([result.method, result.seed, task, step, one] for task, one in enumerate(returns))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
