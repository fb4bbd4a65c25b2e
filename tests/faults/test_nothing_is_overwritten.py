"""What is there already stays: commands refuse to write over it before they compute anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamlrl import compare, evaluate, record
from mamlrl.train import main as train

from ..cli.conftest import SMALL, Command, assert_fails

FEW = "--tasks 1 --rollouts 2 --steps 1 --threads 1"
WRITTEN = {
    "train": (
        *("config.yaml", "metrics.csv", "checkpoints", "versions.txt", "videos", "error.txt"),
        "events.out.tfevents.1.host.1.0",
    ),
    "evaluate": ("evaluation.csv", "summary.csv", "evaluation.png", "tensorboard"),
    "compare": ("curves.png", "curves.csv"),
    "record": ("task-1.gif", "still.png"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train([*SMALL, "--iterations", "2", "--out", str(folder)]) == 0
    return folder


def arguments(name: str, run: Path, out: str) -> list[str]:
    return {
        "train": [*SMALL, "--iterations", "1"],
        "evaluate": [str(run), *FEW.split()],
        "compare": [str(run)],
        "record": [str(run), "--tasks", "1", "--steps", "0", "--format", "gif"],
    }[name] + ["--out", out]


MAINS = {"train": train, "evaluate": evaluate.main, "compare": compare.main, "record": record.main}
KINDS = ("a file", "an empty file", "a folder", "a link to nothing", "a link to a file", "a pipe")


def put(path: Path, kind: str) -> None:
    if kind in ("a file", "an empty file"):
        path.write_text("mine" if kind == "a file" else "")
    elif kind == "a folder":
        path.mkdir()
        (path / "mine").touch()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        Path("of-mine").write_text("mine")
        path.symlink_to(Path("of-mine" if kind == "a link to a file" else "nothing").absolute())


def state(folder: Path) -> Iterator[tuple[str, object]]:
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        yield str(path), (status.st_ino, status.st_mode, status.st_mtime_ns, content)


@pytest.mark.parametrize(("name", "written"), [(name, file) for name, files in WRITTEN.items() for file in files])
def test_a_file_that_is_there_is_left_alone(
    trained: Path, command: Command, capsys: pytest.CaptureFixture[str], name: str, written: str
) -> None:
    for number, kind in enumerate(KINDS):
        folder = Path(f"results-{number}")
        folder.mkdir()
        put(folder / written, kind)
        before = dict(state(Path()))
        code = MAINS[name](arguments(name, trained, str(folder)))
        captured = capsys.readouterr()
        assert code == 2, (kind, captured)
        assert captured.err.startswith(f"error: --out {folder}: holds ") and captured.err.count("\n") == 1
        assert captured.out == "", kind
        assert dict(state(Path())) == before, kind


@pytest.mark.parametrize("name", list(WRITTEN))
def test_other_files_may_lie_there(
    trained: Path, command: Command, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Path("results").mkdir()
    for file in ("notes.txt", "metrics.csv.old", "still-1.png", "curves.pdf", ".hidden"):
        Path("results", file).write_text("mine")
    before = dict(state(Path("results")))
    assert MAINS[name](arguments(name, trained, "results")) == 0, capsys.readouterr()
    after = dict(state(Path("results")))
    assert before.items() <= after.items()
    assert all(any(path.endswith(file) for path in after) for file in WRITTEN[name][:2] if name != "record")


@pytest.mark.parametrize("name", list(WRITTEN))
def test_a_second_time_is_refused(
    trained: Path, command: Command, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert MAINS[name](arguments(name, trained, "results")) == 0
    before = dict(state(Path()))
    capsys.readouterr()
    assert MAINS[name](arguments(name, trained, "results")) == 2
    assert "holds" in capsys.readouterr().err
    assert dict(state(Path())) == before


def test_reading_changes_nothing_in_a_run(trained: Path, command: Command) -> None:
    before = dict(state(trained))
    for name in ("evaluate", "compare", "record"):
        assert MAINS[name](arguments(name, trained, f"{name}-results")) == 0
    assert dict(state(trained)) == before


def test_a_resumed_run_keeps_what_others_put_into_its_folder(small_run: Command, command: Command) -> None:
    small_run("--iterations 1 --out run")
    for file in ("notes.txt", "checkpoints/mine.pt", "metrics.csv.bak", "config.yaml.orig"):
        Path("run", file).write_text("mine")
    assert command("--resume run --iterations 4").code == 0
    for file in ("notes.txt", "checkpoints/mine.pt", "metrics.csv.bak", "config.yaml.orig"):
        assert Path("run", file).read_text() == "mine"
    assert_fails(small_run("--out run"), 2, "holds a run already")
