"""Figure of functions that were fitted to a few points, before and after gradient steps (Finn et al. 2017, fig. 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamlrl.evaluation.comparison import Entry, Plan, supervised_entry
from mamlrl.experiment import draw_examples
from mamlrl.learners import evaluation_steps, step_scale
from mamlrl.rounds import adapted_on
from mamlrl.run_folder.figures import color_of, legend_beneath, limits_around, literal, steps_name
from mamlrl.seeding import Stream, Streams
from mamlrl.supervised import find_task_set

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


def fits_figure(entries: Sequence[Entry], plan: Plan) -> Figure | None:
    """A row for each method, its first run, and a column for each of a few held-out tasks.

    None where there is no function of one number to be drawn.
    """
    config = entries[0].config
    if find_task_set(config.env) is None:
        return None
    first = {entry.method: entry for entry in reversed(entries)}
    drawn = [(entry.method, _fits(entry, plan)) for entry in reversed(first.values())][:MOST_METHODS]
    rows = [(method, fits) for method, fits in drawn if fits]
    return _draw(rows) if rows else None


@torch.no_grad()
def _fits(entry: Entry, plan: Plan) -> list[Fit]:
    """The method on each task; none where inputs or targets are not one number."""
    config = dataclasses.replace(entry.config, eval=plan.settings, device="cpu")
    experiment, meta = supervised_entry(config, entry.trained)
    tasks, streams = experiment.tasks, Streams(plan.seed).test()
    if tasks.input_space.shape != (1,) or not isinstance(tasks.target_space, spaces.Box):
        return []
    numbers = tasks.sample_tasks(max(plan.settings.tasks, TASKS), streams.numpy(Stream.TASKS, 0))[:TASKS]
    shots, rng = plan.settings.shots or config.data.shots, streams.numpy(Stream.ENVIRONMENT, 1)
    support, query = draw_examples(experiment, numbers, shots, POINTS, rng)
    order = query.observations.argsort(1)
    x, y = (leaf.gather(1, order)[:, :, 0, 0].numpy() for leaf in (query.observations, query.targets))
    batches, predicted = [support] * evaluation_steps(config), {}
    scaled = adapted_on(experiment.learner, meta, batches, lambda step: step_scale(config, step))
    for steps, params in enumerate(scaled):
        if steps in STEPS:
            outputs = experiment.policy.outputs(params, query.observations)
            predicted[steps] = outputs.gather(1, order)[:, :, 0, 0].numpy()
    points = torch.cat([support.observations, support.targets], dim=-1)[:, :, 0].numpy()
    return [
        Fit(points[task], np.stack([x[task], y[task]], 1), {steps: rows[task] for steps, rows in predicted.items()})
        for task in range(len(numbers))
    ]


def _draw(rows: Sequence[tuple[str, list[Fit]]]) -> Figure:
    canvas = Figure(figsize=(3.2 * TASKS, 2.4 * len(rows)), layout="constrained")
    grid = canvas.subplots(len(rows), TASKS, sharex=True, sharey=True, squeeze=False)
    low, high = limits_around(np.concatenate([fit.true[:, 1] for _, fits in rows for fit in fits]))
    for axes_of_row, (method, fits) in zip(grid, rows, strict=True):
        for axes, fit in zip(axes_of_row, fits, strict=True):
            _draw_fit(axes, fit)
            axes.set_ylim(1.5 * low, 1.5 * high)  # what diverges leaves the panel
        axes_of_row[0].set_ylabel(literal(method))
    handles, _ = grid[0, 0].get_legend_handles_labels()
    legend_beneath(canvas, handles)
    return canvas


def _draw_fit(axes: Axes, fit: Fit) -> None:
    x, y = fit.true.T
    axes.plot(x, y, color="0.6", linewidth=3, label="true")
    for number, (steps, values) in enumerate(fit.predicted.items()):
        style = ":" if steps == 0 else "--" if steps == 1 else "-"
        axes.plot(x, values, style, color=color_of(number), linewidth=1.3, label=steps_name(steps))
    axes.plot(*fit.support.T, "^", color="black", markersize=6, label="points adapted on")
    axes.grid(alpha=0.3)
