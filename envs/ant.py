# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs, so a type checker knows none of its names.)
"""The ant that runs at a wanted velocity, in a wanted direction, or to a goal.

Source: Finn, Abbeel, Levine (2017), "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", section 5.3
(velocity and direction); its released code (goal).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from .argument_checks import check_choice, check_flag, check_numbers, check_positive, check_range
from .base import (
    Array,
    DirectionSpace,
    GoalSpace,
    Infos,
    Mask,
    TaskEnv,
    TaskSpace,
    VelocitySpace,
)
from .mujoco_vector import (
    Camera,
    MujocoTaskVectorEnv,
    add_mass_center_sensors,
    gymnasium_start_state,
    load_model,
)


def _add_acceleration_sensor(specification: mujoco.MjSpec) -> None:
    # MuJoCo computes contact forces on bodies (cfrc_ext) only if a sensor of acceleration or force needs them.
    specification.add_sensor(
        type=mujoco.mjtSensor.mjSENS_FRAMELINACC, objtype=mujoco.mjtObj.mjOBJ_BODY, objname="torso"
    )


def _as_in_rllab(specification: mujoco.MjSpec) -> None:
    """Longer simulation steps, and softer contacts. Its motors of +-150 N m are Gymnasium's gear of 150."""
    specification.option.timestep = 0.02
    for geom in specification.geoms:
        geom.solref, geom.solimp[:3] = (0.02, 1.0), (0.8, 0.8, 0.01)


class AntVectorEnv(MujocoTaskVectorEnv):
    """N ants in lock step; a family adds its tasks, and `_task_reward` unless they want it to go forward."""

    still = "speed"
    edits: ClassVar[tuple[Callable[[mujoco.MjSpec], None], ...]] = ()
    """what a family changes in the model"""

    def __init__(
        self,
        task_space: TaskSpace,
        healthy_reward: float,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        num_threads: int = 0,
        *,
        frame_skip: int = 5,
        ctrl_cost_weight: float = 0.005,
        contact_cost_weight: float = 5e-4,
        healthy_z_range: tuple[float, float] = (0.2, 1.0),
        terminate_when_unhealthy: bool = True,
        contact_forces: bool = False,
        observe_position: bool = False,
        body: Literal["gymnasium", "rllab"] = "gymnasium",
        velocity: Literal["root", "com"] = "root",
        observation: Literal["gymnasium", "rllab"] = "gymnasium",
        reset_noise: Literal["gymnasium", "rllab"] = "gymnasium",
        **kwargs: Any,
    ):
        low, high = check_range("healthy_z_range", healthy_z_range, finite=False)
        check_numbers(
            healthy_reward=healthy_reward, ctrl_cost_weight=ctrl_cost_weight, contact_cost_weight=contact_cost_weight
        )
        check_flag("terminate_when_unhealthy", terminate_when_unhealthy)
        check_flag("contact_forces", contact_forces)
        check_flag("observe_position", observe_position)
        check_choice("body", body, ("gymnasium", "rllab"))
        check_choice("velocity", velocity, ("root", "com"))
        check_choice("observation", observation, ("gymnasium", "rllab"))
        check_choice("reset_noise", reset_noise, ("gymnasium", "rllab"))
        as_in_rllab = observation == "rllab"
        observe_position, contact_forces = observe_position or as_in_rllab, contact_forces or as_in_rllab
        with_center = velocity == "com" or as_in_rllab
        model = load_model(
            "ant.xml",
            *self.edits,
            _as_in_rllab if body == "rllab" else None,
            add_mass_center_sensors if with_center else None,
            _add_acceleration_sensor if contact_forces else None,
        )
        first_body = 0 if as_in_rllab else 1  # rllab has the world's forces too
        position_dim = model.nq if observe_position else model.nq - 2
        force_dim = 6 * (model.nbody - first_body) if contact_forces else 0
        torso_dim = 9 + 3 if as_in_rllab else 0
        derived = mujoco.mjtStage.mjSTAGE_VEL if with_center else mujoco.mjtStage.mjSTAGE_NONE
        super().__init__(
            model=model,
            frame_skip=frame_skip,
            stage=mujoco.mjtStage.mjSTAGE_ACC if contact_forces else derived,
            observation_dim=position_dim + model.nv + force_dim + torso_dim,
            task_space=task_space,
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            num_threads=num_threads,
            **kwargs,
        )
        self._healthy_reward, self._healthy_z_range = healthy_reward, (low, high)
        self._terminate_when_unhealthy = terminate_when_unhealthy
        self._ctrl_cost_weight, self._contact_cost_weight = ctrl_cost_weight, contact_cost_weight
        self._observes_position = observe_position
        self._observed_qpos = self._qpos if observe_position else self._qpos[:, 2:]
        self._forces = self._batch.bind("cfrc_ext")[:, first_body:] if contact_forces else None
        self._velocity, self._reset_noise = velocity, reset_noise
        if with_center:
            sensors = self._batch.bind("sensordata")
            self._mass_center, self._mass_velocity = sensors[:, :3], sensors[:, 3:6]
        self._rotation = self._batch.bind("xmat")[:, model.body("torso").id] if as_in_rllab else None

    def _task_reward(self, velocity: Array) -> Array:
        """Reward of the task for the velocity along x and y [N, 2], [N]: the first, unless overridden."""
        return velocity[:, 0]

    def _start_state(self, generator: np.random.Generator) -> tuple[Array, Array]:
        if self._reset_noise == "gymnasium":
            return gymnasium_start_state(self._model, generator)
        start = self._model.numeric("init_qpos").data  # 0.55 m high, the legs bent
        qpos = start + 0.01 * generator.standard_normal(self._model.nq)
        return qpos, 0.1 * generator.standard_normal(self._model.nv)

    def _move(self, actions: Array, rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        before = self._qpos[:, :2].copy()
        self._simulate(actions, rows)
        if self._velocity == "com":
            velocity = self._mass_velocity[:, :2].copy()
        else:
            velocity = (self._qpos[:, :2] - before) / self.dt
        healthy = self._healthy()
        infos = {
            "x_position": self._qpos[:, 0].copy(),
            "y_position": self._qpos[:, 1].copy(),
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_task": self._task_reward(velocity),
            "reward_healthy": self._healthy_reward * healthy,
            "reward_ctrl": -self._ctrl_cost_weight * np.square(actions).sum(axis=1),
        }
        reward = infos["reward_task"] + infos["reward_healthy"] + infos["reward_ctrl"]
        if self._forces is not None:
            infos["reward_contact"] = -self._contact_cost_weight * np.square(self._contact_forces()).sum(axis=1)
            reward = reward + infos["reward_contact"]
        terminated = ~healthy if self._terminate_when_unhealthy else np.zeros(self.num_envs, bool)
        return reward, terminated, infos

    def _healthy(self) -> Mask:
        low, high = self._healthy_z_range
        height = self._qpos[:, 2]
        return (low <= height) & (height <= high)

    def _contact_forces(self) -> Array:
        """Contact torques and forces on the bodies, clipped to [-1, 1], [N, 6 * bodies]."""
        assert self._forces is not None
        return np.clip(self._forces, -1.0, 1.0).reshape(self.num_envs, -1)

    def _observe(self) -> Array:
        parts = [self._observed_qpos, self._qvel]
        if self._forces is not None:
            parts.append(self._contact_forces())
        if self._rotation is not None:
            parts += [self._rotation, self._mass_center]
        return np.concatenate(parts, axis=1)


class AntVelVectorEnv(AntVectorEnv):
    """N ants, each with its own wanted velocity; see `AntVelEnv` for the environment."""

    def __init__(
        self,
        *args: Any,
        goal_range: tuple[float, float] = (0.0, 3.0),
        healthy_reward: float = 1.05,
        **kwargs: Any,
    ):
        super().__init__(VelocitySpace(goal_range), healthy_reward, *args, **kwargs)

    def _task_reward(self, velocity: Array) -> Array:
        return -np.abs(velocity[:, 0] - self.tasks[:, 0])


class AntDirVectorEnv(AntVectorEnv):
    """N ants, each with its own direction; see `AntDirEnv` for the environment."""

    def __init__(self, *args: Any, healthy_reward: float = 0.05, **kwargs: Any):
        super().__init__(DirectionSpace(), healthy_reward, *args, **kwargs)

    def _task_reward(self, velocity: Array) -> Array:
        return self.tasks[:, 0] * velocity[:, 0]


class AntGoalVectorEnv(AntVectorEnv):
    """N ants, each with its own goal; see `AntGoalEnv` for the environment."""

    camera = Camera(distance=6.5, elevation=-35.0, height=0.3)

    def __init__(self, *args: Any, goal_range: float = 3.0, healthy_reward: float = 4.05, **kwargs: Any):
        check_positive("goal_range", goal_range)
        super().__init__(GoalSpace(goal_range), healthy_reward, *args, **kwargs)
        if self._observes_position:
            self.still = "path"

    def _pole_at(self, row: int) -> tuple[float, float]:
        return float(self.tasks[row, 0]), float(self.tasks[row, 1])

    def _task_reward(self, velocity: Array) -> Array:
        return -np.abs(self._qpos[:, :2] - self.tasks).sum(axis=1)


class AntVelEnv(TaskEnv):
    """The ant has to run at a velocity that only the reward tells of.

    ## Description
    Gymnasium's four-legged ant (body, actions and dynamics of Ant-v5). Tasks differ in the velocity along x that is
    wanted, which is uniform in `goal_range`. The policy does not observe it.

    ## Action Space
    `Box(-1, 1, (8,), float64)`; larger actions are clipped. The torque is the action times 150 N m.

    | Num | Action | Min | Max | Unit |
    |---|---|---|---|---|
    | 0-1 | torque on hip and ankle of the front right leg | -1 | 1 | torque (150 N m) |
    | 2-3 | torque on hip and ankle of the front left leg | -1 | 1 | torque (150 N m) |
    | 4-5 | torque on hip and ankle of the back left leg | -1 | 1 | torque (150 N m) |
    | 6-7 | torque on hip and ankle of the back right leg | -1 | 1 | torque (150 N m) |

    ## Observation Space
    `Box(-inf, inf, (27,), float64)`

    | Num | Observation | Min | Max | Unit |
    |---|---|---|---|---|
    | 0 | height of the torso | -inf | inf | position (m) |
    | 1-4 | orientation of the torso, a quaternion (w, x, y, z) | -inf | inf | - |
    | 5-12 | hips and ankles: front left, back left, back right, front right leg | -inf | inf | angle (rad) |
    | 13-15 | velocity of the torso along x, y and z | -inf | inf | velocity (m/s) |
    | 16-18 | angular velocity of the torso about its x, y and z | -inf | inf | angular velocity (rad/s) |
    | 19-26 | velocities of the joints, in the order of 5-12 | -inf | inf | angular velocity (rad/s) |

    Legs are named by where they are, x being forward and y to the left; three of four names in Gymnasium's file say
    otherwise. With `observe_position=True`, x and y of the torso (m) come first (29 numbers). With
    `contact_forces=True`, torque and force of the contacts on each of the 13 bodies come last, 78 numbers clipped to
    [-1, 1] (N m and N).

    ## Rewards
    `reward = -|v - goal| + healthy_reward * healthy - ctrl_cost_weight * sum(a^2)`,
    where `v` is the velocity along x, `a` the clipped action, and `healthy`
    is 1 while the ant is healthy (see Episode End), else 0.
    With `contact_forces=True`, `contact_cost_weight * sum(f^2)` is taken off, f being the observed forces.
    `info["reward_task"]`, `info["reward_healthy"]`, `info["reward_ctrl"]` and `info["reward_contact"]` are the terms;
    `info["x_velocity"]`, `info["y_velocity"]` (displacement over the time step, m/s), `info["x_position"]` and
    `info["y_position"]` (m) are the torso's; `info["diverged"]` is 1 where the simulation broke down, which ends the
    episode, else 0.

    ## Starting State
    That of Ant-v5: positions uniform within +-0.1 of the model's (torso at 0.75 m), velocities normal with standard
    deviation 0.1.

    ## Episode End
    Terminated when the ant is not healthy: the height of the torso is outside `healthy_z_range`; and where the
    simulation breaks down. Truncated after 100 time steps by `gymnasium.make`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `goal_range` | tuple[float, float] | (0, 3) | range of the wanted velocities (m/s) |
    | `frame_skip` | int | 5 | simulation steps of 0.01 s per time step |
    | `healthy_reward` | float | 1.05 | reward per healthy time step (1 so that most are positive, .05 to survive) |
    | `healthy_z_range` | tuple[float, float] | (0.2, 1.0) | heights at which the ant is healthy (m) |
    | `terminate_when_unhealthy` | bool | True | whether an unhealthy ant ends the episode |
    | `ctrl_cost_weight` | float | 0.005 | weight of the squared action |
    | `contact_forces` | bool | False | observe contact forces and charge for them |
    | `contact_cost_weight` | float | 5e-4 | weight of the squared contact forces |
    | `observe_position` | bool | False | observe x and y of the torso |
    | `body` | str | "gymnasium" | "rllab": simulation steps of 0.02 s, and rllab's softer contacts |
    | `velocity` | str | "root" | "root": of the torso, over the time step; "com": of the centre of mass, at its end |
    | `observation` | str | "gymnasium" | "rllab": 125 numbers, see below |
    | `reset_noise` | str | "gymnasium" | "rllab": positions normal, std 0.01, around a crouch 0.55 m high |
    | `change_at` | int or None | None | time step at which another task takes the given one's place |
    | `change_in` | str | "episode" | "episode" or "trial": what these are counted in |

    The ant of the MAML paper has `body="rllab", frame_skip=1, velocity="com", observation="rllab",
    reset_noise="rllab"`. Its observation is all positions (0-14), velocities (15-28), contact torques and forces on the
    world and the 13 bodies, clipped to [-1, 1] (29-112), the torso's rotation matrix (113-121) and the centre of mass
    (122-124). They were not zero there: only from MuJoCo 2.0 on (rllab had 1.31) does its changelog say that
    `mj_rnePostConstraint`, which computes them, is no longer called by default (github.com/openai/gym/issues/1541).

    Weights and bonus default to those of the MAML paper's code, which pays the bonus in the time step of a fall too;
    here a fall gets none. Ant-v5 has ctrl_cost_weight 0.5, healthy_reward 1.
    The task is the wanted velocity [1], given by `reset(options={"task": velocity})`.

    ## Version History
    * v0: first version.
    """

    vector_class = AntVelVectorEnv


class AntDirEnv(TaskEnv):
    """The ant has to run in a direction that only the reward tells of.

    ## Description
    Gymnasium's four-legged ant (body, actions and dynamics of Ant-v5). There are two tasks: running forward and running
    backward along x. The policy does not observe which it is.

    ## Action Space
    `Box(-1, 1, (8,), float64)`, as in `AntVelEnv`.

    ## Observation Space
    `Box(-inf, inf, (27,), float64)`, as in `AntVelEnv`.

    ## Rewards
    `reward = direction * v + healthy_reward * healthy - ctrl_cost_weight * sum(a^2)`,
    where `v` is the velocity along x, `a` the clipped action, and `healthy`
    is 1 while the ant is healthy (see Episode End), else 0.
    Contact cost and `info` are those of `AntVelEnv`.

    ## Starting State
    As in `AntVelEnv`.

    ## Episode End
    As in `AntVelEnv`.

    ## Arguments
    Those of `AntVelEnv` without `goal_range`; one has another default:

    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `healthy_reward` | float | 0.05 | reward per healthy time step |

    The task is the direction [1], -1 or 1, given by `reset(options={"task": direction})`.

    ## Version History
    * v0: first version.
    """

    vector_class = AntDirVectorEnv


class AntGoalEnv(TaskEnv):
    """The ant has to reach a goal that only the reward tells of.

    ## Description
    Gymnasium's four-legged ant (body, actions and dynamics of Ant-v5). Tasks differ in the goal, which is uniform in a
    square around the origin. The policy does not observe it.

    ## Action Space
    `Box(-1, 1, (8,), float64)`, as in `AntVelEnv`.

    ## Observation Space
    `Box(-inf, inf, (27,), float64)`, as in `AntVelEnv`.

    ## Rewards
    `reward = -(|x - goal_x| + |y - goal_y|) + healthy_reward * healthy - ctrl_cost_weight * sum(a^2)`,
    where `(x, y)` is the torso's position after the move, `a` the clipped action, and `healthy`
    is 1 while the ant is healthy (see Episode End), else 0.
    Contact cost and `info` are those of `AntVelEnv`.

    ## Starting State
    As in `AntVelEnv`.

    ## Episode End
    As in `AntVelEnv`.

    ## Arguments
    Those of `AntVelEnv`, two with other meanings or defaults:

    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `goal_range` | float | 3 | goals are uniform in [-goal_range, goal_range]^2 (m) |
    | `healthy_reward` | float | 4.05 | reward per healthy time step (4 so that most are positive, .05 to survive) |

    The task is the goal [2], given by `reset(options={"task": goal})`.

    ## Version History
    * v0: first version.
    """

    vector_class = AntGoalVectorEnv
