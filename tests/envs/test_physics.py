# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs.)
"""Against independent computations: Gymnasium's own robots, MuJoCo's own functions, and published yardsticks."""

import mujoco
import numpy as np
import pytest

from mamlrl.envs.mujoco_vector import MODEL_FOLDER, load_model
from tests.envs.making import make, make_vec

WITHOUT_FORCES = {
    f"include_{name}_in_observation": False for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
} | {"contact_cost_weight": 0.0}
RLLAB = {"frame_skip": 1, "velocity": "com", "observation": "rllab", "reset_noise": "rllab"}


@pytest.mark.filterwarnings("ignore:.*settotalmass")
@pytest.mark.parametrize("file_name", ["half_cheetah.xml", "ant.xml"])
def test_model_is_gymnasiums_to_the_last_bit(file_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo's reader logs a note to a file
    ours, theirs = load_model(file_name), mujoco.MjModel.from_xml_path(str(MODEL_FOLDER / file_name))
    for name in dir(theirs):
        value = getattr(theirs, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(ours, name), value, err_msg=name)


@pytest.mark.parametrize(
    ("ours", "theirs", "kwargs"),
    [
        ("mamlrl/HalfCheetahVel-v0", "HalfCheetah-v5", {}),
        ("mamlrl/HalfCheetahDir-v0", "HalfCheetah-v5", {}),
        ("mamlrl/AntVel-v0", "Ant-v5", {"include_cfrc_ext_in_observation": False}),
        ("mamlrl/HopperVel-v0", "Hopper-v5", {}),
        ("mamlrl/Walker2DVel-v0", "Walker2d-v5", {}),
        ("mamlrl/SwimmerVel-v0", "Swimmer-v5", {}),
        ("mamlrl/HumanoidDir-v0", "Humanoid-v5", WITHOUT_FORCES),
    ],
)
def test_observations_equal_gymnasiums(ours, theirs, kwargs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env, reference = make(ours), make(theirs, **kwargs)
    lengths = []
    for seed in range(3):
        observation = env.reset(seed=seed, options={"task": [0.2 if "Swimmer" in ours else 1.0]})[0]
        np.testing.assert_array_equal(observation, reference.reset(seed=seed)[0])
        ended, steps, rng = False, 0, np.random.default_rng(seed)
        while not ended:
            action = env.action_space.high * rng.uniform(-1, 1, env.action_space.shape)
            observation, _, terminated, truncated, info = env.step(action)
            expected, _, expected_end, _, expected_info = reference.step(action)
            np.testing.assert_array_equal(observation, expected)
            assert terminated == expected_end and info["x_position"] == expected_info["x_position"]
            if "Ant" not in ours:
                assert info["x_velocity"] == expected_info["x_velocity"]
            if "Ant" not in ours and "Cheetah" not in ours:  # whose weights are other ones
                costs = [info[name] for name in ("reward_ctrl", "reward_healthy") if name in info]
                expected_costs = [expected_info.get(name, 0) for name in ("reward_ctrl", "reward_survive")]
                np.testing.assert_allclose(sum(costs), sum(expected_costs), rtol=1e-12)
            ended, steps = terminated or truncated, steps + 1
        lengths.append(steps)
    assert max(lengths) == 100 or len(set(lengths)) > 1


def test_center_of_mass_is_current():
    env = make("mamlrl/HalfCheetahVel-v0", **RLLAB)
    model = load_model("half_cheetah.xml")
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    observation, info = env.reset(seed=0, options={"task": [1.0]})
    x = None
    for _ in range(50):
        data.qpos[1:], data.qvel[:] = observation[:8], observation[8:17]
        data.qpos[0] = 0.0 if x is None else x
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        torso = model.body("torso").id
        if x is not None:
            np.testing.assert_allclose(observation[17:], data.subtree_com[torso], atol=1e-12)
            np.testing.assert_allclose(info["x_velocity"], data.subtree_linvel[torso][0], atol=1e-12)
        observation, _, _, _, info = env.step(rng.uniform(-1, 1, 6))
        x = info["x_position"]


def test_the_papers_ant():
    """Against MuJoCo's own functions on Gymnasium's file with rllab's numbers written into it."""
    text = (MODEL_FOLDER / "ant.xml").read_text()
    for ours, theirs in (
        ('timestep="0.01"', 'timestep="0.02"'),
        ('margin="0.01" rgba="0.8 0.6 0.4 1"', 'margin="0.01" solref=".02 1" solimp=".8 .8 .01"'),
        ('gear="150"', ""),
        ('ctrlrange="-1.0 1.0"', 'ctrlrange="-150.0 150.0"'),
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    model = mujoco.MjModel.from_xml_string(text)
    data = mujoco.MjData(model)
    env = make("mamlrl/AntVel-v0", **{**RLLAB, "body": "rllab"})
    observation, _ = env.reset(seed=0, options={"task": [1.5]})
    assert observation.shape == (125,) and abs(observation[2] - 0.55) < 0.05
    data.qpos[:], data.qvel[:] = observation[:15], observation[15:29]
    mujoco.mj_forward(model, data)
    rng, felt, torso = np.random.default_rng(0), 0, model.body("torso").id
    for _ in range(60):
        action = rng.uniform(-1, 1, 8)
        observation, reward, terminated, _, _ = env.step(action)
        data.ctrl[:] = 150 * action
        mujoco.mj_step(model, data)
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        mujoco.mj_subtreeVel(model, data)
        forces = np.clip(data.cfrc_ext, -1, 1)
        parts = (data.qpos, data.qvel, forces.ravel(), data.xmat[torso], data.subtree_com[torso])
        np.testing.assert_allclose(observation, np.concatenate(parts), rtol=1e-6, atol=1e-6)
        assert terminated == (not 0.2 <= data.qpos[2] <= 1.0)
        expected = -abs(data.subtree_linvel[torso][0] - 1.5) + 1.05 * (not terminated)
        expected -= 0.005 * np.sum(action**2) + 5e-4 * np.sum(forces**2)
        np.testing.assert_allclose(reward, expected, rtol=1e-6)
        felt += bool(forces.any())
        if terminated:
            break
    assert felt > 3


def mean_return(env_id, tasks, horizon, **kwargs):
    """Mean return of a policy that draws actions with mean 0 and standard deviation 1."""
    envs = make_vec(env_id, num_envs=len(tasks), max_episode_steps=horizon, **kwargs)
    rng = np.random.default_rng(0)
    envs.reset(seed=0, options={"task": tasks})
    rewards = [envs.step(rng.standard_normal(envs.action_space.shape))[1] for _ in range(horizon)]
    return np.sum(rewards, axis=0).mean()


def test_random_policy_on_the_papers_cheetah():
    # The MAML paper's random policy starts at -254.8 on 40 goals drawn from U[0, 2], which alone gives a standard error
    # of 18; over evenly spaced goals it is -260. On direction it starts at -35.7.
    velocity = mean_return("mamlrl/HalfCheetahVel-v0", np.linspace(0, 2, 400)[:, None], 200, **RLLAB)
    assert abs(velocity - -260) < 3
    direction = mean_return("mamlrl/HalfCheetahDir-v0", np.tile([-1.0, 1.0], 200)[:, None], 200, **RLLAB)
    assert abs(direction - -31) < 4


def test_staying_at_the_origin_of_2d_navigation():
    envs = make_vec("mamlrl/Navigation2D-v0", num_envs=20_000)
    envs.reset(seed=0, options={"task": envs.unwrapped.sample_tasks(20_000, np.random.default_rng(0))})
    returns = np.sum([envs.step(np.zeros((20_000, 2)))[1] for _ in range(100)], axis=0)
    # The mean distance of a point in the unit square from its centre is .3826; standard error .1.
    assert abs(returns.mean() - -38.26) < 0.4


def test_rllab_start_states():
    envs = make_vec("mamlrl/HalfCheetahVel-v0", num_envs=2000, **RLLAB)
    observations, _ = envs.reset(seed=0)
    np.testing.assert_allclose(observations[:, :8].std(axis=0), 0.01, rtol=0.1)
    np.testing.assert_allclose(observations[:, 8:17].std(axis=0), 0.1, rtol=0.1)


def test_ant_feels_contacts_on_request():
    env = make("mamlrl/AntGoal-v0", contact_forces=True, ctrl_cost_weight=0.0, healthy_reward=0.0)
    plain = make("mamlrl/AntGoal-v0")
    assert env.reset(seed=0, options={"task": [1.0, 1.0]})[0].shape == (105,)
    assert plain.reset(seed=0, options={"task": [1.0, 1.0]})[0].shape == (27,)
    rng, felt = np.random.default_rng(0), 0
    for _ in range(40):
        action = rng.uniform(-1, 1, 8)
        observation, reward, terminated, _, info = env.step(action)
        forces = observation[27:]
        np.testing.assert_array_equal(observation[:27], plain.step(action)[0])
        assert np.abs(forces).max() <= 1
        np.testing.assert_allclose(info["reward_contact"], -5e-4 * np.sum(forces**2), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(reward, info["reward_task"] + info["reward_contact"], rtol=1e-12)
        felt += bool(forces.any())
        if terminated:
            break
    assert felt > 3


def test_unhealthy_ant_may_go_on():
    kwargs = {"terminate_when_unhealthy": False, "healthy_z_range": (0.6, 1.0)}
    env = make("mamlrl/AntDir-v0", **kwargs)
    env.reset(seed=0, options={"task": [1.0]})
    bonuses = set()
    for _ in range(60):
        observation, _, terminated, _, info = env.step(np.ones(8))
        assert not terminated
        assert info["reward_healthy"] == 0.05 * (0.6 <= observation[0] <= 1.0)
        bonuses.add(float(info["reward_healthy"]))
    assert bonuses == {0.0, 0.05}


def test_the_reacher_is_gymnasiums():
    """From the same state, with the same actions: all that both observe, and the reward but for its weights."""
    env, reference = make("mamlrl/ReacherGoal-v0").unwrapped, make("Reacher-v5").unwrapped
    env.reset(seed=0, options={"task": [0.1, -0.05]})
    reference.reset(seed=0)
    qpos = np.concatenate([env._rows._qpos[0, :2], [0.1, -0.05]])
    reference.set_state(qpos, np.concatenate([env._rows._qvel[0, :2], [0.0, 0.0]]))
    for action in np.random.default_rng(0).uniform(-1, 1, (50, 2)):
        reward = env.step(action)[1]
        observation, _, _, _, expected = reference.step(action)
        np.testing.assert_array_equal(env._rows._qpos[0, :2], reference.data.qpos[:2])
        np.testing.assert_array_equal(env._rows._qvel[0, :2], observation[6:8])
        np.testing.assert_allclose(reward, expected["reward_dist"] + np.square(action).sum() * -1.0, atol=1e-12)
