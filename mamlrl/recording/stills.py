"""Stills: what a film shows, as one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamlrl.recording.films import Film
from mamlrl.recording.panels import color_of_steps
from mamlrl.run_folder.figures import legend_beneath, literal, steps_name
from mamlrl.sampler import shown_episodes

TARGET_COLOR = "#d1495b"
MOST_LINES = 6
"""Episodes of a trial whose lines are drawn."""


def still(films: Sequence[Film]) -> Figure | None:
    """Figure of all rollouts, a panel a task: their paths or their speeds, as the environment says; else None."""
    if films[0].still == "path" and films[0].observations.shape[2] >= 2:
        draw_panel, label_x, label_y = _draw_paths, "x (m)", "y (m)"
    elif films[0].still == "speed" and films[0].speeds is not None:
        draw_panel, label_x, label_y = _draw_speeds, "time (s)", "speed along x (m/s)"
    else:
        return None
    columns = min(len(films), 4)
    rows = -(-len(films) // columns)
    canvas = Figure(figsize=(3.4 * columns + 0.4, 3.2 * rows + 0.6), layout="compressed")
    canvas.get_layout_engine().set(w_pad=0.1)  # type: ignore[union-attr] (inches: tick labels of neighbours)
    grid = canvas.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)  # to be compared by eye
    for number, (axes, film) in enumerate(zip(grid.flat, films, strict=False)):
        draw_panel(axes, film)
        axes.set_title(literal(film.description), fontsize=10)
        axes.grid(alpha=0.3)
        if number + columns >= len(films):  # nothing is beneath
            axes.set_xlabel(label_x)
            axes.tick_params(labelbottom=True)
        if number % columns == 0:
            axes.set_ylabel(label_y)
    for axes in grid.flat[len(films) :]:
        axes.set_axis_off()
    if draw_panel is _draw_paths:
        reach = max(map(_reach, films))
        grid[0, 0].set(xlim=(-reach, reach), ylim=(-reach, reach))
    legend_beneath(canvas, grid[0, 0].get_legend_handles_labels()[0])
    canvas.draw_without_rendering()  # panels of equal aspect find their place in the second drawing
    return canvas


class _Line(NamedTuple):
    """What a line of a panel shows: observations from one time step to before another."""

    row: int
    start: int
    end: int
    label: str
    color: str


def _lines(film: Film) -> list[_Line]:
    """One for each number of gradient steps; of a trial one for each of some of its episodes."""
    if film.episodes is None:
        return [
            _Line(row, 0, int(film.lengths[row]) + 1, steps_name(steps), color_of_steps(steps))
            for row, steps in enumerate(film.steps)
        ]
    episodes = film.episodes[: film.lengths[0], 0]
    shown = [number for number in shown_episodes(int(episodes.max()) + 1) if number < MOST_LINES]
    ends = {number: np.flatnonzero(episodes == number)[[0, -1]] for number in shown}
    return [
        _Line(0, int(first), int(last) + 1, f"episode {number + 1}", color_of_steps(place))
        for place, (number, (first, last)) in enumerate(ends.items())
    ]


def _reach(film: Film) -> float:
    """How far from the origin a panel of paths has to show, at least half a metre; with a margin."""
    paths = [film.observations[: length + 1, row, :2] for row, length in enumerate(film.lengths)]
    shown = [*(np.abs(path).max() for path in paths), 0.5]
    return 1.2 * max(*shown, *(np.abs(film.task) if len(film.task) == 2 else ()))


def _draw_paths(axes: Axes, film: Film) -> None:
    start = film.observations[0, 0, :2]
    for line in _lines(film):
        path = film.observations[line.start : line.end, line.row, :2]
        axes.plot(*path.T, ".-", color=line.color, markersize=4, label=line.label)
    axes.plot(*start, "o", color="white", markeredgecolor="#5a6472", label="start")
    if len(film.task) == 2:
        axes.plot(*film.task, "*", color=TARGET_COLOR, markersize=13, label="goal")
    axes.set_aspect("equal")
    axes.locator_params(nbins=6)  # ticks as far apart along both


def _draw_speeds(axes: Axes, film: Film) -> None:
    assert film.speeds is not None
    axes.axhline(0, color="black", linewidth=0.8, alpha=0.5)  # forwards above, backwards below
    for line in _lines(film):
        part = slice(line.start, min(line.end, film.lengths[line.row])), line.row
        times = np.arange(1, len(film.speeds[part]) + 1) * film.time_step
        axes.plot(times, film.speeds[part], color=line.color, linewidth=1.2, label=line.label)
        if film.target_speeds is not None and np.ptp(film.target_speeds[:, line.row]) > 0:  # the task has changed
            axes.plot(times, film.target_speeds[part], "--", color=line.color, linewidth=1.2)
    if film.target_speeds is not None:
        first = film.target_speeds[0, 0]
        if (film.target_speeds == first).all():
            axes.axhline(first, color=TARGET_COLOR, linestyle="--", linewidth=1.2, label="target")
        else:
            axes.plot([], [], "--", color=TARGET_COLOR, linewidth=1.2, label="target, which changes")
