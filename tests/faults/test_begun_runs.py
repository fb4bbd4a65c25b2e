"""A run that died between its settings and its first checkpoint begins at iteration 0 when it is resumed."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from mamlrl.run_folder.metrics_table import encode_row

from ..cli.conftest import SMALL, Command, assert_fails, read_metrics, reproducible


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mamlrl.train import main

    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*SMALL, "--iterations", "2", "--out", str(folder)]) == 0
    return folder


def leave(folder: Path, name: str, whole: Path) -> None:
    """What such a death may leave besides config.yaml."""
    if name == "half of a checkpoint":
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints/.iteration-000000.partial.pt").write_bytes(b"PK")
    elif name == "checkpoints":
        (folder / name).mkdir(exist_ok=True)
    elif name == "a row of metrics":
        (folder / "metrics.csv").write_bytes(encode_row(["iteration", "x"]) + encode_row(["1", "2.5"]))
    elif name == "events":
        shutil.copy(next(whole.glob("events.*")), folder / "events.out.tfevents.1.host.1.0")
    else:
        (folder / name).touch()


LEFT = ("versions.txt", "checkpoints", "half of a checkpoint", "metrics.csv", "a row of metrics", "events", ".lock")
SETS = [names for count in (0, 1, 2) for names in itertools.combinations(LEFT, count)]


def test_whatever_is_left_beside_the_settings_the_run_begins_at_0(whole: Path, command: Command) -> None:
    for number, names in enumerate(SETS):
        folder = Path(f"run-{number}")
        folder.mkdir()
        shutil.copy(whole / "config.yaml", folder)
        for name in names:
            leave(folder, name, whole)
        if number % 3 == 0:
            assert_fails(command(*SMALL, f"--out {folder}"), 2, "holds a run already", "--resume")
        outcome = command(f"--resume {folder}")
        assert (outcome.code, outcome.err) == (0, ""), (names, outcome)
        assert "note: the run has no checkpoint yet; it begins at iteration 0" in outcome.out
        assert reproducible(folder) == reproducible(whole), names
        assert not list(folder.rglob("*.partial*"))
        kept = folder / "metrics.csv.kept-1"
        assert kept.exists() == ("a row of metrics" in names), names
        assert "processor" in (folder / "versions.txt").read_text()
        assert number % 8 or command(f"--resume {folder} --iterations 3").code == 0
    assert len(SETS) >= 29


@pytest.mark.parametrize("name", [".config.partial.yaml", ".lock", "notes.txt"])
def test_a_folder_without_settings_is_free(whole: Path, command: Command, name: str) -> None:
    Path("run").mkdir()
    Path("run", name).write_text("half of")
    assert_fails(command("--resume run"), 2, "not a run folder")
    assert command(*SMALL, "--iterations 2 --out run").code == 0
    assert reproducible("run") == reproducible(whole)
    assert not Path("run/.config.partial.yaml").exists()


def test_settings_may_be_extended_before_the_first_checkpoint(whole: Path, command: Command) -> None:
    Path("run").mkdir()
    shutil.copy(whole / "config.yaml", "run")
    assert_fails(command("--resume run --seed 3"), 2, "seed was 1 and is now 3")
    assert command("--resume run --iterations 3").code == 0
    assert len(read_metrics("run")) == 3
