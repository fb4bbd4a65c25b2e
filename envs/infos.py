"""Numbers that environments tell in their infos, as arrays over rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Array, Infos, Mask

Columns = dict[str, tuple[Array, Mask] | None]
"""Values [R, ...] and which of R rows have one, by name; None where rows disagree in shape."""


def gather_infos(infos: Sequence[Infos]) -> Columns:
    """Numbers and vectors of numbers in the infos of R rows.

    Anything else (texts, pictures, objects) stays with the environment: it may be of any size, and need not even be
    able to travel between processes. What is gathered does not depend on which rows are gathered together.
    """
    found: dict[str, list[tuple[int, Any]]] = {}
    for row, info in enumerate(infos):
        for name, value in info.items():
            if isinstance(name, str) and name[:1] != "_" and _is_numeric(value):
                found.setdefault(name, []).append((row, value))
    return {name: _column(pairs, len(infos)) for name, pairs in found.items()}


def join_columns(parts: Sequence[Columns], sizes: Sequence[int]) -> Columns:
    """Columns of all rows from those of some rows each, whose numbers are the sizes."""
    joined: Columns = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        columns = [part[name] for part in parts if name in part]
        shapes = {None if column is None else column[0].shape[1:] for column in columns}
        shape = shapes.pop()
        if shape is None or shapes:
            joined[name] = None
            continue
        absent = [(np.zeros((size, *shape)), np.zeros(size, bool)) for size in sizes]
        chosen = [part.get(name) or nothing for part, nothing in zip(parts, absent, strict=True)]
        values, masks = zip(*chosen, strict=True)
        joined[name] = np.concatenate(values), np.concatenate(masks)
    return joined


def as_infos(columns: Columns) -> Infos:
    """Infos as of Gymnasium's vector environments: arrays [R, ...], zero in rows that have no value, and masks [R].

    The mask of "name" is "_name".
    """
    infos: Infos = {}
    for name, column in columns.items():
        if column is not None:
            infos[name], infos[f"_{name}"] = column
    return infos


def _is_numeric(value: Any) -> bool:
    if isinstance(value, (float, int)):
        return True
    return isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub" and value.ndim <= 1


def _column(pairs: list[tuple[int, Any]], size: int) -> tuple[Array, Mask] | None:
    rows, values = zip(*pairs, strict=True)
    try:
        found = np.array(values, np.float64)
    except (ValueError, OverflowError):  # vectors of different lengths, an integer beyond all floats
        return None
    column, mask = np.zeros((size, *found.shape[1:])), np.zeros(size, bool)
    column[list(rows)], mask[list(rows)] = found, True
    return column, mask
