"""Tables and figures as text and files, written whole or not at all."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table that is aligned as text too; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in (rows[0], rule, *rows[1:])
    )


def mean_with_interval(mean: float, bounds: Sequence[float]) -> str:
    """``-3.10 ± 0.20``; both bounds where they do not lie evenly around the mean, none where they are NaN."""
    lower, upper = bounds
    if math.isnan(lower):
        return f"{mean:.2f}"
    if math.isclose(mean - lower, upper - mean, rel_tol=1e-6, abs_tol=1e-9):
        return f"{mean:.2f} ± {mean - lower:.2f}"
    return f"{mean:.2f} [{lower:.2f}, {upper:.2f}]"


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, at least one and all with the same columns; NaN becomes an empty cell.

    Raises:
        OSError: it cannot be written.
    """
    rows = list(rows)

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)

    _whole(path, write)


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def save_figure(canvas: Figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix.

    Raises:
        OSError: it cannot be written.
    """
    _whole(path, lambda temporary: canvas.savefig(temporary, dpi=150, format=path.suffix[1:]))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name and rename it when it is whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
