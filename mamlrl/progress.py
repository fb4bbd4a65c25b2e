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


def progress_bar(iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Iterate, and show how far it is in a bar that vanishes at the end; nothing where stderr is no terminal.

    Args:
        iterable: what is gone through.
        description: what its elements are.
        total: their number, where the iterable does not tell.
    """
    return tqdm(iterable, description, total, leave=False, **_terminal())


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
