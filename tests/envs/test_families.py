"""Every registered family: Gymnasium's own checks, tasks, infos, docstrings."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from mamlrl.envs import FAMILIES
from tests.envs.making import make, make_vec

IDS = [row[0] for row in FAMILIES]
HORIZONS = {row[0]: row[4] for row in FAMILIES}
SECTIONS = (
    "Description",
    "Action Space",
    "Observation Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Arguments",
    "Version History",
)


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_check(env_id):
    with warnings.catch_warnings():
        warnings.filterwarnings("error")
        warnings.filterwarnings("ignore", message=".*observation space m.*imum value is.*infinity")
        check_env(make(env_id).unwrapped, skip_render_check=True)  # test_rendering.py renders


@pytest.mark.parametrize("env_id", IDS)
def test_docstring_has_all_sections(env_id):
    docstring = type(make(env_id).unwrapped).__doc__
    assert docstring is not None
    positions = [docstring.index(f"## {section}\n") for section in SECTIONS]
    assert positions == sorted(positions)


@pytest.mark.parametrize("env_id", IDS)
def test_sampled_tasks_lie_in_the_task_space_and_fill_it(env_id):
    env = make(env_id).unwrapped
    tasks = env.sample_tasks(500, np.random.default_rng(0))
    assert tasks.shape == (500, *env.task_space.shape) and tasks.dtype == np.float64
    assert all(env.task_space.contains(task) for task in tasks)
    if env_id != "mamlrl/TabularMDP-v0":  # whose rewards have no bounds, and few of whose probabilities are near 1
        width = env.task_space.high - env.task_space.low
        assert (tasks.min(axis=0) - env.task_space.low < 0.02 * width).all()
        assert (env.task_space.high - tasks.max(axis=0) < 0.02 * width).all()
    np.testing.assert_array_equal(tasks, env.sample_tasks(500, np.random.default_rng(0)))
    assert env.task_space.contains(env.task_space.sample())


def forward(task, info):
    return info["x_velocity"]


def wanted(task, info):
    return -abs(info["x_velocity"] - task[0])


# The reward of the task from what info says of the robot, the bonus while healthy, the weight of squared actions.
REWARDS = {
    "Navigation2D": (lambda task, info: -info["distance"], 0, 0),
    "HalfCheetahVel": (wanted, 0, 0.05),
    "HalfCheetahDir": (lambda task, info: task[0] * info["x_velocity"], 0, 0.05),
    "AntVel": (wanted, 1.05, 0.005),
    "AntDir": (lambda task, info: task[0] * info["x_velocity"], 0.05, 0.005),
    "AntGoal": (
        lambda task, info: -abs(info["x_position"] - task[0]) - abs(info["y_position"] - task[1]),
        4.05,
        0.005,
    ),
    "HalfCheetahDynamics": (forward, 0, 0.05),
    "HopperDynamics": (forward, 1, 1e-3),
    "Walker2DDynamics": (forward, 1, 1e-3),
    "CheetahCrippled": (forward, 0, 0.05),
    "CheetahSlope": (forward, 0, 0.05),
    "AntPayload": (forward, 0.05, 0.005),
    "ArmPayload": (lambda task, info: -info["distance"], 0, 0),
    "AntCrippled": (forward, 0.05, 0.005),
    "HopperVel": (wanted, 1, 1e-3),
    "Walker2DVel": (wanted, 1, 1e-3),
    "SwimmerVel": (wanted, 0, 1e-4),
    "HumanoidDir": (
        lambda task, info: 1.25 * (np.cos(task[0]) * info["x_velocity"] + np.sin(task[0]) * info["y_velocity"]),
        5,
        0.1,
    ),
    "ReacherGoal": (lambda task, info: -info["distance"], 0, 1.0),
}


@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if isinstance(make(env_id).action_space, spaces.Box)])
def test_reward_follows_from_info(env_id):
    env = make(env_id)
    task_reward, bonus, weight = REWARDS[env_id.removeprefix("mamlrl/").removesuffix("-v0")]
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    task = env.unwrapped.task
    for _ in range(20):
        action = rng.uniform(-2, 2, env.action_space.shape)
        observation, reward, terminated, _, info = env.step(action)
        clipped = np.clip(action, env.action_space.low, env.action_space.high)
        expected = task_reward(task, info) + bonus * (not terminated) - weight * np.sum(clipped**2)
        if "distance" in info and "Arm" not in env_id:
            np.testing.assert_allclose(info["distance"], np.linalg.norm(observation[-2:] - task), rtol=1e-12)
        np.testing.assert_allclose(reward, expected, rtol=1e-12)
        terms = [value for name, value in info.items() if name.startswith("reward_")]
        if terms:
            np.testing.assert_allclose(reward, sum(terms), rtol=1e-12)
        if terminated:
            break


@pytest.mark.parametrize("env_id", IDS)
def test_pickled_copy_behaves_the_same(env_id):
    env = make(env_id).unwrapped
    copy = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(env.reset(seed=3)[0], copy.reset(seed=3)[0])
    vector_env = make_vec(env_id, num_envs=3).unwrapped
    vector_copy = pickle.loads(pickle.dumps(vector_env))
    assert vector_copy.num_envs == 3 and vector_copy.max_episode_steps == HORIZONS[env_id]
    np.testing.assert_array_equal(vector_env.reset(seed=3)[0], vector_copy.reset(seed=3)[0])


def test_with_an_older_mujoco_others_train_and_ours_say_what_they_need():
    """MuJoCo before 4 has no `mujoco.batch`; Meta-World, for one, needs such a version."""
    script = (
        "import sys, mujoco\n"
        "sys.modules['mujoco.batch'] = None\n"
        "mujoco.__version__ = '3.3.0'\n"
        "import mamlrl.train\n"
        "from mamlrl.envs.making import make_task_envs\n"
        "make_task_envs('tests.envs.third_party:Countdown-v0', 2, 5).reset(seed=0)\n"
        "make_task_envs('mamlrl/Navigation2D-v0', 2, 5).reset(seed=0)\n"
        "for name in ('HalfCheetahVel', 'AntGoal'):\n"
        "    for mode in ('auto', 'sync'):\n"
        "        try: make_task_envs(f'mamlrl/{name}-v0', 2, 5, {}, mode)\n"
        "        except ValueError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    need = "MuJoCo families of mamlrl need mujoco>=4.0; this is 3.3.0"
    told = [f"environment mamlrl/{name}-v0: {need}" for name in ("HalfCheetahVel", "AntGoal") for _ in range(2)]
    assert (result.returncode, result.stdout.splitlines(), result.stderr) == (0, told, "")


def test_import_is_light_and_make_needs_no_import_of_ours(tmp_path):
    script = (
        "import sys, gymnasium\n"
        "import mamlrl.envs\n"
        "assert 'mujoco' not in sys.modules and 'torch' not in sys.modules\n"
        "for name in [name for name in sys.modules if name.startswith('mamlrl')]: del sys.modules[name]\n"
        "for name in [name for name in gymnasium.registry if name.startswith('mamlrl')]: del gymnasium.registry[name]\n"
        "gymnasium.make('mamlrl:mamlrl/HalfCheetahVel-v0').reset(seed=0)\n"
        "gymnasium.make_vec('mamlrl/HalfCheetahVel-v0', num_envs=2, observation='rllab').reset(seed=0)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())  # MuJoCo writes its warnings to a file


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("mamlrl/Navigation2D-v0", {"max_step": 0.0}, "max_step is 0.0; it must be a number above 0"),
        ("mamlrl/HalfCheetahVel-v0", {"goal_range": (2, 0)}, "goal_range is (2, 0); it must be (low, high)"),
        ("mamlrl/HalfCheetahDir-v0", {"velocity": "feet"}, "velocity is 'feet'; it must be one of 'root', 'com'"),
        ("mamlrl/HalfCheetahDir-v0", {"observation": "x"}, "observation is 'x'; it must be one of"),
        ("mamlrl/HalfCheetahDir-v0", {"frame_skip": 0}, "frame_skip is 0; it must be a whole number of at least 1"),
        (
            "mamlrl/HalfCheetahDir-v0",
            {"render_mode": "human"},
            "render_mode is 'human'; it must be one of None, 'rgb_array'",
        ),
        ("mamlrl/HalfCheetahDir-v0", {"num_envs": 0}, "num_envs is 0; it must be a whole number of at least 1"),
        (
            "mamlrl/HalfCheetahDir-v0",
            {"max_episode_steps": 0},
            "max_episode_steps is 0; it must be a whole number of at least 1",
        ),
        ("mamlrl/HalfCheetahDir-v0", {"num_threads": -1}, "num_threads is -1; it must be a whole number of at least 0"),
        ("mamlrl/AntVel-v0", {"goal_range": (1, 1)}, "goal_range is (1, 1); it must be (low, high)"),
        ("mamlrl/HalfCheetahDynamics-v0", {"span": 0.0}, "span is 0.0; it must be a number above 0"),
        ("mamlrl/HalfCheetahDynamics-v0", {"change_at": 0}, "change_at is 0; it must be a whole number of at least 1"),
        ("mamlrl/CheetahSlope-v0", {"largest_slope": 90}, "largest_slope is 90; it must be between 0 and 90 degrees"),
        ("mamlrl/AntPayload-v0", {"mass_range": (0, 1)}, "mass_range is (0, 1); it must be (low, high) with 0 < low"),
        ("mamlrl/ArmPayload-v0", {"mass_range": (2, 1)}, "mass_range is (2, 1); it must be (low, high) with 0 < low"),
        ("mamlrl/AntDir-v0", {"body": "robot"}, "body is 'robot'; it must be one of 'gymnasium', 'rllab'"),
        ("mamlrl/AntDir-v0", {"velocity": "feet"}, "velocity is 'feet'; it must be one of 'root', 'com'"),
        ("mamlrl/AntDir-v0", {"observation": "x"}, "observation is 'x'; it must be one of"),
        ("mamlrl/AntDir-v0", {"reset_noise": "x"}, "reset_noise is 'x'; it must be one of"),
        ("mamlrl/AntPayload-v0", {"offset": 0}, "offset is 0; it must be a number above 0"),
        ("mamlrl/HopperVel-v0", {"goal_range": (1, 1)}, "goal_range is (1, 1); it must be (low, high)"),
        ("mamlrl/AntGoal-v0", {"goal_range": -3.0}, "goal_range is -3.0; it must be a number above 0"),
        ("mamlrl/AntVel-v0", {"goal_range": 3}, "goal_range is 3; it must be (low, high) with low < high"),
        ("mamlrl/HopperVel-v0", {"goal_range": "03"}, "goal_range is '03'; it must be (low, high) with low < high"),
        ("mamlrl/SwimmerVel-v0", {"goal_range": (0, 1, 2)}, "goal_range is (0, 1, 2); it must be (low, high)"),
        ("mamlrl/AntVel-v0", {"goal_range": (0, np.inf)}, "goal_range is (0, inf); it must be (low, high)"),
        ("mamlrl/ArmPayload-v0", {"mass_range": ("1", "2")}, "mass_range is ('1', '2'); it must be (low, high)"),
        ("mamlrl/AntPayload-v0", {"offset": np.inf}, "offset is inf; it must be a number above 0"),
        ("mamlrl/AntDir-v0", {"healthy_reward": "1"}, "healthy_reward is '1'; it must be a number"),
        ("mamlrl/AntDir-v0", {"contact_cost_weight": "x"}, "contact_cost_weight is 'x'; it must be a number"),
        ("mamlrl/AntDir-v0", {"contact_forces": "false"}, "contact_forces is 'false'; it must be true or false"),
        ("mamlrl/HopperVel-v0", {"terminate_when_unhealthy": 1}, "terminate_when_unhealthy is 1; it must be true"),
        ("mamlrl/HopperVel-v0", {"ctrl_cost_weight": np.nan}, "ctrl_cost_weight is nan; it must be a number"),
        ("mamlrl/ReacherGoal-v0", {"ctrl_cost_weight": "1"}, "ctrl_cost_weight is '1'; it must be a number"),
        ("mamlrl/HumanoidDir-v0", {"forward_reward_weight": "1"}, "forward_reward_weight is '1'; it must be a number"),
        ("mamlrl/HalfCheetahDir-v0", {"ctrl_cost_weight": "0.05"}, "ctrl_cost_weight is '0.05'; it must be a number"),
        ("mamlrl/HalfCheetahDir-v0", {"frame_skip": 2.5}, "frame_skip is 2.5; it must be a whole number of at least 1"),
        ("mamlrl/Walker2DDynamics-v0", {"span": 2000}, "base is 1.5 and span is 2000; base must be above 1, and"),
        ("mamlrl/CheetahSlope-v0", {"largest_slope": "9"}, "largest_slope is '9'; it must be a number"),
        ("mamlrl/Bandit-v0", {"arms": 1}, "arms is 1; it must be a whole number of at least 2"),
        ("mamlrl/Bandit-v0", {"reward": "beta"}, "reward is 'beta'; it must be one of 'bernoulli', 'gaussian'"),
        ("mamlrl/TabularMDP-v0", {"states": 0}, "states is 0; it must be a whole number of at least 1"),
        ("mamlrl/TabularMDP-v0", {"actions": 2.5}, "actions is 2.5; it must be a whole number of at least 2"),
        ("mamlrl/Maze-v0", {"size": 1}, "size is 1; it must be a whole number of at least 2"),
        ("mamlrl/Maze-v0", {"loops": 2}, "loops is 2; it must be a probability, between 0 and 1"),
        ("mamlrl/Maze-v0", {"split": "dev"}, "split is 'dev'; it must be one of 'all', 'train', 'test'"),
        ("mamlrl/Maze-v0", {"move": 0}, "move is 0; it must be above 0 and at most 0.5 cells"),
        ("mamlrl/Maze-v0", {"turn": -1}, "turn is -1; it must be above 0 and at most 180 degrees"),
        ("mamlrl/Maze-v0", {"loops": "many"}, "loops is 'many'; it must be a number"),
        ("mamlrl/Maze-v0", {"unseen": "maybe"}, "unseen is 'maybe'; it must be true or false"),
        ("mamlrl/AntDir-v0", {"healthy_z_range": (1, 0.2)}, "healthy_z_range is (1, 0.2); it must be (low, high)"),
    ],
)
def test_wrong_argument_is_named(env_id, kwargs, message):
    with pytest.raises(ValueError) as error:
        make_vec(env_id, **{"num_envs": 2} | kwargs)
    assert message in str(error.value)
