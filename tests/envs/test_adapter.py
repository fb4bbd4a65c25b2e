"""Environments of others: Gymnasium's vector environments with the contract of ours."""

import multiprocessing
from typing import Any

import numpy as np
import pytest

from mamlrl.envs.base import TaskVectorEnv
from mamlrl.envs.making import make_task_envs

COUNTDOWN = "tests.envs.third_party:Countdown-v0"
DISCRETE = "tests.envs.third_party:DiscreteCountdown-v0"
MODES = ("sync", "async")


def make(env_id: str, num_envs: int, horizon: int, *args: Any) -> Any:
    """`make_task_envs`, closed over its declared type, which knows nothing of tasks."""
    return make_task_envs(env_id, num_envs, horizon, *args)


@pytest.mark.parametrize("mode", MODES)
def test_rows_end_at_different_times_and_are_held(mode):
    envs = make(COUNTDOWN, 3, 4, {"bonus": 1.0}, mode)
    first, _ = envs.reset(seed=[5, 6, 7], options={"task": [[2.0], [9.0], [3.0]]})
    assert len(np.unique(first[:, 1])) == 3
    history = [envs.step(np.full((3, 1), 0.5)) for _ in range(6)]
    np.testing.assert_array_equal(
        [step[0][:, 0] for step in history], [[min(t, n) for n in (2, 4, 3)] for t in range(1, 7)]
    )
    np.testing.assert_array_equal(
        [step[1] for step in history], [[1.5 * (t <= n) for n in (2, 4, 3)] for t in range(1, 7)]
    )
    np.testing.assert_array_equal([step[2] for step in history], [[t >= 2, False, t >= 3] for t in range(1, 7)])
    np.testing.assert_array_equal([step[3] for step in history], [[False, t >= 4, False] for t in range(1, 7)])
    np.testing.assert_array_equal(history[-1][0], history[3][0])  # the last observations, to the last bit
    np.testing.assert_array_equal(history[2][4]["_steps"], [False, True, True])

    kept = envs.reset(seed=[5, 6, 7])[0]  # without a task: that of before
    np.testing.assert_array_equal(kept, first)
    assert [envs.step(np.zeros((3, 1)))[2].any() for _ in range(2)] == [False, True]
    mask = np.array([True, False, False])
    envs.reset(options={"reset_mask": mask, "task": [[4.0], [9.0], [3.0]]})
    observations, _, terminated, _, _ = envs.step(np.zeros((3, 1)))
    np.testing.assert_array_equal(observations[:, 0], [1, 3, 3])
    np.testing.assert_array_equal(terminated, [False, False, True])
    envs.close()


@pytest.mark.parametrize("mode", MODES)
def test_discrete_actions(mode):
    envs = make(DISCRETE, 3, 10, None, mode)
    envs.reset(seed=0, options={"task": [5.0]})
    np.testing.assert_array_equal(envs.step(np.array([0, 1, 2]))[1], [0.0, 1.0, 2.0])
    envs.close()


def test_actions_are_clipped():
    envs = make(COUNTDOWN, 2, 10)
    envs.reset(seed=0, options={"task": [5.0]})
    np.testing.assert_array_equal(envs.step([[9.0], [-9.0]])[1], [1.0, -1.0])


def test_processes_end_with_close():
    before = set(multiprocessing.active_children())
    envs = make(COUNTDOWN, 2, 10, None, "async")
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    envs.close()
    assert not any(worker.is_alive() for worker in workers)


def test_rows_can_be_rendered():
    envs = make(COUNTDOWN, 2, 10, {"render_mode": "rgb_array"})
    envs.reset(seed=0, options={"task": [5.0]})
    envs.step(np.zeros((2, 1)))
    assert (envs.render_row(1) == 1).all()
    with pytest.raises(ValueError, match="was made without a render mode"):
        make(COUNTDOWN, 2, 10).render_row(0)


@pytest.mark.parametrize("env_id", ["mamlrl/Navigation2D-v0", "mamlrl/AntVel-v0"])
def test_our_families_agree_in_all_modes(env_id):
    native, *others = [make(env_id, 2, 12, {}, mode, 1) for mode in ("auto", *MODES)]
    assert isinstance(native, TaskVectorEnv)
    tasks = native.sample_tasks(2, np.random.default_rng(0))
    first = native.reset(seed=3, options={"task": tasks})[0]
    for envs in others:
        np.testing.assert_array_equal(tasks, envs.sample_tasks(2, np.random.default_rng(0)))
        np.testing.assert_array_equal(first, envs.reset(seed=3, options={"task": tasks})[0])
    for action in np.random.default_rng(0).uniform(-1, 1, (14, 2, *native.single_action_space.shape)):
        expected = native.step(action)
        for envs in others:
            for ours, theirs in zip(expected[:4], envs.step(action)[:4], strict=True):
                np.testing.assert_array_equal(ours, theirs)
    assert expected[3].all()
    for envs in others:
        envs.close()


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("tests.envs.third_party:NoTasks-v0", {}, "environment NoTasks-v0 has no method sample_tasks(n: int, rng: "),
        ("tests.envs.third_party:Nothing-v0", {}, "environment tests.envs.third_party:Nothing-v0: "),
        ("no_such_module:Nothing-v0", {}, "environment no_such_module:Nothing-v0: No module named 'no_such_module'"),
        ("mamlrl/HalfCheetahVell-v0", {}, "Did you mean: `HalfCheetahVel`?"),
        (COUNTDOWN, {"malus": 1}, "environment tests.envs.third_party:Countdown-v0 cannot be made with {'malus': 1}: "),
        ("mamlrl/AntVel-v0", {"malus": 1}, "environment mamlrl/AntVel-v0 cannot be made with {'malus': 1}: "),
    ],
)
def test_what_is_missing_is_named(env_id, kwargs, message):
    with pytest.raises(ValueError) as error:
        make(env_id, 2, 10, kwargs)
    assert message in str(error.value)


def test_wrong_tasks_are_named():
    envs = make(DISCRETE, 2, 10)
    with pytest.raises(ValueError, match=r"the task \[7.\] of row 1 is not in the task space Box\(1.0, 5.0"):
        envs.reset(options={"task": [[2.0], [7.0]]})
    with pytest.raises(ValueError, match=r"options\['task'\] has shape \(3, 1\); it must be \(P,\) or \(2, P\)"):
        envs.reset(options={"task": [[2.0]] * 3})
    with pytest.raises(ValueError, match=r"BadTasks-v0 returned an array of shape \(4,\); it must be \(4, P\)"):
        make("tests.envs.third_party:BadTasks-v0", 2, 10).sample_tasks(4, np.random.default_rng(0))
    with pytest.raises(ValueError, match="vectorization is 'threads'; it must be 'auto', 'sync' or 'async'"):
        make(DISCRETE, 2, 10, {}, "threads")
