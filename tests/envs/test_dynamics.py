# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs.)
"""Tasks that change the dynamics: against MuJoCo's own functions on single models; when they are set; bad input."""

from pathlib import Path

import mujoco
import numpy as np
import pytest

import mamlrl.envs
from mamlrl.envs.making import make_task_envs
from mamlrl.envs.mujoco_vector import load_model
from mamlrl.envs.observe_task import ObserveTaskVector
from mamlrl.envs.payload import Payload
from mamlrl.envs.trials import TrialVector
from mamlrl.train import main
from tests.envs.making import make, make_vec

# By family: the model's file, edits, and what a task makes of it, written down independently of the table.


def scale_cheetah(model, task):
    bodies = ["torso", "bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"]
    for i, name in enumerate(bodies):
        model.body(name).mass[:] *= task[i]
        model.body(name).inertia[:] *= task[7 + i]
    model.dof_damping[3:] *= task[14:20]
    model.geom_friction[:] *= task[20]


def scale_hopper(model, task):
    model.body_mass[1:] *= task[:4]
    model.body_inertia[1:] *= task[4:8, None]
    model.dof_damping[3:] *= task[8:11]
    model.geom_friction[:] *= task[11]


def scale_walker(model, task):
    model.body_mass[1:] *= task[:7]
    model.body_inertia[1:] *= task[7:14, None]
    model.dof_damping[3:] *= task[14:20]
    model.geom_friction[:] *= task[20]


def load_torso(model, task):
    mass, x, y = task
    radius = 0.17 * np.cbrt(mass)
    ball = model.body("payload")
    ball.mass[:], ball.inertia[:], ball.pos[:2] = mass, 0.4 * mass * radius**2, (x, y)


def tilt(model, task):
    angle = task[0] * np.pi / 180
    model.opt.gravity[:] = -9.81 * np.sin(angle), 0, -9.81 * np.cos(angle)


CASES = {
    "mamlrl/HalfCheetahDynamics-v0": ("half_cheetah.xml", (), scale_cheetah),
    "mamlrl/HopperDynamics-v0": ("hopper.xml", (), scale_hopper),
    "mamlrl/Walker2DDynamics-v0": ("walker2d_v5.xml", (), scale_walker),
    "mamlrl/CheetahCrippled-v0": (
        "half_cheetah.xml",
        (),
        lambda model, task: model.actuator_gear.__setitem__(int(task[0]), 0.0),
    ),
    "mamlrl/CheetahSlope-v0": ("half_cheetah.xml", (), tilt),
    "mamlrl/AntPayload-v0": ("ant.xml", (Payload.add,), load_torso),
    "mamlrl/AntCrippled-v0": (
        "ant.xml",
        (),
        lambda model, task: model.actuator_gear.__setitem__(slice(2 * int(task[0]), 2 * int(task[0]) + 2), 0.0),
    ),
}


@pytest.mark.parametrize("env_id", CASES)
def test_rows_are_simulations_of_their_own_models(env_id):
    file_name, edits, change = CASES[env_id]
    envs = make_vec(env_id, num_envs=4, num_threads=2).unwrapped
    rng = np.random.default_rng(3)
    tasks = envs.sample_tasks(4, rng)
    envs.reset(seed=0, options={"task": envs.sample_tasks(4, rng)})  # others before: what they set does not stay
    envs.reset(seed=0, options={"task": tasks})
    start_qpos, start_qvel = envs._qpos.copy(), envs._qvel.copy()
    actions = rng.uniform(-1, 1, (15, *envs.action_space.shape))
    observed = [envs.step(action) for action in actions]
    for row in range(4):
        model = load_model(file_name, *edits)
        change(model, tasks[row])
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        data.qpos[:], data.qvel[:] = start_qpos[row], start_qvel[row]
        mujoco.mj_forward(model, data)
        unobserved = 2 if "Ant" in env_id else 1
        for t, (observations, _, terminated, _, _) in enumerate(observed):
            data.ctrl[:] = actions[t, row]
            mujoco.mj_step(model, data, envs._frame_skip)
            ours = observations[row]
            positions = model.nq - unobserved
            np.testing.assert_allclose(ours[:positions], data.qpos[unobserved:], rtol=1e-9, atol=1e-9)
            velocities = np.clip(data.qvel, -10, 10) if "Cheetah" not in env_id and "Ant" not in env_id else data.qvel
            np.testing.assert_allclose(ours[positions:], velocities, rtol=1e-9, atol=1e-8)
            if terminated[row]:
                break


def test_factors_of_one_are_the_plain_family():
    envs = make_vec("mamlrl/HalfCheetahDynamics-v0", num_envs=2, num_threads=1)
    plain = make_vec("mamlrl/HalfCheetahDir-v0", num_envs=2, num_threads=1)
    np.testing.assert_array_equal(
        envs.reset(seed=0, options={"task": np.ones(21)})[0], plain.reset(seed=0, options={"task": [1.0]})[0]
    )
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 2, 6)):
        ours, theirs = envs.step(action), plain.step(action)
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-9, atol=1e-9)


def test_a_dead_motor_does_nothing_and_a_slope_pulls():
    envs = make_vec("mamlrl/CheetahCrippled-v0", num_envs=2)
    envs.reset(seed=[0, 0], options={"task": [2.0]})
    action = np.zeros((2, 6))
    action[1, 2] = 1.0
    observations, rewards, *_ = envs.step(action)
    np.testing.assert_array_equal(observations[0], observations[1])
    np.testing.assert_allclose(rewards[0] - rewards[1], 0.05)
    slope = make_vec("mamlrl/CheetahSlope-v0", num_envs=2)
    slope.reset(seed=[0, 0], options={"task": [[-15.0], [15.0]]})
    for _ in range(40):
        infos = slope.step(np.zeros((2, 6)))[-1]
    assert infos["x_position"][0] > infos["x_position"][1]


def test_the_arm_sags_as_its_load_says():
    """Against MuJoCo on single models; and angles, worked out by hand, that hold each load at the mark."""
    masses, kp = np.array([0.1, 1.55, 3.0]), np.array([80, 40])
    arms = make_vec("mamlrl/ArmPayload-v0", num_envs=3, num_threads=2).unwrapped
    arms.reset(seed=0, options={"task": masses[:, None]})
    start_qpos, start_qvel = arms._qpos.copy(), arms._qvel.copy()
    # Links of 0.5 and 0.45 m, whose own weights of 1 and 0.6 kg act at 0.25 and 0.2 m, reach (0.8, 0.35) so:
    elbow = -np.arccos((0.8**2 + 0.35**2 - 0.5**2 - 0.45**2) / (2 * 0.5 * 0.45))
    upper = np.arctan2(0.35, 0.8) - np.arctan2(0.45 * np.sin(elbow), 0.5 + 0.45 * np.cos(elbow))
    at_elbow, middle = 0.5 * np.cos(upper), 0.5 * np.cos(upper) + 0.2 * np.cos(upper + elbow)
    shoulder_torque = 9.81 * (0.25 * np.cos(upper) + 0.6 * middle + masses * 0.8)
    elbow_torque = 9.81 * (0.6 * (middle - at_elbow) + masses * (0.8 - at_elbow))
    sag = np.stack([shoulder_torque, elbow_torque], axis=1) / kp
    told = sag - sag[1]
    infos = [arms.step(told)[-1] for _ in range(40)]
    distances = [info["distance"] for info in infos]
    np.testing.assert_array_less(distances[-1], 1e-3)
    close = np.array(distances) < 0.05
    held = [close[max(t - 4, 0) : t + 1].all(axis=0) & (t >= 4) for t in range(40)]  # for half a second
    np.testing.assert_array_equal([info["success"] for info in infos], held)
    assert (distances[0] > 0.5).all()

    for row, mass in enumerate(masses):
        model = load_model(Path(mamlrl.envs.__file__).with_name("arm.xml"))
        ball, radius = model.body("payload"), 0.08 * np.cbrt(mass)
        ball.mass[:], ball.inertia[:] = mass, 0.4 * mass * radius**2
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = start_qpos[row], start_qvel[row], told[row]
        for expected in distances:
            mujoco.mj_step(model, data, 10)
            mujoco.mj_kinematics(model, data)
            ours = np.linalg.norm(data.body("payload").xpos - [0.8, 0, 1.45])
            np.testing.assert_allclose(ours, expected[row], rtol=1e-6, atol=1e-9)

    arms.reset(seed=0, options={"task": masses[:, None]})
    observations, rewards, _, _, infos = [arms.step(np.zeros((3, 2))) for _ in range(40)][-1]
    np.testing.assert_array_equal(observations, 0)  # what they were told, whatever they do
    np.testing.assert_array_equal(rewards, -infos["distance"])
    np.testing.assert_array_equal(infos["success"], [0, 1, 0])
    assert (infos["distance"][[0, 2]] > 0.15).all()


@pytest.mark.parametrize(("frame_skip", "held_for"), [(5, 10), (10, 5), (20, 3), (60, 1)])
def test_the_arm_has_to_hold_its_load_for_half_a_second(frame_skip, held_for):
    arm = make_vec("mamlrl/ArmPayload-v0", num_envs=1, frame_skip=frame_skip).unwrapped
    arm.reset(seed=0, options={"task": [[1.55]]})
    infos = [arm.step(np.zeros((1, 2)))[-1] for _ in range(400 // frame_skip)]
    close = np.array([info["distance"][0] for info in infos]) < 0.05
    held = [t + 1 >= held_for and close[t + 1 - held_for : t + 1].all() for t in range(len(infos))]
    assert any(held)
    np.testing.assert_array_equal([info["success"][0] for info in infos], held)


def test_only_rows_whose_task_changes_are_set(monkeypatch):
    envs = make_vec("mamlrl/HalfCheetahDynamics-v0", num_envs=3).unwrapped
    tasks = envs.sample_tasks(6, np.random.default_rng(0))
    applied = []
    apply = envs._varied.apply
    monkeypatch.setattr(envs._varied, "apply", lambda rows, new: (applied.append(rows.tolist()), apply(rows, new)))
    envs.reset(seed=0, options={"task": tasks[:3]})
    envs.reset(seed=1, options={"task": tasks[:3]})
    envs.reset(seed=1)
    envs.reset(seed=1, options={"task": tasks[[0, 4, 2]]})
    mask = np.array([True, False, False])
    envs.reset(seed=1, options={"task": tasks[3:], "reset_mask": mask})
    assert applied == [[0, 1, 2], [1], [0]]
    np.testing.assert_array_equal(envs.tasks, tasks[[3, 4, 2]])


@pytest.mark.parametrize("env_id", ["mamlrl/HalfCheetahVel-v0", "mamlrl/AntPayload-v0"])
def test_a_task_may_change_within_an_episode(env_id):
    envs = make_vec(env_id, num_envs=3, max_episode_steps=6, num_threads=2, change_at=3)
    lasting = make_vec(env_id, num_envs=3, max_episode_steps=6, num_threads=1)
    tasks = envs.unwrapped.sample_tasks(3, np.random.default_rng(0))
    actions = np.random.default_rng(1).uniform(-1, 1, (6, *envs.action_space.shape))
    for some in (envs, lasting):
        some.reset(seed=5, options={"task": tasks})
    told, rewards = [], []
    for t, action in enumerate(actions):
        observations, reward, _, _, infos = envs.step(action)
        expected_observations, expected_reward, *_ = lasting.step(action)
        told.append(infos["task"])
        rewards.append(reward)
        if t < 3:
            np.testing.assert_array_equal(observations, expected_observations)
            np.testing.assert_array_equal(reward, expected_reward)
        else:
            assert (reward != expected_reward).all()
    np.testing.assert_array_equal(told[1], tasks)
    assert (told[2] != tasks).all()  # the action of step 3 can know of it
    np.testing.assert_array_equal(told[2], told[5])
    envs.reset(seed=5)  # the given task is back
    np.testing.assert_array_equal(envs.unwrapped.tasks, tasks)
    again = [envs.step(action)[1] for action in actions]
    np.testing.assert_array_equal(again, rewards)
    for row in range(3):
        single = make(env_id, change_at=3)
        single.reset(seed=5 + row, options={"task": tasks[row]})
        np.testing.assert_array_equal([single.step(action[row])[1] for action in actions], np.array(rewards)[:, row])
        np.testing.assert_array_equal(single.unwrapped.task, told[5][row])


@pytest.mark.parametrize("vectorization", ["auto", "sync", "async"])
@pytest.mark.parametrize("change_at", [3, 4, 6, 7])
def test_a_task_may_change_within_a_trial(change_at, vectorization):
    """Time steps are counted over its episodes, the new task stays, and the next trial has its own again."""
    kwargs = {"change_at": change_at, "change_in": "trial"}
    native, others = (
        TrialVector(make_task_envs("mamlrl/HalfCheetahVel-v0", 2, 4, kwargs, way), episodes=3)
        for way in ("auto", vectorization)
    )
    given, actions = [1.0, 1.5], np.full((2, 6), 0.5)
    for _ in range(2):
        for envs in (native, others):
            envs.reset(seed=0, options={"task": [[task] for task in given]})
        tasks = [given]
        for _ in range(12):
            (*expected, infos), (*step, told) = native.step(actions), others.step(actions)
            tasks.append(told["task"][:, 0].tolist())
            for one, another in zip([*step, told["task"]], [*expected, infos["task"]], strict=True):
                np.testing.assert_array_equal(one, another)
        np.testing.assert_array_equal(tasks[:change_at], [given] * change_at)
        assert not np.isin(tasks[change_at], given).any()
        np.testing.assert_array_equal(tasks[change_at:], [tasks[change_at]] * (13 - change_at))
    others.close()


@pytest.mark.parametrize("vectorization", ["auto", "sync"])
def test_a_change_that_could_never_come_is_refused(vectorization):
    for change_at in (5, 100):
        with pytest.raises(ValueError, match=f"change_at is {change_at}; it must be less than the 5 time steps"):
            make_task_envs("mamlrl/HalfCheetahVel-v0", 2, 5, {"change_at": change_at}, vectorization)
    for change_at in (2.5, "3", True, np.nan):
        with pytest.raises(ValueError, match=f"change_at is {change_at!r}; it must be a whole number"):
            make_task_envs("mamlrl/HalfCheetahVel-v0", 2, 5, {"change_at": change_at}, vectorization)
    with pytest.raises(ValueError, match="change_in is 'life'; it must be one of 'episode', 'trial'"):
        make_task_envs("mamlrl/HalfCheetahVel-v0", 2, 5, {"change_at": 2, "change_in": "life"}, vectorization)
    with pytest.raises(ValueError, match="change_at is None; give the time step of the change as change_at"):
        make_task_envs("mamlrl/HalfCheetahVel-v0", 2, 5, {"change_in": "trial"}, vectorization)
    in_trial = {"change_at": 15, "change_in": "trial"}
    make_task_envs("mamlrl/HalfCheetahVel-v0", 2, 5, in_trial, vectorization, episodes=4).close()
    with pytest.raises(
        ValueError, match=r"change_at is 15; it must be less than the 15 time steps .* \(episodes: 3, of 5\)"
    ):
        make_task_envs("mamlrl/HalfCheetahVel-v0", 2, 5, in_trial, vectorization, episodes=3)


def test_a_change_that_could_never_come_is_refused_by_the_program(tmp_path, capsys):
    change = ["--environment.kwargs.change_at", "15", "--environment.kwargs.change_in", "trial"]
    flags = ["--env", "cheetah-vel", "--environment.horizon", "5", *change, "--out", str(tmp_path / "run")]
    assert main(flags) == 2
    assert (
        "it must be less than the 5 time steps for which a task is given (episodes: 1, of 5)" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_the_oracle_sees_the_change():
    envs = ObserveTaskVector(make_task_envs("mamlrl/HalfCheetahVel-v0", 2, 5, {"change_at": 2}))
    seen = [envs.reset(seed=0, options={"task": [1.0]})[0][:, -1]]
    seen += [envs.step(np.zeros((2, 6)))[0][:, -1] for _ in range(4)]
    np.testing.assert_array_equal(seen[1], [1.0, 1.0])
    assert (seen[2] != 1.0).all()
    np.testing.assert_array_equal(seen[2], seen[4])
    assert (envs.reset(seed=0, options={"task": [1.0]})[0][:, -1] == 1.0).all()


@pytest.mark.parametrize("env_id", ["mamlrl/HalfCheetahVel-v0", "mamlrl/AntPayload-v0"])
@pytest.mark.parametrize(("number", "when"), [(np.nan, 0), (1e11, 0), (np.inf, -1)])
def test_a_simulation_that_diverges_ends_its_episode_and_is_counted(env_id, number, when, tmp_path, monkeypatch):
    """MuJoCo finds a bad state at the next simulation step; what the last step of a time step left is found by us."""
    monkeypatch.chdir(tmp_path)  # MuJoCo logs it to a file
    envs, sound = (make_vec(env_id, num_envs=3, num_threads=1) for _ in range(2))
    tasks = envs.unwrapped.sample_tasks(3, np.random.default_rng(0))
    for some in (envs, sound):
        some.reset(seed=0, options={"task": tasks})
    inner = envs.unwrapped
    if when == 0:
        inner._qvel[1, 3] = number
    else:
        step = inner._batch.step
        monkeypatch.setattr(
            type(inner._batch), "step", lambda self, *args: (step(*args), inner._qvel.__setitem__((1, 3), number))
        )
    action = np.zeros(envs.action_space.shape)
    observations, rewards, terminated, truncated, infos = envs.step(action)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(infos["diverged"], [0, 1, 0])
    np.testing.assert_array_equal(terminated, [False, True, False])
    assert np.isfinite(observations).all() and rewards[1] == 0 and not truncated.any()
    assert all(values[1] == 0 for name, values in infos.items() if name[0] != "_" and name != "diverged")
    expected = sound.step(action)
    np.testing.assert_array_equal(observations[[0, 2]], expected[0][[0, 2]])
    np.testing.assert_array_equal(rewards[[0, 2]], expected[1][[0, 2]])
    assert not envs.step(action)[-1]["diverged"].any()  # it is held, and its simulation is a sound one
    np.testing.assert_array_equal(envs.reset(seed=0)[0], sound.reset(seed=0)[0])
    np.testing.assert_array_equal(envs.step(action)[0], sound.step(action)[0])


@pytest.mark.parametrize(
    ("env_id", "task", "message"),
    [
        ("mamlrl/HopperDynamics-v0", np.ones(11), "options['task'] has shape (11,); it must have (12,) or (2, 12)"),
        (
            "mamlrl/HopperDynamics-v0",
            [*np.ones(5), -1.0, *np.ones(6)],
            "of row 0 is not in the task space: inertia (2 of 4) is -1; it must be in [0.6667, 1.5]",
        ),
        (
            "mamlrl/AntPayload-v0",
            [-0.1, 0.0, 0.0],
            "is not in the task space: payload (1 of 3) is -0.1; it must be in [0.05, 0.5]",
        ),
        (
            "mamlrl/CheetahCrippled-v0",
            [1.5],
            "is not in the task space: dead motor is 1.5; it must be a whole number: 0 (back thigh), 1 (back shin)",
        ),
        (
            "mamlrl/CheetahCrippled-v0",
            [6.0],
            "the task [6.] of row 0 is not in the task space: dead motor is 6; it must be in [0, 5]",
        ),
        ("mamlrl/ReacherGoal-v0", [0.19, 0.19], "the task [0.19 0.19] of row 0 is not on the disc of 0.2 m"),
    ],
)
def test_wrong_task_is_named(env_id, task, message):
    with pytest.raises(ValueError) as error:
        make_vec(env_id, num_envs=2).reset(seed=0, options={"task": task})
    assert message in str(error.value)
