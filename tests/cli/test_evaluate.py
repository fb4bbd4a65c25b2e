"""`python -m mamlrl.evaluate`: tables, files, pooling, protocol, and what goes wrong."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mamlrl.config.files import make_config, shipped_settings
from mamlrl.errors import ConfigError
from mamlrl.evaluate import main
from mamlrl.evaluation import comparison
from mamlrl.evaluation.held_out import AdaptationResult
from mamlrl.evaluation.protocols import PAPER, paper_protocol
from mamlrl.run_folder.figures import Comparison, Curve, figure
from mamlrl.run_folder.pretrained import find_checkpoints
from mamlrl.statistics import INTERVALS

from .conftest import SMALL, Command, assert_fails, runner

MISMATCH = ", adapted to another task"
FEW = "--tasks 3 --rollouts 2 --steps 2 --threads 1"


@pytest.fixture
def evaluate(command: Command, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the evaluation in the folder of `command`."""
    return runner(main, capsys)


def read_csv(folder: str, name: str = "evaluation.csv") -> list[dict[str, str]]:
    with Path(folder, name).open() as file:
        return list(csv.DictReader(file))


def train(command: Command, learner: str = "maml", seed: int = 1, out: str = "run", *flags: str) -> None:
    outcome = command(*SMALL, f"--iterations 1 --learner {learner} --seed {seed} --out {out}", *flags)
    assert outcome.code == 0, outcome.err


def test_an_evaluation_leaves_table_csv_figure_and_events(command: Command, evaluate: Command) -> None:
    train(command)
    outcome = evaluate(f"run --random --out results {FEW}")
    assert (outcome.code, outcome.err) == (0, "")
    for word in ("maml", "random", "0 steps", "1 step ", "2 steps", "±", "3 tasks", "results: results"):
        assert word in outcome.out
    rows = read_csv("results")
    assert list(rows[0]) == ["method", "seed", "task", "task_0", "task_1", "step", "return"]
    assert len(rows) == 2 * 3 * 3
    assert {row["method"] for row in rows} == {"maml", "random"}
    assert Path("results/evaluation.png").read_bytes().startswith(b"\x89PNG")
    mean = np.mean([float(row["return"]) for row in rows if row["method"] == "maml" and row["step"] == "2"])
    assert {row["quantity"] for row in read_csv("results", "summary.csv")} == {"return"}
    summary = {(row["method"], row["step"]): row for row in read_csv("results", "summary.csv")}
    assert float(summary["maml", "2"]["mean"]) == pytest.approx(mean, rel=1e-6)
    assert summary["maml", "2"]["interval"] == INTERVALS["student"] and summary["maml", "2"]["over"] == "3 tasks"
    tags = EventAccumulator("results/tensorboard").Reload().Tags()
    assert tags["images"] == ["evaluation"]
    assert tags["scalars"] == []  # TensorBoard would smooth them over gradient steps


@pytest.mark.parametrize("writes", ["RecordWriter.write", "RecordWriter.flush"])
@pytest.mark.parametrize("folder_is_there", [True, False])
def test_a_full_disk_is_one_line_and_the_folder_can_be_named_again(
    command: Command, evaluate: Command, monkeypatch: pytest.MonkeyPatch, folder_is_there: bool, writes: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    train(command)
    if folder_is_there:
        Path("results").mkdir()
        Path("results/notes.txt").touch()
    with monkeypatch.context() as patch:
        patch.setattr(f"tensorboard.summary.writer.record_writer.{writes}", full)
        outcome = evaluate(f"run --out results {FEW}")
    assert_fails(outcome, 1, "error: results/tensorboard", "No space left on device")
    assert "3 tasks" in outcome.out  # what took minutes is seen all the same
    assert [path.name for path in Path().glob("results/*")] == (["notes.txt"] if folder_is_there else [])
    assert Path("results").exists() == folder_is_there
    assert evaluate(f"run --out results {FEW}").code == 0


def test_the_csv_holds_the_tasks_themselves(command: Command, evaluate: Command) -> None:
    train(command)
    train(command, "multitask", out="other")
    assert evaluate(f"run other --out results {FEW}").code == 0
    tasks = {(row["task"], row["task_0"], row["task_1"]) for row in read_csv("results")}
    assert len(tasks) == 3  # the same for both methods and all steps
    assert all(abs(float(number)) <= 0.5 for task in tasks for number in task[1:])  # goals of 2D navigation


def test_what_the_environment_measures_has_a_table_and_a_column(command: Command, evaluate: Command) -> None:
    tiny = "--sampling.tasks 2 --sampling.rollouts 2 --environment.horizon 4 --policy.hidden_sizes [8] --threads 1"
    assert command(f"--env tests.cli.toy_envs:toy/MeasuredLine-v0 {tiny} --iterations 1 --out run").code == 0
    outcome = evaluate(f"run --out results {FEW}")
    assert outcome.code == 0, outcome.err
    assert "\nsuccess:\n" in outcome.out and outcome.out.count("| maml ") == 2
    rows = read_csv("results")
    assert all(0 <= float(row["success"]) <= 1 for row in rows) and len(rows) == 3 * 3
    summary = read_csv("results", "summary.csv")
    assert [row["quantity"] for row in summary] == ["return"] * 3 + ["success"] * 3
    mean = np.mean([float(row["success"]) for row in rows if row["step"] == "1"])
    assert float(summary[4]["mean"]) == pytest.approx(mean)


@pytest.mark.parametrize("kind", INTERVALS)
def test_the_kind_of_interval_is_named_wherever_it_stands(command: Command, evaluate: Command, kind: str) -> None:
    train(command)
    outcome = evaluate(f"run --interval {kind} --out results {FEW}")
    assert outcome.code == 0, outcome.err
    assert f"{INTERVALS[kind]} over" in outcome.out
    assert {row["interval"] for row in read_csv("results", "summary.csv")} == {INTERVALS[kind]}


def test_a_checkpoint_alone_is_enough_and_the_seed_says_the_numbers(command: Command, evaluate: Command) -> None:
    train(command)
    shutil.copy("run/checkpoints/best.pt", "policy.pt")
    assert evaluate(f"run --out first {FEW}").code == 0
    shutil.rmtree("run")
    assert evaluate(f"policy.pt --out second {FEW}").code == 0
    assert evaluate(f"policy.pt --out third --seed 2 {FEW}").code == 0
    assert read_csv("first") == read_csv("second") != read_csv("third")


def test_runs_that_differ_in_the_seed_are_pooled(command: Command, evaluate: Command) -> None:
    for seed in (1, 2):
        train(command, seed=seed, out=f"all/maml-{seed}")
    train(command, "multitask", out="all/multitask")
    train(command, "maml", 3, "all/other", "--adaptation.step_size 0.3 --name other")
    outcome = evaluate(f"all --out results {FEW}")
    assert outcome.code == 0, outcome.err
    lines = {line.split("|")[1].strip(): line for line in outcome.out.splitlines() if line.startswith("|")}
    assert "2 seeds" in lines["maml (step_size 0.5)"]
    assert "3 tasks" in lines["maml (step_size 0.3)"] and "3 tasks" in lines["multitask"]
    seeds = {(row["method"], row["seed"]) for row in read_csv("results")}
    low, high = "maml (step_size 0.3)", "maml (step_size 0.5)"
    assert seeds == {(high, "1"), (high, "2"), (low, "3"), ("multitask", "1")}


def test_checkpoints_of_one_seed_are_not_taken_for_several(command: Command, evaluate: Command) -> None:
    train(command)
    outcome = evaluate(f"run run run/checkpoints/iteration-000001.pt --out results {FEW}")
    assert outcome.code == 0, outcome.err
    assert "| maml (best) " in outcome.out and "| maml (iteration-000001) " in outcome.out
    assert "seeds" not in outcome.out
    assert len(read_csv("results")) == 2 * 3 * 3


def test_checkpoints_that_lie_without_a_run(command: Command, evaluate: Command) -> None:
    train(command)
    for seed in (1, 2):
        Path(f"pretrained/maml/seed-{seed}").mkdir(parents=True)
        shutil.copy("run/checkpoints/best.pt", f"pretrained/maml/seed-{seed}/checkpoint.pt")
    found = [path.as_posix() for path in find_checkpoints(Path("pretrained"))]
    assert found == ["pretrained/maml/seed-1/checkpoint.pt", "pretrained/maml/seed-2/checkpoint.pt"]
    Path("run/checkpoints/best.pt").unlink()
    assert find_checkpoints(Path("run")) == [Path("run/checkpoints/iteration-000001.pt")]
    assert find_checkpoints(Path("run/checkpoints")) == find_checkpoints(Path("run"))
    assert evaluate(f"pretrained/maml --out results {FEW}").code == 0


def test_a_full_disk_leaves_no_half_written_table(
    command: Command, evaluate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(command)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    outcome = evaluate(f"run --out results {FEW}")
    assert_fails(outcome, 1, "results/evaluation.csv", "No space left")
    assert "| maml " in outcome.out  # what took minutes is not lost
    assert not Path("results").exists()


def test_results_are_written_though_nobody_reads_on(command: Command) -> None:
    train(command)
    words = [sys.executable, "-m", "mamlrl.evaluate", "run", "--out", "results", *FEW.split()]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline().startswith("maml, seed 1")
    process.stdout.close()  # what `| head -1` does
    assert process.wait(timeout=120) == 141
    assert process.stderr and "error" not in process.stderr.read().lower()
    assert Path("results/evaluation.csv").exists()


def test_default_folder_and_schedule(command: Command, evaluate: Command) -> None:
    train(command)
    assert evaluate(f"run {FEW}").code == 0
    (folder,) = Path("runs/evaluations").iterdir()
    assert folder.name.startswith("navigation-")
    assert evaluate(f"run {FEW} --step_size_schedule constant --out constant").code == 0
    halved, constant = read_csv(str(folder)), read_csv("constant")
    same = [one["return"] == other["return"] for one, other in zip(halved, constant, strict=True)]
    steps = [row["step"] for row in halved]
    assert all(same[row] == (step != "2") for row, step in enumerate(steps))


def test_a_policy_adapted_to_another_task_than_it_acts_in(command: Command, evaluate: Command) -> None:
    """Returns are those of one's own task after other steps; and before any step both rows are the same."""
    train(command)
    assert evaluate(f"run {FEW} --mismatched --out results").code == 0
    rows = read_csv("results")
    own, other = ([row for row in rows if row["method"] == name] for name in ("maml", f"maml{MISMATCH}"))
    assert len(own) == len(other) > 0
    for one, two in zip(own, other, strict=True):
        assert [one[name] for name in ("task_0", "task_1")] == [two[name] for name in ("task_0", "task_1")]
        assert (one["return"] == two["return"]) == (one["step"] == "0")


def test_another_task_differs() -> None:
    tasks = np.array([[1.0], [1.0], [-1.0], [1.0]])
    assert comparison.other_tasks(tasks).tolist() == [[-1.0], [-1.0], [1.0], [-1.0]]
    assert comparison.other_tasks(tasks[1:3]).tolist() == [[-1.0], [1.0]]
    with pytest.raises(ConfigError, match="all 2 are the same"):
        comparison.other_tasks(tasks[:2])


def test_what_does_not_adapt_is_not_mismatched(command: Command, evaluate: Command) -> None:
    train(command, "oracle", 1, "seeing")
    assert_fails(evaluate("seeing --mismatched --out results"), 2, "--mismatched", "none of these does")


def test_the_papers_tasks_are_those_of_its_seed() -> None:
    np.random.seed(1)  # noqa: NPY002 (the very tasks of the paper)
    goals = np.random.uniform(-0.5, 0.5, (40, 2))  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    velocities = np.random.uniform(0, 2, 40)  # noqa: NPY002
    assert np.array_equal(PAPER["mamlrl/Navigation2D-v0"].tasks(), goals)
    assert np.array_equal(PAPER["mamlrl/HalfCheetahVel-v0"].tasks()[:, 0], velocities)
    directions = PAPER["mamlrl/HalfCheetahDir-v0"].tasks()[:, 0]
    assert np.array_equal(directions, [-1.0 if velocity < 1 else 1.0 for velocity in velocities])
    assert np.array_equal(PAPER["mamlrl/AntVel-v0"].tasks()[:, 0], velocities * 1.5)
    np.random.seed(2)  # noqa: NPY002
    directions = PAPER["mamlrl/AntDir-v0"].tasks()[:, 0]
    assert np.array_equal(directions, np.where(np.random.uniform(0, 3, 40) < 1.5, -1.0, 1.0))  # noqa: NPY002


def test_the_papers_protocol(command: Command, evaluate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(*SMALL, "--environment.horizon 100 --iterations 1 --out run").code == 0
    calls = []

    def recorded(
        config: object, trained: object, seed: int, tasks: np.ndarray, mismatched: bool
    ) -> tuple[np.ndarray, AdaptationResult]:
        calls.append((config, tasks))
        return tasks, AdaptationResult(np.zeros((4, 40)), {})

    monkeypatch.setattr(comparison, "evaluate_config", recorded)
    outcome = evaluate("run --protocol paper --out results")
    assert outcome.code == 0, outcome.err
    ((config, tasks),) = calls
    assert (config.eval.tasks, config.eval.rollouts, config.eval.steps) == (40, 40, 3)
    assert config.eval.step_size_schedule == "halve"
    assert np.array_equal(tasks, PAPER["mamlrl/Navigation2D-v0"].tasks())
    assert "-11.68" in outcome.out and "published" in outcome.out


def test_the_papers_protocol_is_for_the_papers_environments() -> None:
    for name in ("navigation", "navigation-paper", "cheetah-vel-paper", "cheetah-dir-paper-original", "ant-vel-paper"):
        assert paper_protocol(make_config(shipped_settings(name)))
    for name, words in (
        ("cheetah-vel", "frame_skip is 5, in the paper 1"),
        ("ant-goal", "AntGoal"),
        ("ant-vel", "ant-vel-paper"),
    ):
        with pytest.raises(ConfigError, match=words):
            paper_protocol(make_config(shipped_settings(name)))


def test_published_values_stand_once_beneath_all_methods_of_a_learner() -> None:
    ends = [(-41.0, -39.0), (-10.0, -8.0)]
    names = ("maml (ours)", "maml (theirs)", "random")
    curves = [Curve(name, name.partition(" ")[0], [-40.0, -9.0], ends, "40 tasks") for name in names]
    shown = Comparison("title", INTERVALS["student"], curves, {"maml": (-40.41, -11.68)})
    rows = [line.split("|")[1:4] for line in comparison.table(shown).splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["maml (ours)", "maml (theirs)", "published", "random"]
    assert [cell.strip() for cell in rows[2]] == ["published", "-40.41", "-11.68"]
    canvas = figure(shown)
    (axes,) = canvas.axes
    bars = [line for line in axes.get_lines() if line.get_marker() == "_" and len(np.asarray(line.get_ydata()))]
    assert [np.asarray(line.get_xydata()).tolist() for line in bars] == [[[0, -40.41], [1, -11.68]]]
    (curve, *_) = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert bars[0].get_markersize() > 2 * curve.get_markersize()  # seen though a point lies on it
    assert bars[0].get_zorder() < curve.get_zorder()
    assert "published" in [text.get_text() for text in canvas.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("nowhere", ["nowhere", "no such file or folder"]),
        ("empty", ["empty", "holds no checkpoint"]),
        ("", ["RUN"]),
        ("run/config.yaml", ["run/config.yaml: no checkpoint", "a run folder or a checkpoint file"]),
        ("run --tasks 0", ["--tasks", "0", "at least 1"]),
        ("run --steps 0", ["--steps", "0", "at least 1"]),
        ("run --rollouts many", ["--rollouts", "many"]),
        ("run --seed -1", ["--seed", "-1", "at least 0"]),
        ("run --protocol papers", ["--protocol", "papers", "paper"]),
        ("run --protocol paper --tasks 3", ["--protocol", "--tasks"]),
        ("run --protocol paper", ["environment.horizon is 8, in the paper 100"]),
        ("run --step_size_schedule sometimes", ["sometimes", "halve"]),
        ("run --device tpu", ["tpu", "cpu or cuda"]),
        ("run --threads -1", ["threads", "-1"]),
        ("run --task 3", ["--task"]),
        ("run --out run/config.yaml", ["run/config.yaml", "not a folder"]),
        ("run --out run/config.yaml/below", ["not a folder"]),
        ("run --out done", ["done", "holds evaluation.csv already"]),
        ("run --out drawn", ["drawn", "holds evaluation.png already"]),
        ("run --out watched", ["watched", "holds tensorboard already"]),
        ("run --out summed", ["summed", "holds summary.csv already"]),
        ("run --mismatched --tasks 1", ["--mismatched", "tasks that differ; there is one: ask for more", "--tasks"]),
        ("run --interval wide", ["--interval", "wide", "bootstrap", "standard_error"]),
    ],
)
def test_a_wrong_command_is_one_clear_line(command: Command, evaluate: Command, flags: str, words: list[str]) -> None:
    train(command)
    Path("empty").mkdir()
    earlier = ("done/evaluation.csv", "drawn/evaluation.png", "watched/tensorboard", "summed/summary.csv")
    for result in map(Path, earlier):
        result.parent.mkdir()
        result.touch()
    before = sorted(Path().rglob("*"))
    assert_fails(evaluate(flags), 2, *words)
    assert sorted(Path().rglob("*")) == before


def test_checkpoints_that_do_not_fit(command: Command, evaluate: Command) -> None:
    train(command)
    train(command, "maml", 1, "other", "--environment.horizon 9")
    assert_fails(evaluate("run other --out results"), 2, "other", "environment.horizon is 9, not 8")
    Path("damaged.pt").write_bytes(b"damaged")
    assert_fails(evaluate("damaged.pt --out results"), 1, "damaged.pt", "no checkpoint")
    content = torch.load("run/checkpoints/best.pt", weights_only=True)
    content["state"]["meta"]["init"]["weight_0"] = torch.zeros(5, 8)
    torch.save(content, "shapes.pt")
    assert_fails(evaluate("shapes.pt --out results"), 1, "shapes.pt", "weight_0", "[5, 8]", "[2, 8]")
    content["config"]["sampling"]["tasks"] = "many"
    torch.save(content, "settings.pt")
    assert_fails(evaluate("settings.pt --out results"), 1, "settings.pt", "sampling.tasks", "many")
    assert not Path("results").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(command: Command, evaluate: Command) -> None:
    train(command)
    Path("locked").mkdir(mode=0o500)
    assert_fails(evaluate(f"run --out locked/results {FEW}"), 1, "locked/results", "Permission denied")


def of_four_steps(method: str, over: str) -> Curve:
    means = [-142.12, -42.12, -12.25, -11.1]
    return Curve(method, method, means, [[mean - 9.5, mean + 9.5] for mean in means], over)


def test_tables_fit_80_columns_and_the_interval_is_named_once() -> None:
    curves = [of_four_steps("maml", "40 tasks"), of_four_steps("random", "40 tasks")]
    lines = comparison.report([Comparison("title", INTERVALS["student"], curves, {})]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2] == "Mean and 95% interval (Student's t) over 40 tasks"
    assert "over" not in "".join(lines[3:])


def test_a_last_column_says_over_what_intervals_are_where_that_differs() -> None:
    curves = [of_four_steps("maml", "3 seeds"), of_four_steps("random", "40 tasks")]
    lines = comparison.report([Comparison("title", INTERVALS["student"], curves, {})]).splitlines()
    assert lines[2].endswith("over what the last column says")
    assert [line.split("|")[-2].strip() for line in lines[4:]] == ["over", "--------", "3 seeds", "40 tasks"]


def test_untrained_policies_of_other_networks_are_told_apart(command: Command, evaluate: Command) -> None:
    train(command, out="small")
    train(command, "maml", 1, "wide", "--policy.hidden_sizes [16]")
    train(command, "maml", 1, "slow", "--trust_region.max_kl 0.02")  # the same before it is trained
    assert evaluate(f"small wide slow --random --out results {FEW}").code == 0
    methods = {row["method"] for row in read_csv("results")}
    assert {name for name in methods if "random" in name} == {"random (hidden_sizes [8])", "random (hidden_sizes [16])"}


def test_one_untrained_policy_does_for_learners_with_other_inner_steps(command: Command, evaluate: Command) -> None:
    train(command, out="steps")
    train(command, "fomaml", 1, "longer", "--adaptation.step_size 0.7")
    assert evaluate(f"longer steps --random --out results {FEW}").code == 0
    assert evaluate(f"steps --random --out alone {FEW}").code == 0
    rows, alone = ([row for row in read_csv(name) if row["method"] == "random"] for name in ("results", "alone"))
    assert rows == alone and rows
    assert len({row["method"] for row in read_csv("results")}) == 3
