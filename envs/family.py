# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs, so a type checker knows none of its names.)
"""A batched task family out of anyone's MuJoCo model."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import mujoco
import numpy as np
from mujoco.batch import DATA_FIELDS, Batch
from numpy.typing import NDArray

from .argument_checks import check_choice, check_count
from .base import Array, Infos, Mask, Still, TaskEnv
from .mujoco_vector import Camera, MujocoTaskVectorEnv, gymnasium_start_state, load_model
from .task_table import TaskTable, Variation


class Data(Batch):
    """The simulations. A derived field has its values from the first call after it was asked for, and zeros before."""

    sealed = False

    def bind(self, name: str) -> NDArray[Any]:
        """A field of MjData, live, [N, ...].

        Raises:
            LookupError: it was not asked for in time, or MuJoCo computes it for a sensor alone that the model lacks.
        """
        sensors = COMPUTED_FOR.get(name, ())
        if sensors and not np.isin(self.model.sensor_type, [kind.value for kind in sensors]).any():
            raise LookupError(
                f"MuJoCo computes {name} for sensors alone; give the model one, such as {_tag(sensors[0])}"
            )
        if self.sealed and name in BOUND_LATER and name not in self._bound:
            raise LookupError(
                f"{name} is read now and was not before the first time step; read at every call what is read at one"
            )
        return super().bind(name)


class Move(NamedTuple):
    """A time step of all N rows, as a reward sees it.

    Attributes:
        data: the simulations after it, a `mujoco.batch.Batch`: `data.qpos` [N, nq], `data.site("tip").xpos` [N, 3]. To
            be read, the same fields at every call, and not written.
        qpos_before: positions before it, [N, nq].
        actions: within their bounds, [N, A].
        tasks: each row of the table by its name, [N, k].
        dt: seconds that it took.
    """

    data: Data
    qpos_before: Array
    actions: Array
    tasks: dict[str, Array]
    dt: float


_SENSOR = mujoco.mjtSensor
_OF_FORCES = (
    *(_SENSOR.mjSENS_FRAMELINACC, _SENSOR.mjSENS_FRAMEANGACC, _SENSOR.mjSENS_ACCELEROMETER),
    *(_SENSOR.mjSENS_FORCE, _SENSOR.mjSENS_TORQUE),
)
_OF_SUBTREES = (_SENSOR.mjSENS_SUBTREELINVEL, _SENSOR.mjSENS_SUBTREEANGMOM)
COMPUTED_FOR = {
    **dict.fromkeys(("cacc", "cfrc_int", "cfrc_ext"), _OF_FORCES),
    **dict.fromkeys(("subtree_linvel", "subtree_angmom"), _OF_SUBTREES),
}
"""Derived fields that MuJoCo leaves alone, unless the model has a sensor of one of these kinds."""
BOUND_LATER = DATA_FIELDS - {"qpos", "qvel", "act", "ctrl", "time"}  # states have their values at any time
Reward = Callable[[Move], Array]
Told = Callable[[Move], dict[str, Array]]
Observe = Callable[[Data], Array]
Ended = Callable[[Data], NDArray[Any]]
Start = Callable[[mujoco.MjModel, np.random.Generator], tuple[Array, Array]]


def _tag(sensor: mujoco.mjtSensor) -> str:
    """A sensor as a model's file has it."""
    return f"<{sensor.name.removeprefix('mjSENS_').lower()}>"


def positions_and_velocities(data: Data) -> Array:
    """Observation of everything that a simulation's state holds, [N, nq + nv]."""
    return np.concatenate([data.qpos, data.qvel], axis=1)


class Recipe(NamedTuple):
    """What `mujoco_family` was given."""

    xml: Path
    reward: Reward
    tasks: Mapping[str, Variation]
    observe: Observe
    infos: Told | None
    ended: Ended | None
    start: Start
    frame_skip: int
    stage: mujoco.mjtStage


class FamilyVectorEnv(MujocoTaskVectorEnv):
    """N simulations of a family that `mujoco_family` has made."""

    recipe: ClassVar[Recipe]
    batch_class = Data
    _batch: Data

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        num_threads: int = 0,
        *,
        frame_skip: int | None = None,
        **kwargs: Any,
    ):
        recipe = self.recipe
        model = load_model(recipe.xml)
        super().__init__(
            model=model,
            frame_skip=recipe.frame_skip if frame_skip is None else frame_skip,
            stage=recipe.stage,
            observation_dim=_observation_dim(model, recipe.observe),
            task_space=TaskTable(recipe.tasks),
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            num_threads=num_threads,
            **kwargs,
        )
        assert isinstance(self.task_space, TaskTable)
        self._task_columns = [(name, place) for name, _, place in self.task_space.columns()]
        self._ask_for_fields()

    def _ask_for_fields(self) -> None:
        """Call the functions once for nothing, so that the fields that they read are there from the first time step."""
        drawn = self.task_space.draw(self.num_envs, np.random.default_rng(0))  # which a reward may take for indices
        with np.errstate(all="ignore"):  # all derived fields are 0 yet
            self._judge(self._move_from(self._qpos.copy(), np.zeros(self.action_space.shape), drawn))  # type: ignore[arg-type]
            self._observe()
        self._batch.sealed = True

    def _start_state(self, generator: np.random.Generator) -> tuple[Array, Array]:
        wanted = [(self._model.nq,), (self._model.nv,)]
        start = _call("start", self.recipe.start, self._model, generator)
        if not isinstance(start, (tuple, list)) or [np.shape(one) for one in start] != wanted:
            told = [np.shape(one) for one in start] if isinstance(start, (tuple, list)) else type(start).__name__
            raise ValueError(f"start returns {told}; it must be positions and velocities, of shapes {wanted}")
        return start[0], start[1]

    def _move(self, actions: Array, rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        before = self._qpos.copy()
        self._simulate(actions, rows)
        return self._judge(self._move_from(before, actions, self.tasks))

    def _move_from(self, before: Array, actions: Array, tasks: Array) -> Move:
        columns = {name: tasks[:, place] for name, place in self._task_columns}
        return Move(self._batch, before, actions, columns, self.dt)

    def _judge(self, move: Move) -> tuple[Array, Mask, Infos]:
        """Rewards [N] of a time step, whether episodes have ended with it, [N], and what is told of it."""
        recipe, none = self.recipe, np.zeros(self.num_envs, bool)
        reward = _call("reward", recipe.reward, move)
        ended = none if recipe.ended is None else _call("ended", recipe.ended, self._batch)
        told = {} if recipe.infos is None else _call("infos", recipe.infos, move)
        if not isinstance(told, dict):
            raise ValueError(f"infos returns {type(told).__name__}; it must be a dict of arrays by name")
        for name, values in {"reward": reward, "ended": ended, **{f"infos: {key}": told[key] for key in told}}.items():
            if np.shape(values) != (self.num_envs,):
                raise ValueError(
                    f"{name} is an array of shape {np.shape(values)}; it must be ({self.num_envs},), a number for each"
                    f" of the {self.num_envs} rows"
                )
        if np.asarray(ended).dtype != bool:  # numbers would end nearly every episode at once
            raise ValueError(f"ended is an array of {np.asarray(ended).dtype}; it must be one of bool")
        infos = {name: np.array(values, np.float64) for name, values in told.items()}
        return np.array(reward, np.float64), np.asarray(ended), infos

    def _observe(self) -> Array:
        return np.array(_call("observe", self.recipe.observe, self._batch), np.float64)


def _call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the recipe; what it raises says which one it was, and where in its file."""
    try:
        return function(*arguments)
    except Exception as error:
        own = traceback.extract_tb(error.__traceback__)[1:]  # without the call above
        place = f" ({Path(own[0].filename).name}, line {own[0].lineno})" if own else ""
        text = f"{name} raised {type(error).__name__}: {error}{place}"
        raise RuntimeError(text) from error


def _observation_dim(model: mujoco.MjModel, observe: Observe) -> int:
    """Numbers of an observation, found out by making two."""
    with np.errstate(all="ignore"):
        shape = np.shape(_call("observe", observe, Data(model, 2, 1)))
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(f"observe returns an array of shape {shape} for 2 simulations; it must be (2, numbers)")
    return shape[1]


def mujoco_family(
    name: str,
    xml: str | Path,
    reward: Reward,
    tasks: Mapping[str, Variation],
    *,
    observe: Observe = positions_and_velocities,
    infos: Told | None = None,
    ended: Ended | None = None,
    start: Start = gymnasium_start_state,
    frame_skip: int = 1,
    stage: mujoco.mjtStage = mujoco.mjtStage.mjSTAGE_VEL,
    still: Still = None,
    camera: Camera | None = None,
) -> type[TaskEnv]:
    """Make a family of tasks out of a MuJoCo model, as fast in batches as those of this package.

    Bind the result to `name` at the top of the module that calls this, so that it can be pickled, and register both of
    its forms:

        Arm = mujoco_family("Arm", Path(__file__).with_name("arm.xml"), reward, {"load": Factor("body_mass", "hand")})
        gymnasium.register(
            "my/Arm-v0", entry_point=Arm, vector_entry_point=Arm.vector_class, max_episode_steps=100
        )

    Then `--env my_module:my/Arm-v0` trains on it.

    Args:
        name: of the class, and so of the variable.
        xml: the model's file; a relative path is one from the folder of the module that calls this. Its actuators need
            control ranges, which are the bounds of actions.
        reward: `reward(move)`, from a `Move` (help(mamlrl.envs.Move)) to the rewards [N] of its rows.
        tasks: what varies, by name: `Factor`, `Value`, `Goal`, or a `Variation` of one's own.
        observe: `observe(data)`, from the simulations, as `Move.data`, to observations [N, O]; all positions and
            velocities, unless given.
        infos: `infos(move)`, from a `Move` to a dict of numbers [N] by name that `step` tells besides, such as
            `success` for `environment.metrics`; nothing, unless given.
        ended: `ended(data)`, from the simulations to whether their episodes have ended, bool [N].
        start: `start(model, generator)`, from the `MjModel` and a numpy Generator to positions [nq] and velocities [nv]
            of one row to start an episode from; those of Gymnasium's robots, unless given: near the model's.
        frame_skip: simulation steps per time step.
        stage: how far derived fields (`xpos`, `sensordata`, ...) are computed after a time step. The default makes
            those of positions and velocities current. `mjSTAGE_NONE` is faster, and leaves them a simulation step
            behind; `qpos` and `qvel` are current at any rate.
        still: what a still shows, as `TaskVectorEnv.still`: "path" of an observation that begins with x and y, "speed"
            where `infos` tells an `x_velocity`.
        camera: where pictures are taken from; twice the model's size from its centre, unless given.

    Returns:
        The class of the single environment. Its attribute `vector_class` is the vector environment's.

    Raises:
        ValueError: `tasks` is empty or holds what is no variation, there is no such file, or another argument is none
            of those above. What does not fit the model is told when an environment is made.
    """
    if not isinstance(tasks, Mapping):
        raise ValueError(f"tasks is a {type(tasks).__name__}; it must be a dict of what varies, by name")
    TaskTable(tasks)
    check_choice("still", still, (None, "path", "speed"))
    check_count("frame_skip", frame_skip, 1)
    for argument, value in (("reward", reward), ("observe", observe), ("start", start)):
        if not callable(value):
            raise ValueError(f"{argument} is {value!r}; it must be a function")
    for argument, value in (("infos", infos), ("ended", ended)):
        if value is not None and not callable(value):
            raise ValueError(f"{argument} is {value!r}; it must be a function, or None")
    if not isinstance(stage, mujoco.mjtStage):
        raise ValueError(f"stage is {stage!r}; it must be a mujoco.mjtStage, such as mjtStage.mjSTAGE_VEL")
    caller = sys._getframe(1).f_globals
    module = caller.get("__name__", "__main__")
    path = Path(caller.get("__file__", "module")).absolute().parent / xml
    if not path.is_file():
        raise ValueError(f"xml is {str(xml)!r}; there is no file {path}")
    recipe = Recipe(path, reward, dict(tasks), observe, infos, ended, start, frame_skip, stage)
    if camera is None:
        statistic = load_model(path).stat
        camera = Camera(distance=2 * float(statistic.extent), height=float(statistic.center[2]))
    vector_class = type(
        "vector_class",
        (FamilyVectorEnv,),
        {
            "__module__": module,
            "__qualname__": f"{name}.vector_class",
            "__doc__": f"N rows of {name} in lock step.",
            "recipe": recipe,
            "still": still,
            "camera": camera,
        },
    )
    doc = f"A family of tasks that `mamlrl.envs.mujoco_family` has made; they differ in {', '.join(tasks)}."
    return type(name, (TaskEnv,), {"__module__": module, "__doc__": doc, "vector_class": vector_class})
