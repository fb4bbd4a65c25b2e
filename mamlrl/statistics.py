"""Confidence intervals."""

from __future__ import annotations

import math

import numpy as np


def interval(values: np.ndarray) -> float:
    """Half width of the 95% confidence interval of the mean, t s / sqrt(n); NaN for a single value.

    Args:
        values: [n], independent.
    """
    if len(values) < 2:
        return math.nan
    return student_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def student_quantile(degrees: int) -> float:
    """The 97.5% quantile of Student's t: from a table below 10 degrees of freedom, else to 0.2%.

    Expansion around the normal quantile z: Abramowitz and Stegun (1964), 26.7.5.
    """
    table = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
    if degrees <= len(table):
        return table[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
