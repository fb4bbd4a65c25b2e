# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs, so a type checker knows none of its names.)
"""The half-cheetah that runs at a wanted velocity or in a wanted direction.

Source: Finn, Abbeel, Levine (2017), "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", section 5.3.
"""

from __future__ import annotations

from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from .argument_checks import check_choice, check_number
from .base import Array, DirectionSpace, Infos, Mask, TaskEnv, TaskSpace, VelocitySpace
from .mujoco_vector import (
    MujocoTaskVectorEnv,
    add_mass_center_sensors,
    gymnasium_start_state,
    load_model,
)

GYMNASIUM_OBSERVATION_DIM, RLLAB_OBSERVATION_DIM = 17, 20


class HalfCheetahVectorEnv(MujocoTaskVectorEnv):
    """N half-cheetahs in lock step; a family adds its tasks, and `_task_reward` unless they want it to go forward."""

    still = "speed"

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
        **kwargs: Any,
    ):
        check_choice("velocity", velocity, ("root", "com"))
        check_choice("observation", observation, ("gymnasium", "rllab"))
        check_choice("reset_noise", reset_noise, ("gymnasium", "rllab"))
        check_number("ctrl_cost_weight", ctrl_cost_weight)
        with_sensors = velocity == "com" or observation == "rllab"
        super().__init__(
            model=load_model("half_cheetah.xml", add_mass_center_sensors if with_sensors else None),
            frame_skip=frame_skip,
            stage=mujoco.mjtStage.mjSTAGE_VEL if with_sensors else mujoco.mjtStage.mjSTAGE_NONE,
            observation_dim=RLLAB_OBSERVATION_DIM if observation == "rllab" else GYMNASIUM_OBSERVATION_DIM,
            task_space=task_space,
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            num_threads=num_threads,
            **kwargs,
        )
        self._ctrl_cost_weight = ctrl_cost_weight
        self._velocity, self._observation, self._reset_noise = velocity, observation, reset_noise
        if with_sensors:
            self._mass_center, self._mass_velocity = np.split(self._batch.bind("sensordata"), 2, axis=1)

    def _task_reward(self, velocity: Array) -> Array:
        """Reward of the task for the velocity along x, [N]: that velocity, unless overridden."""
        return velocity

    def _start_state(self, generator: np.random.Generator) -> tuple[Array, Array]:
        if self._reset_noise == "gymnasium":
            return gymnasium_start_state(self._model, generator)
        qpos = self._model.qpos0 + 0.01 * generator.standard_normal(self._model.nq)
        return qpos, 0.1 * generator.standard_normal(self._model.nv)

    def _move(self, actions: Array, rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        x_before = self._qpos[:, 0].copy()
        self._simulate(actions, rows)
        if self._velocity == "com":
            velocity = self._mass_velocity[:, 0].copy()
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
            parts.append(self._mass_center)
        return np.concatenate(parts, axis=1)


class HalfCheetahVelVectorEnv(HalfCheetahVectorEnv):
    """N half-cheetahs, each with its own wanted velocity; see `HalfCheetahVelEnv` for the environment."""

    def __init__(self, *args: Any, goal_range: tuple[float, float] = (0.0, 2.0), **kwargs: Any):
        super().__init__(VelocitySpace(goal_range), *args, **kwargs)

    def _task_reward(self, velocity: Array) -> Array:
        return -np.abs(velocity - self.tasks[:, 0])


class HalfCheetahDirVectorEnv(HalfCheetahVectorEnv):
    """N half-cheetahs, each with its own direction; see `HalfCheetahDirEnv` for the environment."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(DirectionSpace(), *args, **kwargs)

    def _task_reward(self, velocity: Array) -> Array:
        return self.tasks[:, 0] * velocity


class HalfCheetahVelEnv(TaskEnv):
    """The half-cheetah has to run at a velocity that only the reward tells of.

    ## Description
    Gymnasium's planar half-cheetah (body, actions and dynamics of HalfCheetah-v5). Tasks differ in the velocity that is
    wanted, which is uniform in `goal_range`. The policy does not observe it.

    ## Action Space
    `Box(-1, 1, (6,), float64)`; larger actions are clipped. The torque is the action times the joint's gear.

    | Num | Action | Min | Max | Unit |
    |---|---|---|---|---|
    | 0-2 | torque on the back thigh, shin and foot, as a share of 120, 90 and 60 N m | -1 | 1 | torque (gear) |
    | 3-5 | torque on the front thigh, shin and foot, as a share of 120, 60 and 30 N m | -1 | 1 | torque (gear) |

    ## Observation Space
    `Box(-inf, inf, (17,), float64)`, or 20 numbers with `observation="rllab"`

    | Num | Observation | Min | Max | Unit |
    |---|---|---|---|---|
    | 0 | height of the torso above its height in the model | -inf | inf | position (m) |
    | 1 | pitch of the torso | -inf | inf | angle (rad) |
    | 2-4 | joints of the back thigh, shin and foot | -inf | inf | angle (rad) |
    | 5-7 | joints of the front thigh, shin and foot | -inf | inf | angle (rad) |
    | 8 | velocity of the torso along x | -inf | inf | velocity (m/s) |
    | 9 | velocity of the torso along z | -inf | inf | velocity (m/s) |
    | 10 | pitch rate of the torso | -inf | inf | angular velocity (rad/s) |
    | 11-13 | joint velocities of the back thigh, shin and foot | -inf | inf | angular velocity (rad/s) |
    | 14-16 | joint velocities of the front thigh, shin and foot | -inf | inf | angular velocity (rad/s) |
    | 17-19 | rllab only: centre of mass of the whole body, x, y and z | -inf | inf | position (m) |

    The last three hold the distance travelled, which the other 17 do not.

    ## Rewards
    `reward = -|v - goal| - ctrl_cost_weight * sum(a^2)`,
    where `v` is the velocity along x and `a` the clipped action. `info["reward_task"]` and `info["reward_ctrl"]` are
    the two terms, `info["x_velocity"]` is v in m/s, `info["x_position"]` the torso's x in m;
    `info["diverged"]` is 1 where the simulation broke down, which ends the episode, else 0.

    ## Starting State
    Positions uniform within +-0.1 of the model's, velocities normal with standard deviation 0.1; with
    `reset_noise="rllab"` positions normal with standard deviation 0.01, velocities as before.

    ## Episode End
    Not terminated, unless the simulation breaks down. Truncated after 100 time steps by `gymnasium.make`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `goal_range` | tuple[float, float] | (0, 2) | range of the wanted velocities (m/s) |
    | `frame_skip` | int | 5 | simulation steps of 0.01 s per time step |
    | `ctrl_cost_weight` | float | 0.05 | weight of the squared action |
    | `velocity` | str | "root" | "root": mean over the time step; "com": centre of mass, at its end |
    | `observation` | str | "gymnasium" | "gymnasium" (17) or "rllab" (20) |
    | `reset_noise` | str | "gymnasium" | "gymnasium" or "rllab" |
    | `change_at` | int or None | None | time step at which another task takes the given one's place |
    | `change_in` | str | "episode" | "episode" or "trial": what these are counted in |

    The environment of the MAML paper has `frame_skip=1, velocity="com", observation="rllab", reset_noise="rllab"`.
    The task is the wanted velocity [1], given by `reset(options={"task": velocity})`.

    ## Version History
    * v0: first version.
    """

    vector_class = HalfCheetahVelVectorEnv


class HalfCheetahDirEnv(TaskEnv):
    """The half-cheetah has to run in a direction that only the reward tells of.

    ## Description
    Gymnasium's planar half-cheetah (body, actions and dynamics of HalfCheetah-v5). There are two tasks: running forward
    and running backward. The policy does not observe which it is.

    ## Action Space
    `Box(-1, 1, (6,), float64)`, as in `HalfCheetahVelEnv`.

    ## Observation Space
    `Box(-inf, inf, (17,), float64)`, or 20 numbers with `observation="rllab"`, as in `HalfCheetahVelEnv`.

    ## Rewards
    `reward = direction * v - ctrl_cost_weight * sum(a^2)`,
    where `v` is the velocity along x and `a` the clipped action. `info["reward_task"]` and `info["reward_ctrl"]` are
    the two terms, `info["x_velocity"]` is v in m/s, `info["x_position"]` the torso's x in m;
    `info["diverged"]` is 1 where the simulation broke down, which ends the episode, else 0.

    ## Starting State
    As in `HalfCheetahVelEnv`.

    ## Episode End
    Not terminated, unless the simulation breaks down. Truncated after 100 time steps by `gymnasium.make`.

    ## Arguments
    Those of `HalfCheetahVelEnv` without `goal_range`.

    The environment of the MAML paper has `frame_skip=1, velocity="com", observation="rllab", reset_noise="rllab"`.
    The task is the direction [1], -1 or 1, given by `reset(options={"task": direction})`.

    ## Version History
    * v0: first version.
    """

    vector_class = HalfCheetahDirVectorEnv
