"""One process at a time trains in a run folder, and whoever comes second is told who holds it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mamlrl.config import Config
from mamlrl.experiment import Experiment
from mamlrl.run_folder.lock import locked
from mamlrl.training import run as training_run

from ..cli.conftest import SMALL, Command, assert_fails, read_metrics, reproducible
from .processes import Running, run, start

ENDLESS = "--iterations 100000"
RUN_ARGUMENTS = ("--resume run", "--resume ./run/", "--resume link", "--resume run --iterations 200000")


@contextlib.contextmanager
def training(folder: Path, *flags: str) -> Iterator[Running]:
    """A training in another process, in `folder`/run, that goes on until the block ends."""
    running = start(folder, *SMALL, ENDLESS, "--out run", *flags)
    try:
        running.wait_for(folder / "run/checkpoints/iteration-000002.pt")
        yield running
    finally:
        running.process.kill()
        running.process.join()


def test_a_second_training_is_refused_at_once_and_told_who_holds_the_folder(command: Command, tmp_path: Path) -> None:
    Path("link").symlink_to("run")
    with training(tmp_path) as first:
        for arguments in RUN_ARGUMENTS:
            assert_fails(command(arguments), 2, f"process {first.process.pid} on ", "trains in it", "wait until")
        assert_fails(command(*SMALL, ENDLESS, "--out run"), 2, "holds a run already")
        rows = len(read_metrics("run"))
        first.wait_for(Path(f"run/checkpoints/iteration-{rows + 3:06d}.pt"))
        os.kill(first.process.pid or 0, signal.SIGINT)
        ended = first.wait()
    assert ended.code == 130
    assert re.fullmatch(r"finishing iteration \d+; Ctrl-C again stops now\n", ended.err)
    numbers = [row["iteration"] for row in read_metrics("run")]
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)] and len(numbers) > rows


def test_reading_a_run_while_it_is_trained_is_allowed(tmp_path: Path) -> None:
    with training(tmp_path):
        flags = "run --tasks 2 --rollouts 2 --steps 1 --threads 1 --out results"
        assert run(tmp_path, flags, command="evaluate").code == 0
        assert run(tmp_path, "run --out curves", command="compare").code == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_lock_dies_with_its_process(command: Command, tmp_path: Path, number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as under nohup, and by whatever is started from here")
    with training(tmp_path) as first:
        os.kill(first.process.pid or 0, number)
        first.wait()
    done = int(max(path.stem[-6:] for path in Path("run/checkpoints").glob("iteration-*")))
    outcome = command(f"--resume run --iterations {done + 2}")
    assert (outcome.code, outcome.err) == (0, "")
    assert command(*SMALL, f"--iterations {done + 2} --out whole").code == 0
    assert reproducible("run") == reproducible("whole")


def test_the_lock_does_not_live_on_in_the_environments_processes(command: Command, tmp_path: Path) -> None:
    flags = "--env tests.cli.toy_envs:toy/Line-v0 --environment.vectorization async --environment.workers 2"
    with training(tmp_path, flags) as first:
        os.kill(first.process.pid or 0, signal.SIGKILL)
        first.wait()
        with locked(Path("run")):  # at once, whether or not the workers have noticed
            pass


def test_many_that_resume_at_once(command: Command, tmp_path: Path) -> None:
    command(*SMALL, "--iterations 1 --out run")
    many = [start(tmp_path, "--resume run --iterations 30") for _ in range(4)]
    ended = [one.wait() for one in many]
    codes = sorted(one.code for one in ended)
    assert codes in ([0, 0, 0, 0], [0, 0, 0, 2], [0, 0, 2, 2], [0, 2, 2, 2])  # some may come after the first is done
    assert all("trains in it" in one.err for one in ended if one.code == 2)
    command(*SMALL, "--iterations 30 --out whole")
    assert reproducible("run") == reproducible("whole")


def wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


def test_starts_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    moment = float(int(time.time() + 1.5))
    many = [start(tmp_path, *SMALL, "--iterations 2", prepare=partial(wait_until, moment)) for _ in range(4)]
    assert [one.wait().code for one in many] == [0] * 4
    folders = list((tmp_path / "runs/navigation/maml").iterdir())
    assert len(folders) == 4
    assert len({str(reproducible(folder)) for folder in folders}) == 1


def test_starts_with_the_same_out_at_once_leave_one_whole_run(tmp_path: Path, command: Command) -> None:
    many = [start(tmp_path, *SMALL, "--iterations 30 --out run") for _ in range(4)]
    ended = [one.wait() for one in many]
    assert sorted(one.code for one in ended) == [0, 2, 2, 2]
    for one in ended:
        assert one.code == 0 or "trains in it" in one.err or "holds a run already" in one.err
    command(*SMALL, "--iterations 30 --out whole")
    assert reproducible(tmp_path / "run") == reproducible("whole")


def test_a_run_that_came_and_went_while_another_got_ready_is_left_alone(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_experiment = training_run.make_experiment

    def slow(config: Config) -> Experiment:
        monkeypatch.setattr(training_run, "make_experiment", make_experiment)
        assert command(*SMALL, "--iterations 2 --out run").code == 0
        return make_experiment(config)

    monkeypatch.setattr(training_run, "make_experiment", slow)
    assert_fails(command(*SMALL, "--iterations 3 --out run"), 2, "holds a run already")
    assert len(read_metrics("run")) == 2


def test_a_lock_file_that_says_nothing_or_too_much(command: Command) -> None:
    command(*SMALL, "--iterations 1 --out run")
    for content in (b"", b"\xff\0" * 5000, b"process 1 on elsewhere (since yesterday)\n"):
        Path("run/.lock").write_bytes(content)
        assert command("--resume run --iterations 1").code == 0  # nobody holds it, whatever it says
        with locked(Path("run")):
            Path("run/.lock").write_bytes(content)
            outcome = command("--resume run --iterations 1")
            assert_fails(outcome, 2, "run", "trains in it")
            assert len(outcome.err) < 900
