"""Figures of what adaptation does to a few held-out tasks: functions fitted to points, images told apart.

Functions as in Finn et al. 2017, figure 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamlrl.evaluation.comparison import Entry, Plan, supervised_entry
from mamlrl.evaluation.pictures import Told, picture_figure, told_of
from mamlrl.experiment import SupervisedExperiment, draw_examples
from mamlrl.learners import evaluation_steps, step_scale
from mamlrl.rounds import adapted_on
from mamlrl.run_folder.figures import color_of, legend_beneath, limits_around, literal, steps_name
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import MetaParams
from mamlrl.supervised import find_task_set
from mamlrl.supervised.base import TaskDistribution

TASKS, POINTS, MOST_METHODS = 3, 400, 4
STEPS = (0, 1, 10)


class Fit(NamedTuple):
    """One method on one task."""

    support: np.ndarray
    """points adapted on, x and y [shots, 2]"""
    true: np.ndarray
    """x in order, and y, [POINTS, 2]"""
    predicted: dict[int, np.ndarray]
    """y at each x by number of gradient steps, [POINTS]"""

    def error(self, steps: int) -> float:
        """Mean squared error after so many gradient steps."""
        return float(np.square(self.predicted[steps] - self.true[:, 1]).mean())


def is_function_of_one_number(tasks: TaskDistribution) -> bool:
    """Whether inputs and targets are one number each."""
    return tasks.input_space.shape == tasks.target_space.shape == (1,) and isinstance(tasks.target_space, spaces.Box)


def fits_figure(entries: Sequence[Entry], plan: Plan) -> Figure | None:
    """What the first run of each method makes of a few held-out tasks; None where there is nothing to be drawn.

    Of functions of one number a row for each method and a column for each task, of images one task.
    """
    if find_task_set(entries[0].config.env) is None:
        return None
    first = {entry.method: entry for entry in reversed(entries)}
    chosen = list(reversed(first.values()))[:MOST_METHODS]
    shown = [(entry.method, _shown(entry, plan)) for entry in chosen]
    fits = [(method, one) for method, one in shown if isinstance(one, list)]
    told = [(method, one) for method, one in shown if isinstance(one, Told)]
    return draw_fits(fits) if fits else picture_figure(told) if told else None


def _shown(entry: Entry, plan: Plan) -> list[Fit] | Told | None:
    """What is drawn of a method; None of one that sees more than the inputs."""
    config = dataclasses.replace(entry.config, eval=plan.settings, device="cpu")
    experiment, meta = supervised_entry(config, entry.trained)
    streams = Streams(plan.seed).test()
    numbers = experiment.tasks.sample_tasks(max(config.eval.tasks, TASKS), streams.numpy(Stream.TASKS, 0))[:TASKS]
    if is_function_of_one_number(experiment.tasks):
        return fits_of(experiment, meta, numbers, STEPS, streams)
    return told_of(experiment, meta, numbers[:1], streams)


@torch.no_grad()
def fits_of(
    experiment: SupervisedExperiment,
    meta: MetaParams,
    tasks: np.ndarray,
    steps: Collection[int],
    streams: Streams,
) -> list[Fit]:
    """The fit to each task [M, P] after some numbers of gradient steps, up to `eval.steps`.

    Args:
        experiment: with tasks that are functions of one number.
        meta: what is meta-learned.
        tasks: [M, P].
        steps: the numbers of gradient steps.
        streams: of the points.
    """
    config, rng = experiment.config, streams.numpy(Stream.ENVIRONMENT, 1)
    support, query = draw_examples(experiment, tasks, config.eval.shots or config.data.shots, POINTS, rng)
    order = query.observations.argsort(1)
    x, y = (leaf.gather(1, order)[:, :, 0, 0].numpy() for leaf in (query.observations, query.targets))
    batches, predicted = [support] * evaluation_steps(config), {}
    path = adapted_on(experiment.learner, meta, batches, lambda step: step_scale(config, step))
    for number, params in enumerate(path):
        if number in steps:
            outputs = experiment.policy.outputs(params, query.observations)
            predicted[number] = outputs.gather(1, order)[:, :, 0, 0].numpy()
    points = torch.cat([support.observations, support.targets], dim=-1)[:, :, 0].numpy()
    return [
        Fit(points[task], np.stack([x[task], y[task]], 1), {number: rows[task] for number, rows in predicted.items()})
        for task in range(len(tasks))
    ]


def draw_fits(rows: Sequence[tuple[str, list[Fit]]]) -> Figure:
    """Fits of named methods, a row each, to the same tasks, a column each."""
    columns = len(rows[0][1])
    canvas = Figure(figsize=(max(3.2 * columns, 4.0), 2.4 * len(rows) + 0.6), layout="constrained")
    grid = canvas.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
    low, high = limits_around(np.concatenate([fit.true[:, 1] for _, fits in rows for fit in fits]))
    for axes_of_row, (method, fits) in zip(grid, rows, strict=True):
        for axes, fit in zip(axes_of_row, fits, strict=True):
            draw_points(axes, fit)
            for number, (steps, values) in enumerate(fit.predicted.items()):
                style = ":" if steps == 0 else "--" if steps == 1 else "-"
                x, label = fit.true[:, 0], steps_name(steps)
                axes.plot(x, values, style, color=color_of(number), linewidth=1.3, label=label)
            axes.set_ylim(1.5 * low, 1.5 * high)  # what diverges leaves the panel
        axes_of_row[0].set_ylabel(literal(method))
    handles, _ = grid[0, 0].get_legend_handles_labels()
    legend_beneath(canvas, handles)
    return canvas


def draw_points(axes: Axes, fit: Fit) -> None:
    """The true function, and the points that are adapted on."""
    axes.plot(*fit.true.T, color="0.6", linewidth=3, label="true")
    axes.plot(*fit.support.T, "^", color="black", markersize=6, label="points adapted on")
    axes.grid(alpha=0.3)
