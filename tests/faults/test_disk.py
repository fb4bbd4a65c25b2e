"""A disk that is full or fails: one line that names the file, no temporary files, and the run goes on where it was."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ..cli.conftest import SMALL, reproducible
from .processes import Ended, run

resource = pytest.importorskip("resource")

FLAGS = " ".join([*SMALL, "--iterations 2"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, FLAGS, "--out run").code == 0
    return folder / "run"


# What is called in a process before the command


def limit_file_size(size: int) -> None:
    """Every file may have so many bytes; who writes more gets an error, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def is_change_in_run(event: str, arguments: tuple[Any, ...]) -> bool:
    if event not in ("open", "os.rename", "os.remove", "os.mkdir"):
        return False
    if event == "open" and not (
        isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_APPEND)
    ):
        return False
    path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
    return "run" in Path(path).parts and not (event == "os.mkdir" and os.path.isdir(path))


def fail_at(number: int, code: int) -> None:
    """The operation on the run's files of this number, from 1, fails."""
    done: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_change_in_run(event, arguments):
            done.append(event)
            if len(done) == number:
                Path("../failed").touch()
                raise OSError(code, os.strerror(code), os.fsdecode(arguments[0]))

    sys.addaudithook(hook)


def fail_sync_at(number: int, code: int) -> None:
    """`os.fsync` fails for good from its call of this number on, without naming a file."""
    sync, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) >= number:
            Path("../failed").touch()
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    os.fsync = fsync


# What holds afterwards


def assert_one_line(ended: Ended, *strerrors: str) -> None:
    assert ended.code == 1, ended
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1 and len(ended.err) < 900, ended.err
    assert any(text in ended.err for text in strerrors), ended.err
    assert re.search(r"run(/[\w./-]*)?: ", ended.err), ended.err
    assert "Traceback" not in ended.out + ended.err


def assert_goes_on(folder: Path, whole: Path) -> None:
    """By --resume once there are settings, by the same command before that."""
    assert not list(folder.rglob("*.partial*"))
    begun = (folder / "run/config.yaml").exists()
    ended = run(folder, "--resume run" if begun else f"{FLAGS} --out run")
    assert (ended.code, ended.err) == (0, ""), ended
    assert reproducible(folder / "run") == reproducible(whole)


SIZES = (0, 1, 300, 1500, 2500, 4000, 6000, 8000, 15_000, 50_000)


def test_a_disk_that_is_full_after_so_many_bytes(whole: Path, tmp_path: Path) -> None:
    stopped = []
    for size in SIZES:
        folder = tmp_path / f"of-{size}"
        folder.mkdir()
        ended = run(folder, FLAGS, "--out run", prepare=partial(limit_file_size, size))
        if ended.code == 0:
            assert ended.err == "" and reproducible(folder / "run") == reproducible(whole)
            continue
        stopped.append(re.sub(r".*run/?([\w./]*).*: .*\n", r"\1", ended.err))
        assert_one_line(ended, os.strerror(errno.EFBIG))
        assert_goes_on(folder, whole)
    assert len(stopped) >= 6 and stopped[0] == "config.yaml" and len(set(stopped)) >= 3, stopped


def test_a_disk_that_is_full_when_a_run_goes_on(whole: Path, tmp_path: Path) -> None:
    assert run(tmp_path, FLAGS.replace("--iterations 2", "--iterations 1"), "--out begun").code == 0
    count = 0
    for size in SIZES:
        folder = tmp_path / f"of-{size}"
        shutil.copytree(tmp_path / "begun", folder / "run")
        before = {path: path.read_bytes() for path in (folder / "run/checkpoints").iterdir()}
        ended = run(folder, "--resume run --iterations 2", prepare=partial(limit_file_size, size))
        if ended.code:
            count += 1
            assert_one_line(ended, os.strerror(errno.EFBIG))
            assert size > 3000 or before.items() <= {path: path.read_bytes() for path in before}.items()
            ended = run(folder, "--resume run --iterations 2")
            assert (ended.code, ended.err) == (0, "")
        assert reproducible(folder / "run") == reproducible(whole)
    assert count >= 6


@pytest.mark.parametrize(("code", "step"), [(errno.ENOSPC, 4), (errno.EIO, 7)])
def test_an_error_at_any_operation_on_a_file(whole: Path, tmp_path: Path, code: int, step: int) -> None:
    number = 0
    while number < 200:
        number += step
        folder = tmp_path / f"operation-{number}" / "here"
        folder.mkdir(parents=True)
        ended = run(folder, FLAGS, "--out run", prepare=partial(fail_at, number, code))
        if not (folder.parent / "failed").exists():
            break
        if ended.code:  # not where only a message to TensorBoard or a temporary file failed
            assert_one_line(ended, os.strerror(code))
        assert_goes_on(folder, whole)
    assert 15 <= number < 200, number


def test_a_disk_that_fails_when_files_are_synced(whole: Path, tmp_path: Path) -> None:
    for number in range(1, 200, 3):
        folder = tmp_path / f"sync-{number}" / "here"
        folder.mkdir(parents=True)
        ended = run(folder, FLAGS, "--out run", prepare=partial(fail_sync_at, number, errno.EIO))
        if not (folder.parent / "failed").exists():
            assert ended.code == 0 and number >= 6, (number, ended)
            return
        assert_one_line(ended, os.strerror(errno.EIO))
        assert_goes_on(folder, whole)


@pytest.mark.parametrize("command", ["evaluate", "compare", "record"])
def test_results_on_a_full_disk(whole: Path, tmp_path: Path, command: str) -> None:
    flags = {
        "evaluate": f"{whole} --tasks 2 --rollouts 2 --steps 1 --threads 1",
        "compare": f"{whole}",
        "record": f"{whole} --tasks 1 --rollouts 2 --steps 0 --format gif",
    }[command]
    count = 0
    for size in (0, 10, 100, 1000, 5000, 20_000):
        ended = run(tmp_path, flags, f"--out of-{size}/run", command=command, prepare=partial(limit_file_size, size))
        if ended.code:
            count += 1
            assert_one_line(ended, os.strerror(errno.EFBIG))
        assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path.name.endswith(".tmp")]
    assert count >= 4
