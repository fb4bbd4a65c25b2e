"""What runs and evaluations tell people: printed, unless the program around them wants silence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

_silent = ContextVar("silent", default=False)


def say(message: str) -> None:
    """Print a line, at once and clear of a progress bar."""
    if not _silent.get():
        tqdm.write(message)
        sys.stdout.flush()


def is_silent() -> bool:
    """Whether nothing is to be shown, progress neither."""
    return _silent.get()


def counted(number: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def silence(wanted: bool = True) -> Iterator[None]:
    """In the block, and in this thread alone, nothing is shown."""
    token = _silent.set(wanted)
    try:
        yield
    finally:
        _silent.reset(token)
