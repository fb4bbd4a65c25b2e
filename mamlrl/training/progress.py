"""How far a run is, on the terminal."""

from __future__ import annotations

import shutil
import sys
import time

from tqdm import tqdm


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
        columns, lines = shutil.get_terminal_size()  # never 0, as some terminals say and tqdm would take it
        disable = not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=completed, unit="it", ncols=columns, nrows=lines, disable=disable)

    def update(self, iteration: int, status: str) -> None:
        """Show the iteration just done, and what is said of it."""
        if not self._bar.disable:
            self._bar.set_postfix_str(status, refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._last_line >= self._interval or iteration == self._total:
            left = (now - self._start) / (iteration - self._first) * (self._total - iteration)
            print(f"iteration {iteration}/{self._total}: {status}, {tqdm.format_interval(left)} left", flush=True)
            self._last_line = now

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()
