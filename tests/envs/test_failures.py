"""Whatever an environment does wrong is one line that names it, the method and the task, in this process or another."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from mamlrl.envs.errors import EnvironmentFailure
from mamlrl.envs.making import make_task_envs
from tests.envs import faulty

METHODS = ("constructor", "row", "sample_tasks", "reset", "step", "render")
RETURNS = {"reset": faulty.RESETS, "step": faulty.STEPS, "sample_tasks": faulty.TASKS, "render": faulty.PICTURES}
MODES = ("sync", "async")
CASES = [
    *((method, "RAISES", fault) for method in METHODS for fault in faulty.RAISES),
    *((method, "RETURNS", fault) for method, faults in RETURNS.items() for fault in faults),
]
TASK = 0.25


def make(mode: str, timeout: float = 0.0, **kwargs: Any) -> Any:
    """Environments registered with arguments, so that none are a user's (of which a ValueError would speak)."""
    faulty.made = 0
    gymnasium.registry["Faulty-v0"].kwargs = kwargs
    workers = 1 if mode == "async" else 0  # test_workers.py has more of them
    return make_task_envs("Faulty-v0", 3, 10, {"render_mode": "rgb_array"}, mode, workers=workers, timeout=timeout)  # type: ignore[arg-type]


def use(mode: str, timeout: float = 0.0, **kwargs: Any) -> None:
    """Everything that a training and a film do with environments."""
    envs = make(mode, timeout, **kwargs)
    try:
        envs.sample_tasks(3, np.random.default_rng(0))
        envs.reset(seed=0, options={"task": [TASK]})
        envs.step(np.zeros((3, 1)))
        envs.render_row(2)
    finally:
        envs.close()


def failure_of(*arguments: Any, **kwargs: Any) -> EnvironmentFailure:
    with pytest.raises(EnvironmentFailure) as caught:
        use(*arguments, **kwargs)
    return caught.value


@pytest.mark.parametrize(("method", "table", "fault"), CASES)
def test_every_fault_is_one_line_that_names_it(method: str, table: str, fault: str) -> None:
    in_process, in_worker = (failure_of(mode, method=method, table=table, fault=fault) for mode in MODES)
    assert str(in_process) == str(in_worker)
    for failure in (in_process, in_worker, pickle.loads(pickle.dumps(in_worker))):
        name = "constructor" if method == "row" else method
        assert (failure.environment, failure.method) == ("Faulty-v0", name)
        line = str(failure)
        assert line.startswith(f"environment Faulty-v0: {name} {table.lower()[:-1].replace('return', 'returne')}d ")
        assert line.isprintable() and len(line) < 500
        assert failure.task == ([TASK] if method in ("reset", "step", "render") else None)
        assert ("(task [0.25])" in line) == (failure.task is not None)
        if table == "RAISES":
            assert fault in line
            assert "in misbehave" in failure.user_traceback and fault in failure.user_traceback
        else:
            assert not failure.user_traceback


def test_that_is_how_many_faults() -> None:
    assert len(MODES) * len(CASES) >= 450


@pytest.mark.parametrize("method", ["row", "reset", "step", "render"])
@pytest.mark.parametrize("fault", faulty.ENDS)
def test_a_worker_that_ends_is_named(method: str, fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    failure = failure_of("async", method=method, table="ENDS", fault=fault)
    assert "ended its process" in str(failure) and fault in str(failure)
    assert failure.method == ("constructor" if method == "row" else method)
    assert failure.task == (None if method == "row" else [TASK])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("method", ["row", "reset", "step", "render"])
def test_a_call_that_does_not_return_is_named(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mamlrl.envs.workers.LOOK_EVERY", 0.05)
    failure = failure_of("async", 0.3, method=method, table="HANGS")
    assert "has not returned within 0.3 s (environment.timeout)" in str(failure)


def test_a_failure_later_in_an_episode_and_one_after_another() -> None:
    for mode in MODES:
        envs = make(mode, method="step", table="RAISES", fault="DoesNotPickle", after=2)
        envs.reset(seed=0, options={"task": [[0.0], [1.0], [2.0]]})
        for _ in range(2):
            envs.step(np.zeros((3, 1)))
        for _ in range(2):
            with pytest.raises(EnvironmentFailure, match=r"DoesNotPickle: a function in it \(task \[0\]\)"):
                envs.step(np.zeros((3, 1)))
        envs.close()


def test_tasks_that_change_their_length() -> None:
    envs: Any = make_task_envs("tests.envs.faulty:ChangesItsTasks-v0", 2, 10)
    envs.sample_tasks(3, np.random.default_rng(0))
    with pytest.raises(EnvironmentFailure, match="returned tasks of 2 numbers after tasks of 1"):
        envs.sample_tasks(3, np.random.default_rng(0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "values",
    [
        ([0.0, 0.0], np.array(1.0), np.False_, np.array(False), {}),
        (np.zeros(2, np.float32), np.float32(1.0), 0, 0, {}),
        (np.zeros(2, int), 1, np.int64(0), False, {}),
        [(0, True), True, False, False, {"anything": object(), 3: "three", "text": "text", "number": 1}],
    ],
)
def test_what_means_the_same_is_taken(mode: str, values: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(faulty.STEPS, "harmless", values)
    envs = make(mode, method="step", fault="harmless")
    envs.reset(seed=0, options={"task": [TASK]})
    observations, rewards, terminated, truncated, infos = envs.step(np.zeros((3, 1)))
    assert observations.dtype == rewards.dtype == np.float64 and rewards.tolist() == [1.0] * 3
    assert terminated.dtype == truncated.dtype == bool and not (terminated | truncated).any()
    assert set(infos) <= {"number", "_number"}
    envs.close()


def test_ctrl_c_is_no_fault_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(faulty.RAISES, "KeyboardInterrupt", KeyboardInterrupt)
    for method in METHODS:
        with pytest.raises(KeyboardInterrupt):
            use("sync", method=method, table="RAISES", fault="KeyboardInterrupt")


VECTOR_FAULTS = {
    "sample_tasks": [lambda *_: None, lambda *_: np.zeros(3), lambda *_: np.zeros((2, 1)), lambda *_: sys.exit(3)],
    "_advance": [
        lambda *_: None,
        lambda *_: (np.zeros(2), np.zeros(3, bool), {}),
        lambda *_: (np.zeros((3, 1)), np.zeros(3, bool), {}),
        lambda *_: (np.full(3, "a"), np.zeros(3, bool), {}),
        lambda *_: (np.zeros(3), np.zeros(3), {}),
        lambda *_: (np.zeros(3), np.zeros(3, bool), None),
        lambda *_: sys.exit(3),
        lambda *_: 1 / 0,
    ],
    "_observe": [lambda *_: None, lambda *_: np.zeros((3, 3)), lambda *_: np.zeros(2), lambda *_: [][1]],
    "_start_rows": [lambda *_: sys.exit(3), lambda *_: 1 / 0, lambda *_: open("/no/such/file"), lambda *_: int("x")],
    "reset": [lambda *_, **__: None, lambda *_, **__: int("x"), lambda *_, **__: np.zeros(3).reshape(2, 2)],
    "_draw_row": [lambda *_: None, lambda *_: "picture", lambda *_: 1 / 0],
    "__init__": [lambda *_, **__: sys.exit(3), lambda *_, **__: 1 / 0],
}


@pytest.mark.parametrize(
    ("method", "fault"), [(name, fault) for name in VECTOR_FAULTS for fault in VECTOR_FAULTS[name]]
)
def test_a_vector_environment_of_somebody_else(method: str, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.envs.third_party.VectorTasks." + method, fault)
    with pytest.raises(EnvironmentFailure) as caught:
        envs: Any = make_task_envs("tests.envs.third_party:VectorTasks-v0", 3, 10, {"render_mode": "rgb_array"})
        envs.sample_tasks(3, np.random.default_rng(0))
        envs.reset(seed=0, options={"task": np.zeros((3, 2))})
        envs.step(np.zeros((3, 2)))
        envs.render()
    assert str(caught.value).startswith("environment VectorTasks-v0: ") and str(caught.value).isprintable()
    assert caught.value.user_traceback or " returned " in str(caught.value)


def test_a_vector_environment_of_somebody_else_that_works() -> None:
    envs: Any = make_task_envs("tests.envs.third_party:VectorTasks-v0", 3, 10, {"render_mode": "rgb_array"})
    ours: Any = make_task_envs("mamlrl/Navigation2D-v0", 3, 10)
    tasks = envs.sample_tasks(3, np.random.default_rng(0))
    for values in zip(*(some.reset(seed=0, options={"task": tasks}) for some in (envs, ours)), strict=True):
        np.testing.assert_equal(*values)
    for values in zip(*(some.step(np.full((3, 2), 0.1)) for some in (envs, ours)), strict=True):
        np.testing.assert_equal(*values)
    assert (envs.describe_task(tasks[0]), envs.still) == (ours.describe_task(tasks[0]), "path")
    assert envs.target_speed(tasks[0]) is None and envs.render_row(0).shape == (480, 480, 3)
    assert len(envs.render()) == 3 and ours.render() is None
    with pytest.raises(ValueError, match="of row 0 is not in the task space"):
        envs.reset(options={"task": [7.0, 7.0]})
    with pytest.raises(ValueError, match="takes no argument 'goal_rang'; did you mean goal_range"):
        make_task_envs("tests.envs.third_party:VectorTasks-v0", 3, 10, {"goal_rang": 1.0})
    envs.close()
