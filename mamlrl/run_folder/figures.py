"""Figure of return against number of gradient steps, and what all figures share: colours, legends, names."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mamlrl.learners import LEARNERS
from mamlrl.run_folder.files import replacing

Published = dict[str, tuple[float, ...]]
"""Published mean returns by number of gradient steps, by learner."""

Color = tuple[float, float, float, float]


@contextlib.contextmanager
def freed_at_once() -> Iterator[None]:
    """A figure that is drawn and let go within the block is gone after it.

    It is full of circles, which Python would look for only when there are a quarter more objects than before: after
    some thirty figures, and as many megabytes.
    """
    was_on = gc.isenabled()
    gc.disable()  # so that all of it is still among the youngest objects
    try:
        yield
    finally:
        if was_on:
            gc.enable()
        gc.collect(0)


MOST_MARKED = 50
"""Points that a curve marks."""
FEW = 5
"""So many runs at most are drawn one by one besides their mean."""


class Curve(NamedTuple):
    """One method's return, or another measure, by number of gradient steps, over its runs."""

    method: str
    learner: str
    means: list[float]
    """[steps + 1]"""
    bounds: Sequence[Sequence[float]]
    """lower and upper end of the interval, [steps + 1]; NaN where there is one value only"""
    over: str
    """what the interval is over: "40 tasks" or "3 seeds"; empty without one """
    runs: Sequence[Sequence[float]] = ()
    """mean of each run, where there are several, [runs, steps + 1]"""
    used: Sequence[int] = ()
    """episodes on the task that came before each of the means, where it is compared by these"""
    mismatched: bool = False
    """whether it was adapted to other tasks than it acted in"""

    def at(self) -> list[int]:
        """Where the means are on the axis: at numbers of episodes, or of gradient steps."""
        return list(self.used or range(len(self.means)))


class Comparison(NamedTuple):
    """What a table or figure shows: methods, and beside them published results."""

    title: str
    interval: str
    """the kind of interval, in words"""
    curves: Sequence[Curve]
    published: Published
    quantity: str = "return"
    """what was measured"""


def steps_name(steps: int) -> str:
    """Number of gradient steps, in words."""
    return "before adaptation" if steps == 0 else "1 gradient step" if steps == 1 else f"{steps} gradient steps"


SHADES = (
    [("tab10", n) for n in range(10)]
    + [("tab20b", n) for n in (12, 4, 8, 0, 16)]
    + [("tab20", 2 * n + 1) for n in range(10)]
)
PALETTE: list[Color] = [matplotlib.colormaps[name](number) for name, number in SHADES]


def color_of(number: int) -> Color:
    """Colour of one of several curves, no two alike as far as there are colours."""
    return PALETTE[number % len(PALETTE)]


def colors_of(learners: Sequence[str]) -> list[Color]:
    """Colours of methods by their learners, the same for a learner in every figure.

    Each has the colour of its place in LEARNERS; a second method of a learner, and a learner that is not in there, one
    that none of the others has.
    """
    places = {name: place for place, name in enumerate(LEARNERS) if name in learners}
    free = itertools.count()
    taken = set(places.values())
    chosen = [
        places.pop(name) if name in places else next(place for place in free if place not in taken) for name in learners
    ]
    return [color_of(place) for place in chosen]


BAR = {"linestyle": "", "marker": "_", "markersize": 20, "markeredgewidth": 2}
"""A published mean: wider than the dot of a curve's point, which it may lie on."""


def figure(comparison: Comparison) -> Figure:
    """Return against gradient steps: a curve with its band for every method, published means as short bars.

    A method that does not adapt is a horizontal line. Few runs of a method are dots around their mean; two runs have no
    band, since their interval is many times as wide as they are apart. The bars have the colour of the learner's first
    method.
    """
    canvas = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = canvas.add_subplot()
    curves, unmarked = comparison.curves, dict(comparison.published)
    by_episodes = any(curve.used for curve in curves)
    last, most = max(curve.at()[-1] for curve in curves), _drawn_range(comparison)[1]
    several = len({curve.over for curve in curves}) > 1
    handles: list[Line2D] = []
    colors = colors_of([curve.learner for curve in curves])
    for number, (curve, color) in enumerate(zip(curves, colors, strict=True)):
        depth = 3 - number / len(curves)  # the first is not hidden
        line = _draw_curve(axes, curve, last, color, depth)
        _draw_band(axes, curve, last, color, most)
        line.set_label(f"{curve.method}, {curve.over}" if several and curve.over else curve.method)
        handles.append(line)
        _draw_published(axes, unmarked.pop(curve.learner, ())[: last + 1], color)
    if len(unmarked) < len(comparison.published):
        handles.append(Line2D([], [], color="black", label="published", **BAR))
    axes.set(xlabel="episodes used" if by_episodes else "gradient steps", ylabel=f"mean {comparison.quantity}")
    if not by_episodes:
        axes.set_xticks(range(last + 1))
    margin = max(0.2, 0.04 * last)  # a published bar is wider than a dot
    axes.set_xlim(-margin, last + margin)
    axes.set_ylim(*_limits(comparison, last))
    axes.grid(alpha=0.3)
    canvas.suptitle(literal(textwrap.fill(comparison.title, 80)), fontsize=10)
    axes.set_title(_explanation(comparison), fontsize=8, color="0.35")
    legend_beneath(canvas, handles)
    return canvas


def _draw_curve(axes: Axes, curve: Curve, last: int, color: Color, depth: float) -> Line2D:
    """Draw one method; returns its line."""
    marker = "o" if 1 < len(curve.means) <= MOST_MARKED else ""
    (line,) = axes.plot(
        _across(curve, last), _repeated(curve.means), color=color, marker=marker, markersize=5, zorder=depth
    )
    if len(curve.runs) <= FEW:
        dots = {"color": color, "markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.5, "zorder": 4}
        for returns in curve.runs:
            axes.plot(curve.at(), returns, ".", **dots)
    return line


def _draw_band(axes: Axes, curve: Curve, last: int, color: Color, most: float) -> None:
    """Draw the interval of one method, where its mean is not cut off."""
    if len(curve.runs) != 2:
        bounds = _repeated(curve.bounds).T
        within = _repeated(curve.means) <= most
        axes.fill_between(_across(curve, last), *bounds, where=within, color=color, alpha=0.18, linewidth=0, zorder=1)


def _across(curve: Curve, last: int) -> np.ndarray:
    """Where a curve is drawn: one of a single point as a line across the axes."""
    return np.array(curve.at() if len(curve.means) > 1 else [0, last] if last else [-0.1, 0.1])


def _repeated(values: Sequence[Any]) -> np.ndarray:
    """What is drawn there."""
    return np.array(values if len(values) > 1 else [*values, *values])


def _draw_published(axes: Axes, means: Sequence[float], color: Color) -> None:
    """Bars behind the points of the curve, at the same numbers of steps."""
    axes.plot(range(len(means)), means, color=color, zorder=1.9, **BAR)


def _limits(comparison: Comparison, last: int) -> tuple[float, float]:
    """Limits of the vertical axis, around all that is drawn but errors that are far above the others."""
    values: list[float] = []
    for curve in comparison.curves:
        values += curve.means
        values += [value for returns in curve.runs for value in returns]
        values += [value for pair in curve.bounds for value in pair if len(curve.runs) != 2]
        values += comparison.published.get(curve.learner, ())[: last + 1]
    drawn = np.array(values)
    least, most = _drawn_range(comparison)
    return limits_around(drawn[(drawn >= least) & (drawn <= most)])


def _drawn_range(comparison: Comparison) -> tuple[float, float]:
    """What is drawn: of errors those from 0 to twice the median, over methods that adapt, of the mean before it."""
    if comparison.quantity != "error":
        return -math.inf, math.inf
    first = [curve.means[0] for curve in comparison.curves if len(curve.means) > 1]
    return 0.0, 2 * float(np.median(first)) if first else math.inf


def limits_around(values: np.ndarray) -> tuple[float, float]:
    """Limits of an axis that holds all finite values, with a margin."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    margin = 0.06 * float(np.ptp(finite)) or 1.0
    return float(finite.min()) - margin, float(finite.max()) + margin


def _explanation(comparison: Comparison) -> str:
    """What bands and dots are."""
    over = dict.fromkeys(curve.over for curve in comparison.curves if curve.over and len(curve.runs) != 2)
    most = _drawn_range(comparison)[1]
    words = [f"bands: {comparison.interval} over {next(iter(over)) if len(over) == 1 else 'seeds or tasks'}"]
    if any(1 < len(curve.runs) <= FEW for curve in comparison.curves):
        words.append("dots: single seeds")
    if any(mean > most for curve in comparison.curves for mean in curve.means):
        words.append("larger means are cut off")
    return "; ".join(words if over else words[1:])


def literal(text: str) -> str:
    """Text that a figure shows as it is, dollar signs too."""
    return text.replace("$", r"\$")


def legend_beneath(canvas: Figure, handles: Sequence[Artist]) -> None:
    """A legend beneath the axes that is never cut: as many columns as fit, long names wrapped, a higher figure."""
    renderer = FigureCanvasAgg(canvas).get_renderer()
    space = 0.97 * canvas.bbox.width
    names = [str(handle.get_label()) for handle in handles]
    attempts = [*((columns, 80) for columns in range(len(handles), 0, -1)), (1, 60), (1, 40), (1, 20)]
    for columns, characters in attempts:
        wrapped = [literal(textwrap.fill(name, characters)) for name in names]
        legend = canvas.legend(handles, wrapped, loc="outside lower center", ncols=columns, fontsize=9)
        extent = legend.get_window_extent(renderer)
        if extent.width <= space or (columns, characters) == attempts[-1]:
            break
        legend.remove()
    canvas.set_figheight(canvas.get_figheight() + extent.height / canvas.dpi)


def save_figure(canvas: Figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary:
        canvas.savefig(temporary, dpi=150, format=path.suffix[1:])
