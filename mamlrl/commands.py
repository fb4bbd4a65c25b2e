"""What the commands share: the last resort for errors, exit codes, a module as a function. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NoReturn, TextIO

from mamlrl.envs.errors import EnvironmentFailure
from mamlrl.errors import ConfigError, LearnerFailure, OutputError, UserError


def make_callable(module: str, function: Callable[..., Any]) -> None:
    """Let a command's module be called as a function.

    ``mamlrl.train`` is a module, whatever was imported first, and a function by the same name would be hidden by it. As
    the data model of Python has it, a module may be given a class of its own.

    Args:
        module: name of the module.
        function: that a call of the module calls.
    """

    class Command(ModuleType):
        __signature__ = inspect.signature(function)

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            return function(*arguments, **named)

    Command.__call__.__doc__ = function.__doc__
    sys.modules[module].__class__ = Command
    called = f"{module}{inspect.signature(function)}"
    sys.modules[module].__doc__ = f"{sys.modules[module].__doc__}\n{called}\n\n{inspect.getdoc(function)}"  # for help()


def run_command(
    action: Callable[[Sequence[str]], int], argv: Sequence[str] | None, lasting: bool = False, spreads: bool = False
) -> int:
    """Run a command on its arguments (None: the process's); what a user can put right becomes one line on stderr.

    Args:
        action: the command.
        argv: its arguments.
        lasting: go on where nothing can be printed, as on a full disk or where nobody reads any more; what the
            command is for are files.
        spreads: it may be started by torchrun, as several ranks.

    Returns:
        The exit code: what the action returns, 2 when the command or a setting is wrong, 1 when something failed,
        128 + the signal's number after Ctrl-C and, unless it is lasting, when nobody reads the output any more, as of
        other programs.
    """
    if argv is None:
        _open_closed_streams()
        if not spreads:  # training and ranks end in ways of their own (training/interrupts.py, launch.py)
            signal.signal(signal.SIGTERM, _clean_up_and_end)
    # Torch's threads spin while they wait for each other, on Linux for milliseconds. Where other programs have the
    # cores that costs many times the work itself. It must be said before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        with contextlib.redirect_stdout(_Output(sys.stdout, lasting)):  # type: ignore[type-var]
            try:
                if os.getcwd() not in sys.path:  # my_module:... environments are found from a console script too
                    sys.path.insert(0, os.getcwd())
                return _on_ranks(action, spreads)(sys.argv[1:] if argv is None else argv)
            finally:
                sys.stdout.flush()
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except (EnvironmentFailure, LearnerFailure) as error:
        return _fail(str(error), 1)
    except OutputError as error:
        _discard(sys.stdout)  # what Python would flush at its end
        # whoever read the output, such as head, has seen enough
        return 128 + signal.SIGPIPE if error.errno == errno.EPIPE else _fail(f"standard output: {error.strerror}", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        return 130
    finally:
        if argv is None:  # a further Ctrl-C while Python ends finds nothing to interrupt, but would print where it was
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _clean_up_and_end(number: int, frame: object) -> NoReturn:
    """Unfinished files are removed on the way out, as after Ctrl-C."""
    sys.exit(128 + number)


def started_ranks() -> int:
    """How many ranks torchrun has started; 1 without it."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdigit() else 1


def _on_ranks(action: Callable[[Sequence[str]], int], spreads: bool) -> Callable[[Sequence[str]], int]:
    """The command, as one of several ranks where there are.

    Raises:
        ConfigError: there are, and it cannot be one.
    """
    ranks = started_ranks()
    if ranks == 1:
        return action
    if not spreads:
        raise ConfigError(f"this command works in one process; torchrun has started {ranks}")
    from mamlrl.launch import together  # imports torch, which takes seconds

    return partial(together, action)


class _Output:
    """Standard output that tells its own errors from those of other files.

    Args:
        stream: to write to.
        lasting: say an error once on stderr, and go on without output.
    """

    def __init__(self, stream: TextIO, lasting: bool):
        self._stream, self._lasting = stream, lasting

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable[..., Any], *arguments: str) -> None:
        try:
            call(*arguments)
        except OSError as error:
            if not self._lasting:
                raise OutputError(error.errno, error.strerror) from error
            _say(f"note: standard output: {error.strerror}; nothing is printed from here on")
            _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _discard(stream: TextIO) -> None:
    """What is still to be written to a broken stream goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # not a stream of the system
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
