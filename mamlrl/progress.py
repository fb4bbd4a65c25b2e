"""How far a command is, on the terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

from mamlrl.messages import is_silent, say

T = TypeVar("T")

TRAINING_BAR = "{n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"
"""Without the share and the rate that tqdm shows by default: at 80 columns it is whole."""
BAR = f"{{desc}}: {TRAINING_BAR}"


def progress_bar(iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Iterate, and show how far it is in a bar that vanishes at the end; nothing where stderr is no terminal.

    Args:
        iterable: what is gone through.
        description: what its elements are.
        total: their number, where the iterable does not tell.
    """
    return tqdm(iterable, description, total, leave=False, bar_format=BAR, **_terminal())


def say_without_bar(message: str) -> None:
    """Print what is being done, where no bar tells it."""
    if _terminal()["disable"]:
        say(message)


class StepsBar:
    """How many time steps of several rounds of rollouts are done, in a bar that vanishes at the end.

    Args:
        rounds: number of rounds.
        steps: time steps of a round, if no episode ends early.
    """

    def __init__(self, rounds: int, steps: int):
        self._steps, self._rounds = steps, 0
        self._bar = tqdm(desc="time steps", total=rounds * steps, leave=False, bar_format=BAR, **_terminal())

    def step(self) -> None:
        """Count a time step; those that a round takes beyond the expected ones do not count."""
        if self._bar.n < (self._rounds + 1) * self._steps:
            self._bar.update()

    def end_round(self) -> None:
        """The rest of the round is not needed."""
        self._rounds += 1
        self._bar.update(self._rounds * self._steps - self._bar.n)

    def __enter__(self) -> StepsBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()


class ProgressLine:
    """How far a run is: a bar on a terminal, else a line every few seconds.

    Args:
        completed: iterations done already.
        total: iterations in all.
        interval: seconds between lines where there is no terminal.
    """

    def __init__(self, completed: int, total: int, interval: float = 10.0):
        self._total, self._interval, self._last_line = total, interval, -interval
        self._start, self._first = time.monotonic(), completed
        self._bar = tqdm(total=total, initial=completed, bar_format=TRAINING_BAR, **_terminal())

    def update(self, iteration: int, status: str) -> None:
        """Show the iteration just done, and what is said of it."""
        if not self._bar.disable:
            self._bar.ncols = _terminal()["ncols"]  # the window may have another size by now
            self._bar.set_postfix_str(status, refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._last_line >= self._interval or iteration == self._total:
            left = tqdm.format_interval((now - self._start) / (iteration - self._first) * (self._total - iteration))
            say(f"iteration {iteration}/{self._total}: {status}, {left} left")
            self._last_line = now

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()


def _terminal() -> dict[str, Any]:
    """Arguments of tqdm for the terminal behind stderr; 80 columns where it tells no size or 0, as some do."""
    try:
        columns, lines = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # redirected, or no stream of the system
        columns, lines = 0, 0
    room = (columns or 80) - len("^C ")  # which a terminal shows at the end of the bar
    return {"ncols": room, "nrows": lines or 24, "disable": is_silent() or not sys.stderr.isatty()}
