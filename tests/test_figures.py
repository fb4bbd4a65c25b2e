"""The scripts that draw learning curves and rollouts, and the one that reproduces a result."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import plot_results, render_rollouts
from mamlrl.train import main as train


def write_run(folder: Path, name: str, rows: list[str], header: str = "iteration,return/step_0,return/step_1") -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"name: {name}\nenv: mamlrl/Navigation2D-v0\n")
    (folder / "metrics.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_reads_the_returns_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "navigation", ["1,-50,-30", "2,-48,-20"])
    curves = plot_results.read_curves(run, "return")
    assert curves.name == "navigation"
    assert curves.iterations.tolist() == [1, 2]
    assert {step: values.tolist() for step, values in curves.returns.items()} == {0: [-50, -48], 1: [-30, -20]}


def test_a_run_without_a_short_name_has_its_environment(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "''", ["1,-50,-30"])
    assert plot_results.read_curves(run, "return").name == "mamlrl/Navigation2D-v0"


def test_mean_of_runs_skips_what_was_not_measured(tmp_path: Path) -> None:
    header = "iteration,return/step_0,eval/return/step_0"
    runs = [
        plot_results.read_curves(write_run(tmp_path / "a", "n", ["1,0,", "2,0,-4", "3,0,"], header), "eval/return"),
        plot_results.read_curves(write_run(tmp_path / "b", "n", ["1,0,", "2,0,-2"], header), "eval/return"),
    ]
    iterations, returns = plot_results.mean_curve(runs, 0)
    assert iterations.tolist() == [2]
    assert returns.tolist() == [-3]


def test_smoothing_is_a_centred_mean() -> None:
    assert plot_results.smooth(np.array([0.0, 3.0, 6.0, 0.0]), 3).tolist() == [1.5, 3.0, 3.0, 3.0]
    assert plot_results.smooth(np.array([1.0, 2.0]), 1).tolist() == [1.0, 2.0]


def test_reference_names_configuration_steps_and_return() -> None:
    assert plot_results.parse_reference("cheetah-dir-paper:1=293.19") == ("cheetah-dir-paper", 1, 293.19)
    with pytest.raises(argparse.ArgumentTypeError, match="NAME:STEPS=RETURN"):
        plot_results.parse_reference("navigation=-11")


def test_writes_a_figure_of_curves_and_pictures(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", "navigation", ["1,-50,-30", "2,-48,-20"])
    b = write_run(tmp_path / "b", "cheetah-dir", ["1,-5,3"])
    figure = tmp_path / "figures" / "curves.png"
    assert plot_results.main([str(a), str(b), "--out", str(figure), "--reference", "navigation:1=-11.68"]) == 0
    with_picture = tmp_path / "all.png"
    assert plot_results.main([str(a), "--out", str(with_picture), "--image", str(figure)]) == 0
    assert figure.stat().st_size > 0
    assert with_picture.stat().st_size > 0


def test_a_folder_that_is_no_run_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot_results.main([str(tmp_path), "--out", str(tmp_path / "x.png")]) == 1
    assert "is no run folder" in capsys.readouterr().err
    run = write_run(tmp_path / "a", "navigation", ["1,-50,-30"])
    assert plot_results.main([str(run), "--metric", "eval/return", "--out", str(tmp_path / "x.png")]) == 1
    assert "no column eval/return/step_0" in capsys.readouterr().err


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
    first = reproduce("cheetah-dir", str(tmp_path), *small)
    assert first.returncode == 0, first.stderr
    assert "| maml " in first.stdout and "200 tasks" in first.stdout
    assert (tmp_path / "maml" / "seed-1" / "checkpoints" / "iteration-000002.pt").exists()
    again = reproduce("cheetah-dir", str(tmp_path))
    assert again.returncode == 0, again.stderr
    assert "iteration 1/2" not in again.stdout and len(list(tmp_path.glob("evaluation-*/evaluation.png"))) == 2


def test_a_result_that_there_is_not(tmp_path: Path) -> None:
    outcome = reproduce("cheetah-dri", str(tmp_path / "out"))
    assert outcome.returncode == 2 and "no results of cheetah-dri" in outcome.stderr
    assert not (tmp_path / "out").exists()
