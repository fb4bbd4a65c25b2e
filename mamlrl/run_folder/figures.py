"""Figure of return against number of gradient steps, and how numbers of steps are called in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

Published = dict[str, tuple[float, ...]]
"""Published mean returns by number of gradient steps, by method."""


class Curve(NamedTuple):
    """One method's return by number of gradient steps, over its runs."""

    method: str
    means: list[float]
    """[steps + 1]"""
    half_widths: list[float]
    """of the 95% interval, [steps + 1]; NaN where there is one value only"""
    over: str
    """what the interval is over: "40 tasks" or "3 seeds" """


def steps_name(steps: int) -> str:
    """Number of gradient steps, in words."""
    return "before adaptation" if steps == 0 else "1 gradient step" if steps == 1 else f"{steps} gradient steps"


def learner_of(method: str) -> str:
    """The learner in a method's name, such as ``maml`` for ``maml (navigation)``."""
    return method.partition(" ")[0]


def figure(curves: Sequence[Curve], published: Published, title: str) -> Figure:
    """Return against gradient steps: a curve with its band for every method, published means as crosses.

    A method that does not adapt is a horizontal line. The crosses have the colour of the learner's first method.
    """
    canvas = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = canvas.add_subplot()
    last = max(len(curve.means) for curve in curves) - 1
    unmarked = dict(published)
    for number, curve in enumerate(curves):
        color, steps = f"C{number}", np.arange(len(curve.means))
        means, half_widths = np.array(curve.means), np.nan_to_num(np.array(curve.half_widths))
        marks = unmarked.pop(learner_of(curve.method), ())[: last + 1]
        if len(steps) == 1:
            steps, means, half_widths = np.array([0, last]), means.repeat(2), half_widths.repeat(2)
        marker, zorder = "o" if len(curve.means) > 1 else None, 3 - number / len(curves)  # the first is not hidden
        axes.plot(steps, means, color=color, marker=marker, zorder=zorder, label=curve.method)
        axes.fill_between(steps, means - half_widths, means + half_widths, color=color, alpha=0.2, linewidth=0)
        axes.plot(range(len(marks)), marks, "x", color=color, markersize=9, markeredgewidth=2)
    if len(unmarked) < len(published):
        axes.plot([], [], "kx", markersize=9, markeredgewidth=2, label="published")
    axes.set(xlabel="gradient steps", ylabel="mean return", xticks=range(last + 1))
    canvas.suptitle(title, fontsize=10)
    axes.grid(alpha=0.3)
    canvas.legend(loc="outside lower center", ncols=3)
    return canvas
