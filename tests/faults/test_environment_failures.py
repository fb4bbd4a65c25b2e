"""A training whose environment fails ends in a line, with its traceback in error.txt and a checkpoint to go on from."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import mamlrl.envs.making  # noqa: F401 (the faulty ones are registered by name)

from ..cli.conftest import SMALL, Command, assert_fails, read_metrics, reproducible
from ..cli.toy_envs import Line
from ..envs import faulty
from .processes import run

FLAGS = [*SMALL[2:], "--env", "tests.faults.test_environment_failures:FailsLater-v0"]
OWN_COUNT = {"steps": 0}


class FailsLater(Line):
    """Fails in the iteration of number `at`, from 0, of a process: every iteration samples tasks once."""

    at, method, act = 10**9, "step", staticmethod(lambda: None)
    sampled = 0

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        FailsLater.sampled += 1
        self._maybe("sample_tasks")
        return super().sample_tasks(n, rng)

    def reset(self, **kwargs: Any) -> Any:
        self._maybe("reset")
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        self._maybe("step")
        return super().step(action)

    def _maybe(self, method: str) -> None:
        if method == FailsLater.method and FailsLater.sampled > FailsLater.at:
            FailsLater.act()


gymnasium.register("FailsLater-v0", entry_point=f"{__name__}:FailsLater")


def raises(fault: str) -> None:
    raise faulty.RAISES[fault]()


def fail(monkeypatch: pytest.MonkeyPatch, method: str, at: int, act: Any) -> None:
    monkeypatch.setattr(FailsLater, "at", at)
    monkeypatch.setattr(FailsLater, "sampled", 0)
    monkeypatch.setattr(FailsLater, "method", method)
    monkeypatch.setattr(FailsLater, "act", staticmethod(act))


CASES = [
    (method, vectorization, fault)
    for method in ("sample_tasks", "reset", "step")
    for vectorization in ("sync", "async")
    for fault in list(faulty.RAISES)[:: 3 if (method, vectorization) == ("reset", "sync") else 1]
    if vectorization == "sync" or fault in ("SystemExit", "BrokenPipeError", "DoesNotPickle")
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mamlrl.train import main

    folder = tmp_path_factory.mktemp("whole")
    assert main([*FLAGS, "--iterations", "3", "--checkpoint.every", "4", "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_every_failure_is_a_line_with_its_traceback_in_a_file_and_the_run_goes_on(
    whole: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (method, vectorization, fault) in enumerate(CASES):
        name = f"run-{number}"
        flags = "--environment.vectorization async --environment.workers 1" if vectorization == "async" else ""
        if vectorization == "async":  # the worker counts no tasks; only the parent draws them
            fail(monkeypatch, method, 2 if method == "sample_tasks" else -1, partial(raises, fault))
        else:
            fail(monkeypatch, method, 2, partial(raises, fault))
        outcome = command(*FLAGS, flags, f"--iterations 3 --checkpoint.every 4 --out {name}")
        note = f"{method} {vectorization} {fault}: {outcome}"
        assert outcome.code == 1, note
        assert outcome.err.startswith(f"error: environment FailsLater-v0: {method} raised {fault}"), note
        assert outcome.err.endswith(
            f"; its traceback is in {name}/error.txt; to go on: python -m mamlrl.train --resume {name}\n"
        ), note
        assert outcome.err.count("\n") == 1 and len(outcome.err) < 900, note
        error = Path(name, "error.txt").read_text()
        assert "in raises" in error and fault in error, note
        done = len(Path(name, "metrics.csv").read_text().splitlines()[1:])
        assert done == (2 if vectorization == "sync" or method == "sample_tasks" else 0), note
        assert Path(name, f"checkpoints/iteration-{done:06d}.pt").exists(), note
        monkeypatch.setattr(FailsLater, "at", 10**9)
        if vectorization == "async" or number % 5 == 0:
            assert command(f"--resume {name}").code == 0, note
            assert reproducible(name) == reproducible(whole), note
    assert len(CASES) >= 70


@pytest.mark.parametrize(
    "kind", ["returns nothing", "an array as reward", "NaN", "infinite observations", "longer observations"]
)
def test_what_an_environment_returns_may_be_wrong_too(
    command: Command, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    returned = {
        "returns nothing": None,
        "an array as reward": (np.zeros(1), np.zeros(1), False, False, {}),
        "NaN": (np.zeros(1), float("nan"), False, False, {}),
        "infinite observations": (np.full(1, np.inf), 0.0, False, False, {}),
        "longer observations": (np.zeros(2), 0.0, False, False, {}),
    }[kind]
    step = Line.step
    fail(monkeypatch, "nothing", 0, None)
    monkeypatch.setattr(
        FailsLater, "step", lambda self, action: returned if FailsLater.sampled > 2 else step(self, action)
    )
    outcome = command(*FLAGS, "--iterations 3 --checkpoint.every 4 --out run")
    assert_fails(outcome, 1, "FailsLater-v0: step returned", "(task [", "run/error.txt", "--resume run")
    assert len(read_metrics("run")) == 2 and Path("run/checkpoints/iteration-000002.pt").exists()


def test_failures_are_kept_one_after_another(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "step", 1, partial(raises, "KeyError"))
    assert command(*FLAGS, "--iterations 3 --out run").code == 1
    fail(monkeypatch, "step", 1, partial(raises, "IndexError"))
    assert command("--resume run").code == 1
    error = Path("run/error.txt").read_text()
    assert error.index("KeyError") < error.index("IndexError")


@pytest.mark.parametrize("out", ["--out run", ""])
def test_an_environment_may_change_the_working_directory(
    command: Command, monkeypatch: pytest.MonkeyPatch, whole: Path, out: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fail(monkeypatch, "reset", 0, partial(os.chdir, elsewhere))
    outcome = command(*FLAGS, f"--iterations 3 --checkpoint.every 4 {out}")
    assert (outcome.code, outcome.err) == (0, "")
    assert list(elsewhere.iterdir()) == []
    (metrics,) = tmp_path.rglob("metrics.csv")
    assert reproducible(metrics.parent) == reproducible(whole)
    monkeypatch.chdir(tmp_path)
    assert command(f"--resume {metrics.parent.relative_to(tmp_path)} --iterations 4").code == 0


def fail_from_now_on(method: str, at: int, signal_number: int) -> None:
    FailsLater.method, FailsLater.at = method, at
    FailsLater.act = staticmethod(partial(os.kill, os.getpid(), signal_number))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_an_environment_that_kills_the_process_leaves_a_run_that_goes_on(
    tmp_path: Path, whole: Path, command: Command, number: signal.Signals
) -> None:
    flags = "--iterations 3 --checkpoint.every 4 --out run"
    ended = run(tmp_path, *FLAGS, flags, prepare=partial(fail_from_now_on, "step", 2, number))
    assert ended.code == -number
    assert command("--resume run").code == 0
    assert reproducible("run") == reproducible(whole)
