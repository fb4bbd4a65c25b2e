"""Arguments of an environment's constructor: refused by name where they are of a wrong kind or out of range."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import numpy as np


def check_count(name: str, value: object, least: int) -> None:
    """Refuse an argument that is no whole number, or too small.

    Raises:
        ValueError: names it.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def check_number(name: str, value: object) -> None:
    """Refuse an argument that is no finite number.

    Raises:
        ValueError: names it.
    """
    if not _is_number(value) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(f"{name} is {value!r}; it must be a number")


def check_numbers(**values: object) -> None:
    """Refuse arguments, by name, that are no finite numbers.

    Raises:
        ValueError: names the first.
    """
    for name, value in values.items():
        check_number(name, value)


def check_positive(name: str, value: object) -> None:
    """Refuse an argument that is no finite number above 0.

    Raises:
        ValueError: names it.
    """
    if not _is_number(value) or not 0 < value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}; it must be a number above 0")


def check_range(name: str, value: object, above: float | None = None, finite: bool = True) -> tuple[float, float]:
    """Refuse an argument that is no range (low, high) of numbers with above < low < high.

    Args:
        name: of the argument.
        value: that was given.
        above: bound of low, not reached; None for none.
        finite: whether the numbers have to be.

    Returns:
        low and high.

    Raises:
        ValueError: names it.
    """
    pair = list(value) if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else []
    right = len(pair) == 2 and all(_is_number(one) and (math.isfinite(one) or not finite) for one in pair)
    if not right or not pair[0] < pair[1] or (above is not None and not above < pair[0]):
        beginning = "" if above is None else f"{above:g} < "
        raise ValueError(f"{name} is {value!r}; it must be (low, high) with {beginning}low < high")
    return float(pair[0]), float(pair[1])


def check_flag(name: str, value: object) -> None:
    """Refuse an argument that is neither true nor false.

    Raises:
        ValueError: names it.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be true or false")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse an argument that is none of its choices.

    Raises:
        ValueError: names it.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
