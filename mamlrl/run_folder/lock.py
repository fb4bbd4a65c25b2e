"""One process at a time writes into a run folder."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from mamlrl.errors import ConfigError
from mamlrl.messages import say
from mamlrl.run_folder.files import naming

try:
    import fcntl
except ImportError:  # not a POSIX system: runs are not locked there
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
"""It stays when the run ends: the lock is the system's, on the open file, and dies with the process."""

_held: set[int] = set()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder while the block runs.

    Raises:
        ConfigError: another process holds it, and which.
        OSError: the folder cannot be written.
    """
    with naming(folder / LOCK_FILE):
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666)
    _held.add(descriptor)
    try:
        _take(descriptor, folder)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        holder = os.read(descriptor, 500).decode(errors="replace").strip() or "another process"
        raise ConfigError(f"{folder}: {holder} trains in it; wait until it has ended, or stop it") from error
    except OSError as error:  # a file system without locks
        say(f"note: {folder} cannot be locked ({error.strerror}); start no second run in it")
        return
    with contextlib.suppress(OSError):  # on a full disk it is held all the same, but not said by whom
        os.ftruncate(descriptor, 0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} (since {now})\n".encode())


def _let_go() -> None:
    """In a forked process, such as an environment's: the lock ends with its owner, not with the owner's children."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
