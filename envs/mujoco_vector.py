# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs, so a type checker knows none of its names.)
"""Vector environments on MuJoCo's batch: one model, N simulations, a native thread pool."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium.envs.mujoco
import mujoco
import numpy as np
from gymnasium import spaces
from mujoco.batch import Batch
from numpy.typing import NDArray

from .base import Array, TaskSpace, TaskVectorEnv

if TYPE_CHECKING:
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

FRAME_SIZE = 480  # pixels, width and height
MODEL_FOLDER = Path(gymnasium.envs.mujoco.__file__).parent / "assets"


def load_model(file_name: str, add_sensors: Callable[[mujoco.MjSpec], None] | None = None) -> mujoco.MjModel:
    """Compile one of Gymnasium's models, with further sensors if wanted.

    The half-cheetah's file scales its total mass in a way that MuJoCo deprecates. Compiled from a specification, the
    model is the same to the last bit, but MuJoCo's note to the file's author becomes a Python warning, which can be
    silenced, instead of a line on stderr and a log file in the user's folder.
    """
    specification = mujoco.MjSpec.from_file(str(MODEL_FOLDER / file_name))
    if add_sensors is not None:
        add_sensors(specification)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*settotalmass", category=UserWarning)
        return specification.compile()


class MujocoTaskVectorEnv(TaskVectorEnv):
    """N simulations of one model in lock step.

    Results are the same to the last bit at any number of threads.

    Args:
        model: the model.
        frame_skip: simulation steps per time step.
        stage: forward stage computed after a time step. The default leaves derived fields (sensors, contact forces)
            one simulation step behind the state; `mjtStage.mjSTAGE_VEL` makes position and velocity sensors current.
        observation_dim: O.
        task_space: the tasks.
        num_envs: rows (N).
        max_episode_steps: time steps after which a row is truncated; None for no limit.
        render_mode: None or "rgb_array".
        num_threads: native threads; 0 takes all CPUs.

    Raises:
        ValueError: an argument is out of range.
    """

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
    ):
        if frame_skip < 1:
            raise ValueError(f"frame_skip is {frame_skip}; it must be at least 1 simulation step")
        if num_threads < 0:
            raise ValueError(f"num_threads is {num_threads}; it must be at least 1, or 0 for all CPUs")
        low, high = model.actuator_ctrlrange.T
        super().__init__(
            observation_space=spaces.Box(-np.inf, np.inf, (observation_dim,), np.float64),
            action_space=spaces.Box(low, high, dtype=np.float64),
            task_space=task_space,
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
        )
        self.dt = float(model.opt.timestep) * frame_skip
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self.dt)}
        self._model, self._frame_skip, self._stage = model, frame_skip, int(stage)
        self._batch = Batch(model, num_envs, num_threads)
        # Live views of the simulations' states, one row each.
        self._qpos, self._qvel = self._batch.bind("qpos"), self._batch.bind("qvel")
        self._ctrl = self._batch.bind("ctrl")
        self._renderer: MujocoRenderer | None = None
        self._rendered_data = mujoco.MjData(model)

    def _start_state(self, generator: np.random.Generator) -> tuple[Array, Array]:
        """Draw positions [nq] and velocities [nv] to start an episode from."""
        raise NotImplementedError

    def _start_rows(self, rows: NDArray[np.intp]) -> None:
        self._batch.reset(rows, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        for row in rows.tolist():
            self._qpos[row], self._qvel[row] = self._start_state(self.generators[row])
        # The first step's constraint solver starts from the accelerations that this computes.
        self._batch.forward(rows)

    def _simulate(self, actions: Array, rows: NDArray[np.intp] | None) -> None:
        """Apply the actions [N, A] for a time step."""
        self._ctrl[:] = actions
        self._batch.step(rows, self._frame_skip, self._stage)

    def _draw_row(self, row: int) -> NDArray[np.uint8]:
        self._batch.get_data(row, self._rendered_data)
        mujoco.mj_forward(self._model, self._rendered_data)
        if self._renderer is None:
            self._renderer = _make_renderer(self._model, self._rendered_data)
        return np.asarray(self._renderer.render("rgb_array"), np.uint8)

    def close_extras(self, **kwargs: object) -> None:
        """Release the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _make_renderer(model: mujoco.MjModel, data: mujoco.MjData) -> MujocoRenderer:
    """Gymnasium's renderer, with its camera that follows the robot.

    Raises:
        RuntimeError: no OpenGL context could be made.
    """
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    renderer = MujocoRenderer(model, data, width=FRAME_SIZE, height=FRAME_SIZE)
    try:
        renderer.render("rgb_array")
    except Exception as error:  # depends on what is missing: the library, a driver or PyOpenGL
        raise RuntimeError(
            f"rendering failed with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: {error}. Install the EGL library"
            " (package libegl1 on Debian and Ubuntu), or install libosmesa6 and set MUJOCO_GL=osmesa"
        ) from error
    return renderer


def gymnasium_start_state(model: mujoco.MjModel, generator: np.random.Generator) -> tuple[Array, Array]:
    """Start state of Gymnasium's models: positions uniform within +-0.1, velocities normal with std 0.1."""
    qpos = model.qpos0 + generator.uniform(-0.1, 0.1, model.nq)
    return qpos, 0.1 * generator.standard_normal(model.nv)
