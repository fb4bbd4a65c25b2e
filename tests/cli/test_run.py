"""A run from start to end: its folder, metrics, checkpoints, and what stops it."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mamlrl
from mamlrl.envs.navigation import Navigation2DEnv
from mamlrl.experiment import Experiment
from mamlrl.learners.base import LearnerState
from mamlrl.run_folder.checkpoints import Progress, read_content
from mamlrl.training import run as training
from mamlrl.training.loop import save_if_best

from .conftest import SMALL, Command, assert_fails, read_metrics, reproducible

ROOT = Path(__file__).parents[2]
PER_ITERATION = """
return/step_0 return/step_1 return_interval/step_0 return_interval/step_1 trust_region/kl
trust_region/surrogate_improvement trust_region/cg_residual trust_region/cg_iterations trust_region/backtracks
trust_region/accepted policy/std
policy/entropy policy/saturated_fraction baseline/explained_variance time/sample time/adapt time/update env_steps
""".split()


def test_every_metric_is_explained(small_run: Command) -> None:
    small_run("--iterations 1 --out run --eval.every 1 --eval.tasks 2 --eval.rollouts 2")
    explained = re.findall(r"`([\w/]+)`", (ROOT / "docs" / "algorithm.md").read_text().partition("## Metrics")[2])
    found = {re.sub(r"step_\d+$", "step_k", name) for name in read_metrics("run")[0]}
    assert "eval/return/step_k" in found
    assert found - set(explained) == {"iteration"}


def test_a_run_leaves_everything_that_was_promised(small_run: Command) -> None:
    outcome = small_run("--iterations 3 --out run")
    assert (outcome.code, outcome.err) == (0, "")
    assert "iteration 3/3: return" in outcome.out and "run folder: run" in outcome.out

    rows = read_metrics("run")
    assert [row["iteration"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        assert all(row[name] != "" for name in PER_ITERATION)
    assert int(rows[-1]["env_steps"]) == 3 * 2 * 4 * 3 * 8  # iterations, rounds, tasks, rollouts, steps

    checkpoints = {path.name for path in Path("run/checkpoints").iterdir()}
    assert checkpoints == {"best.pt", "iteration-000002.pt", "iteration-000003.pt"}
    for package in ("commit", "python", "torch", "numpy", "mujoco", "gymnasium"):
        assert package in Path("run/versions.txt").read_text()


def test_tensorboard_has_the_metrics_of_the_csv(small_run: Command) -> None:
    small_run("--iterations 2 --out run --eval.every 2 --eval.tasks 2 --eval.rollouts 2 --eval.steps 1")
    events = EventAccumulator("run")
    events.Reload()
    for iteration, row in enumerate(read_metrics("run"), start=1):
        for name in row.keys() - {"iteration"}:
            logged = {event.step: event.value for event in events.Scalars(name)}
            if row[name] == "":
                assert iteration not in logged
            else:
                assert logged[iteration] == pytest.approx(float(row[name]), rel=1e-6, nan_ok=True)


def test_default_folder_names_environment_learner_and_seed(small_run: Command, command: Command) -> None:
    for _ in range(2):  # in the same second, too
        assert small_run("--iterations 1 --seed 5").code == 0
    assert len(list(Path("runs/navigation/maml").glob("seed-5-*"))) == 2
    assert command(*SMALL[2:], "--env tests.cli.toy_envs:toy/Line-v0 --iterations 1").code == 0
    assert len(list(Path("runs/tests.cli.toy_envs-toy-Line-v0/maml").iterdir())) == 1


def test_config_yaml_repeats_the_run(small_run: Command, command: Command) -> None:
    small_run("--iterations 2 --adaptation.steps 2 --out first")
    assert command("--config first/config.yaml --out second").code == 0
    assert reproducible("first") == reproducible("second")
    assert Path("first/config.yaml").read_text() == Path("second/config.yaml").read_text()
    assert "return/step_2" in read_metrics("first")[0]


def test_held_out_evaluation_changes_nothing_else(small_run: Command) -> None:
    small_run("--iterations 4 --out plain")
    small_run("--iterations 4 --out evaluated --eval.every 2 --eval.tasks 3 --eval.rollouts 2 --eval.steps 2")
    rows = reproducible("evaluated")
    evaluations = [{name: row.pop(name) for name in list(row) if name.startswith("eval/")} for row in rows]
    assert rows == reproducible("plain")
    assert [all(evaluation.values()) for evaluation in evaluations] == [False, True, False, True]
    assert [name for name in evaluations[0] if "interval" not in name] == [f"eval/return/step_{k}" for k in range(3)]


def test_a_run_too_short_for_an_evaluation_names_no_best_return(small_run: Command) -> None:
    outcome = small_run("--iterations 1 --out run --eval.every 2")
    assert "done: 1 iteration\n" in outcome.out
    last = "run/checkpoints/iteration-000001.pt"
    assert f"no evaluation was due (eval.every is 2), so none is best; the last policy is {last}\n" in outcome.out
    assert mamlrl.load("run").meta.init.keys() == read_content(Path(last))["state"]["meta"]["init"].keys()
    assert not Path("run/checkpoints/best.pt").exists()


def test_a_score_that_is_no_number_is_not_the_best() -> None:
    saved: list[float] = []
    folder = SimpleNamespace(save_best=lambda progress: saved.append(progress.best_return))
    progress = Progress(None, best_return=-0.5)  # type: ignore[arg-type]
    for score in (math.nan, -1.0, -0.25):
        progress = save_if_best(folder, progress, progress, score)  # type: ignore[arg-type]
    assert saved == [-0.25] and progress.best_return == -0.25


def test_the_best_checkpoint_holds_the_parameters_that_were_measured(small_run: Command) -> None:
    small_run("--iterations 6 --out run --checkpoint.keep 100")
    returns = [float(row["return/step_1"]) for row in read_metrics("run")]
    best = read_content(Path("run/checkpoints/best.pt"))
    assert best["best_return"] == max(returns)
    before = read_content(Path(f"run/checkpoints/iteration-{returns.index(max(returns)):06d}.pt"))
    assert best["iteration"] == before["iteration"]
    for name, leaf in best["state"]["meta"]["init"].items():
        assert torch.equal(leaf, before["state"]["meta"]["init"][name])


def test_a_best_checkpoint_that_is_the_untrained_policy_is_said_to_be_one(small_run: Command) -> None:
    """Without an evaluation the first iteration measures it; an evaluation measures what the update has made of it."""
    note = "best.pt, the untrained one\n"
    assert note in small_run("--iterations 1 --out first").out
    assert read_content(Path("first/checkpoints/best.pt"))["iteration"] == 0
    assert note not in small_run("--iterations 1 --out measured --eval.every 1 --eval.tasks 3 --eval.rollouts 2").out
    assert read_content(Path("measured/checkpoints/best.pt"))["iteration"] == 1
    out, best = small_run("--iterations 6 --out later").out, read_content(Path("later/checkpoints/best.pt"))
    assert (note in out) == (best["iteration"] == 0)


def test_the_best_checkpoint_of_a_run_that_evaluates_adapts_best_to_held_out_tasks(small_run: Command) -> None:
    small_run("--iterations 6 --out run --checkpoint.keep 100 --eval.every 2 --eval.tasks 3 --eval.rollouts 2")
    rows = read_metrics("run")[1::2]
    adapted = [sum(float(row[f"eval/return/step_{k}"]) for k in (1, 2, 3)) / 3 for row in rows]
    best, number = read_content(Path("run/checkpoints/best.pt")), 2 + 2 * adapted.index(max(adapted))
    assert best["best_return"] == pytest.approx(max(adapted))
    assert best["iteration"] == number
    measured = read_content(Path(f"run/checkpoints/iteration-{number:06d}.pt"))
    for name, leaf in best["state"]["meta"]["init"].items():
        assert torch.equal(leaf, measured["state"]["meta"]["init"][name])


def test_discrete_actions_train_too(command: Command) -> None:
    assert command(*SMALL[2:], "--env tests.cli.toy_envs:toy/DiscreteLine-v0 --iterations 2 --out run").code == 0
    assert "policy/std" not in read_metrics("run")[0]


def test_out_that_holds_a_run_is_left_alone(small_run: Command) -> None:
    small_run("--iterations 1 --out run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert_fails(small_run("--iterations 2 --out run"), 2, "run", "holds a run already", "--resume")
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


def test_out_that_cannot_be_a_folder(small_run: Command) -> None:
    Path("file").touch()
    assert_fails(small_run("--out file"), 2, "file", "not a folder")
    assert_fails(small_run("--out file/run"), 1, "file/run", "Not a directory")


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("TasklessLine", ["sample_tasks"]),
        ("NaNRewardLine", ["rewards", "not finite"]),
        ("NaNObservationLine", ["observations", "not finite"]),
        ("FarTasksLine", ["7"]),
    ],
)
def test_an_environment_that_misbehaves(command: Command, family: str, words: list[str]) -> None:
    outcome = command(*SMALL[2:], f"--env tests.cli.toy_envs:toy/{family}-v0")
    assert_fails(outcome, outcome.code or 1, family, *words)


def test_policy_that_does_not_fit_the_actions(small_run: Command) -> None:
    assert_fails(small_run("--policy.network categorical_mlp"), 2, "policy.network", "categorical_mlp", "gaussian_mlp")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device(small_run: Command) -> None:
    assert_fails(small_run("--device cuda"), 2, "cuda", "--device cpu")
    assert list(Path().iterdir()) == []


def test_full_disk_leaves_the_earlier_checkpoints(small_run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Path("run/checkpoints")

    def fsync(descriptor: int) -> None:
        unfinished = [path.stat() for path in checkpoints.glob(".*.partial.pt")]
        is_checkpoint = any(os.path.samestat(os.fstat(descriptor), one) for one in unfinished)
        if is_checkpoint and (checkpoints / "iteration-000002.pt").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert_fails(small_run("--iterations 20 --out run"), 1, "run/checkpoints", "No space left on device")
    assert not list(checkpoints.glob(".*.partial*"))
    small_run("--iterations 20 --out whole")
    assert small_run("--resume run --iterations 20").code == 0
    assert reproducible("run") == reproducible("whole")


def test_three_nonfinite_updates_in_a_row_end_the_run(small_run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    meta_iteration = training.meta_iteration

    def refused(experiment: Experiment, state: object, iteration: int) -> object:
        new_state, outcome = meta_iteration(experiment, state, iteration)  # type: ignore[arg-type]
        if iteration in (1, 2) or iteration >= 4:
            return state, outcome._replace(not_finite=True)
        return new_state, outcome

    monkeypatch.setattr(training, "meta_iteration", refused)
    assert_fails(small_run("--iterations 20 --out run"), 1, "Navigation2D", "3 iterations in a row", "non-finite")
    assert len(read_metrics("run")) == 7
    last = read_content(Path("run/checkpoints/iteration-000007.pt"))
    assert all(leaf.isfinite().all() for leaf in last["state"]["meta"]["init"].values())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--outer sgd --sgd.rate 1000", {"sgd/nonfinite": 1, "sgd/kl": 0, "sgd/surrogate_improvement": 0}),
        ("--learner metasgd", {"trust_region/nonfinite": 1, "trust_region/accepted": 0, "trust_region/kl": 0}),
        ("--learner tests.cli.toy_learners:Reptile", {}),
    ],
)
def test_the_metrics_of_a_step_whose_policy_could_act_no_more_are_those_of_a_refused_one(
    tiny_run: Command, monkeypatch: pytest.MonkeyPatch, flags: str, expected: dict[str, float]
) -> None:
    """Also where the step itself ended well, at finite parameters."""
    if "sgd.rate" not in flags:
        monkeypatch.setattr("mamlrl.training.iteration.can_act", lambda *_: False)
    assert tiny_run(f"{flags} --iterations 1 --out run").code == 0
    (row,) = read_metrics("run")
    assert {name: float(row[name]) for name in ("update/nonfinite", *expected)} == {"update/nonfinite": 1, **expected}
    init, after = (read_content(Path(f"run/checkpoints/iteration-00000{n}.pt"))["state"]["meta"] for n in (0, 1))
    assert str(init) == str(after)


NOT_FINITE = {
    "parameters": lambda state, nan: state._replace(meta=state.meta._replace(init={**state.meta.init, "free": nan})),
    "step sizes": lambda state, nan: state._replace(meta=state.meta._replace(step_sizes=({"free": nan},))),
    "optimiser": lambda state, nan: state._replace(optimiser={"updates": 3, "moments": ([nan], 0.5)}),
}


@pytest.mark.parametrize("spoil", NOT_FINITE.values(), ids=NOT_FINITE)
def test_a_state_that_is_not_finite_is_refused_whatever_its_learner_says(
    small_run: Command, command: Command, monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., LearnerState]
) -> None:
    meta_iteration = training.meta_iteration

    def spoiled(experiment: Experiment, state: LearnerState, iteration: int) -> object:
        new_state, outcome = meta_iteration(experiment, state, iteration)
        if iteration in (1, 2) or iteration >= 4:
            return spoil(new_state, torch.full((2,), float("inf" if iteration == 1 else "nan"))), outcome
        return new_state, outcome

    with monkeypatch.context() as patch:
        patch.setattr(training, "meta_iteration", spoiled)
        outcome = small_run("--iterations 20 --out run --checkpoint.keep 20 --learner tests.cli.toy_learners:Reptile")
    assert_fails(outcome, 1, "Navigation2D", "3 iterations in a row", "toy_learners:Reptile")
    assert "trust_region" not in outcome.err
    refused = [row["update/nonfinite"] for row in read_metrics("run")]
    assert refused == ["0.0", "1.0", "1.0", "0.0", "1.0", "1.0", "1.0"]
    states = [read_content(Path(f"run/checkpoints/iteration-{number:06d}.pt"))["state"] for number in range(8)]
    moved = [str(after) != str(before) for before, after in pairwise(states)]
    assert moved == [True, False, False, True, False, False, False]
    assert command("--resume run --iterations 8").code == 0


def test_an_update_after_which_the_policy_cannot_act_is_refused(small_run: Command, command: Command) -> None:
    # With this seed the log standard deviation grows, to 1e28 or so: finite, but the standard deviation is not.
    flags = "--learner tests.cli.toy_learners:Reptile --learner_settings.rate 1e30 --seed 4"
    assert_fails(small_run("--iterations 9 --out run", flags), 1, "3 iterations in a row")
    assert len(read_metrics("run")) == 3
    assert "actions are not finite" not in command("--resume run").err
    assert mamlrl.load("run").adapt(Navigation2DEnv(), steps=0).act([0.0, 0.0]).shape == (2,)


def test_config_yaml_is_complete(small_run: Command) -> None:
    small_run("--iterations 1 --out run")
    settings = yaml.safe_load(Path("run/config.yaml").read_text())
    assert settings["trust_region"].keys() >= {"max_kl", "cg_damping", "curvature_fraction"}
    assert settings["environment"]["kwargs"]["goal_range"] == 0.5


def test_a_number_of_the_info_that_is_not_there_is_noted_once_with_those_that_are(small_run: Command) -> None:
    flags = f"--env {__package__}.toy_envs:toy/ToldAtTheEnd-v0 --environment.metrics"
    outcome = small_run("--iterations 2 --out run", flags, "[sucess,success:last]")
    assert outcome.code == 0, outcome.err
    note = "note: environment.metrics: no info held 'sucess'; infos hold distance, success\n"
    assert outcome.out.count(note) == 1
    assert "no info" not in small_run("--iterations 1 --out other --environment.metrics success", flags[:-22]).out
    assert "no info" not in small_run("--iterations 1 --out default").out


def test_a_run_is_the_same_with_the_note(small_run: Command) -> None:
    small_run("--iterations 2 --out noted --environment.metrics sucess")
    small_run("--iterations 2 --out plain")
    assert reproducible("noted") == reproducible("plain")
