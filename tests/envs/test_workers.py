"""Rows in worker processes: as many processes as wanted, the same results, and nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mamlrl.envs import workers
from mamlrl.envs.errors import EnvironmentFailure
from mamlrl.envs.making import make_task_envs

COUNTDOWN = "tests.envs.third_party:Countdown-v0"


def make(num_envs: int, num_workers: int | None, env_id: str = COUNTDOWN, **kwargs: Any) -> Any:
    """Rows in so many worker processes; None: in this process."""
    mode = "sync" if num_workers is None else "async"
    return make_task_envs(env_id, num_envs, 5, kwargs, mode, workers=num_workers or 0)


def history(envs: Any) -> list[np.ndarray]:
    """Everything that rows say over episodes on different tasks, some of which start anew in between."""
    rng = np.random.default_rng(0)
    told: list[Any] = []

    def tell(values: tuple[Any, ...]) -> None:
        *arrays, infos = values
        told.extend(arrays)
        told.extend(infos[name] for name in sorted(infos))

    tasks = envs.sample_tasks(envs.num_envs, rng)
    tell(envs.reset(seed=3, options={"task": tasks}))
    for t in range(9):
        tell(envs.step(rng.uniform(-1, 1, envs.action_space.shape)))
        if t == 5:
            tell(envs.reset(seed=8, options={"reset_mask": np.arange(envs.num_envs) % 2 == 0}))
    return told


@pytest.mark.parametrize("env_id", [COUNTDOWN, "tests.envs.third_party:Infos-v0", "mamlrl/Navigation2D-v0"])
def test_any_number_of_workers_gives_the_same_bits(env_id: str) -> None:
    reference = make(5, None, env_id)
    expected = history(reference)
    for num_workers in (1, 2, 3, 5):
        envs = make(5, num_workers, env_id)
        found = history(envs)
        envs.close()
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_as_many_workers_as_processors_and_all_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, rows, expected in ((1, 5, 1), (3, 5, 3), (9, 4, 4)):
        monkeypatch.setattr(workers, "num_processors", lambda number=processors: number)
        before = set(multiprocessing.active_children())
        envs = make(rows, 0)
        started = set(multiprocessing.active_children()) - before
        assert len(started) == expected
        envs.close()
        assert not any(process.is_alive() for process in started)


def test_workers_end_when_nobody_has_closed_them() -> None:
    program = (
        "from mamlrl.envs.making import make_task_envs\n"
        f"envs = make_task_envs({COUNTDOWN!r}, 4, 5, {{}}, 'async', workers=2)\n"
        "envs.reset(seed=0, options={'task': [3.0]})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("hanging", [False, True])
def test_workers_end_with_a_parent_that_is_killed(hanging: bool) -> None:
    program = (
        "import multiprocessing, os, threading, numpy\n"
        "from mamlrl.envs.making import make_task_envs\n"
        "import tests.envs.faulty\n"
        "kwargs = {'method': 'step', 'table': 'HANGS'}\n"
        "pools = [make_task_envs('Faulty-v0', 4, 5, kwargs, 'async', workers=2) for _ in range(2)]\n"
        "print(*[process.pid for process in multiprocessing.active_children()], flush=True)\n"
        "for envs in pools: envs.reset(seed=0, options={'task': [3.0]})\n"
        f"if {hanging}: threading.Timer(0.2, os._exit, [9]).start(); pools[0].step(numpy.zeros((4, 1)))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    processes = [Path(f"/proc/{number}") for number in done.stdout.split()]
    assert len(processes) == 4, done.stderr
    deadline = time.monotonic() + 20
    while any(process.exists() for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_signals_to_all_processes_do_not_end_workers() -> None:
    envs = make(3, 3)
    envs.reset(seed=0, options={"task": [5.0]})
    for process in multiprocessing.active_children():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(process.pid, number)  # type: ignore[arg-type]
    assert envs.step(np.ones((3, 1)))[1].tolist() == [1.0] * 3
    envs.close()


def test_after_a_worker_has_ended_every_call_says_so_and_the_others_end() -> None:
    envs: Any = make_task_envs(COUNTDOWN, 4, 5, {}, "async", workers=2)
    envs.reset(seed=0, options={"task": [[2.0], [3.0], [4.0], [5.0]]})
    victim, other = sorted(multiprocessing.active_children(), key=lambda process: process.pid or 0)[-2:]
    os.kill(victim.pid, signal.SIGKILL)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(EnvironmentFailure, match=r"step ended its process: killed by SIGKILL \(is there enough"):
            for _ in range(2):
                envs.step(np.zeros((4, 1)))
    envs.close()
    assert not other.is_alive()


def test_of_several_failures_the_first_row_s_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for num_workers in (None, 1, 2, 4):
        envs = make(4, num_workers, "tests.envs.third_party:FailsFrom2-v0")
        envs.reset(seed=0, options={"task": [[1.0], [2.0], [3.0], [4.0]]})
        with pytest.raises(EnvironmentFailure, match=r"raised RuntimeError: of 2 \(task \[2\]\)"):
            envs.step(np.zeros((4, 1)))
        envs.reset(options={"task": [1.0]})  # all have answered, and go on
        assert envs.step(np.ones((4, 1)))[1].tolist() == [1.0] * 4
        envs.close()


def test_workers_do_not_collect_the_garbage_of_their_parent() -> None:
    """Once a forked worker took apart a simulator of its parent, and waited for ever for that one's threads."""
    from tests.envs.third_party import Garbage

    gc.collect()
    gc.disable()
    try:
        Garbage()
        envs = make(2, 1, "tests.envs.third_party:Collects-v0")
        envs.reset(seed=0, options={"task": [5.0]})
        assert envs.step(np.zeros((2, 1)))[1].tolist() == [0.0, 0.0]
        gc.collect()
        assert Garbage.collected == [os.getpid()]
        envs.close()
    finally:
        gc.enable()


def test_processes_that_are_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    spawning = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing, "get_context", lambda: spawning)
    envs, expected = make(2, 1), make(2, None)
    for ours, theirs in zip(history(envs), history(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    envs.close()
