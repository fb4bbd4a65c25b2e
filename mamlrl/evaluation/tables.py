"""Tables as text and files, written whole or not at all."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mamlrl.run_folder.files import replacing


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table that is aligned as text too; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in (rows[0], rule, *rows[1:])
    )


def mean_with_interval(mean: float, bounds: Sequence[float], digits: int = 2) -> str:
    """``-3.10 ± 0.20``; both bounds where they do not lie evenly around the mean, none where they are NaN."""
    lower, upper = bounds
    if math.isnan(lower):
        return f"{mean:.{digits}f}"
    if math.isclose(mean - lower, upper - mean, rel_tol=1e-6, abs_tol=1e-9):
        return f"{mean:.{digits}f} ± {mean - lower:.{digits}f}"
    return f"{mean:.{digits}f} [{lower:.{digits}f}, {upper:.{digits}f}]"


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, at least one and all with the same columns; NaN becomes an empty cell.

    Raises:
        OSError: it cannot be written.
    """
    rows = list(rows)
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value
