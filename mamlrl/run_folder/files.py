"""Files that appear whole or not at all, and that never take the place of a user's."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

_unfinished: set[Path] = set()


@contextlib.contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
<<<<<<< HEAD
    """An OSError in the block that names no file, or the temporary one, names this; those of open files name none."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(temporary)):  # else it is of something else within the block
=======
    """An OSError in the block that names no file, or the temporary one, names `path`.

    Those of writing to an open file do not by themselves.
    """
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(temporary)):
>>>>>>> main
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place at the end of the block.

    A reader finds the old file or the whole new one. After an error, or when a second signal ends the process
    (`remove_unfinished`), no temporary file is left.

    Raises:
        OSError: names `path`, unless it is of another file.
    """
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")  # ffmpeg tells the format by the suffix
    _unfinished.add(temporary)
    try:
        with naming(path, temporary):
            yield temporary
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise
    finally:
        _unfinished.discard(temporary)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically and durably: when this returns, it is on the disk, and under its name.

    Raises:
        OSError: names `path`. What was there before stays, but for an error of the folder after the new file is there.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    with naming(path):
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """The names in a folder are on the disk; nothing is done where the system or the file system has no such thing."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders, and a folder that may be written need not be readable
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_unfinished() -> None:
    """Remove the temporary files of `replacing` blocks that the process will not finish."""
    for path in tuple(_unfinished):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def keep_aside(path: Path) -> Path:
    """Rename a file or folder to the first free `<name>.kept-<number>`.

    Returns:
        Its new path.
    """
    names = (path.with_name(f"{path.name}.kept-{number}") for number in itertools.count(1))
    kept = next(name for name in names if not os.path.lexists(name))
    os.rename(path, kept)
    return kept
