"""Commands in processes of their own, forks of one server that has everything imported: they start at once."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the commands do before they import torch
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "mamlrl.evaluation.comparison", f"{__package__}.warm"])
LONGEST_WAIT = 60  # seconds; none of the commands takes a tenth of it


class Ended(NamedTuple):
    """How a command ended: exit code, or minus the number of the signal that killed it, and what it printed."""

    code: int
    out: str
    err: str


class Running(NamedTuple):
    """A command that may be running still."""

    process: BaseProcess
    out: int
    err: int
    """what it prints, as pipes"""

    def wait(self) -> Ended:
        """How it ended; to be called once."""
        self.process.join(LONGEST_WAIT)
        running = self.process.exitcode is None
        self.process.kill()
        self.process.join()
        out, err = _drain(self.out), _drain(self.err)
        assert not running, f"still running after {LONGEST_WAIT} s: {out}{err}"
        return Ended(self.process.exitcode or 0, out, err)

    def wait_for(self, path: Path) -> None:
        """Until a file is there."""
        deadline = time.monotonic() + LONGEST_WAIT
        while not path.exists():
            assert self.process.is_alive() and time.monotonic() < deadline, self.wait()
            time.sleep(0.002)


def start(folder: Path, *argv: str, command: str = "train", prepare: Callable[[], object] | None = None) -> Running:
    """Start a command in a folder.

    Args:
        folder: its working directory.
        argv: its arguments, in strings that are split at spaces.
        command: name of the command's module.
        prepare: is called in the process before the command is; a function of a module.
    """
    words = [word for argument in argv for word in argument.split()]
    with tempfile.TemporaryDirectory() as pipes:  # of files a limit of their size would hold too
        paths = [Path(pipes, name) for name in ("out", "err")]
        for path in paths:
            os.mkfifo(path)
        out, err = (os.open(path, os.O_RDONLY | os.O_NONBLOCK) for path in paths)
        _ensure_server()
        process = SERVER.Process(target=_run, args=(folder, paths, command, words, prepare))
        process.start()
        while not Path(pipes, "opened").exists():
            time.sleep(0.001)
    return Running(process, out, err)


def run(folder: Path, *argv: str, command: str = "train", prepare: Callable[[], object] | None = None) -> Ended:
    """`start` a command and see it to its end."""
    return start(folder, *argv, command=command, prepare=prepare).wait()


def _ensure_server() -> None:
    """Start the server where there is none: it finds the modules that this process does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, sys.path)))
        forkserver.ensure_running()


def _run(folder: Path, pipes: list[Path], command: str, words: list[str], prepare: Callable[[], object] | None) -> None:
    for number, path, name in zip((1, 2), pipes, ("stdout", "stderr"), strict=True):
        pipe = os.open(path, os.O_WRONLY)
        os.dup2(pipe, number)
        os.close(pipe)
        setattr(sys, name, open(number, "w", closefd=False))
    pipes[0].with_name("opened").touch()
    os.chdir(folder)
    sys.argv = [command, *words]
    if prepare:
        prepare()
    sys.exit(importlib.import_module(f"mamlrl.{command}").main())


def _drain(pipe: int) -> str:
    """All that is in a pipe, which is then closed."""
    content = b""
    with contextlib.suppress(BlockingIOError):  # a process of an environment that has not ended yet has it open still
        while piece := os.read(pipe, 2**16):
            content += piece
    os.close(pipe)
    return content.decode()
