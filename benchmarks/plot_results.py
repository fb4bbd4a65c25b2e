"""Learning curves of finished or running runs: return before and after adaptation against meta-iterations.

    python benchmarks/plot_results.py runs/a runs/b --out curves.png --reference navigation:1=-11.68

Runs of the same configuration share a panel: a thin line each, a thick one for their mean. A reference is a published
return (configuration, number of adaptation steps, value) and becomes a dashed line in the colour of that number of
steps. An image, such as a rendered rollout, becomes a panel after the curves.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import numpy as np
import yaml
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLORS = ("#8a94a3", "#2f6db5", "#d1495b", "#3a8f5c", "#8e5ea2", "#d98c2b")
"""By number of adaptation steps."""


class Curves(NamedTuple):
    """The returns of one run."""

    name: str
    """of the configuration"""
    iterations: np.ndarray
    """[T]"""
    returns: dict[int, np.ndarray]
    """number of adaptation steps -> mean return over tasks [T], NaN where it was not measured"""


class Reference(NamedTuple):
    """A published return."""

    name: str
    """of the configuration"""
    step: int
    """number of adaptation steps"""
    value: float


def read_curves(folder: Path, metric: str) -> Curves:
    """The returns of a run.

    Args:
        folder: the run folder.
        metric: name of the metric without the number of adaptation steps, such as "return".

    Raises:
        ValueError: it is no run folder, or has no such metric.
    """
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ValueError(f"{folder} is no run folder: {error.strerror} ({error.filename})") from error
    prefix = f"{metric}/step_"
    columns = [column for column in (rows[0] if rows else {}) if column.startswith(prefix)]
    if not columns:
        raise ValueError(f"{folder}/metrics.csv has no column {prefix}0")
    returns = {
        int(column.removeprefix(prefix)): np.array([float(row[column] or "nan") for row in rows]) for column in columns
    }
    return Curves(config.get("name") or config["env"], np.array([int(row["iteration"]) for row in rows]), returns)


def parse_reference(text: str) -> Reference:
    """`navigation:1=-11.68` as a reference.

    Raises:
        argparse.ArgumentTypeError: the text has another form.
    """
    try:
        target, value = text.split("=")
        name, step = target.rsplit(":", 1)
        return Reference(name, int(step), float(value))
    except ValueError as error:
        message = f"{text!r} is no reference; it must be NAME:STEPS=RETURN, such as navigation:1=-11.68"
        raise argparse.ArgumentTypeError(message) from error


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of each value and of its neighbours, window // 2 on either side as far as there are."""
    reach = window // 2
    return np.array([values[max(0, t - reach) : t + reach + 1].mean() for t in range(len(values))])


def mean_curve(runs: Sequence[Curves], step: int) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and mean return of the runs, as far as all of them measured it."""
    length = min(len(run.iterations) for run in runs)
    returns = np.mean([run.returns[step][:length] for run in runs], axis=0)
    measured = ~np.isnan(returns)
    return runs[0].iterations[:length][measured], returns[measured]


def draw_curves(axes: Axes, runs: Sequence[Curves], references: Sequence[Reference], window: int) -> None:
    """One panel: the runs of one configuration.

    Args:
        axes: where to draw.
        runs: at least one.
        references: of any configuration; those of this one are drawn.
        window: iterations that the thick line averages over.
    """
    for step in sorted(set.intersection(*(set(run.returns) for run in runs))):
        color = COLORS[step % len(COLORS)]
        for run in runs:
            measured = ~np.isnan(run.returns[step])
            axes.plot(run.iterations[measured], run.returns[step][measured], color=color, alpha=0.35, linewidth=0.8)
        iterations, returns = mean_curve(runs, step)
        label = "before adaptation" if step == 0 else f"after {step} step{'s' if step > 1 else ''}"
        axes.plot(iterations, smooth(returns, window), color=color, linewidth=2, label=label)
    for reference in references:
        if reference.name == runs[0].name:
            color = COLORS[reference.step % len(COLORS)]
            axes.axhline(reference.value, color=color, linestyle="--", linewidth=1.2)
            label = f"published: {reference.value:g}"
            axes.text(
                0.99,
                reference.value,
                label,
                transform=axes.get_yaxis_transform(),  # x in the panel's width, y in returns
                horizontalalignment="right",
                verticalalignment="bottom",
                fontsize=8,
                color=color,
            )
    axes.set_title(runs[0].name, fontsize=11)
    axes.set_xlabel("meta-iteration")
    axes.set_ylabel("return, mean over tasks")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="best")


def plot(
    runs: Sequence[Curves], references: Sequence[Reference], images: Sequence[Path], window: int, out: Path
) -> None:
    """Write the figure: a panel per configuration, then a panel per image; without images at most three in a row."""
    names = list(dict.fromkeys(run.name for run in runs))
    pictures = [plt.imread(path) for path in images]
    widths = [4.2] * len(names) + [3.6 * picture.shape[1] / picture.shape[0] for picture in pictures]
    if not pictures:
        widths = widths[:3]
    rows = 1 if pictures else -(-len(names) // 3)
    figure, grid = plt.subplots(
        rows, len(widths), figsize=(sum(widths), 3.6 * rows), width_ratios=widths, squeeze=False, layout="constrained"
    )
    panels = grid.ravel()
    for axes, name in zip(panels, names, strict=False):
        draw_curves(axes, [run for run in runs if run.name == name], references, window)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, picture in zip(panels[len(names) :], pictures, strict=False):
        axes.imshow(picture)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what the command line says; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="run folder")
    parser.add_argument("--out", required=True, type=Path, metavar="FIG", help="figure to write (png, pdf or svg)")
    parser.add_argument("--metric", default="return", help="return or eval/return (default: return)")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        type=parse_reference,
        metavar="NAME:STEPS=RETURN",
        help="published return of a configuration after so many steps; may be repeated",
    )
    parser.add_argument(
        "--image", action="append", default=[], type=Path, metavar="PNG", help="picture after the curves"
    )
    parser.add_argument(
        "--window", default=5, type=int, metavar="N", help="iterations the thick line averages over (5)"
    )
    arguments = parser.parse_args(argv)
    try:
        runs = [read_curves(folder, arguments.metric) for folder in arguments.runs]
        plot(runs, arguments.reference, arguments.image, arguments.window, arguments.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
