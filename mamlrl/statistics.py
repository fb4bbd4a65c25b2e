"""Intervals around a mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

INTERVALS = {
    "student": "95% interval (Student's t)",
    "bootstrap": "95% interval (bootstrap)",
    "standard_error": "standard error",
}
"""Kinds of interval, and what tables and figures call them."""


class Estimate(NamedTuple):
    """A mean over tasks."""

    mean: float
    half_width: float
    """of its 95% interval, NaN for a single task"""


Estimates = Mapping[str, Sequence[Estimate]]
"""Of quantities by name, such as the return, after 0, 1, ... inner steps."""


def nan_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean over what is not NaN; NaN where there is nothing."""
    told = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(told, values, 0.0).sum(axis) / told.sum(axis)


def nan_median(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Median over what is not NaN; NaN where there is nothing."""
    nothing = np.isnan(values).all(axis, keepdims=True)
    return np.nanmedian(np.where(nothing, 0.0, values), axis) + np.where(nothing, np.nan, 0.0).squeeze(axis)


def interval(values: np.ndarray) -> float:
    """Half width of the 95% confidence interval of the mean by Student's t, t s / sqrt(n); NaN for a single value.

    Args:
        values: [n], independent.
    """
    return float(student_quantile(len(values)) * standard_error(values))


def standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the first dimension, s / sqrt(n); NaN for a single value."""
    n = len(values)
    with np.errstate(invalid="ignore"):  # where a value is infinite there is no such thing
        return np.std(values, axis=0, ddof=1) / math.sqrt(n) if n > 1 else np.full(values.shape[1:], np.nan)


def student_quantile(n: int) -> float:
    """The 97.5% quantile of Student's t for the mean of n values; NaN for one."""
    from scipy.special import stdtrit  # scipy is imported where it is needed, so that --help is quick

    return float(stdtrit(n - 1, 0.975)) if n > 1 else math.nan


def bounds(values: np.ndarray, kind: str) -> np.ndarray:
    """Lower and upper bound of an interval around the mean over the first dimension; NaN for fewer than two values.

    Args:
        values: [n, ...], independent along n.
        kind: a name in INTERVALS. The bootstrap is the percentile one, 9999 resamples of a fixed seed.

    Returns:
        [2, ...].
    """
    if kind == "bootstrap" and len(values) > 1:
        from scipy.stats import bootstrap

        rng = np.random.default_rng(0)
        return np.array(bootstrap((values,), np.mean, method="percentile", batch=100, rng=rng).confidence_interval)
    half_width = standard_error(values) * (student_quantile(len(values)) if kind == "student" else 1.0)
    return nan_mean(values, axis=0) + np.stack([-half_width, half_width])
