# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs, so a type checker knows none of its names.)
"""Gymnasium's hopper, walker, swimmer and humanoid: one vector environment, and what they differ in as data."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .argument_checks import check_flag, check_number, check_numbers
from .base import Array, Infos, Mask, TaskEnv, TaskSpace, VelocitySpace
from .mujoco_vector import Camera, MujocoTaskVectorEnv, load_model

ANY = (-np.inf, np.inf)


class Body(NamedTuple):
    """A runner of Gymnasium's, with its default arguments; -v5 unless the name says another."""

    file_name: str
    frame_skip: int
    ctrl_cost_weight: float
    reset_noise: float
    """positions and velocities start uniform within it around the model's"""
    unobserved: int = 1
    """of the positions, how many are not observed: along x, or x and y; these are also the axes of its velocity"""
    velocity_limit: float = np.inf
    """observed velocities are clipped to it"""
    healthy_reward: float = 0.0
    height: int | None = None
    """which of the positions is the torso's height; None where nothing is unhealthy"""
    healthy_z_range: tuple[float, float] = ANY
    healthy_angle_range: tuple[float, float] = ANY
    """of the torso's pitch, the position after the height"""
    healthy_state_range: tuple[float, float] = ANY
    """of all numbers of the state but the first two positions"""
    mass_center: bool = False
    """whether the velocity is that of the centre of mass, or else that of the torso"""


HOPPER = Body(
    "hopper.xml",
    frame_skip=4,
    ctrl_cost_weight=1e-3,
    reset_noise=5e-3,
    velocity_limit=10.0,
    healthy_reward=1.0,
    height=1,
    healthy_z_range=(0.7, np.inf),
    healthy_angle_range=(-0.2, 0.2),
    healthy_state_range=(-100.0, 100.0),
)
WALKER = Body(
    "walker2d_v5.xml",
    frame_skip=4,
    ctrl_cost_weight=1e-3,
    reset_noise=5e-3,
    velocity_limit=10.0,
    healthy_reward=1.0,
    height=1,
    healthy_z_range=(0.8, 2.0),
    healthy_angle_range=(-1.0, 1.0),
)
SWIMMER = Body("swimmer.xml", frame_skip=4, ctrl_cost_weight=1e-4, reset_noise=0.1, unobserved=2)
HUMANOID = Body(
    "humanoid.xml",
    frame_skip=5,
    ctrl_cost_weight=0.1,
    reset_noise=1e-2,
    unobserved=2,
    healthy_reward=5.0,
    height=2,
    healthy_z_range=(1.0, 2.0),
    mass_center=True,
)


class RunnerVectorEnv(MujocoTaskVectorEnv):
    """N runners in lock step; a family says which `body`, and adds tasks, and `_task_reward` unless that is forward."""

    still = "speed"
    body: ClassVar[Body]

    def __init__(
        self,
        task_space: TaskSpace,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        num_threads: int = 0,
        *,
        frame_skip: int | None = None,
        ctrl_cost_weight: float | None = None,
        healthy_reward: float | None = None,
        terminate_when_unhealthy: bool = True,
        **kwargs: Any,
    ):
        body, model = self.body, load_model(self.body.file_name)
        ctrl_cost_weight = body.ctrl_cost_weight if ctrl_cost_weight is None else ctrl_cost_weight
        healthy_reward = body.healthy_reward if healthy_reward is None else healthy_reward
        check_numbers(ctrl_cost_weight=ctrl_cost_weight, healthy_reward=healthy_reward)
        check_flag("terminate_when_unhealthy", terminate_when_unhealthy)
        super().__init__(
            model=model,
            frame_skip=body.frame_skip if frame_skip is None else frame_skip,
            stage=mujoco.mjtStage.mjSTAGE_NONE,
            observation_dim=model.nq + model.nv - body.unobserved,
            task_space=task_space,
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            num_threads=num_threads,
            **kwargs,
        )
        self._ctrl_cost_weight, self._healthy_reward = ctrl_cost_weight, healthy_reward
        self._terminate_when_unhealthy = terminate_when_unhealthy
        self._centers = self._batch.bind("xipos") if body.mass_center else None

    def _task_reward(self, velocity: Array) -> Array:
        """Reward of the task for the velocity along x, or x and y, [N, 1 or 2], [N]: the first, unless overridden."""
        return velocity[:, 0]

    def _start_state(self, generator: np.random.Generator) -> tuple[Array, Array]:
        noise = self.body.reset_noise
        qpos = self._model.qpos0 + generator.uniform(-noise, noise, self._model.nq)
        return qpos, generator.uniform(-noise, noise, self._model.nv)

    def _move(self, actions: Array, rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        before = self._position()
        self._simulate(actions, rows)
        velocity = (self._position() - before) / self.dt
        healthy = self._healthy()
        axes = range(self.body.unobserved)
        infos = {f"{'xy'[axis]}_position": self._qpos[:, axis].copy() for axis in axes}
        infos |= {f"{'xy'[axis]}_velocity": velocity[:, axis] for axis in axes}
        infos["reward_task"] = self._task_reward(velocity)
        infos["reward_ctrl"] = -self._ctrl_cost_weight * np.square(actions).sum(axis=1)
        reward = infos["reward_task"] + infos["reward_ctrl"]
        if self.body.height is not None:
            infos["reward_healthy"] = self._healthy_reward * healthy
            reward = reward + infos["reward_healthy"]
        return reward, ~healthy & self._terminate_when_unhealthy, infos

    def _position(self) -> Array:
        axes = self.body.unobserved
        if self._centers is None:
            return self._qpos[:, :axes].copy()
        mass = self._model.body_mass[:, None]
        return ((mass * self._centers).sum(axis=1) / mass.sum())[:, :axes]

    def _healthy(self) -> Mask:
        healthy, height = np.ones(self.num_envs, bool), self.body.height
        if height is None:
            return healthy
        healthy &= _is_within(self._qpos[:, height], self.body.healthy_z_range)
        if self.body.healthy_angle_range != ANY:
            healthy &= _is_within(self._qpos[:, height + 1], self.body.healthy_angle_range)
        if self.body.healthy_state_range != ANY:
            for state in (self._qpos[:, 2:], self._qvel):
                healthy &= _is_within(state, self.body.healthy_state_range).all(axis=1)
        return healthy

    def _observe(self) -> Array:
        limit = self.body.velocity_limit
        return np.concatenate([self._qpos[:, self.body.unobserved :], np.clip(self._qvel, -limit, limit)], axis=1)


def _is_within(values: Array, bounds: tuple[float, float]) -> Mask:
    return (bounds[0] < values) & (values < bounds[1])


class RunnerVelVectorEnv(RunnerVectorEnv):
    """N runners, each with its own wanted velocity."""

    def __init__(self, *args: Any, goal_range: tuple[float, float] = (0.0, 2.0), **kwargs: Any):
        super().__init__(VelocitySpace(goal_range), *args, **kwargs)

    def _task_reward(self, velocity: Array) -> Array:
        return -np.abs(velocity[:, 0] - self.tasks[:, 0])


class HopperVelVectorEnv(RunnerVelVectorEnv):
    """N hoppers; see `HopperVelEnv` for the environment."""

    body = HOPPER


class Walker2DVelVectorEnv(RunnerVelVectorEnv):
    """N walkers; see `Walker2DVelEnv` for the environment."""

    body = WALKER


class SwimmerVelVectorEnv(RunnerVelVectorEnv):
    """N swimmers; see `SwimmerVelEnv` for the environment."""

    body = SWIMMER
    camera = Camera(distance=6.0, elevation=-60.0, height=0.0)

    def __init__(self, *args: Any, goal_range: tuple[float, float] = (0.0, 0.3), **kwargs: Any):
        super().__init__(*args, goal_range=goal_range, **kwargs)


class HeadingSpace(TaskSpace):
    """Directions on the plane, as angles, rad."""

    def __init__(self) -> None:
        super().__init__(-np.pi, np.pi)

    def complaint(self, task: Array) -> str:
        """In which units it is."""
        return "is not in the task space: it must be an angle in [-pi, pi] rad"

    def describe(self, task: ArrayLike) -> str:
        """The angle, in words."""
        return f"direction {np.rad2deg(np.ravel(task)[0]):+.0f} degrees"


class HumanoidDirVectorEnv(RunnerVectorEnv):
    """N humanoids, each with its own direction; see `HumanoidDirEnv` for the environment."""

    body = HUMANOID
    camera = Camera(height=1.0)

    def __init__(self, *args: Any, forward_reward_weight: float = 1.25, **kwargs: Any):
        check_number("forward_reward_weight", forward_reward_weight)
        super().__init__(HeadingSpace(), *args, **kwargs)
        self._forward_reward_weight = forward_reward_weight

    def _task_reward(self, velocity: Array) -> Array:
        angle = self.tasks[:, 0]
        along = np.cos(angle) * velocity[:, 0] + np.sin(angle) * velocity[:, 1]
        return self._forward_reward_weight * along


class HopperVelEnv(TaskEnv):
    """The hopper has to hop at a velocity that only the reward tells of.

    ## Description
    Gymnasium's planar one-legged hopper (body, actions and dynamics of Hopper-v5). Tasks differ in the velocity that is
    wanted, which is uniform in `goal_range`. The policy does not observe it.

    ## Action Space
    `Box(-1, 1, (3,), float64)`; larger actions are clipped. Torques on thigh, leg and foot, as a share of 200 N m.

    ## Observation Space
    `Box(-inf, inf, (11,), float64)`: that of Hopper-v5. Height and pitch of the torso and the angles of thigh, leg and
    foot (0-4), then the velocities of the torso along x and z, its pitch rate and those of the joints, clipped to +-10
    (5-10).

    ## Rewards
    `reward = -|v - goal| + healthy_reward * healthy - ctrl_cost_weight * sum(a^2)`,
    where `v` is the velocity along x over the time step, `a` the clipped action, and `healthy` is 1 while the hopper is
    healthy (see Episode End), else 0. `info["reward_task"]`, `info["reward_healthy"]` and `info["reward_ctrl"]` are the
    terms, `info["x_velocity"]` is v in m/s, `info["x_position"]` the torso's x in m; `info["diverged"]` is 1 where the
    simulation broke down, which ends the episode, else 0.

    ## Starting State
    That of Hopper-v5: positions and velocities uniform within +-0.005 of the model's.

    ## Episode End
    Terminated when the hopper is not healthy: the torso is below 0.7 m, pitched by more than 0.2 rad, or a number of
    the state but x and height is beyond +-100. Truncated after 100 time steps by `gymnasium.make`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `goal_range` | tuple[float, float] | (0, 2) | range of the wanted velocities (m/s) |
    | `frame_skip` | int | 4 | simulation steps of 0.002 s per time step |
    | `ctrl_cost_weight` | float | 0.001 | weight of the squared action |
    | `healthy_reward` | float | 1 | reward per healthy time step |
    | `terminate_when_unhealthy` | bool | True | whether an unhealthy hopper ends the episode |
    | `change_at` | int or None | None | time step at which another task takes the given one's place |
    | `change_in` | str | "episode" | "episode" or "trial": what these are counted in |

    The task is the wanted velocity [1], given by `reset(options={"task": velocity})`.

    ## Version History
    * v0: first version.
    """

    vector_class = HopperVelVectorEnv


class Walker2DVelEnv(TaskEnv):
    """The walker has to walk at a velocity that only the reward tells of.

    ## Description
    Gymnasium's planar two-legged walker (body, actions and dynamics of Walker2d-v5); the rest is as for the hopper
    (`HopperVelEnv`).

    ## Action Space
    `Box(-1, 1, (6,), float64)`; larger actions are clipped. Torques on thigh, leg and foot of the right leg, then of
    the left leg, as a share of 100 N m.

    ## Observation Space
    `Box(-inf, inf, (17,), float64)`: that of Walker2d-v5. Height and pitch of the torso and the angles of thigh, leg
    and foot of either leg (0-7), then the velocities of the torso along x and z, its pitch rate and those of the
    joints, clipped to +-10 (8-16).

    ## Rewards
    As of `HopperVelEnv`.

    ## Starting State
    That of Walker2d-v5: positions and velocities uniform within +-0.005 of the model's.

    ## Episode End
    Terminated when the walker is not healthy: the torso is not between 0.8 and 2 m, or pitched by more than 1 rad.
    Truncated after 100 time steps by `gymnasium.make`.

    ## Arguments
    Those of `HopperVelEnv`, with the same defaults.

    ## Version History
    * v0: first version.
    """

    vector_class = Walker2DVelVectorEnv


class SwimmerVelEnv(TaskEnv):
    """The swimmer has to swim at a velocity that only the reward tells of.

    ## Description
    Gymnasium's planar swimmer of three links (body, actions and dynamics of Swimmer-v5). Tasks differ in the velocity
    along x that is wanted, which is uniform in `goal_range`. The policy does not observe it.

    ## Action Space
    `Box(-1, 1, (2,), float64)`; larger actions are clipped. Torques on the two joints, as a share of 150 N m.

    ## Observation Space
    `Box(-inf, inf, (8,), float64)`: that of Swimmer-v5. Angle of the front link and of the two joints (0-2), velocities
    of the front link along x and y and about z, and of the joints (3-7).

    ## Rewards
    `reward = -|v - goal| - ctrl_cost_weight * sum(a^2)`; terms and infos are named as in `HopperVelEnv`, with
    `info["y_position"]` and `info["y_velocity"]` besides.

    ## Starting State
    That of Swimmer-v5: positions and velocities uniform within +-0.1 of the model's.

    ## Episode End
    Not terminated, unless the simulation breaks down. Truncated after 100 time steps by `gymnasium.make`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `goal_range` | tuple[float, float] | (0, 0.3) | range of the wanted velocities (m/s) |
    | `frame_skip` | int | 4 | simulation steps of 0.01 s per time step |
    | `ctrl_cost_weight` | float | 0.0001 | weight of the squared action |
    | `change_at` | int or None | None | time step at which another task takes the given one's place |
    | `change_in` | str | "episode" | "episode" or "trial": what these are counted in |

    The task is the wanted velocity [1], given by `reset(options={"task": velocity})`.

    ## Version History
    * v0: first version.
    """

    vector_class = SwimmerVelVectorEnv


class HumanoidDirEnv(TaskEnv):
    """The humanoid has to walk in a direction of the plane that only the reward tells of.

    ## Description
    Gymnasium's humanoid (body, actions and dynamics of Humanoid-v5). Tasks differ in the direction, which is uniform on
    the circle. The policy does not observe it.

    ## Action Space
    `Box(-0.4, 0.4, (17,), float64)`: that of Humanoid-v5; larger actions are clipped.

    ## Observation Space
    `Box(-inf, inf, (45,), float64)`: positions (0-21) and velocities (22-44) of Humanoid-v5, which are its first 45
    numbers. Inertias, velocities of centres of mass, and actuator and contact forces are left out.

    ## Rewards
    `reward = forward_reward_weight * (cos(task) * vx + sin(task) * vy) + healthy_reward * healthy - ctrl_cost_weight *
    sum(a^2)`, where `(vx, vy)` is the velocity of the centre of mass and `a` the clipped action. Humanoid-v5 also
    charges for contact forces, at most 10 a time step. `info["reward_task"]`, `info["reward_healthy"]` and
    `info["reward_ctrl"]` are the terms, `info["x_velocity"]` and `info["y_velocity"]` (m/s) the velocity,
    `info["x_position"]` and `info["y_position"]` (m) the torso's; `info["diverged"]` as in `HopperVelEnv`.

    ## Starting State
    That of Humanoid-v5: positions and velocities uniform within +-0.01 of the model's.

    ## Episode End
    Terminated when the torso is not between 1 and 2 m high. Truncated after 100 time steps by `gymnasium.make`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `forward_reward_weight` | float | 1.25 | weight of the velocity along the direction |
    | `frame_skip` | int | 5 | simulation steps of 0.003 s per time step |
    | `ctrl_cost_weight` | float | 0.1 | weight of the squared action |
    | `healthy_reward` | float | 5 | reward per healthy time step |
    | `terminate_when_unhealthy` | bool | True | whether an unhealthy humanoid ends the episode |
    | `change_at` | int or None | None | time step at which another task takes the given one's place |
    | `change_in` | str | "episode" | "episode" or "trial": what these are counted in |

    The task is the direction [1], an angle in [-pi, pi] from the x axis, given by
    `reset(options={"task": angle})`.

    ## Version History
    * v0: first version.
    """

    vector_class = HumanoidDirVectorEnv
