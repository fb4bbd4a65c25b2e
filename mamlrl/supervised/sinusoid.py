"""Regression of sinusoids y = A sin(omega x - phi) from a few points.

Sources: Finn, Abbeel, Levine (2017), section 5.1; with a frequency Li et al. (2017, Meta-SGD), section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mamlrl.config.schema import require
from mamlrl.supervised.base import ALL, Drawn, unbounded

AMPLITUDE, PHASE, INPUTS, FREQUENCY = (0.1, 5.0), (0.0, np.pi), (-5.0, 5.0), (0.8, 1.2)


@dataclass(frozen=True)
class Sinusoid:
    """Tasks (A, phi), or (A, phi, omega), and points x, all of them uniform in their ranges; float64 within.

    Args:
        amplitude: range of A.
        phase: range of phi, radians.
        inputs: range of x, radians.
        frequency: range of omega; None for omega = 1.
    """

    amplitude: tuple[float, float] = AMPLITUDE
    phase: tuple[float, float] = PHASE
    inputs: tuple[float, float] = INPUTS
    frequency: tuple[float, float] | None = None
    input_space = unbounded(1)
    target_space = unbounded(1)
    most_examples = 0

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """[n, 2] or [n, 3]."""
        ranges = np.array([self.amplitude, self.phase, *([self.frequency] if self.frequency else [])])
        return rng.uniform(ranges[:, 0], ranges[:, 1], (n, len(ranges)))

    def draw(
        self, tasks: np.ndarray, shots: int, queries: int, rng: np.random.Generator, rows: slice = ALL
    ) -> tuple[Drawn, Drawn]:
        """Points [M, shots, 1] and [M, queries, 1] of each task."""
        x = rng.uniform(*self.inputs, (len(tasks), shots + queries))[rows]
        x, y = (array[..., None].astype(np.float32) for array in (x, self.values(tasks[rows], x)))
        return Drawn(x[:, :shots], y[:, :shots]), Drawn(x[:, shots:], y[:, shots:])

    def values(self, tasks: np.ndarray, x: np.ndarray) -> np.ndarray:
        """A sin(omega x - phi) of tasks [M, P] at x [M, B], without noise."""
        amplitude, phase, *frequency = tasks.T[..., None]
        return amplitude * np.sin((frequency[0] if frequency else 1.0) * x - phase)


def make_sinusoid(
    split: str,
    amplitude: Sequence[float] = AMPLITUDE,
    phase: Sequence[float] = PHASE,
    inputs: Sequence[float] = INPUTS,
) -> Sinusoid:
    """The sinusoids of the MAML paper. Every split has the same distribution; what is held out are other draws.

    Raises:
        ConfigError: a range is none.
    """
    return _made(amplitude=amplitude, phase=phase, inputs=inputs)


def make_sinusoid_frequency(
    split: str,
    amplitude: Sequence[float] = AMPLITUDE,
    phase: Sequence[float] = PHASE,
    inputs: Sequence[float] = INPUTS,
    frequency: Sequence[float] = FREQUENCY,
) -> Sinusoid:
    """The harder sinusoids of the Meta-SGD paper, whose frequency is another in every task too.

    Raises:
        ConfigError: a range is none.
    """
    return _made(amplitude=amplitude, phase=phase, inputs=inputs, frequency=frequency)


def _made(**ranges: Sequence[float]) -> Sinusoid:
    return Sinusoid(**{name: _range(name, given) for name, given in ranges.items()})


def _range(name: str, given: Sequence[float]) -> tuple[float, float]:
    numbers = isinstance(given, list | tuple) and all(
        isinstance(bound, int | float) and not isinstance(bound, bool) and abs(bound) <= 1e6 for bound in given
    )
    fits = numbers and len(given) == 2 and given[0] <= given[1]
    require(fits, f"environment.kwargs.{name}", given, "two numbers, the smaller one first, at most 1e6")
    return float(given[0]), float(given[1])
