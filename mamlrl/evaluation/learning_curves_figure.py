"""Figure of learning curves: a panel per environment, or per environment and number of gradient steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mamlrl.evaluation.learning_curves import AXES, Choice, Panel
from mamlrl.run_folder.figures import Color, colors_of, legend_beneath, limits_around, literal, steps_name
from mamlrl.statistics import INTERVALS

COLUMNS = 3
"""Panels side by side at most."""


def figure(panels: Sequence[Panel], choice: Choice) -> Figure:
    """Draw panels with one legend beneath; what has the same name has the same colour in all of them.

    Where that legend is of methods, a panel of numbers of gradient steps has its own.
    """
    rows = rows_of_panels(panels)
    columns = max(map(len, rows))
    canvas = Figure(figsize=(max(5.5, 4.2 * columns), 3.6 * len(rows) + 0.3), layout="constrained")
    grid = canvas.subplots(len(rows), columns, squeeze=False)
    colors = _colors(panels)
    shown: dict[str, list[float]] = {}  # by environment, whose panels have the same limits
    for axes, panel in placed(grid, rows):
        shown.setdefault(panel.environment, []).extend(_draw(axes, panel, choice, colors))
        axes.set_xlabel(AXES[choice.against])
    for axes, panel in placed(grid, rows):
        axes.set_ylim(*limits_around(np.array(shown[panel.environment])))
    for axes in grid.flat:
        axes.set_axis_on() if axes.has_data() else axes.set_axis_off()
    of_methods = any(_is_of_methods(panel) for panel in panels)
    labels = [label for panel in panels if _is_of_methods(panel) == of_methods for label in _labels(panel)]
    for axes, panel in placed(grid, rows):
        if not _is_of_methods(panel) and of_methods:
            axes.legend(handles=_handles(_labels(panel), colors), fontsize=8)
    handles = _handles(labels, colors)
    if any(panel.references for panel in panels):
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1.2, label="published"))
    if explanation := _explanation(panels, choice):
        canvas.suptitle(explanation, fontsize=8, color="0.35")
    legend_beneath(canvas, handles)
    return canvas


def rows_of_panels(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    """Panels side by side: those of an environment begin a row, unless every environment has one."""
    by_environment = [list(group) for _, group in itertools.groupby(panels, lambda panel: panel.environment)]
    groups = by_environment if len(by_environment) < len(panels) else [panels]
    return [group[first : first + COLUMNS] for group in groups for first in range(0, len(group), COLUMNS)]


def placed(grid: np.ndarray, rows: Sequence[Sequence[Panel]]) -> Iterator[tuple[Axes, Panel]]:
    """Every panel with its axes."""
    for of_row, row in zip(grid, rows, strict=True):
        yield from zip(of_row, row, strict=False)


def _colors(panels: Sequence[Panel]) -> dict[str, Color]:
    """Colours by label: those of methods are their learners', as in evaluations."""
    labels = list(dict.fromkeys(label for panel in panels for label in _labels(panel)))
    learners = [label.partition(" (")[0] for label in labels]  # of a number of steps it is no learner's name
    return dict(zip(labels, colors_of(learners), strict=True))


def _labels(panel: Panel) -> list[str]:
    return [band.label for band in panel.bands]


def _is_of_methods(panel: Panel) -> bool:
    """Whether its curves are methods, not numbers of gradient steps of one."""
    return all(band.label == band.method for band in panel.bands)


def _handles(labels: Sequence[str], colors: Mapping[str, Color]) -> list[Line2D]:
    """A legend's lines, each label once."""
    return [Line2D([], [], color=colors[label], linewidth=2, label=label) for label in dict.fromkeys(labels)]


def _marker(x: np.ndarray) -> str:
    """A dot where a single point would be no line."""
    return "o" if len(x) == 1 else ""


def _draw(axes: Axes, panel: Panel, choice: Choice, colors: dict[str, Color]) -> list[float]:
    """Draw one panel; returns the values that must be in view."""
    shown = [reference.value for reference in panel.references]
    for number, band in enumerate(panel.bands):
        color, depth = colors[band.label], 3 - number / len(panel.bands)  # the first is not hidden
        axes.plot(band.x, band.mean, color=color, linewidth=1.8, zorder=depth, marker=_marker(band.x), markersize=5)
        shown += band.mean.tolist()
        if len(band.runs) == 2:  # their interval is many times as wide as they are apart
            for x, values in band.runs:
                axes.plot(x, values, color=color, linewidth=0.7, alpha=0.6, zorder=1.5, marker=_marker(x), markersize=3)
                shown += values.tolist()
        else:
            width = 4 if len(band.x) == 1 else 0  # one point's band would have no width
            axes.fill_between(band.x, *band.bounds, color=color, alpha=0.2, linewidth=width, zorder=1)
            shown += band.bounds.ravel().tolist()
    for reference in panel.references:
        label = steps_name(reference.step)
        own = label in [band.label for band in panel.bands]
        _draw_reference(axes, reference.value, colors[label] if own else (0.0, 0.0, 0.0, 1.0))
    axes.set_ylabel(literal(panel.ylabel))
    axes.set_title(literal(panel.title), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(axis="x", scilimits=(-4, 5), useMathText=True)
    if choice.against != "seconds":
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        if len({x for band in panel.bands for x, _ in band.runs for x in x.tolist()}) == 1:
            axes.set_xlim(panel.bands[0].x[0] - 1, panel.bands[0].x[0] + 1)
    axes.grid(alpha=0.3)
    return shown


def _draw_reference(axes: Axes, value: float, color: Color) -> None:
    """A dashed line, its value in the margin: within the panel it would lie on a curve."""
    axes.axhline(value, color=color, linestyle="--", linewidth=1.2, zorder=2)
    transform = axes.get_yaxis_transform()  # x in the panel's width, y in returns
    text = f"{value:g}".replace("-", "\N{MINUS SIGN}")
    axes.text(1.02, value, text, transform=transform, verticalalignment="center", fontsize=8, color=color)


def _explanation(panels: Sequence[Panel], choice: Choice) -> str:
    """What bands and thin lines are, and whether curves are smoothed."""
    bands = [band for panel in panels for band in panel.bands]
    words = []
    if any(len(band.runs) > 2 for band in bands):
        words.append(f"bands: {INTERVALS[choice.interval]} over seeds")
    if any(len(band.runs) == 2 for band in bands):
        words.append("thin lines: single seeds, where a method has two")
    if choice.smooth > 1:
        words.append(f"mean of {choice.smooth} measurements each")
    return "; ".join(words)
