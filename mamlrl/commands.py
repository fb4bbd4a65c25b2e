"""What the commands share: options, the last resort for errors, exit codes. Imports nothing heavy."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

from mamlrl.envs.errors import EnvironmentFailure
from mamlrl.errors import ConfigError, UserError

SIGPIPE_EXIT_CODE = 141


class OptionParser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong."""
        raise ConfigError(message)


def run_command(action: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Run a command on its arguments (None: the process's); what a user can put right becomes one line on stderr.

    Returns:
        The exit code: what the action returns, 2 when the command or a setting is wrong, 1 when something failed,
        128 + the signal's number after Ctrl-C and when nobody reads the output any more, as of other programs.
    """
    if argv is None:
        _open_closed_streams()
    # Torch's threads spin while they wait for each other, on Linux for milliseconds. Where other programs have the
    # cores that costs many times the work itself. It must be said before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        if os.getcwd() not in sys.path:  # my_module:... environments are found from a console script too
            sys.path.insert(0, os.getcwd())
        exit_code = action(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        exit_code = _fail(str(error), error.exit_code)
    except OSError as error:
        if output_is_broken():
            exit_code = 1  # its own line is printed below
        else:
            where = f"{error.filename}: " if error.filename else ""
            exit_code = _fail(f"{where}{error.strerror or error}", 1)
    except EnvironmentFailure as error:
        exit_code = _fail(str(error), 1)
    except KeyboardInterrupt:
        exit_code = 130
    except SystemExit:  # --help
        _flush(0)
        raise
    finally:
        if argv is None:  # a further Ctrl-C while Python ends finds nothing to interrupt, but would print where it was
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _flush(exit_code)


def output_is_broken() -> bool:
    """Whether an OSError came from standard output, which nobody reads any more or whose disk is full."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """What cannot be printed, as on a full disk, does not stop the work in the block; a line on stderr says so once.

    A pipe that nobody reads any more still ends it.
    """
    with contextlib.redirect_stdout(_Lasting(sys.stdout)):  # type: ignore[type-var]
        yield


class _Lasting:
    """A stream that goes silent at the first failure to write."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable[..., Any], *arguments: str) -> None:
        try:
            call(*arguments)
        except BrokenPipeError:
            raise
        except OSError as error:
            _say(f"note: standard output: {error.strerror}; nothing is printed from here on")
            _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _flush(exit_code: int) -> int:
    """What is printed has arrived; else the exit code says so, and Python does not try again at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        _discard(sys.stdout)
        return SIGPIPE_EXIT_CODE
    except OSError as error:
        _discard(sys.stdout)
        return _fail(f"standard output: {error.strerror}", exit_code or 1)
    return exit_code


def _discard(stream: TextIO) -> None:
    """What is still to be written to a broken stream goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _open_closed_streams() -> None:
    """Streams that were closed at the start lead nowhere from now on; the next open file would take their place."""
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        number, reading = ("stdin", "stdout", "stderr").index(name), name == "stdin"
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if reading else os.O_WRONLY)  # takes the lowest number that is free
        setattr(sys, name, open(os.devnull, "r" if reading else "w"))
    if "stdout" in closed:
        _say("note: standard output is closed; nothing is printed")


def _fail(message: str, exit_code: int) -> int:
    _say(f"error: {' '.join(message.split())}")
    return exit_code


def _say(line: str) -> None:
    """Print on stderr; where that is impossible, the exit code has to do."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        with contextlib.suppress(OSError):
            _discard(sys.stderr)
