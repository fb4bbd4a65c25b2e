"""What a diagnosis says: tables as text, and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from mamlrl.diagnosis.estimators import REFERENCE
from mamlrl.diagnosis.exact import Bias
from mamlrl.diagnosis.measure import QUANTITIES, Plan, Row
from mamlrl.evaluation.tables import markdown
from mamlrl.run_folder.figures import Color, color_of, legend_beneath, literal

HEAD = ("estimator", "rollouts", "bias", "noise floor", "variance", "SNR", "cosine")
EXACT = 1e-10
"""Relative distance that is rounding."""
UNCERTAIN = 0.5
"""Relative noise of a reference above which biases say little."""


def tables(rows: Sequence[Row]) -> str:
    """A Markdown table for each quantity."""
    parts = []
    for quantity in QUANTITIES:
        cells = [
            (
                row.estimator,
                str(row.rollouts),
                *map(number, (row.bias, row.noise_floor, row.variance, row.snr, row.cosine)),
            )
            for row in rows
            if row.quantity == quantity
        ]
        parts.append(f"{quantity}\n\n{markdown([HEAD, *cells])}")
    return "\n\n".join(parts)


def number(value: float) -> str:
    """Three digits; a dash for what there is no number for."""
    return "-" if math.isnan(value) else f"{value:#.3g}".rstrip(".")


def exact_table(biases: Sequence[Bias]) -> str:
    """Relative bias of each estimator, 0 where it is rounding."""
    head = ("estimator", "inner Hessian", "meta-gradient I", "meta-gradient II")
    cells = [(name, *("0" if value < EXACT else number(value) for value in values)) for name, *values in biases]
    return markdown([head, *cells])


def reference_note(noise: Sequence[float], plan: Plan) -> str:
    """What the reference is, and how uncertain."""
    shares = ["-" if math.isnan(value) else f"{value:.1%}" for value in noise]
    listed = ", ".join(f"{quantity} {share}" for quantity, share in zip(QUANTITIES, shares, strict=True))
    return (
        f"reference: mean of {REFERENCE} over meta-batches of {plan.reference} rollouts, {2 * plan.repeats} for the "
        f"meta-gradient and {plan.repeats} for the products; noise: {listed}"
    )


def notes(rows: Sequence[Row], noise: Sequence[float]) -> list[str]:
    """What makes numbers say little or be missing: references that are zero or mostly noise, and draws of zero."""
    said = []
    for quantity, value in zip(QUANTITIES, noise, strict=True):
        if math.isnan(value):
            said.append(f"the reference of {quantity} is zero, and nothing is relative to it")
        elif value > UNCERTAIN:
            said.append(f"the reference of {quantity} is mostly noise; take more --repeats or a larger --reference")
    for row in rows:
        if row.zeros and not math.isnan(row.cosine):
            said.append(
                f"{row.quantity}, {row.estimator} with {row.rollouts} rollouts: draws of zero: {row.zeros}; the cosine "
                "is the mean of the others"
            )
    return said


PANELS = {"bias": "bias", "variance": "variance", "snr": "signal-to-noise ratio", "cosine": "cosine to the reference"}


def figure(rows: Sequence[Row], title: str) -> Figure:
    """Each measure against the number of rollouts, a column for each quantity; dashed the noise floor of the bias."""
    names = list(dict.fromkeys(row.estimator for row in rows))
    colors = {name: color_of(index) for index, name in enumerate(names)}
    canvas = Figure(figsize=(10, 10), layout="constrained")
    grid = canvas.subplots(len(PANELS), len(QUANTITIES), sharex=True, squeeze=False)
    for column, quantity in enumerate(QUANTITIES):
        own = [row for row in rows if row.quantity == quantity]
        for axes, measure in zip(grid[:, column], PANELS, strict=True):
            _draw(axes, own, measure, colors)
        grid[0, column].set_title(quantity, fontsize=10)
        grid[-1, column].set_xlabel("rollouts per task and round")
    for axes, label in zip(grid[:, 0], PANELS.values(), strict=True):
        axes.set_ylabel(label)
    canvas.suptitle(literal(title), fontsize=10)
    handles = [Line2D([], [], color=color, marker="o", label=name) for name, color in colors.items()]
    handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label="noise floor of the bias"))
    legend_beneath(canvas, handles)
    return canvas


def _draw(axes: Axes, rows: Sequence[Row], measure: str, colors: dict[str, Color]) -> None:
    """One measure of one quantity, a curve for each estimator."""
    for depth, (name, color) in enumerate(reversed(colors.items()), start=2):  # the first is not hidden
        own = [row for row in rows if row.estimator == name]
        x, y = [row.rollouts for row in own], np.array([getattr(row, measure) for row in own])
        if measure != "cosine":
            y = np.where(y > 0, y, np.nan)  # the axis is logarithmic
        axes.plot(x, y, color=color, marker="o", markersize=4, zorder=depth)
        if measure == "bias":
            axes.plot(x, [row.noise_floor for row in own], color=color, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    counts = sorted({row.rollouts for row in rows})
    axes.set_xticks(counts, [str(count) for count in counts])
    if measure != "cosine" and any(getattr(row, measure) > 0 for row in rows):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
