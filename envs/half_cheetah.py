"""The half-cheetah that runs at a wanted velocity or in a wanted direction.

Source: Finn, Abbeel, Levine (2017), "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", section 5.3.
"""

from __future__ import annotations

from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from .base import Array, DirectionSpace, Infos, Mask, TaskEnv, TaskSpace
from .mujoco_vector import MujocoTaskVectorEnv, gymnasium_start_state, load_model

GYMNASIUM_OBSERVATION_DIM, RLLAB_OBSERVATION_DIM = 17, 20


def _add_torso_sensors(specification: mujoco.MjSpec) -> None:
    for sensor in (mujoco.mjtSensor.mjSENS_SUBTREECOM, mujoco.mjtSensor.mjSENS_SUBTREELINVEL):
        specification.add_sensor(type=sensor, objtype=mujoco.mjtObj.mjOBJ_BODY, objname="torso")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")


class HalfCheetahVectorEnv(MujocoTaskVectorEnv):
    """N half-cheetahs in lock step; a family adds its tasks and `_task_reward`."""

    def __init__(
        self,
        task_space: TaskSpace,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        num_threads: int = 0,
        *,
        frame_skip: int = 5,
        ctrl_cost_weight: float = 0.05,
        velocity: Literal["root", "com"] = "root",
        observation: Literal["gymnasium", "rllab"] = "gymnasium",
        reset_noise: Literal["gymnasium", "rllab"] = "gymnasium",
    ):
        _check_choice("velocity", velocity, ("root", "com"))
        _check_choice("observation", observation, ("gymnasium", "rllab"))
        _check_choice("reset_noise", reset_noise, ("gymnasium", "rllab"))
        with_sensors = velocity == "com" or observation == "rllab"
        super().__init__(
            model=load_model("half_cheetah.xml", _add_torso_sensors if with_sensors else None),
            frame_skip=frame_skip,
            stage=mujoco.mjtStage.mjSTAGE_VEL if with_sensors else mujoco.mjtStage.mjSTAGE_NONE,
            observation_dim=RLLAB_OBSERVATION_DIM if observation == "rllab" else GYMNASIUM_OBSERVATION_DIM,
            task_space=task_space,
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            num_threads=num_threads,
        )
        self._ctrl_cost_weight = ctrl_cost_weight
        self._velocity, self._observation, self._reset_noise = velocity, observation, reset_noise
        if with_sensors:
            self._torso_center, self._torso_velocity = np.split(self._batch.bind("sensordata"), 2, axis=1)

    def _task_reward(self, velocity: Array) -> Array:
        """Reward of the task for the velocity along x, [N]."""
        raise NotImplementedError

    def _start_state(self, generator: np.random.Generator) -> tuple[Array, Array]:
        if self._reset_noise == "gymnasium":
            return gymnasium_start_state(self._model, generator)
        qpos = self._model.qpos0 + 0.01 * generator.standard_normal(self._model.nq)
        return qpos, 0.1 * generator.standard_normal(self._model.nv)

    def _advance(self, actions: Array, rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        x_before = self._qpos[:, 0].copy()
        self._simulate(actions, rows)
        if self._velocity == "com":
            velocity = self._torso_velocity[:, 0].copy()
        else:
            velocity = (self._qpos[:, 0] - x_before) / self.dt
        reward_task = self._task_reward(velocity)
        reward_ctrl = -self._ctrl_cost_weight * np.square(actions).sum(axis=1)
        infos = {
            "x_position": self._qpos[:, 0].copy(),
            "x_velocity": velocity,
            "reward_task": reward_task,
            "reward_ctrl": reward_ctrl,
        }
        return reward_task + reward_ctrl, np.zeros(self.num_envs, bool), infos

    def _observe(self) -> Array:
        parts = [self._qpos[:, 1:], self._qvel]
        if self._observation == "rllab":
            parts.append(self._torso_center)
        return np.concatenate(parts, axis=1)


class HalfCheetahVelVectorEnv(HalfCheetahVectorEnv):
    """N half-cheetahs, each with its own wanted velocity; see `HalfCheetahVelEnv` for the environment."""

    def __init__(self, *args: Any, goal_range: tuple[float, float] = (0.0, 2.0), **kwargs: Any):
        low, high = goal_range
        if not low < high:
            raise ValueError(f"goal_range is {goal_range}; it must be (low, high) with low < high")
        super().__init__(TaskSpace(low, high), *args, **kwargs)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n velocities, uniform in the goal range, [n, 1]."""
        return rng.uniform(self.task_space.low, self.task_space.high, (n, 1))

    def _task_reward(self, velocity: Array) -> Array:
        return -np.abs(velocity - self.tasks[:, 0])


class HalfCheetahDirVectorEnv(HalfCheetahVectorEnv):
    """N half-cheetahs, each with its own direction; see `HalfCheetahDirEnv` for the environment."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(DirectionSpace(), *args, **kwargs)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n directions, backward and forward equally likely, [n, 1]."""
        return rng.choice((-1.0, 1.0), (n, 1))

    def _task_reward(self, velocity: Array) -> Array:
        return self.tasks[:, 0] * velocity


class HalfCheetahVelEnv(TaskEnv):
    """The half-cheetah has to run at a velocity that only the reward tells of."""

    vector_class = HalfCheetahVelVectorEnv


class HalfCheetahDirEnv(TaskEnv):
    """The half-cheetah has to run in a direction that only the reward tells of."""

    vector_class = HalfCheetahDirVectorEnv
