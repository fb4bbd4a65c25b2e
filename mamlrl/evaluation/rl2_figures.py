"""Figures of learning within a trial: cumulative regret of bandits, return against episode of MDPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mamlrl.evaluation.cells import Cell
from mamlrl.evaluation.rl2 import BAYES, KNOWN, Result, ordered_methods
from mamlrl.run_folder.figures import Color, colors_of, legend_beneath

FIGURES = {"bandit": "regret.png", "tabular-mdp": "episodes.png"}
"""Names of the files, by family."""
COLUMNS = 3


def trial_figures(results: Sequence[Result]) -> dict[str, Figure]:
    """A figure for each family that there are results of, by the name of its file.

    Of cells that differ in n alone the longest is shown.
    """
    found = {}
    for family, name in FIGURES.items():
        some = [result for result in results if result.cell.family == family and result.method != BAYES]
        if some:
            found[name] = _figure(some)
    return found


def _figure(results: Sequence[Result]) -> Figure:
    longest: dict[object, Cell] = {}
    for cell in sorted((result.cell for result in results), key=lambda cell: cell.episodes):
        longest[cell.tasks] = cell
    cells = list(longest.values())
    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    canvas = Figure(figsize=(2.0 + 4.0 * columns, 0.9 + 3.4 * rows), layout="constrained")
    methods = [name for name in ordered_methods(results) if name != KNOWN]
    colors = dict(zip(methods, colors_of(["rl2" if is_trained(name) else name for name in methods]), strict=True))
    for number, cell in enumerate(cells):
        axes = canvas.add_subplot(rows, columns, number + 1)
        for method in methods:
            for result in results:
                if (result.method, result.cell) == (method, cell):
                    _draw(axes, result, colors[method])
        _finish(axes, cell, next((result for result in results if (result.method, result.cell) == (KNOWN, cell)), None))
    handles = [Line2D([], [], color=colors[name], label=name, **_style(name)) for name in methods]
    legend_beneath(canvas, handles)
    return canvas


def is_trained(method: str) -> bool:
    """Whether a method is a trained policy, not an algorithm."""
    return method.startswith("rl2")


def _style(method: str) -> dict[str, Any]:
    return {"linewidth": 2.4 if is_trained(method) else 1.3, "linestyle": ":" if method == "random" else "-"}


def _draw(axes: Axes, result: Result, color: Color) -> None:
    episodes = np.arange(1, result.cell.episodes + 1)
    values = result.returns
    if result.cell.family == "bandit":
        values = result.at_most * episodes - values.cumsum()
    axes.plot(episodes, values, color=color, **_style(result.method))


def _finish(axes: Axes, cell: Cell, known: Result | None) -> None:
    if cell.family == "bandit":
        axes.set(xlabel="pulls" if cell.horizon == 1 else "episodes", ylabel="cumulative regret")
        axes.set_xscale("log")
    else:
        axes.set(xlabel="episode", ylabel="return")
        if known:
            axes.axhline(known.returns[0], color="0.5", linestyle="--", linewidth=1, label=KNOWN)
            axes.annotate(
                KNOWN, (1, known.returns[0]), xytext=(2, -10), textcoords="offset points", fontsize=8, color="0.4"
            )
    axes.set_title(cell.name, fontsize=10)
    axes.grid(alpha=0.3)
