# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs.)
"""Families out of anyone's model: a small arm, and what is said where the table or the functions are wrong."""

import csv
import pickle
from pathlib import Path
from typing import Any, cast

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from mujoco.batch import Batch, SimulationError

from mamlrl.envs import Factor, Goal, Value, Variation, mujoco_family
from mamlrl.envs.errors import EnvironmentFailure, WrongArgument
from mamlrl.envs.making import make_task_envs
from mamlrl.envs.mujoco_vector import load_model
from mamlrl.envs.task_table import COMPUTED, TaskTable, VariedModel
from mamlrl.evaluate import main as evaluate
from mamlrl.train import main
from tests.envs.arm import Arm
from tests.envs.making import make, make_vec

XML = Path(__file__).with_name("arm.xml")
ID = "tests.envs.arm:my/Arm-v0"


@pytest.mark.filterwarnings("ignore:.*observation space m.*imum value is.*infinity")
def test_an_arm_is_an_environment():
    check_env(make("my/Arm-v0").unwrapped, skip_render_check=True)
    vector, stepped = make_task_envs(ID, 3, 20, num_threads=2), make_task_envs(ID, 3, 20, {}, "sync")
    tasks = vector.sample_tasks(3, np.random.default_rng(0))
    assert vector.describe_task([2.0, 1.0, 0.3, 1.0]) == "load x 2.00, damping x 1.00, goal 0.30, 1.00"
    copy = pickle.loads(pickle.dumps(make_vec("my/Arm-v0", num_envs=3, max_episode_steps=20).unwrapped))
    everyone = (vector, stepped, copy)
    started = [envs.reset(seed=0, options={"task": tasks})[0] for envs in everyone]
    for action in np.random.default_rng(1).uniform(-1, 1, (20, 3, 2)):
        np.testing.assert_array_equal(started[0], started[1])
        np.testing.assert_array_equal(started[0], started[2])
        moved = [envs.step(action) for envs in everyone]
        np.testing.assert_array_equal(moved[0][1], moved[1][1])
        np.testing.assert_array_equal(moved[0][1], moved[2][1])
        started = [one[0] for one in moved]


def test_an_arm_is_what_mujoco_makes_of_it():
    envs = make_vec("my/Arm-v0", num_envs=2).unwrapped
    tasks = np.array([[2.5, 0.7, 0.3, 1.1], [0.5, 1.4, 0.6, 0.8]])
    observations, _ = envs.reset(seed=0, options={"task": tasks})
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 2, 2))
    rewards = [envs.step(action)[1] for action in actions]
    for row in range(2):
        model = mujoco.MjModel.from_xml_path(str(XML))
        model.body("hand").mass[:] *= tasks[row, 0]
        model.dof_damping[:] *= tasks[row, 1]
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        data.qpos[:], data.qvel[:] = observations[row, :2], observations[row, 2:]
        for t in range(10):
            data.ctrl[:] = actions[t, row]
            mujoco.mj_step(model, data, 5)
            mujoco.mj_kinematics(model, data)  # the tip is where it is now
            distance = np.linalg.norm(data.site("tip").xpos[[0, 2]] - tasks[row, 2:])
            expected = -distance - 0.01 * np.sum(actions[t, row] ** 2)
            np.testing.assert_allclose(rewards[t][row], expected, rtol=1e-9)


def test_the_page_shows_this_arm():
    page = (XML.parents[2] / "docs" / "environments.md").read_text()
    code = page.partition("<!-- the arm -->\n```python\n")[2].partition("```")[0]
    assert code and XML.with_suffix(".py").read_text().endswith(code)


def test_an_arm_trains(tmp_path):
    tiny = "--iterations 1 --sampling.tasks 2 --sampling.rollouts 2 --environment.horizon 5 --threads 1".split()
    # with tasks that change within an episode
    assert main(["--env", ID, *tiny, "--environment.kwargs.change_at", "3", "--out", str(tmp_path / "run")]) == 0


def test_simulations_that_diverge_are_counted_and_do_not_end_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warnings to a file
    arm = family({"strength": Factor("actuator_gear", "shoulder", base=1e8, span=2.0)})
    gymnasium.register("my/WildArm-v0", entry_point=arm, vector_entry_point=arm.vector_class, max_episode_steps=5)
    arguments = "--env my/WildArm-v0 --iterations 1 --sampling.tasks 8 --sampling.rollouts 2 --environment.horizon 5"
    assert main([*arguments.split(), "--eval.every", "0", "--threads", "1", "--out", "run"]) == 0
    (row,) = csv.DictReader(Path("run/metrics.csv").open())
    assert 0 < float(row["diverged/step_0"]) < 1 and 0 < float(row["diverged/step_1"]) < 1
    assert evaluate(["run", "--tasks", "8", "--rollouts", "2", "--threads", "1"]) == 0
    assert "diverged:" in capsys.readouterr().out


def test_the_first_simulation_that_diverges_is_told_with_its_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    envs = family({"strength": Factor("actuator_gear", "shoulder", base=1e8, span=2.0)}).vector_class(3)
    envs.reset(seed=0, options={"task": [[1.0], [1e15], [1e15]]})
    with pytest.warns(RuntimeWarning) as told:
        for _ in range(3):
            envs.step(np.ones((3, 2)))
    assert [str(one.message).partition(";")[0] for one in told] == ["a simulation diverged on the task 1e+15"]


def test_what_never_diverges_has_no_table_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = f"--env {ID} --iterations 1 --sampling.tasks 2 --sampling.rollouts 2 --environment.horizon 5"
    assert main([*arguments.split(), "--eval.every", "0", "--threads", "1", "--out", "run"]) == 0
    assert evaluate(["run", "--tasks", "2", "--rollouts", "2", "--threads", "1"]) == 0
    assert "1 step" in (out := capsys.readouterr().out) and "diverged" not in out


def family(tasks, **kwargs):
    reward = kwargs.pop("reward", lambda move: np.zeros(len(move.actions)))
    return mujoco_family("Arm", XML, reward, tasks, **kwargs)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"a": Factor("body_masss", "hand")}, "tasks['a']: 'body_masss' is no field of a MuJoCo model"),
        ({"a": Factor("qpos", "hand")}, "tasks['a']: 'qpos' is no field of a MuJoCo model"),
        ({"a": Factor("qpos0", "hand")}, "tasks['a']: qpos0 is none of bodies, geoms, joints"),
        ({"a": Factor("body_mass", "foot")}, "tasks['a']: Invalid name 'foot'. Valid names: ['hand'"),
        ({"a": Factor("body_mass", ())}, "tasks['a']: of is empty; it must name the objects whose body_mass varies"),
        ({"a": Value("opt.gravity", "hand", 0, 1)}, "tasks['a']: opt.gravity is one of all objects"),
        ({"a": Value("body_pos", "hand", 0, 1)}, "tasks['a']: low and high have 1 numbers; body_pos has 3"),
        ({"a": Value("body_parentid", "hand", 0, 1)}, "tasks['a']: body_parentid holds whole numbers"),
        ({"a": Value("geom_contype", "hand", 0, 1)}, "tasks['a']: geom_contype holds whole numbers"),
        ({"a": Value("opt.iterations", (), 1, 9)}, "tasks['a']: opt.iterations holds whole numbers"),
        ({"a": Value("opt.timestep", (), 0.001, 0.02)}, "tasks['a']: opt.timestep is the same for all simulations"),
        ({"a": Factor("dof_invweight0", "elbow")}, "tasks['a']: dof_invweight0 is computed from other fields"),
        ({"a": Value("body_mass", "hand", -1, 1)}, "tasks['a']: low is -1; body_mass must be above 0"),
        ({"a": Value("dof_damping", "elbow", -1, 1)}, "tasks['a']: low is -1; dof_damping must be at least 0"),
        ({"a": Factor("body_mass", "world")}, "tasks['a']: body_mass of world is 0, which no factor changes"),
        ({"a": Factor("body_mass", 99)}, "tasks['a']: "),
        (
            {"a": Factor("body_mass", cast(Any, ["hand"]))},
            "tasks['a']: of is ['hand']; it must be a name, a number, or a tuple",
        ),
        ({"a": Factor("body_mass", True)}, "tasks['a']: of is True; it must be a name, a number, or a tuple"),
        ({"a": Factor(cast(Any, 3), "hand")}, "tasks['a']: field is 3; it must be the name of one"),
        (
            {"a": Factor("body_mass", "hand"), "b": Value("body_mass", ("lower", "hand"), 1, 2)},
            "tasks['b'] sets body_mass of hand, which tasks['a'] sets too",
        ),
    ],
)
def test_a_table_that_does_not_fit_the_model(tasks, message):
    with pytest.raises(ValueError) as error:
        family(tasks).vector_class(2)
    assert message in str(error.value)


def test_a_table_that_is_none():
    with pytest.raises(ValueError, match="tasks is empty"):
        family({})
    with pytest.raises(ValueError, match="tasks is a list; it must be a dict of what varies, by name"):
        family([Goal(0, 1)])
    with pytest.raises(ValueError, match=r"low is \[1\. 1\.\] and high is \[2\.\]; they must have as many numbers"):
        Goal([1, 1], [2])
    with pytest.raises(ValueError, match=r"base is 1\.0 and span is 1\.0; base must be above 1"):
        Factor("body_mass", "hand", base=1.0)
    with pytest.raises(ValueError, match=r"base is 10 and span is 200; base must be above 1, and .* at most 1e.100"):
        Factor("body_mass", "hand", base=10, span=200)
    with pytest.raises(ValueError, match=r"low is .* and high is .*; low must be below high, in one number at least"):
        Goal(1, 1)
    for low, high in (("0", "1"), (0, np.inf), ([[0]], [[1]])):
        with pytest.raises(ValueError, match="they must be numbers, or vectors of numbers"):
            Goal(low, high)
    for row in (3, {"low": 0}, None):
        with pytest.raises(
            ValueError, match=r"tasks\['a'\] is .*; it must be a Factor, Value, Goal or other Variation"
        ):
            family({"a": row})
    with pytest.raises(ValueError, match=r"tasks\['a'\] has no bounds; Variation must set arrays low and high"):
        family({"a": Variation()})
    with pytest.raises(ValueError, match=r"Factor\('body_mass'\): shared is 'yes'; it must be true or false"):
        Factor("body_mass", "hand", shared=cast(Any, "yes"))


def test_what_is_refused_as_computed_is_computed():
    """And nothing else is, of the fields that a table takes."""
    for model in map(load_model, ("half_cheetah.xml", "reacher.xml", XML)):
        for field in dir(model):
            values = getattr(model, field) if not field.startswith("_") else None
            if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or not values.size:
                continue
            if field.partition("_")[0] not in ("body", "geom", "jnt", "dof", "site", "actuator", "tendon"):
                continue
            batch = Batch(model, 2, 1)
            try:
                varied = batch.expand(field)
            except ValueError:  # MuJoCo does not vary it
                continue
            before = varied.copy()
            varied[:] = before * 1.25 + 0.0625
            try:
                batch.set_const(np.arange(2))
            except SimulationError:  # such a body cannot be
                continue
            assert np.allclose(varied, before) == (field in COMPUTED), field


class Heavier(Variation):
    """A variation of somebody's own that says less than it promised."""

    low, high = np.zeros(1), np.ones(1)

    def __init__(self, values):
        self.values = lambda model, numbers: values

    def fields(self, model):
        return {"body_mass": np.array([1])}


@pytest.mark.parametrize(("values", "shape"), [({}, "(0,)"), ({"body_mass": np.ones(3)}, "(3,)")])
def test_values_of_a_wrong_shape_are_told_with_the_row(values, shape):
    envs = family({"a": Heavier(values)}).vector_class(2)
    with pytest.raises(ValueError) as error:
        envs.reset(seed=0)
    assert f"tasks['a']: values of 2 tasks have shape {shape} for body_mass; it must be (2, 1)" in str(error.value)


def test_a_component_may_stay_as_it_is():
    envs = family({"wind": Value("opt.gravity", (), [-1, 0, -9.8], [1, 0, -9.8])}).vector_class(4)
    envs.reset(seed=0)
    assert len(set(envs.tasks[:, 0])) == 4
    np.testing.assert_array_equal(envs.tasks[:, 1:], [[0, -9.8]] * 4)


def test_a_path_is_from_the_folder_of_the_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ant.xml").write_text(XML.read_text())
    assert (
        mujoco_family("Arm", "arm.xml", lambda move: np.zeros(2), {"goal": Goal(0, 1)}).vector_class.recipe.xml == XML
    )
    with pytest.raises(ValueError, match=f"xml is 'ant.xml'; there is no file {XML.with_name('ant.xml')}"):
        mujoco_family("Arm", "ant.xml", lambda move: np.zeros(2), {"goal": Goal(0, 1)})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('ctrlrange="-1 1"', "", "actuators shoulder, elbow have no range of controls"),
        ('<motor name="elbow"', '<motor name="elbow" ctrllimited="false"', "actuators elbow have no range of controls"),
        (XML.read_text().partition("<actuator>")[2], "</actuator></mujoco>", "the model has no actuators"),
    ],
    ids=("no range", "no limit", "no actuators"),
)
def test_a_model_that_does_not_say_what_its_actions_are(old, new, message, tmp_path):
    path = tmp_path / "arm.xml"
    path.write_text(XML.read_text().replace(old, new))
    arm = mujoco_family("Arm", path, lambda move: np.zeros(2), {"goal": Goal(0, 1)})
    with pytest.raises(ValueError, match=message):
        arm.vector_class(2)


def test_what_mujoco_computes_for_sensors_alone_asks_for_one(tmp_path):
    def acceleration(data):
        return data.cacc[:, 1]

    def momentum(data):
        return data.body("upper").subtree_linvel

    for observe, words in ((acceleration, "cacc .*<framelinacc>"), (momentum, "subtree_linvel .*<subtreelinvel>")):
        with pytest.raises(RuntimeError, match=words):
            family({"goal": Goal(0, 1)}, observe=observe).vector_class(2)
    path = tmp_path / "arm.xml"
    sensors = '<sensor><framelinacc objtype="site" objname="tip"/><subtreelinvel body="upper"/></sensor></mujoco>'
    path.write_text(XML.read_text().replace("</mujoco>", sensors))
    for observe in (acceleration, momentum):
        arm = mujoco_family("Arm", path, lambda move: np.zeros(2), {"goal": Goal(0, 1)}, observe=observe)
        envs = arm.vector_class(2)
        envs.reset(seed=0)
        moved = envs.step(np.ones((2, 2)))[0]
        assert moved.any(axis=1).all()


def test_a_family_tells_numbers_besides():
    def told(move):
        return {
            "x_velocity": (move.data.qpos[:, 0] - move.qpos_before[:, 0]) / move.dt,
            "success": move.tasks["goal"][:, 0] > 0.5,
        }

    envs = family({"goal": Goal(0, 1)}, infos=told, still="speed").vector_class(2)
    envs.reset(seed=0, options={"task": [[0.2], [0.8]]})
    before = envs._qpos[:, 0].copy()
    infos = envs.step(np.ones((2, 2)))[-1]
    np.testing.assert_allclose(infos["x_velocity"], (envs._qpos[:, 0] - before) / envs.dt)
    np.testing.assert_array_equal(infos["success"], [0.0, 1.0])
    with pytest.raises(ValueError, match="still is 'foo'; it must be one of None, 'path', 'speed'"):
        family({"goal": Goal(0, 1)}, still="foo")
    with pytest.raises(ValueError, match=r"infos: success is an array of shape \(\); it must be \(2,\)"):
        family({"goal": Goal(0, 1)}, infos=lambda move: {"success": 1}).vector_class(2)


class Signed(Variation):
    """Values of a field of one object, of either sign."""

    low, high = -np.ones(1), np.ones(1)

    def __init__(self, field, one):
        self.fields = lambda model: {field: np.array([one])}
        self.values = lambda model, numbers: {field: numbers}


@pytest.mark.parametrize(
    ("row", "task", "message"),
    [
        (Signed("body_mass", 3), -0.5, "load makes body_mass of hand -0.5; it must be positive"),
        (Signed("dof_damping", 1), -0.5, "load makes dof_damping of elbow -0.5; it must be at least 0"),
        (
            Value("body_inertia", "hand", [0.1, 0.1, 0.1], [0.1, 0.1, 1.0]),
            [0.1, 0.1, 0.3],
            "load makes body_inertia of hand 0.3; it must be at most the sum of the body's two other moments",
        ),
    ],
)
def test_a_value_that_can_be_none_is_told_with_the_task(row, task, message):
    envs = family({"load": row}).vector_class(2)
    right = [0.1, 0.1, 0.2] if isinstance(task, list) else [0.5]
    envs.reset(seed=0, options={"task": [right, right]})
    for _ in range(2):  # it is not taken for set
        with pytest.raises(ValueError) as error:
            envs.reset(seed=0, options={"task": [right, np.atleast_1d(task)]})
        assert f"the task {np.atleast_1d(task)} of row 1: {message}" in str(error.value)


def test_what_mujoco_refuses_is_told_with_the_task():
    model = load_model("reacher.xml")
    off_centre = TaskTable(
        {"place": Value("body_ipos", "target", [-1.0] * 3, [1.0] * 3)}
    )  # it slides, and so is simple
    varied = VariedModel(off_centre, model, Batch(model, 2, 1))
    with pytest.raises(WrongArgument, match=r"the task \[0\.5 0\.5 0\.5\] of row 1: MuJoCo refuses it: mj_setConst"):
        varied.apply(np.array([1]), np.full((1, 3), 0.5))


def test_values_are_those_of_the_task():
    rows = {
        "gravity": Value("opt.gravity", (), [-1, -1, -10], [1, 1, -5]),
        "length": Value("body_pos", ("hand",), [0.1, 0, 0], [0.4, 0.1, 0.1]),
        "thickness": Value("opt.viscosity", (), 0, 1),
        "gear": Factor("actuator_gear", ("shoulder", 1)),
        "wind": Factor("opt.density", ()),
    }
    envs = family(rows).vector_class(3)
    tasks = envs.sample_tasks(3, np.random.default_rng(0))
    envs.reset(seed=0, options={"task": tasks})
    for row in range(3):
        model = envs._model_of(row)
        np.testing.assert_array_equal(model.opt.gravity, tasks[row, :3])
        np.testing.assert_array_equal(model.body("hand").pos, tasks[row, 3:6])
        assert model.opt.viscosity == tasks[row, 6]
        np.testing.assert_array_equal(model.actuator_gear[:, 0], [6 * tasks[row, 7], 3 * tasks[row, 8]])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"reward": lambda move: 0.0},
            "reward is an array of shape (); it must be (2,), a number for each of the 2 rows",
        ),
        ({"infos": lambda move: np.zeros(2)}, "infos returns ndarray; it must be a dict of arrays by name"),
        (
            {"ended": lambda data: data.site("tipp")},
            "ended raised KeyError: \"Invalid name 'tipp'. Valid names: ['tip']",
        ),
        ({"ended": lambda data: False}, "ended is an array of shape (); it must be (2,)"),
        ({"ended": lambda data: data.qpos[:, 0]}, "ended is an array of float64; it must be one of bool"),
        ({"observe": lambda data: data.qpos[:, 0]}, "observe returns an array of shape (2,) for 2 simulations"),
    ],
)
def test_functions_that_return_something_else(kwargs, message):
    with pytest.raises((ValueError, RuntimeError)) as error:
        family({"goal": Goal(0, 1)}, **kwargs).vector_class(2)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (lambda model, rng: (np.zeros(3), np.zeros(2)), r"\[\(3,\), \(2,\)\]"),
        (lambda model, rng: (0.0, 0.0), r"\[\(\), \(\)\]"),
        (lambda model, rng: None, "NoneType"),
    ],
)
def test_a_start_that_is_none(start, told):
    envs = family({"goal": Goal(0, 1)}, start=start).vector_class(2)
    with pytest.raises(ValueError, match=rf"start returns {told}; it must be positions and velocities, of shapes \["):
        envs.reset(seed=0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"reward": 3}, "reward is 3; it must be a function"),
        ({"infos": {}}, "infos is {}; it must be a function, or None"),
        ({"observe": None}, "observe is None; it must be a function"),
        ({"frame_skip": 0}, "frame_skip is 0; it must be a whole number of at least 1"),
        ({"stage": "vel"}, "stage is 'vel'; it must be a mujoco.mjtStage, such as mjtStage.mjSTAGE_VEL"),
    ],
)
def test_arguments_of_another_kind(kwargs, message):
    with pytest.raises(ValueError) as error:
        family({"goal": Goal(0, 1)}, **kwargs)
    assert message == str(error.value)


class Place(Variation):
    """A goal by its number."""

    low, high = np.zeros(1), np.full(1, 2.0)

    def draw(self, n, rng):
        return rng.integers(3, size=(n, 1)).astype(float)


def test_a_task_may_be_an_index():
    goals = np.array([1.0, 2.0, 3.0])
    arm = family({"which": Place()}, reward=lambda move: goals[move.tasks["which"][:, 0].astype(int)])
    envs = arm.vector_class(2)
    envs.reset(seed=0, options={"task": [[2.0], [0.0]]})
    np.testing.assert_array_equal(envs.step(np.zeros((2, 2)))[1], [3.0, 1.0])


def test_a_function_that_fails_or_asks_for_a_field_too_late_is_told():
    def late(move):
        return move.data.xpos[:, 1, 0] if move.qpos_before.any() else np.zeros(2)

    arm = family({"goal": Goal(0, 1)}, reward=late)
    gymnasium.register("my/LateArm-v0", entry_point=arm, vector_entry_point=arm.vector_class, max_episode_steps=5)
    envs = make_task_envs("my/LateArm-v0", 2, 5)
    envs.reset(seed=0)
    with pytest.raises(
        EnvironmentFailure, match=r"step raised .*: reward raised LookupError: xpos is read now and was not"
    ):
        envs.step(np.zeros((2, 2)))
    arm = family({"goal": Goal(0, 1)}, reward=lambda move: move.tasks["gaol"])
    gymnasium.register("my/WrongArm-v0", entry_point=arm, vector_entry_point=arm.vector_class, max_episode_steps=5)
    with pytest.raises(EnvironmentFailure, match=r"reward raised KeyError: 'gaol' \(test_mujoco_family.py, line \d+\)"):
        make_task_envs("my/WrongArm-v0", 2, 5)


def test_the_class_is_the_single_environment():
    assert issubclass(Arm, gymnasium.Env) and Arm.vector_class.__qualname__ == "Arm.vector_class"
