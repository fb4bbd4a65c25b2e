"""Environments of others: Gymnasium's vector environments with the contract of ours."""

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from mamlrl.envs.base import TaskVectorEnv
from mamlrl.envs.errors import EnvironmentFailure
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
    assert isinstance(native, TaskVectorEnv) and isinstance(native.single_action_space, spaces.Box)
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
        (
            "mamlrl/AntVel-v0",
            {"goal_range": (3.0, 1.0)},
            "environment mamlrl/AntVel-v0 cannot be made with {'goal_range': (3.0, 1.0)}: goal_range is (3.0, 1.0); it",
        ),
    ],
)
def test_what_is_missing_is_named(env_id, kwargs, message):
    with pytest.raises(ValueError) as error:
        make(env_id, 2, 10, kwargs)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("env_id", "name", "message"),
    [
        (
            "mamlrl/HalfCheetahVel-v0",
            "goal_rnage",
            "'goal_rnage'; did you mean goal_range? it takes change_at, change_in, ctrl_cost_w",
        ),
        (
            "mamlrl/AntVel-v0",
            "malus",
            "'malus'; it takes body, change_at, change_in, contact_cost_weight, ",
        ),
        ("mamlrl/AntDir-v0", "task_space", "'task_space'; "),
        (
            "mamlrl/Navigation2D-v0",
            "num_threads",
            "'num_threads'; it takes change_at, change_in, goal_radius, goal_range, max_step",
        ),
        ("mamlrl/Navigation2D-v0", "max_episode_steps", "'max_episode_steps'; "),
        (COUNTDOWN, "bnous", "'bnous'; did you mean bonus? it takes bonus"),
        ("tests.envs.third_party:NoTasks-v0", "bonus", "'bonus'; it takes none"),
        ("tests.envs.third_party:Inheriting-v0", "bnous", "'bnous'; did you mean bonus? it takes bonus, factor"),
        ("tests.envs.third_party:WrappedByFunction-v0", "scla", "'scla'; did you mean scale? it takes scale"),
    ],
)
@pytest.mark.parametrize("mode", ["auto", *MODES])
def test_an_argument_that_does_not_exist_is_told_with_those_that_do(env_id, name, message, mode):
    with pytest.raises(ValueError) as error:
        make(env_id, 2, 10, {name: 1}, mode)
    assert str(error.value).startswith(f"environment {env_id} takes no argument {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", MODES)
def test_arguments_that_are_handed_on_arrive(mode):
    envs = make("tests.envs.third_party:Inheriting-v0", 2, 10, {"bonus": 2.0, "factor": 3.0}, mode)
    envs.reset(seed=0, options={"task": [5.0]})
    np.testing.assert_array_equal(envs.step(np.ones((2, 1)))[1], [9.0, 9.0])
    envs.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["WrappedByFunction", "Wrapped", "WrappedTwice"])
def test_a_family_may_be_a_wrapper(name, mode):
    """Its methods and task space may be of any link, and options of a reset reach it."""
    envs = make(f"tests.envs.third_party:{name}-v0", 2, 10, {"scale": 2.0}, mode)
    tasks = envs.sample_tasks(2, np.random.default_rng(0))
    assert tasks.shape == (2, 2) and envs.task_space.shape == (2,)
    assert envs.describe_task(tasks[0]).startswith("pole ")
    _, infos = envs.reset(seed=0, options={"task": tasks, "wind": 0.5})
    np.testing.assert_array_equal(infos["wind"], [0.5, 0.5])
    np.testing.assert_array_equal(infos["given"], tasks)
    assert [envs.step(np.array([0, 1]))[1].tolist() for _ in range(2)] == [(2 * tasks[:, 0]).tolist()] * 2
    with pytest.raises(ValueError, match="of row 0 is not in the task space"):
        envs.reset(options={"task": [7.0, 7.0]})
    envs.close()


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (spaces.Box(-0.1, 0.7, (2,)), [0.7, -0.1], [0.7001, 0.0]),  # float32, Gymnasium's default
        (spaces.Box(0, 9, (2,), np.int64), [9.0, 0.0], [0.5, 0.0]),
        (spaces.Discrete(3), [2.0], [3.0]),
        (spaces.Discrete(3), [0.0], [0.5]),
        (spaces.Discrete(3, start=-1), [-1.0], [2.0]),
        (spaces.MultiDiscrete([2, 3]), [1.0, 2.0], [2.0, 2.0]),
        (spaces.MultiBinary(2), [1.0, 0.0], [2.0, 0.0]),
        (spaces.Box(-1.0, 1.0, (2,), np.float64), [1.0, -1.0], [np.nan, 0.0]),
        (spaces.Box(0.0, 1.0, (1,)), [1.0], [1.0, 0.0]),
        (spaces.Discrete(3), [1.0], [np.nan]),
    ],
)
def test_tasks_are_compared_in_the_numbers_of_the_task_space(space, inside, outside, monkeypatch):
    monkeypatch.setattr("tests.envs.faulty.Faulty.task_space", space, raising=False)
    envs = make("tests.envs.faulty:Faulty-v0", 2, 10)
    envs.reset(seed=0, options={"task": inside})
    with pytest.raises(ValueError, match="is not in the task space"):
        envs.reset(options={"task": outside})


@pytest.mark.parametrize("mode", MODES)
def test_numbers_in_infos_are_arrays_over_rows_that_are_alive(mode):
    envs = make("tests.envs.third_party:Infos-v0", 3, 10, None, mode)
    envs.reset(seed=0, options={"task": [[2.0], [3.0], [5.0]]})
    steps = [envs.step(np.zeros((3, 1)))[4] for _ in range(4)]
    names = {name for name in steps[1] if name[0] != "_"}
    assert names == {"steps", "success", "position", "second", "sometimes"}
    np.testing.assert_array_equal([infos["success"] for infos in steps], [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
    alive = [[True, True, True], [True, True, True], [False, True, True], [False, False, True]]
    np.testing.assert_array_equal([infos["_success"] for infos in steps], alive)
    assert all(values.dtype == (bool if name[0] == "_" else float) for name, values in steps[0].items())
    np.testing.assert_array_equal(steps[1]["position"], [[2, 2]] * 3)
    np.testing.assert_array_equal([steps[1]["second"], steps[1]["_second"]], [[0.5] * 3, [True] * 3])
    np.testing.assert_array_equal(steps[0]["_sometimes"], [True, False, True])
    envs.close()


def test_environments_that_cannot_be_used_are_named():
    for name, message in [
        ("NoTaskSpace", r"NoTaskSpace-v0 has a task_space \(0, 1\); it must be a Gymnasium space"),
        ("NoStill", "NoStill-v0 has still = 'photo'; it must be 'path', 'speed' or None"),
        ("NoPicture", r"picture_shape = \(4, 6, 3\); .* of what its observations of shape \(4, 5, 3\) begin"),
        ("OfDicts", "OfDicts-v0 has the observation space Dict.*FlattenObservation makes it one"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(f"tests.envs.third_party:{name}-v0", 2, 10)
    with pytest.raises(EnvironmentFailure, match="constructor returned an environment whose action_space is None"):
        make("tests.envs.third_party:NoActions-v0", 2, 10)
    with pytest.raises(
        EnvironmentFailure, match="constructor returned environments that differ in their observation_s"
    ):
        make("tests.envs.third_party:OfAnySize-v0", 2, 10)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("raise RuntimeError('no licence')", EnvironmentFailure, "import raised RuntimeError: no licence"),
        ("import sys; sys.exit(3)", EnvironmentFailure, "import raised SystemExit: 3"),
        ("def (:", EnvironmentFailure, "import raised SyntaxError: invalid syntax"),
        (
            "import nothing_of_that_name",
            EnvironmentFailure,
            "import raised ModuleNotFoundError: No module named 'nothing",
        ),
        ("pass", ValueError, "environment of_a_user:Mine-v0: Environment `Mine` doesn't exist."),
        ("import gymnasium; gymnasium.register('Mine-v0', entry_point='of_a_user:Mine')", AttributeError, "'Mine'"),
        (
            "import gymnasium; gymnasium.register('Mine-v0', entry_point='nowhere:Mine')",
            ValueError,
            "No module named 'n",
        ),
        (
            "import gymnasium; gymnasium.register('Mine-v0', entry_point=lambda: 3)",
            TypeError,
            "must inherit from the gym",
        ),
    ],
)
def test_a_module_that_fails_is_told_in_a_line(text, error, message, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("gymnasium.envs.registration.registry", dict(gymnasium.registry))
    (tmp_path / "of_a_user.py").write_text(text)
    with pytest.raises((ValueError, EnvironmentFailure)) as caught:
        make("of_a_user:Mine-v0", 2, 10)
    sys.modules.pop("of_a_user", None)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, error) or error.__name__ in str(caught.value)


@pytest.mark.parametrize("env_id", [".x:x", "..:x", ":", "a:", ":x", "a..b:x", "", "x", "mamlrl/x:", " : "])
def test_ids_that_cannot_be_are_told_in_a_line(env_id):
    with pytest.raises(ValueError) as error:
        make(env_id, 2, 10)
    assert "\n" not in str(error.value)


def test_wrong_tasks_are_named():
    envs = make(DISCRETE, 2, 10)
    with pytest.raises(ValueError, match=r"the task \[7.\] of row 1 is not in the task space: it must be in \[1, 5\]"):
        envs.reset(options={"task": [[2.0], [7.0]]})
    with pytest.raises(ValueError, match=r"options\['task'\] has shape \(3, 1\); it must be \(P,\) or \(2, P\)"):
        envs.reset(options={"task": [[2.0]] * 3})
    with pytest.raises(ValueError, match="vectorization is 'threads'; it must be 'auto', 'sync' or 'async'"):
        make(DISCRETE, 2, 10, {}, "threads")
