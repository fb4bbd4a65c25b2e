"""The scripts that draw rollouts and join pictures, the one that reproduces a result, and a long run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import long_run, render_rollouts, side_by_side
from mamlrl.train import main as train


def test_joins_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, size in (("a.png", (60, 20)), ("b.png", (40, 40))):
        Image.new("RGB", size).save(tmp_path / name)
    out = tmp_path / "joined.png"
    assert side_by_side.main([str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--out", str(out)]) == 0
    assert Image.open(out).size == (60 + 20, 20)
    assert side_by_side.main([str(tmp_path / "none.png"), "--out", str(out)]) == 1
    assert "none.png" in capsys.readouterr().err


def test_draws_rollouts_before_and_after_adaptation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "rollouts.png"
    assert render_rollouts.main([str(tmp_path), "--out", str(picture)]) == 1
    assert "holds no checkpoint" in capsys.readouterr().err
    tiny = ["--iterations", "1", "--sampling.tasks", "2", "--sampling.rollouts", "2", "--environment.horizon", "5"]
    assert train(["--env", "navigation", *tiny, "--out", str(tmp_path / "run")]) == 0
    frames = render_rollouts.frames_before_and_after(tmp_path / "run", num_tasks=2, frame_step=4)
    assert frames.shape[:2] == (2, 2)
    assert (frames[0] != frames[1]).any()
    assert render_rollouts.main([str(tmp_path / "run"), "--out", str(picture), "--tasks", "1", "--crop", "0.5"]) == 0
    assert picture.stat().st_size > 0


def reproduce(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parents[1] / "benchmarks" / "reproduce.sh"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["bash", str(script), *arguments], env=environment, capture_output=True, text=True)


def test_reproduces_a_result_and_goes_on_where_it_was(tmp_path: Path) -> None:
    small = "--iterations 2 --sampling.tasks 2 --sampling.rollouts 2 --environment.horizon 3 --eval.every 0".split()
    first = reproduce("navigation", str(tmp_path), *small)
    assert first.returncode == 0, first.stderr
    assert "| maml " in first.stdout and "200 tasks" in first.stdout
    assert (tmp_path / "maml" / "seed-1" / "checkpoints" / "iteration-000002.pt").exists()
    again = reproduce("navigation", str(tmp_path))
    assert again.returncode == 0, again.stderr
    assert "iteration 1/2" not in again.stdout and len(list(tmp_path.glob("evaluation-*/evaluation.png"))) == 2


def test_a_result_that_there_is_not(tmp_path: Path) -> None:
    outcome = reproduce("cheetah-dri", str(tmp_path / "out"))
    assert outcome.returncode == 2 and "no results of cheetah-dri" in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_a_long_run_deletes_no_folder_but_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "runs/mine/metrics.csv"
    kept.parent.mkdir(parents=True)
    kept.touch()
    for arguments, message in (
        ("--out runs", "--out runs is there already; it must be a new folder"),
        ("--iterations 19", "--iterations is 19; it must be at least 20"),
    ):
        with pytest.raises(SystemExit):
            long_run.main(arguments.split())
        assert message in capsys.readouterr().err
    assert kept.exists()
    (tmp_path / "runs/long-run/old").mkdir(parents=True)
    long_run.main(["--iterations", "20", "--learner", "multitask"])
    assert (tmp_path / "runs/long-run/metrics.csv").exists() and not (tmp_path / "runs/long-run/old").exists()
