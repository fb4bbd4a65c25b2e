"""Where films are made: copies of an environment that draw, found out before anything is computed."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import traceback
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from mamlrl.errors import UserError, said
from mamlrl.experiment import Experiment, draw_tasks, make_envs
from mamlrl.recording.pictures import Picture, as_picture
from mamlrl.recording.writers import FRAMES_PER_SECOND
from mamlrl.sampler import reset_to_tasks

SIMULATION_RATE = 20.0  # time steps per second of an environment that does not say its own


class Stage(NamedTuple):
    """Environments that draw, a row for each number of gradient steps."""

    envs: VectorEnv
    time_step: float
    """seconds of the simulation"""
    stride: int
    """time steps from one picture to the next"""
    frames_per_second: float
    first: Picture
    """all others are made as large"""


@contextlib.contextmanager
def open_stage(experiment: Experiment, num_rows: int, speed: float = 1.0) -> Iterator[Stage]:
    """Environments to film in, which have drawn a first picture.

    Args:
        experiment: policy and settings.
        num_rows: panels of the film.
        speed: of the film, where 1 is that of the simulation.

    Raises:
        UserError: the environment cannot be rendered, or not here.
    """
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():  # what they warn of here we take, or say ourselves
            warnings.filterwarnings("ignore", module="gymnasium|glfw")
            envs = _rendered_envs(experiment, num_rows)
            stack.callback(envs.close)
            first = _first_picture(envs)
        rate = _simulation_rate(envs)
        stride = max(1, round(rate * speed / FRAMES_PER_SECOND))
        yield Stage(envs, 1.0 / rate, stride, rate * speed / stride, first)


def check_stage(experiment: Experiment) -> None:
    """The environment can be filmed here: one is made and draws a picture.

    Raises:
        UserError: it cannot.
    """
    with open_stage(experiment, 1):
        pass


def _rendered_envs(experiment: Experiment, num_rows: int) -> VectorEnv:
    config, modes = experiment.config, experiment.envs.metadata.get("render_modes") or []
    if "rgb_array" not in modes:
        raise UserError(
            f"the environment {config.env} cannot be rendered: films need the render mode 'rgb_array', its "
            f"metadata['render_modes'] {'names ' + ', '.join(map(repr, modes)) if modes else 'is empty'}"
        )
    environment = dataclasses.replace(
        config.environment, kwargs={**config.environment.kwargs, "render_mode": "rgb_array"}
    )
    try:
        return make_envs(dataclasses.replace(config, threads=1, environment=environment), num_rows)
    except Exception as error:  # such as a constructor that takes no render_mode, or lacks what it draws with
        raise _cannot_be_rendered(config.env, error) from error


def _first_picture(envs: VectorEnv) -> Picture:
    tasks = draw_tasks(envs, 1, np.random.default_rng(0))
    reset_to_tasks(envs, tasks, np.zeros((1, envs.num_envs), np.int64))
    return draw(envs)[0]


def _simulation_rate(envs: VectorEnv) -> float:
    """Time steps per second, as the environment says."""
    try:
        rate = float(envs.metadata["render_fps"])
    except (KeyError, TypeError, ValueError):
        return SIMULATION_RATE
    return rate if 0 < rate < math.inf else SIMULATION_RATE


def draw(envs: VectorEnv) -> list[Picture]:
    """A picture of every row.

    Raises:
        UserError: the environment cannot be rendered.
    """
    try:
        return [as_picture(drawn) for drawn in envs.render() or ()]
    except Exception as error:  # whatever an environment raises that cannot draw, or not here
        raise _cannot_be_rendered(envs.spec.id if envs.spec else "", error) from error


def _cannot_be_rendered(environment: str, error: Exception) -> UserError:
    cause = said(error)
    told = "".join(traceback.format_exception(error)) + str(getattr(error, "user_traceback", ""))
    if re.search(r"OpenGL|GLFW|MUJOCO_GL|\bEGL\b", told) and "libegl1" not in told:
        cause += (
            "; MuJoCo draws with OpenGL: without a display it takes the EGL library (package libegl1 on Debian and "
            "Ubuntu), and MUJOCO_GL=egl or unset"
        )
    name = "" if environment in cause else f" {environment}"
    return UserError(f"the environment{name} cannot be rendered: {cause}")
