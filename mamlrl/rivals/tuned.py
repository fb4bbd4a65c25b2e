"""The numbers that rivals were tuned to, cell by cell: `mamlrl.evaluate --protocol rl2 --tune` finds them anew."""

from __future__ import annotations

import csv
import math
from importlib import resources
from typing import NamedTuple


class Setting(NamedTuple):
    """An algorithm's number in a cell."""

    family: str
    method: str
    episodes: int
    """n"""
    size: int
    """k of a bandit, S of an MDP"""
    parameter: float


def read_tuned() -> list[Setting]:
    """All that are shipped."""
    lines = resources.files("mamlrl.rivals").joinpath("tuned.csv").read_text().splitlines()
    return [
        Setting(row["family"], row["method"], int(row["episodes"]), int(row["size"]), float(row["parameter"]))
        for row in csv.DictReader(lines)
    ]


def tuned_parameter(settings: list[Setting], family: str, method: str, episodes: int, size: int) -> float | None:
    """The number of the nearest cell, in the logarithms of its sizes; None where the algorithm was not tuned."""
    known = [one for one in settings if (one.family, one.method) == (family, method)]

    def distance(one: Setting) -> float:
        return abs(math.log(one.episodes / episodes)) + abs(math.log(one.size / size))

    return min(known, key=distance).parameter if known else None
