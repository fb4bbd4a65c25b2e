# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs, so a type checker knows none of its names.)
"""Vector environments on MuJoCo's batch: one model, N simulations, a native thread pool."""

from __future__ import annotations

import copy
import importlib
import os
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium.envs.mujoco
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .argument_checks import check_count
from .base import Array, Infos, Mask, TaskSpace, TaskVectorEnv
from .rendering import has_no_display

try:
    from mujoco.batch import Batch

    from .task_table import TaskTable, VariedModel
except ImportError as error:
    raise ImportError(f"MuJoCo families of mamlrl need mujoco>=4.0; this is {mujoco.__version__}") from error

FRAME_SIZE = 480  # pixels, width and height
LARGEST_NUMBER = 1e10  # of a state that MuJoCo itself takes for one (mjMAXVAL)
POLE_RADIUS = 0.00625  # times the camera's distance
POLE_HEIGHT, POLE_DEPTH = 1.1, 0.4  # m; the depth is along y, behind a runner
POLE_COLOR = (0.85, 0.15, 0.2, 1.0)
ALMOST_DOWN = (0.05, 0.08, -0.9955)  # a direction of light
MODEL_FOLDER = Path(gymnasium.envs.mujoco.__file__).parent / "assets"


class Camera(NamedTuple):
    """Where pictures are taken from: a side, at some distance from the model's first body (the torso)."""

    distance: float = 4.0
    """m"""
    elevation: float = -15.0
    """degrees"""
    height: float = 0.5
    """of the point that it looks at, m; it stays, so that jumps and falls can be seen"""


def load_model(file_name: str | Path, *edits: Callable[[mujoco.MjSpec], None] | None) -> mujoco.MjModel:
    """Compile a model, edited if wanted, from a file of Gymnasium's (by its name) or of somebody else (by its path).

    The half-cheetah's file scales its total mass in a way that MuJoCo deprecates. Compiled from a specification, the
    model is the same to the last bit, but MuJoCo's note to the file's author becomes a Python warning, which can be
    silenced, instead of a line on stderr and a log file in the user's folder.

    Raises:
        ValueError: the file holds no model; names it.
    """
    try:
        specification = mujoco.MjSpec.from_file(str(MODEL_FOLDER / file_name))
    except ValueError as error:
        raise ValueError(f"{file_name}: {error}") from error
    for edit in edits:
        if edit is not None:
            edit(specification)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*settotalmass", category=UserWarning)
        return specification.compile()


class MujocoTaskVectorEnv(TaskVectorEnv):
    """N simulations of one model in lock step.

    Results are the same to the last bit at any number of threads. A simulation that diverges (MuJoCo warns of it, or
    its state is not finite) ends its episode: that time step's reward and infos are 0 but for `infos["diverged"]`,
    which is 1, and the state is the model's default.

    A family implements `_move`, in place of `_advance`.

    Args:
        model: the model.
        frame_skip: simulation steps per time step.
        stage: forward stage computed after a time step. The default leaves derived fields (sensors, contact forces)
            one simulation step behind the state; `mjtStage.mjSTAGE_VEL` makes position and velocity sensors current.
        observation_dim: O.
        task_space: the tasks. What a `TaskTable` varies in the model is set when a row's task changes.
        num_envs: rows (N).
        max_episode_steps: time steps after which a row is truncated; None for no limit.
        render_mode: None or "rgb_array".
        num_threads: native threads; 0 takes all CPUs.
        **kwargs: those of `TaskVectorEnv`.

    Raises:
        ValueError: an argument is out of range.
    """

    camera: ClassVar[Camera] = Camera()
    batch_class: ClassVar[type[Batch]] = Batch
    _renderer: _Renderer | None = None  # also when the constructor has failed, and Python closes what there is

    def __init__(
        self,
        model: mujoco.MjModel,
        frame_skip: int,
        stage: mujoco.mjtStage,
        observation_dim: int,
        task_space: TaskSpace,
        num_envs: int,
        max_episode_steps: int | None,
        render_mode: str | None,
        num_threads: int,
        **kwargs: Any,
    ):
        check_count("frame_skip", frame_skip, 1)
        check_count("num_threads", num_threads, 0)
        check_actuators(model)
        low, high = model.actuator_ctrlrange.T
        super().__init__(
            observation_space=spaces.Box(-np.inf, np.inf, (observation_dim,), np.float64),
            action_space=spaces.Box(low, high, dtype=np.float64),
            task_space=task_space,
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            **kwargs,
        )
        self.dt = float(model.opt.timestep) * frame_skip
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self.dt)}
        self._model, self._frame_skip, self._stage = model, frame_skip, int(stage)
        self._batch = self.batch_class(model, num_envs, num_threads)
        # Live views of the simulations' states, one row each.
        self._qpos, self._qvel = self._batch.bind("qpos"), self._batch.bind("qvel")
        self._ctrl = self._batch.bind("ctrl")
        self._warnings = self._batch.warning[:, : mujoco.mjtWarning.mjWARN_BADCTRL.value, 1]  # counts since the reset
        self._has_told = False
        self._pole = np.zeros(num_envs)  # where the wanted velocities would have led, m
        self._varied = VariedModel(task_space, model, self._batch) if isinstance(task_space, TaskTable) else None

    def _apply_tasks(self, rows: NDArray[np.intp], tasks: Array) -> None:
        if self._varied is not None:
            self._varied.apply(rows, tasks)

    def _start_state(self, generator: np.random.Generator) -> tuple[Array, Array]:
        """Draw positions [nq] and velocities [nv] to start an episode from."""
        raise NotImplementedError

    def _start_rows(self, rows: NDArray[np.intp]) -> None:
        self._batch.reset(rows, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self._pole[rows] = 0.0
        for row in rows.tolist():
            self._qpos[row], self._qvel[row] = self._start_state(self.generators[row])
        # The first step's constraint solver starts from the accelerations that this computes.
        self._batch.forward(rows)

    def _move(self, actions: Array, rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        """Advance the rows by `_simulate`, as `_advance`."""
        raise NotImplementedError

    def _advance(self, actions: Array, rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        self._diverged = np.zeros(self.num_envs, bool)
        if self.render_mode is not None:
            for row in range(self.num_envs) if rows is None else rows.tolist():
                self._pole[row] += (self.target_speed(self.tasks[row]) or 0.0) * self.dt
        rewards, terminated, infos = self._move(actions, rows)
        if self._diverged.any():
            rewards = np.where(self._diverged, 0.0, rewards)
            terminated = terminated | self._diverged
            for values in infos.values():
                values[self._diverged] = 0
        return rewards, terminated, infos | {"diverged": self._diverged.astype(np.float64)}

    def _simulate(self, actions: Array, rows: NDArray[np.intp] | None) -> None:
        """Apply the actions [N, A] for a time step."""
        self._ctrl[:] = actions
        self._batch.step(rows, self._frame_skip, self._stage)
        # After a warning MuJoCo itself starts anew from the default state, within the step; not so after the last one.
        sound = (np.abs(self._qpos) < LARGEST_NUMBER).all(axis=1) & (np.abs(self._qvel) < LARGEST_NUMBER).all(axis=1)
        diverged = ~sound | self._warnings.any(axis=1)
        if diverged.any():
            self._batch.reset(np.flatnonzero(diverged))
            self._diverged = diverged
            self._tell_of(int(np.flatnonzero(diverged)[0]))

    def _tell_of(self, row: int) -> None:
        """Say in which task a simulation has diverged, of the first one alone: there may be many."""
        if self._has_told:
            return
        self._has_told = True
        numbers = " ".join(f"{number:.6g}" for number in self.tasks[row])
        warnings.warn(
            f"a simulation diverged on the task {numbers}; its episode ends there. This is said once: how many do so is"
            " in the metrics diverged/step_k",
            RuntimeWarning,
            stacklevel=2,
        )

    def _model_of(self, row: int) -> mujoco.MjModel:
        """The model that a row's simulation runs on."""
        return self._batch.get_model(row) if self._varied is not None and self._varied.varies else self._model

    def _draw_row(self, row: int) -> NDArray[np.uint8]:
        if self._renderer is None:
            self._renderer = _Renderer(self._model, self.camera)
        model, data = self._model_of(row), self._batch.get_data(row)
        mujoco.mj_forward(model, data)
        return self._renderer.frame(model, data, self._pole_at(row))

    def _pole_at(self, row: int) -> tuple[float, float] | None:
        """Place of the pole that shows what is wanted, x and y, m; None for none. It moves at a wanted velocity."""
        if self.target_speed(self.tasks[row]) is None:
            return None
        return float(self._pole[row]), POLE_DEPTH

    def close_extras(self, **kwargs: object) -> None:
        """Release the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class _Renderer:
    """Pictures of a model's first body (the torso) from the side, with an OpenGL context of its own.

    MuJoCo's own Renderer takes the kind of context that was wanted when MuJoCo was first imported. This one looks at
    MUJOCO_GL when it is made, and without it takes EGL where there is no display.

    Raises:
        RuntimeError: no OpenGL context could be made.
    """

    def __init__(self, model: mujoco.MjModel, camera: Camera):
        backend = os.environ.get("MUJOCO_GL", "").lower() or ("egl" if has_no_display() else "glfw")
        try:
            self._context = importlib.import_module(f"mujoco.{backend}").GLContext(FRAME_SIZE, FRAME_SIZE)
            self._context.make_current()
        except Exception as error:  # which one depends on what is missing: the library, a driver or PyOpenGL
            raise RuntimeError(
                f"rendering with MUJOCO_GL={backend} failed: {error}. Install the EGL library (package libegl1 on"
                " Debian and Ubuntu), or install libosmesa6 and set MUJOCO_GL=osmesa"
            ) from error
        self._model = _with_light_floor(model)
        self._drawing = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawing)
        # Also called at exit, in time: later, parts of Python that OSMesa needs are gone.
        self.close = weakref.finalize(self, _free, self._context, self._drawing)
        self._viewport = mujoco.MjrRect(0, 0, FRAME_SIZE, FRAME_SIZE)
        self._scene = mujoco.MjvScene(self._model, maxgeom=1000)
        self._camera, self._options = mujoco.MjvCamera(), mujoco.MjvOption()
        self._camera.azimuth, self._camera.elevation, self._camera.distance = 90.0, camera.elevation, camera.distance
        self._camera.lookat[2] = camera.height
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION.value] = 0  # of the floor: it hides the feet's contact

    def frame(
        self, model: mujoco.MjModel, data: mujoco.MjData, pole: tuple[float, float] | None = None
    ) -> NDArray[np.uint8]:
        """Draw a state whose derived fields are current, [FRAME_SIZE, FRAME_SIZE, 3].

        Where gravity is tilted the picture is too, so that it pulls downwards.

        Args:
            model: that the state is one of; it has the assets of the renderer's.
            data: the state.
            pole: x and y of a pole on the ground, m; None for no pole.
        """
        self._context.make_current()
        self._camera.lookat[:2] = data.xpos[1, :2]
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._options, None, self._camera, everything, self._scene)
        for light in self._scene.lights[: self._scene.nlight]:
            if light.type == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL.value and not light.headlight:
                light.pos[:2] += data.xpos[1, :2]  # shadows reach some metres from there
                # Straight from above, a floor throws shadows on itself, in patches.
                if np.abs(light.dir[:2]).max() < 1e-3:
                    light.dir[:] = ALMOST_DOWN
        if model.opt.gravity[:2].any():
            self._hold_upright(-model.opt.gravity)
        if pole is not None:
            self._add_pole(*pole)
        mujoco.mjr_render(self._viewport, self._scene, self._drawing)
        frame = np.empty((FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        mujoco.mjr_readPixels(frame, None, self._viewport, self._drawing)
        return frame[::-1].copy()  # OpenGL's first row is the lowest

    def _hold_upright(self, up: Array) -> None:
        for camera in self._scene.camera:
            forward = np.asarray(camera.forward, np.float64)
            across = up - (up @ forward) * forward
            camera.up = across / np.linalg.norm(across)

    def _add_pole(self, x: float, y: float) -> None:
        geom = self._scene.geoms[self._scene.ngeom]
        size = np.array([POLE_RADIUS * self._camera.distance, POLE_HEIGHT / 2, 0.0])
        position = np.array([x, y, POLE_HEIGHT / 2])
        cylinder = mujoco.mjtGeom.mjGEOM_CYLINDER.value
        mujoco.mjv_initGeom(geom, cylinder, size, position, np.eye(3).ravel(), np.array(POLE_COLOR, np.float32))
        geom.emission = 0.6  # else it is dark: the light falls from above
        self._scene.ngeom += 1


def _with_light_floor(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy of the model whose floor is not black and white, from which a runner's legs hardly stand out."""
    model = copy.copy(model)
    if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_TEXTURE, "texplane") < 0:
        return model
    floor = model.texture("texplane")
    size = int(floor.width[0] * floor.height[0] * floor.nchannel[0])
    pixels = model.tex_data[floor.adr[0] : floor.adr[0] + size]
    pixels[:] = 110 + pixels * 0.45
    return model


def _free(context: Any, drawing: mujoco.MjrContext) -> None:
    with context.as_current():
        drawing.free()
    context.free()


def check_actuators(model: mujoco.MjModel) -> None:
    """Refuse a model that takes no actions, or whose actuators do not say which.

    Raises:
        ValueError: names the actuators.
    """
    if not model.nu:
        raise ValueError("the model has no actuators; a policy acts through them")
    low, high = model.actuator_ctrlrange.T
    unlimited = np.flatnonzero((model.actuator_ctrllimited == 0) | ~(low < high))
    if unlimited.size:
        names = ", ".join(model.actuator(one).name or f"number {one}" for one in unlimited.tolist())
        raise ValueError(
            f"the model's actuators {names} have no range of controls, which bounds the actions; give them one, such as"
            ' ctrlrange="-1 1"'
        )


def gymnasium_start_state(model: mujoco.MjModel, generator: np.random.Generator) -> tuple[Array, Array]:
    """Start state of Gymnasium's models: positions uniform within +-0.1, velocities normal with std 0.1."""
    qpos = model.qpos0 + generator.uniform(-0.1, 0.1, model.nq)
    return qpos, 0.1 * generator.standard_normal(model.nv)


def add_mass_center_sensors(specification: mujoco.MjSpec) -> None:
    """Sense centre of mass and its velocity, three numbers each, of a runner's whole body."""
    for sensor in (mujoco.mjtSensor.mjSENS_SUBTREECOM, mujoco.mjtSensor.mjSENS_SUBTREELINVEL):
        specification.add_sensor(type=sensor, objtype=mujoco.mjtObj.mjOBJ_BODY, objname="torso")
