"""What the commands share: options, the last resort for errors, exit codes. Imports nothing heavy."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from mamlrl.errors import ConfigError, UserError, cut, shown


class OptionParser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong."""
        raise ConfigError(cut(message))


def usable_path(text: str) -> Path:
    """The path of an option, for `argparse`.

    Raises:
        argparse.ArgumentTypeError: no file or folder can have this name.
    """
    try:
        Path(text).lstat()
    except ValueError as error:  # a zero byte, or bytes that are no text
        raise argparse.ArgumentTypeError(f"{shown(text)} cannot be a file or folder") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise argparse.ArgumentTypeError(f"{shown(text)}: {error.strerror}") from error
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{shown(text)} cannot be a file or folder")
    return Path(text)


def run_command(action: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Run a command on its arguments (None: the process's); what a user can put right becomes one line on stderr.

    Returns:
        The exit code: what the action returns, 2 when the command or a setting is wrong, 1 when something failed,
        128 + the signal's number after Ctrl-C and when nobody reads the output any more, as of other programs.
    """
    if os.getcwd() not in sys.path:  # my_module:... environments are found from a console script too
        sys.path.insert(0, os.getcwd())
    # Torch's threads spin while they wait for each other, on Linux for milliseconds. Where other programs have the
    # cores that costs many times the work itself. It must be said before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        try:
            return action(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        return 130


def _fail(message: str, exit_code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return exit_code
