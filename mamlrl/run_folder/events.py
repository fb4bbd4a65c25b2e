"""Errors of TensorBoard's event files, which are written by a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from mamlrl.run_folder.files import naming


@contextlib.contextmanager
def naming_events(folder: Path) -> Iterator[None]:
    """An OSError in the block that names no file names the newest event file in the folder."""
    try:
        yield
    except OSError as error:
        files = sorted(folder.glob("events.out.tfevents.*"))  # their names begin with the time
        with naming(files[-1] if files else folder):
            raise error


def silence_writer_threads() -> tuple[Callable[..., object], Callable[..., object]]:
    """What fails in a writer thread of TensorBoard is raised at the next write; its traceback is not printed too.

    Returns:
        The new hook for exceptions in threads, and the one before it, for `restore_hook`.
    """
    before = threading.excepthook

    def show_others(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            before(arguments)

    threading.excepthook = show_others
    return show_others, before


def restore_hook(hooks: tuple[Callable[..., object], Callable[..., object]]) -> None:
    """Put the hook of before back, but not where another run of this process has wrapped the new one."""
    if threading.excepthook is hooks[0]:
        threading.excepthook = hooks[1]
