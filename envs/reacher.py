# pyright: reportAttributeAccessIssue=false
# (MuJoCo comes without type stubs, so a type checker knows none of its names.)
"""Gymnasium's reacher, to a goal that it does not see."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from .argument_checks import check_number
from .base import Array, GoalSpace, Infos, Mask, TaskEnv
from .mujoco_vector import Camera, MujocoTaskVectorEnv, load_model

GOAL_RADIUS = 0.2  # m


class DiscSpace(GoalSpace):
    """Points of a disc around the origin, m."""

    def __init__(self, radius: float):
        super().__init__(radius)
        self.radius = radius

    def __repr__(self) -> str:
        return f"DiscSpace({self.radius})"

    def complaint(self, task: Array) -> str:
        """How far out it may be."""
        return f"is not on the disc of {self.radius} m around the origin"

    def accepts(self, tasks: Array) -> Mask:
        """Which of the points [N, 2] lie on the disc, [N]."""
        return np.square(tasks).sum(axis=1) <= self.radius**2

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n points, uniform on the disc, [n, 2]."""
        distance, angle = self.radius * np.sqrt(rng.random(n)), rng.uniform(-np.pi, np.pi, n)
        return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)


class ReacherGoalVectorEnv(MujocoTaskVectorEnv):
    """N reachers, each with its own goal; see `ReacherGoalEnv` for the environment."""

    camera = Camera(distance=0.8, elevation=-90.0, height=0.0)

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        num_threads: int = 0,
        *,
        frame_skip: int = 2,
        ctrl_cost_weight: float = 1.0,
        **kwargs: Any,
    ):
        check_number("ctrl_cost_weight", ctrl_cost_weight)
        super().__init__(
            model=load_model("reacher.xml"),
            frame_skip=frame_skip,
            stage=mujoco.mjtStage.mjSTAGE_NONE,
            observation_dim=8,
            task_space=DiscSpace(GOAL_RADIUS),
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            num_threads=num_threads,
            **kwargs,
        )
        self._ctrl_cost_weight = ctrl_cost_weight
        self._fingertip = self._batch.bind("xpos")[:, self._model.body("fingertip").id, :2]

    def _start_state(self, generator: np.random.Generator) -> tuple[Array, Array]:
        qpos = generator.uniform(-0.1, 0.1, self._model.nq) + self._model.qpos0
        qvel = generator.uniform(-0.005, 0.005, self._model.nv)
        qvel[2:] = 0.0
        return qpos, qvel

    def _start_rows(self, rows: NDArray[np.intp]) -> None:
        super()._start_rows(rows)
        self._qpos[rows, 2:] = self.tasks[rows]  # where the target is drawn; it touches nothing

    def _move(self, actions: Array, rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        self._qpos[:, 2:] = self.tasks
        self._simulate(actions, rows)
        distance = np.linalg.norm(self._fingertip - self.tasks, axis=1)
        infos = {
            "distance": distance,
            "reward_task": -distance,
            "reward_ctrl": -self._ctrl_cost_weight * np.square(actions).sum(axis=1),
        }
        return infos["reward_task"] + infos["reward_ctrl"], np.zeros(self.num_envs, bool), infos

    def _observe(self) -> Array:
        angles = self._qpos[:, :2]
        return np.concatenate([np.cos(angles), np.sin(angles), self._qvel[:, :2], self._fingertip], axis=1)


class ReacherGoalEnv(TaskEnv):
    """The fingertip has to reach a goal that only the reward tells of.

    ## Description
    Gymnasium's planar arm of two links (body, actions and dynamics of Reacher-v5). Tasks differ in the goal, which is
    uniform on a disc. The policy does not observe it.

    ## Action Space
    `Box(-1, 1, (2,), float64)`; larger actions are clipped. Torques on shoulder and elbow, as a share of 200 N m.

    ## Observation Space
    `Box(-inf, inf, (8,), float64)`: cosines (0, 1) and sines (2, 3) of the two joints' angles, their velocities (4, 5,
    rad/s), x and y of the fingertip (6, 7, m). Reacher-v5 has the goal and the way to it in place of the fingertip.

    ## Rewards
    `reward = -distance - ctrl_cost_weight * sum(a^2)`, with the fingertip's distance to the goal and the clipped action
    `a`. `info["reward_task"]` and `info["reward_ctrl"]` are the terms, `info["distance"]` is in m. As in Reacher-v5 the
    fingertip is where it was before the last simulation step. `info["diverged"]` is 1 where the simulation broke down,
    which ends the episode, else 0.

    ## Starting State
    That of Reacher-v5: angles uniform within +-0.1 rad, velocities within +-0.005 rad/s.

    ## Episode End
    Not terminated, unless the simulation breaks down. Truncated after 100 time steps by `gymnasium.make`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `frame_skip` | int | 2 | simulation steps of 0.01 s per time step |
    | `ctrl_cost_weight` | float | 1 | weight of the squared action |
    | `change_at` | int or None | None | time step at which another task takes the given one's place |
    | `change_in` | str | "episode" | "episode" or "trial": what these are counted in |

    The task is the goal [2], within 0.2 m of the origin, given by `reset(options={"task": goal})`.

    ## Version History
    * v0: first version.
    """

    vector_class = ReacherGoalVectorEnv
