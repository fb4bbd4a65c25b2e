"""What runs and evaluations tell people: printed, unless the program around them wants silence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_silent = ContextVar("silent", default=False)


def say(message: str) -> None:
    """Print a line, at once."""
    if not _silent.get():
        print(message, flush=True)


def is_silent() -> bool:
    """Whether nothing is to be shown, progress neither."""
    return _silent.get()


@contextmanager
def silence(wanted: bool = True) -> Iterator[None]:
    """In the block, and in this thread alone, nothing is shown."""
    token = _silent.set(wanted)
    try:
        yield
    finally:
        _silent.reset(token)
