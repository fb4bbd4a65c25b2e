"""The vector environments: bit for bit the single ones, and the contract of tasks, seeds, masks and held rows."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from mamlrl.envs import FAMILIES
from tests.envs.making import make, make_vec

RLLAB = {"frame_skip": 1, "velocity": "com", "observation": "rllab", "reset_noise": "rllab"}
SENSES = {"odometry": True, "crumbs": True, "unseen": True}
VARIANTS = [
    ("mamlrl/Navigation2D-v0", {"goal_radius": 0.1}),
    ("mamlrl/HalfCheetahVel-v0", {}),
    ("mamlrl/HalfCheetahVel-v0", RLLAB),
    ("mamlrl/HalfCheetahDir-v0", {}),
    ("mamlrl/AntVel-v0", {}),
    ("mamlrl/AntDir-v0", {"contact_forces": True}),
    ("mamlrl/AntGoal-v0", {"observe_position": True}),
    ("mamlrl/Bandit-v0", {"arms": 3}),
    ("mamlrl/Bandit-v0", {"reward": "gaussian"}),
    ("mamlrl/TabularMDP-v0", {"states": 4, "actions": 3}),
    ("mamlrl/Maze-v0", {"size": 3, "height": 4, "width": 5, "max_episode_steps": 100, **SENSES}),
    ("mamlrl/HalfCheetahDynamics-v0", {"span": 2.0, "change_at": 40}),
    ("mamlrl/AntVel-v0", {**RLLAB, "body": "rllab", "healthy_z_range": (0.35, 0.7)}),
    ("mamlrl/AntPayload-v0", {}),
    ("mamlrl/ArmPayload-v0", {}),
    ("mamlrl/HumanoidDir-v0", {}),
]
VARIANTS += [(row[0], {}) for row in FAMILIES if row[0] not in dict(VARIANTS)]


def any_actions(envs, num_steps, rng):
    """Actions, some beyond their bounds where these are bounds, [num_steps, N, ...]."""
    space, shape = envs.single_action_space, (num_steps, *envs.action_space.shape)
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=shape)
    return rng.uniform(-1.2, 1.2, shape) * space.high


def run_single(env_id, kwargs, seed, task, actions):
    """Steps of one environment as tuples, repeated from the end of its episode on."""
    env = make(env_id, **kwargs)
    steps: list[Any] = [(env.reset(seed=seed, options={"task": task})[0],)]
    for action in actions:
        if len(steps) > 1 and (steps[-1][2] or steps[-1][3]):
            steps.append((steps[-1][0], 0.0, steps[-1][2], steps[-1][3], None))
        else:
            steps.append(env.step(action))
    return steps


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("env_id", "kwargs"), VARIANTS)
def test_agrees_with_single_environments_bit_for_bit(env_id, kwargs, num_threads):
    num_envs, num_steps = 5, 105  # longer than an episode
    envs = make_vec(env_id, num_envs=num_envs, num_threads=num_threads, **kwargs)
    rng = np.random.default_rng(1)
    tasks = envs.unwrapped.sample_tasks(num_envs, rng)
    actions = any_actions(envs, num_steps, rng)
    if "Navigation" in env_id:  # three of them walk to the goal
        actions[:, :3] = np.sign(tasks[:3]) * 0.02
    singles = [run_single(env_id, kwargs, 7 + i, tasks[i], actions[:, i]) for i in range(num_envs)]

    observations, _ = envs.reset(seed=7, options={"task": tasks})
    terminated = truncated = np.zeros(num_envs, bool)
    np.testing.assert_array_equal(observations, [steps[0][0] for steps in singles])
    for t in range(num_steps):
        alive = ~np.array([bool(t and (steps[t][2] or steps[t][3])) for steps in singles])
        observations, rewards, terminated, truncated, infos = envs.step(actions[t])
        for i, (observation, reward, ended, cut, info) in enumerate(steps[t + 1] for steps in singles):
            np.testing.assert_array_equal(observations[i], observation)
            assert (rewards[i], terminated[i], truncated[i]) == (reward, ended, cut)
            if info is not None:
                told = {name: infos[name][i] for name in info}
                np.testing.assert_equal(told, info)
        for name, values in infos.items():
            if name.startswith("_"):
                np.testing.assert_array_equal(values, alive)
    if any(name in env_id for name in ("Navigation", "Ant", "Humanoid")):
        ends = {len([step for step in steps[1:] if not (step[2] or step[3])]) for steps in singles}
        assert len(ends) >= 3 and terminated.any()  # they ended at different times
    assert (terminated | truncated).all()


@pytest.mark.parametrize("env_id", ["mamlrl/AntVel-v0", "mamlrl/HopperDynamics-v0", "mamlrl/AntPayload-v0"])
def test_any_number_of_threads_gives_the_same_bits(env_id):
    results = []
    for num_threads in (1, 2, 3):
        envs = make_vec(env_id, num_envs=9, num_threads=num_threads)
        observations, _ = envs.reset(seed=0)
        for action in np.random.default_rng(0).uniform(-1, 1, (40, *envs.action_space.shape)):
            observations, *_ = envs.step(action)
        results.append(observations)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.fixture
def navigation():
    return make_vec("mamlrl/Navigation2D-v0", num_envs=3, goal_radius=0.05)


@pytest.fixture
def cheetah():
    return make_vec("mamlrl/HalfCheetahVel-v0", num_envs=3)


def test_spaces_and_metadata(cheetah):
    assert cheetah.num_envs == 3
    assert cheetah.single_observation_space.shape == (17,) and cheetah.observation_space.shape == (3, 17)
    assert cheetah.single_action_space.shape == (6,) and cheetah.action_space.shape == (3, 6)
    assert cheetah.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.DISABLED
    assert cheetah.metadata["render_fps"] == 20
    observations, rewards, terminated, truncated, _ = (cheetah.reset(seed=0), cheetah.step(np.zeros((3, 6))))[1]
    assert observations.dtype == rewards.dtype == np.float64
    assert terminated.dtype == truncated.dtype == bool


def test_seed_of_a_row_is_the_seed_plus_its_index(cheetah):
    by_one = cheetah.reset(seed=4)[0]
    np.testing.assert_array_equal(by_one, cheetah.reset(seed=[4, 5, 6])[0])
    np.testing.assert_array_equal(by_one, cheetah.reset(seed=np.array([4, 5, 6]))[0])
    continued = cheetah.reset()[0]
    assert not np.array_equal(by_one, continued)
    cheetah.reset(seed=4)
    np.testing.assert_array_equal(continued, cheetah.reset()[0])
    np.testing.assert_array_equal(by_one[[1, 0]], cheetah.reset(seed=[5, 4, 9])[0][:2])


def test_without_a_seed_rows_start_differently(cheetah):
    first = cheetah.reset()[0]
    assert len(np.unique(first[:, 0])) == 3
    assert not np.array_equal(first, make_vec("mamlrl/HalfCheetahVel-v0", num_envs=3).reset()[0])


def test_a_given_task_stays_and_others_are_drawn(navigation):
    drawn = navigation.reset(seed=0)[1]["task"]
    assert len(np.unique(drawn)) == 6
    np.testing.assert_array_equal(drawn, navigation.reset(seed=0)[1]["task"])
    assert not np.array_equal(drawn, navigation.reset()[1]["task"])
    goals = [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]
    for options in ({"task": goals}, None, {}):
        np.testing.assert_array_equal(navigation.reset(seed=0, options=options)[1]["task"], goals)
    np.testing.assert_array_equal(navigation.reset(options={"task": [0.4, 0.4]})[1]["task"], [[0.4, 0.4]] * 3)


def test_single_environment_keeps_a_given_task():
    env = make("mamlrl/HalfCheetahDir-v0")
    for options in ({"task": np.array([-1.0])}, None):
        np.testing.assert_array_equal(env.reset(seed=0, options=options)[1]["task"], [-1.0])
    np.testing.assert_array_equal(env.unwrapped.task, [-1.0])


def test_reset_mask_leaves_other_rows_alone(cheetah):
    reference = make_vec("mamlrl/HalfCheetahVel-v0", num_envs=3)
    tasks, actions = [[0.0], [1.0], [2.0]], np.random.default_rng(0).uniform(-1, 1, (4, 3, 6))
    for envs in (cheetah, reference):
        envs.reset(seed=0, options={"task": tasks})
        before = envs.step(actions[0])[0]
    mask = np.array([False, True, False])
    new_tasks = np.array([[np.nan], [1.5], [np.nan]])  # those of rows that are not reset do not count
    observations, infos = cheetah.reset(seed=[0, 50, 0], options={"task": new_tasks, "reset_mask": mask})
    np.testing.assert_array_equal(infos["task"], [[0.0], [1.5], [2.0]])
    np.testing.assert_array_equal(infos["_task"], mask)
    np.testing.assert_array_equal(observations[[0, 2]], before[[0, 2]])
    single = make("mamlrl/HalfCheetahVel-v0")
    np.testing.assert_array_equal(observations[1], single.reset(seed=50, options={"task": [1.5]})[0])
    for action in actions[1:]:
        ours, theirs = cheetah.step(action), reference.step(action)
        np.testing.assert_array_equal(ours[0][[0, 2]], theirs[0][[0, 2]])
        assert ours[1][1] == single.step(action[1])[1]


def test_reset_mask_revives_a_held_row_and_restarts_its_clock():
    envs = make_vec("mamlrl/Navigation2D-v0", num_envs=2, max_episode_steps=3)
    envs.reset(seed=0, options={"task": [0.5, 0.5]})
    move = np.full((2, 2), 0.05)
    for _ in range(3):
        truncated = envs.step(move)[3]
    assert truncated.all()
    envs.reset(options={"reset_mask": np.array([True, False])})
    observations, rewards, _, now_truncated, _ = envs.step(move)
    assert truncated.all()  # what was handed out before stays
    np.testing.assert_array_equal(now_truncated, [False, True])
    np.testing.assert_allclose(observations, [[0.05, 0.05], [0.15, 0.15]])
    assert rewards[0] < 0 == rewards[1]


def test_held_row_repeats_its_last_step(navigation):
    navigation.reset(seed=0, options={"task": [[0.1, 0.0], [0.5, 0.0], [0.5, 0.0]]})
    move = np.array([[0.1, 0.0]] * 3)
    observations, rewards, terminated, truncated, _ = navigation.step(move)
    np.testing.assert_array_equal(terminated, [True, False, False])
    np.testing.assert_allclose(rewards, [0.0, -0.4, -0.4])
    for t in range(2, 110):
        observations, rewards, terminated, truncated, _ = navigation.step(move if t < 5 else np.zeros((3, 2)))
        assert observations[0, 0] == 0.1 and rewards[0] == 0 and terminated[0] and not truncated[0]
        np.testing.assert_array_equal(truncated[1:], [t >= 100] * 2)
    assert not terminated[1:].any()  # they stopped short of the goal


def test_returned_arrays_are_safe_to_keep(cheetah):
    kept = [cheetah.reset(seed=0)[0]]
    for _ in range(3):
        observations, rewards, terminated, truncated, infos = cheetah.step(np.ones((3, 6)))
        kept += [observations, rewards, terminated, truncated, infos["x_position"], infos["x_velocity"]]
    copies = [values.copy() for values in kept]
    cheetah.step(-np.ones((3, 6)))
    cheetah.reset(seed=1)
    for values, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(values, copy)


def test_actions_are_clipped(navigation):
    navigation.reset(seed=0)
    np.testing.assert_array_equal(navigation.step([[9.0, -9.0], [0.1, 0.1], [0.0, 0.2]])[0][:, 0], [0.1, 0.1, 0.0])


@pytest.mark.parametrize(
    ("env_id", "task", "message"),
    [
        (
            "mamlrl/HalfCheetahVel-v0",
            [[0.0], [2.5], [1.0]],
            "the task [2.5] of row 1 is not in the task space: it must be in [0, 2]",
        ),
        ("mamlrl/HalfCheetahVel-v0", [[0.0], [1.0], [np.nan]], "the task [nan] of row 2 is not in the task space"),
        ("mamlrl/HalfCheetahVel-v0", ["1.0"], "options['task'] is ['1.0']; it must be an array of numbers"),
        ("mamlrl/HalfCheetahVel-v0", [True], "options['task'] is [True]; it must be an array of numbers"),
        ("mamlrl/HalfCheetahVel-v0", [[1.0], [1.0, 2.0]], "options['task'] is [[1.0], [1.0, 2.0]]; it must be"),
        ("mamlrl/HalfCheetahVel-v0", {"velocity": 1.0}, "options['task'] is {'velocity': 1.0}; it must be"),
        ("mamlrl/HalfCheetahVel-v0", [[0.0, 1.0]], "options['task'] has shape (1, 2); it must have (1,) or (3, 1)"),
        ("mamlrl/Bandit-v0", [0.1, 0.2, 0.3, 0.4, 1.5], "the task [0.1 0.2 0.3 0.4 1.5] of row 0 is not in the task"),
        ("mamlrl/TabularMDP-v0", np.full(550, 0.5), "of row 0 is not in the task space MDPSpace(10 states, 5 actions)"),
        ("mamlrl/HalfCheetahDir-v0", [0.5], "the task [0.5] of row 0 is not in the task space DirectionSpace({-1, 1})"),
    ],
)
def test_wrong_task_is_named(env_id, task, message):
    with pytest.raises(ValueError) as error:
        make_vec(env_id, num_envs=3).reset(seed=0, options={"task": task})
    assert message in str(error.value)


def test_other_wrong_input_is_named(cheetah):
    with pytest.raises(ResetNeeded, match="before reset"):
        cheetah.step(np.zeros((3, 6)))
    with pytest.raises(ValueError, match="seed has 2 entries; it must be one number or 3 of them"):
        cheetah.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="reset_mask'] is int64 of shape"):
        cheetah.reset(options={"reset_mask": np.arange(3)})
    cheetah.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions have shape \(6,\); they must have \(3, 6\)"):
        cheetah.step(np.zeros(6))
