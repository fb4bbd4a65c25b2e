"""Pictures: 2D navigation anywhere, MuJoCo where there is an OpenGL library (in CI there has to be one)."""

import os
import sys
import warnings

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from mamlrl.envs import FAMILIES
from mamlrl.envs.navigation import FRAME_SIZE, draw_path
from tests.envs.making import make, make_vec

MUJOCO_IDS = [row[0] for row in FAMILIES if row[1] in ("half_cheetah", "ant")]
HORIZONS = {row[0]: row[4] for row in FAMILIES}
ONE_OF_EACH_MODULE = {row[1]: row[0] for row in FAMILIES}.values()


@pytest.fixture(scope="module")
def opengl():
    """Skips where MuJoCo cannot render, except in CI."""
    env = make(MUJOCO_IDS[0], render_mode="rgb_array")
    env.reset(seed=0)
    try:
        env.render()
    except RuntimeError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    finally:
        env.close()


@pytest.mark.usefixtures("opengl")
@pytest.mark.parametrize("env_id", [row[0] for row in FAMILIES])
def test_frames(env_id):
    env = make(env_id, render_mode="rgb_array")
    if env_id in ONE_OF_EACH_MODULE:  # it makes a second OpenGL context, which takes most of the time
        with warnings.catch_warnings():
            warnings.filterwarnings("error")
            warnings.filterwarnings("ignore", message=".*observation space m.*imum value is.*infinity")
            check_env(env.unwrapped)
    env.reset(seed=0)
    before = env.render()
    space = env.action_space
    for _ in range(min(10, HORIZONS[env_id] - 1)):
        env.step(space.high if isinstance(space, spaces.Box) else space.n - 1)
    after = env.render()
    height = 280 if env_id == "mamlrl/Maze-v0" else 480
    assert before.shape == after.shape == (height, 480, 3) and before.dtype == after.dtype == np.uint8
    assert not np.array_equal(before, after)
    env.close()


@pytest.mark.usefixtures("opengl")
@pytest.mark.parametrize("env_id", ["mamlrl/Navigation2D-v0", "mamlrl/HalfCheetahVel-v0"])
def test_rows_of_a_vector_environment(env_id):
    envs = make_vec(env_id, num_envs=3, render_mode="rgb_array")
    single = make(env_id, render_mode="rgb_array")
    tasks = envs.unwrapped.sample_tasks(3, np.random.default_rng(0))
    envs.reset(seed=4, options={"task": tasks})
    single.reset(seed=5, options={"task": tasks[1]})
    actions = np.random.default_rng(1).uniform(-0.1, 0.1, (10, *envs.action_space.shape))
    for action in actions:
        envs.step(action)
        single.step(action[1])
    frames = envs.render()
    assert isinstance(frames, tuple) and len(frames) == 3
    assert not np.array_equal(frames[0], frames[2])
    np.testing.assert_array_equal(frames[1], envs.render_row(1))
    np.testing.assert_array_equal(frames[1], single.render())
    with pytest.raises(IndexError, match=r"row is 3; it must be in \[0, 3\)"):
        envs.render_row(3)
    envs.close()
    single.close()


@pytest.mark.usefixtures("opengl")
def test_pictures_show_what_differs():
    """All rows start alike: the larger ball has more red pixels, the dead leg grey ones, uphill rises to the right.

    A pole is at the goal.
    """
    payload = np.stack(first_pictures("mamlrl/AntPayload-v0", [[0.05, 0.0, 0.0], [0.5, 0.0, 0.0]])).astype(int)
    red = (payload[..., 0] > 100 + payload[..., 1]).sum((1, 2))
    assert red[1] > 2 * red[0] > 0
    grey, sound = first_pictures("mamlrl/CheetahCrippled-v0", [[0.0], [5.0]])
    differs = (np.abs(grey.astype(int) - sound) > 20).any(-1).any(0).nonzero()[0]  # columns
    assert differs.min() < 240 < differs.max()  # at the back thigh, and at the front foot
    sky = [picture.astype(int).std(-1) < 5 for picture in first_pictures("mamlrl/CheetahSlope-v0", [[-15.0], [15.0]])]
    horizon = [picture.argmin(axis=0)[[10, 470]] for picture in sky]  # first row of the floor, left and right
    assert horizon[0][0] < horizon[0][1] - 30 and horizon[1][0] > horizon[1][1] + 30
    for goals, axis in (([[-1.5, 0.5], [1.5, 0.5]], 0), ([[1.0, 2.5], [1.0, -1.0]], 1)):
        pictures = np.stack(first_pictures("mamlrl/AntGoal-v0", goals)).astype(int)
        red = pictures[..., 0] > 80 + pictures[..., 1]
        one, other = (picture.any(axis=axis).nonzero()[0] for picture in red)  # columns, or rows, of the pole
        assert one.max() < other.min() - 50  # left and right, or far and near


def first_pictures(env_id, tasks):
    envs = make_vec(env_id, num_envs=2, render_mode="rgb_array")
    envs.reset(seed=[0, 0], options={"task": tasks})
    pictures = envs.render()
    envs.close()
    return pictures


@pytest.mark.usefixtures("opengl")
def test_rendering_does_not_disturb_the_simulation():
    observations = []
    for render_mode in (None, "rgb_array"):
        env = make("mamlrl/HalfCheetahVel-v0", render_mode=render_mode)
        observation, _ = env.reset(seed=0, options={"task": [1.0]})
        for _ in range(10):
            observation, *_ = env.step(np.ones(6))
            env.unwrapped.render()
        observations.append(observation)
        env.close()
    np.testing.assert_array_equal(observations[0], observations[1])


def test_path_is_drawn_where_it_lies():
    frame = draw_path(np.array([[0.0, 0.0], [0.3, 0.0]]), np.array([-0.3, 0.3]), goal_range=0.5, half_width=0.7)

    def color(x, y):  # the picture shows +-0.7
        column, row = (np.array([x, -y]) / 0.7 + 1) / 2 * FRAME_SIZE
        return frame[round(row), round(column)].astype(int)

    red, _, blue = color(-0.3, 0.3)
    assert red > blue + 50  # the goal
    red, _, blue = color(0.3, 0.0)
    assert blue > red + 50  # the position
    red, _, blue = color(0.15, 0.0)
    assert blue > red + 50  # the path
    assert (color(0.0, 0.0) > 240).all()  # the start, hollow
    assert (color(0.65, 0.65) == 255).all()  # outside the square of goals


def test_rows_of_a_film_are_to_one_scale_wherever_one_goes():
    envs = make_vec("mamlrl/Navigation2D-v0", num_envs=2, render_mode="rgb_array")
    envs.reset(seed=0, options={"task": np.full((2, 2), -0.4)})
    near, _ = envs.render()
    for _ in range(20):
        envs.step(np.array([[0.0, 0.0], [0.1, 0.1]]))
    resting, far = envs.render()
    envs.close()

    def width_of_goals(frame):  # the square of goals is not white
        return np.flatnonzero((frame[:, FRAME_SIZE // 2 - 40] < 255).any(-1)).size

    assert width_of_goals(resting) == width_of_goals(far) < 0.5 * width_of_goals(near)


def test_missing_opengl_says_what_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setitem(sys.modules, "mujoco.egl", None)  # importing it fails, as without the library
    env = make("mamlrl/HalfCheetahVel-v0", render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"libegl1.*MUJOCO_GL=osmesa"):
        env.render()
    env.close()


def test_nothing_is_drawn_without_a_render_mode_or_before_reset():
    envs = make_vec("mamlrl/Navigation2D-v0", num_envs=2)
    assert envs.render() is None
    with pytest.raises(ResetNeeded, match="before reset"):
        make_vec("mamlrl/Navigation2D-v0", num_envs=2, render_mode="rgb_array").render()
