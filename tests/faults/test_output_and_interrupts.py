"""A training whose output goes nowhere goes on; one that is interrupted twice leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from ..cli.conftest import SMALL, reproducible
from .processes import run, start


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, *SMALL, "--iterations 4 --out run").code == 0
    return folder / "run"


# What is called in a process before the command


def redirect(numbers: tuple[int, ...], to: str) -> None:
    """Give streams, by number, another end: a path, "closed", or a pipe that nobody reads."""
    for number in numbers:
        name = ("stdin", "stdout", "stderr")[number]
        if to == "closed":
            os.close(number)
            setattr(sys, name, None)
            continue
        if to == "a pipe that nobody reads":
            reading, end = os.pipe()
            os.close(reading)
        else:
            end = os.open(to, os.O_RDWR)
        os.dup2(end, number)
        os.close(end)


ENDS = ("closed", "/dev/full", "a pipe that nobody reads", "/dev/null")
STREAMS = ((1,), (2,), (1, 2), (0, 1, 2))


@pytest.mark.parametrize("flags", ["--out run", "--out run --video.every 4", ""])
@pytest.mark.parametrize("to", ENDS)
def test_a_training_goes_on_without_output(whole: Path, tmp_path: Path, to: str, flags: str) -> None:
    for streams in STREAMS if flags == "--out run" else ((1, 2),):
        folder = tmp_path / "-".join(map(str, streams))
        folder.mkdir()
        ended = run(folder, *SMALL, "--iterations 4", flags, prepare=partial(redirect, streams, to))
        assert ended.code == 0, (to, streams, ended)
        lines = ended.err.splitlines()
        if 1 in streams and 2 not in streams and to != "/dev/null":
            assert len(lines) == 1 and lines[0].startswith("note: standard output"), ended.err
        else:
            assert lines == []
        (metrics,) = folder.rglob("metrics.csv")
        assert reproducible(metrics.parent) == reproducible(whole)


@pytest.mark.parametrize("to", ENDS[:3])
def test_a_training_that_goes_on_and_one_that_is_refused_without_output(whole: Path, tmp_path: Path, to: str) -> None:
    assert run(tmp_path, *SMALL, "--iterations 2 --out run").code == 0
    assert run(tmp_path, "--resume run --iterations 4", prepare=partial(redirect, (0, 1, 2), to)).code == 0
    assert reproducible(tmp_path / "run") == reproducible(whole)
    for streams in STREAMS:
        ended = run(tmp_path, "--resume run --seed 7", prepare=partial(redirect, streams, to))
        assert ended.code == 2
        assert "seed was 1 and is now 7" in ended.err or 2 in streams


@pytest.mark.parametrize("name", ["evaluate", "compare", "record"])
def test_other_commands_end_with_a_code_and_no_traceback(whole: Path, tmp_path: Path, name: str) -> None:
    flags = {
        "evaluate": "--tasks 1 --rollouts 2 --steps 1 --threads 1",
        "compare": "",
        "record": "--tasks 1 --steps 0 --format gif",
    }[name]
    codes = {"closed": 0, "/dev/full": 1, "a pipe that nobody reads": 141}
    for number, (to, code) in enumerate(codes.items()):
        ended = run(
            tmp_path, str(whole), flags, f"--out results-{number}", command=name, prepare=partial(redirect, (1,), to)
        )
        assert ended.code == code, (to, ended)
        assert "Traceback" not in ended.err and ended.err.count("\n") <= 1


# Signals


def slow_writes() -> None:
    """Whatever is synced to disk takes its time, so that a signal finds a file half written."""
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if "iteration-000003" in path.name:
            Path("writing").touch()
            time.sleep(30)
        sync(descriptor)

    os.fsync = fsync


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="takes /proc")


@needs_proc
@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGTERM, signal.SIGTERM, 143),
        (signal.SIGINT, signal.SIGTERM, 143),
        (signal.SIGTERM, signal.SIGINT, 130),
    ],
)
def test_a_second_signal_leaves_no_temporary_file_and_no_traceback(
    whole: Path, tmp_path: Path, first: signal.Signals, second: signal.Signals, code: int
) -> None:
    running = start(tmp_path, *SMALL, "--iterations 4 --out run", prepare=slow_writes)
    running.wait_for(tmp_path / "writing")
    assert list((tmp_path / "run").rglob("*.partial*"))
    for number in (first, second):
        time.sleep(0.05)
        os.kill(running.process.pid or 0, number)
    ended = running.wait()
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[first]
    assert ended.code == code
    assert ended.err.splitlines() == [
        f"finishing iteration 3; {name} again stops now",
        "stopped; go on with",
        "  python -m mamlrl.train --resume run",
    ]
    assert not list((tmp_path / "run").rglob("*.partial*"))
    assert run(tmp_path, "--resume run").code == 0
    assert reproducible(tmp_path / "run") == reproducible(whole)


def interrupted_at(number: int, twice: bool) -> None:
    """Ctrl-C at the operation on a file of this number, and perhaps once more at the next one."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.rename", "os.mkdir", "os.remove") and "run" in Path(str(arguments[0])).parts:
            seen.append(event)
            if len(seen) == number or (twice and len(seen) == number + 1):
                os.kill(os.getpid(), signal.SIGINT)

    sys.addaudithook(hook)


@pytest.mark.parametrize("twice", [False, True])
def test_an_interrupt_at_any_operation_on_a_file(whole: Path, tmp_path: Path, twice: bool) -> None:
    codes = []
    for number in range(1, 60, 7):
        folder = tmp_path / f"operation-{number}"
        folder.mkdir()
        ended = run(folder, *SMALL, "--iterations 4 --out run", prepare=partial(interrupted_at, number, twice))
        codes.append(ended.code)
        assert ended.code in (0, 130), (number, ended)
        assert all(
            re.search(r"Ctrl-C again|go on with$|--resume run$|^stopped$", line) for line in ended.err.splitlines()
        )
        assert not list(folder.rglob("*.partial*")), number
        if ended.code or not (folder / "run/config.yaml").exists():
            begun = (folder / "run/config.yaml").exists()
            assert run(folder, "--resume run" if begun else " ".join([*SMALL, "--iterations 4 --out run"])).code == 0
        assert reproducible(folder / "run") == reproducible(whole), number
    assert codes.count(130) >= 4, codes
