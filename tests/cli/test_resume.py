"""Runs that are killed, stopped or damaged, and go on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from mamlrl.config.command_line import parse_command
from mamlrl.errors import UserError
from mamlrl.experiment import Experiment
from mamlrl.learners.base import LearnerState
from mamlrl.run_folder.checkpoints import CheckpointError, latest_checkpoint, read_checkpoint, read_content, restore
from mamlrl.structs import MetaParams, Metrics
from mamlrl.training import run as training

from .conftest import SMALL, Command, assert_fails, reproducible
from .toy_learners import Moments

EVALUATED = "--eval.every 2 --eval.tasks 2 --eval.rollouts 2 --eval.steps 1"
REPOSITORY = Path(__file__).parents[2]
LAST = Path("run/checkpoints/iteration-000002.pt")


def run_until_killed(moment: str, *flags: str) -> None:
    """A run in a process of its own that SIGKILL ends when it is about to call the named function the fifth time."""
    module, _, function = moment.partition(":")
    program = f"""
import os, signal, sys
import {module} as module
from mamlrl.train import main
owner, _, name = {function!r}.rpartition(".")
owner = getattr(module, owner) if owner else module
function, calls = getattr(owner, name), []
def deadly(*args, **kwargs):
    calls.append(None)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*args, **kwargs)
setattr(owner, name, deadly)
main(sys.argv[1:])
"""
    words = [word for flag in flags for word in flag.split()]
    process = subprocess.run([sys.executable, "-c", program, *SMALL, *words], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.parametrize("moment", ["mamlrl.training.run:CheckpointFolder.save", "mamlrl.run_folder.files:os.replace"])
def test_a_killed_run_resumes_to_the_last_bit(small_run: Command, command: Command, moment: str) -> None:
    run_until_killed(moment, f"--iterations 7 --out killed {EVALUATED}")
    outcome = command("--resume killed")
    assert outcome.code == 0, outcome.err
    small_run(f"--iterations 7 --out whole {EVALUATED}")
    assert reproducible("killed") == reproducible("whole")
    assert same_parameters("killed", "whole")
    assert Path("killed/config.yaml").read_text() == Path("whole/config.yaml").read_text()
    assert not list(Path("killed").rglob("*.tmp"))


def same_parameters(first: str, second: str) -> bool:
    states = [
        torch.load(max(Path(folder, "checkpoints").glob("iteration-*")), weights_only=True)["state"]["meta"]["init"]
        for folder in (first, second)
    ]
    return all(torch.equal(leaf, states[1][name]) for name, leaf in states[0].items())


def test_a_run_killed_before_its_first_update_can_be_resumed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "meta_iteration", interrupted)
        assert command(*SMALL, "--iterations 2 --out run").code == 130
    assert command("--resume run").code == 0
    assert len(reproducible("run")) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_iteration_and_says_how_to_go_on(
    small_run: Command, command: Command, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    meta_iteration = training.meta_iteration

    def signalled(experiment: Experiment, state: LearnerState, iteration: int) -> object:
        if iteration == 2:
            os.kill(os.getpid(), number)
        return meta_iteration(experiment, state, iteration)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(training, "meta_iteration", signalled)
        outcome = small_run("--iterations 5 --checkpoint.every 4 --out run")
    assert outcome.code == code
    assert "python -m mamlrl.train --resume run" in outcome.out
    assert len(reproducible("run")) == 3
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert command("--resume run").code == 0
    small_run("--iterations 5 --checkpoint.every 4 --out whole")
    assert reproducible("run") == reproducible("whole")


def test_ctrl_c_at_a_terminal_reaches_environment_processes_too(tmp_path: Path) -> None:
    flags = "--env tests.cli.toy_envs:toy/Line-v0 --environment.vectorization async --iterations 100000 --out run"
    command = [sys.executable, "-m", "mamlrl.train", *SMALL[2:], *flags.split(), "--sampling.rollouts", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    wait_for(tmp_path / "run/checkpoints/iteration-000002.pt", process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"--resume run" in out
    assert err.startswith(b"finishing iteration ") and err.count(b"\n") == 1, err


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = """
import os, signal
from mamlrl.training.interrupts import StopRequest
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.exit_code == 143
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (130, "")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, OSError, ValueError])
def test_whatever_ends_a_run_there_is_a_checkpoint_of_the_last_row(
    small_run: Command, command: Command, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fails(iteration: int, metrics: Metrics) -> bool:
        if iteration == 4:
            raise error
        return False

    words = [*SMALL, *"--iterations 6 --out run --checkpoint.every 100".split()]
    with pytest.raises((error, UserError)):  # as a second Ctrl-C in somebody's notebook raises it
        training.run(parse_command(words), fails)
    assert len(reproducible("run")) == 4
    assert Path("run/checkpoints/iteration-000004.pt").exists()
    assert command("--resume run").code == 0
    small_run("--iterations 6 --out whole")
    assert reproducible("run") == reproducible("whole")


def test_a_state_that_init_does_not_build_whole_is_refused_before_it_is_saved(small_run: Command) -> None:
    late, early = (f"--iterations 2 --learner tests.cli.toy_learners:{name}Moments" for name in ("Late", "Early"))
    assert_fails(small_run(late, "--out late"), 1, "state.optimiser is of type dict", "NoneType", "`init`")
    assert [path.name for path in Path("late/checkpoints").iterdir()] == ["iteration-000000.pt"]
    assert small_run(early, "--out early").code == 0
    state = LearnerState(MetaParams({}), None)
    with pytest.raises(ValueError, match="state is of type dict, here it is of type NoneType"):
        restore({"first": torch.zeros(2)}, state.optimiser)


def test_what_an_optimiser_remembers_comes_back_as_it_was(small_run: Command) -> None:
    small_run("--iterations 2 --out run --learner tests.cli.toy_learners:EarlyMoments")
    params = {name: leaf for name, leaf in read_content(LAST)["state"]["meta"]["init"].items()}
    like = LearnerState(MetaParams(params), Moments(torch.zeros(2), 0))
    restored = read_checkpoint(LAST, like).progress.state.optimiser
    assert isinstance(restored, Moments) and restored.updates == 2


def test_a_run_can_be_extended(small_run: Command, command: Command) -> None:
    small_run("--iterations 2 --out run")
    assert command("--resume run --iterations 4").code == 0
    small_run("--iterations 4 --out whole")
    assert reproducible("run") == reproducible("whole")
    assert yaml.safe_load(Path("run/config.yaml").read_text())["iterations"] == 4
    assert "done: 4 iterations" in command("--resume run").out
    assert_fails(command("--resume run --iterations 3"), 2, "iterations", "3", "4")


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "of another policy"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(small_run: Command, command: Command, damage: str) -> None:
    small_run("--iterations 3 --out run")
    last = Path("run/checkpoints/iteration-000003.pt")
    if damage == "truncated":
        last.write_bytes(last.read_bytes()[:-100])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, last)
    else:
        small_run("--iterations 3 --policy.hidden_sizes [5] --out other")
        shutil.copy("other/checkpoints/iteration-000003.pt", last)
    outcome = command("--resume run --iterations 4")
    assert outcome.code == 0, outcome.err
    assert "iteration-000003.pt" in outcome.out and "going back to iteration 2" in outcome.out
    small_run("--iterations 4 --out whole")
    assert reproducible("run") == reproducible("whole")


def test_no_usable_checkpoint_is_an_error(small_run: Command, command: Command) -> None:
    small_run("--iterations 1 --out run")
    for path in Path("run/checkpoints").iterdir():
        path.write_bytes(b"not a checkpoint")
    metrics = Path("run/metrics.csv").read_text()
    assert_fails(command("--resume run"), 1, "iteration-000001.pt", "damaged or no checkpoint", "train --config ")
    assert Path("run/metrics.csv").read_text() == metrics


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "iteration-000001.pt"
    torch.save({"format": "mamlrl checkpoint 1", "state": Malicious()}, path)
    with pytest.raises(CheckpointError):
        read_checkpoint(path, LearnerState(MetaParams({})))
    with pytest.raises(CheckpointError):
        latest_checkpoint(tmp_path, LearnerState(MetaParams({})))
    assert not (tmp_path / "executed").exists()


def test_resume_of_something_else(command: Command) -> None:
    assert_fails(command("--resume nowhere"), 2, "nowhere", "not a run folder")
    Path("folder").mkdir()
    assert_fails(command("--resume folder"), 2, "folder", "not a run folder")


def test_a_resumed_run_keeps_its_settings(small_run: Command, command: Command) -> None:
    small_run("--iterations 2 --out run")
    metrics = Path("run/metrics.csv").read_text()
    outcome = command("--resume run --iterations 3 --sampling.tasks 5 --trust_region.max_kl 0.5")
    assert_fails(outcome, 2, "sampling.tasks was 4 and is now 5", "trust_region.max_kl was 0.02 and is now 0.5")
    assert "iterations was" not in outcome.err
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("seed: 1", "seed: 2"))
    assert_fails(command("--resume run"), 2, "seed was 1 and is now 2")
    assert Path("run/metrics.csv").read_text() == metrics


def test_threads_may_change_with_a_note(small_run: Command, command: Command) -> None:
    small_run("--iterations 1 --out run")
    outcome = command("--resume run --iterations 2 --threads 2")
    assert outcome.code == 0
    assert "note: threads was 1 and is now 2" in outcome.out


def test_how_environments_run_may_change_on_resume(command: Command) -> None:
    """Such as the seconds that a call may take, where they were too few."""
    family = [*SMALL[2:], "--env tests.cli.toy_envs:toy/Line-v0 --environment.vectorization async"]
    assert command(*family, "--iterations 1 --out run --environment.workers 1 --environment.timeout 60").code == 0
    outcome = command("--resume run --iterations 2 --environment.workers 2 --environment.timeout 90.5")
    assert (outcome.code, outcome.err) == (0, "")
    settings = yaml.safe_load(Path("run/config.yaml").read_text())["environment"]
    assert (settings["workers"], settings["timeout"]) == (2, 90.5)
    assert command(*family, "--iterations 2 --out whole --environment.workers 2").code == 0
    assert reproducible("run") == reproducible("whole")
    assert_fails(command("--resume run --environment.horizon 9"), 2, "environment.horizon was 8 and is now 9")


def test_films_may_begin_on_resume(small_run: Command, command: Command) -> None:
    small_run("--iterations 1 --out run")
    outcome = command("--resume run --iterations 2 --video.every 2")
    assert outcome.code == 0 and "no videos" not in outcome.out, outcome
    assert [path.name for path in Path("run/videos").iterdir()] == ["iteration-000002.mp4"]
    assert "every: 2" in Path("run/config.yaml").read_text()


def test_resume_takes_the_same_environment_by_name(small_run: Command, command: Command) -> None:
    small_run("--iterations 1 --out run")
    assert command("--env navigation --resume run --iterations 2").code == 0
    assert_fails(command("--env cheetah-vel --resume run"), 2, "env was", "Navigation2D", "HalfCheetahVel")
