"""Ctrl-C and SIGTERM as a request to stop at the end of the iteration."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

from mamlrl.distributed import gather
from mamlrl.messages import is_silent
from mamlrl.run_folder.files import remove_unfinished

BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Environment variable of the processes that torchrun starts."""


class StopRequest:
    """While entered, the first Ctrl-C or SIGTERM is noted in `signal`, and a second one ends the process at once.

    Both are acknowledged on stderr. What is being done is told in `iteration`, the one under way, counted from 1, and
    `resume`, the command that goes on with the run; None before there is one.

    Only a main thread gets signals; in another one nothing is changed.

    Args:
        whole_process: whether the process is the training's own. In somebody else's, such as a notebook's, SIGTERM is
            left alone, and a second Ctrl-C raises KeyboardInterrupt.
    """

    def __init__(self, whole_process: bool = True) -> None:
        self.signal: int | None = None
        self.iteration: int | None = None
        self.resume: str | None = None
        self._whole_process = whole_process
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def agreed(self, stops: bool) -> bool:
        """Whether any rank has a signal, which becomes that of all, or is to stop for another reason.

        A signal that comes while they ask each other stays for the next time.
        """
        seen = gather((self.signal, stops))
        agreed = next((number for number, _ in seen if number is not None), None)
        if agreed is not None:
            self.signal = agreed
        return agreed is not None or any(other for _, other in seen)

    @property
    def exit_code(self) -> int:
        """128 + signal, as a shell reports it; 0 without one."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            handled = (signal.SIGINT, signal.SIGTERM) if self._whole_process else (signal.SIGINT,)
            self._previous = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # an environment's forked process: a terminal sends Ctrl-C to it as well,
            if number == signal.SIGTERM:  # but the parent still needs it to finish the iteration
                os._exit(128 + number)
            return
        if self.signal is not None:
            if not self._whole_process:
                raise KeyboardInterrupt
            remove_unfinished()
            _acknowledge(f"stopped; go on with\n  {self.resume}" if self.resume else "stopped")
            os._exit(128 + number)
        self.signal = number
        if number == signal.SIGTERM and BY_TORCHRUN in os.environ:  # it sends one where another rank has failed, too
            return
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        doing = "stopping" if self.iteration is None else f"finishing iteration {self.iteration}"
        _acknowledge(f"{doing}; {name} again stops now")


def _acknowledge(text: str) -> None:
    """Write lines on stderr in place of a progress bar; past the streams of Python, which may be in mid-write."""
    if is_silent():
        return
    with contextlib.suppress(OSError):  # closed, or nobody reads it
        clear = "\r\x1b[K" if os.isatty(2) else ""
        os.write(2, f"{clear}{text}\n".encode())
