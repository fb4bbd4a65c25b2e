"""A small arm as a family of tasks, as docs/environments.md shows it."""

from pathlib import Path

import gymnasium
import numpy as np

from mamlrl.envs import Factor, Goal, Move, mujoco_family


def reward(move: Move) -> np.ndarray:
    """Minus the distance of the arm's tip to the goal, and minus a little for torques."""
    tip = move.data.site("tip").xpos[:, [0, 2]]
    return -np.linalg.norm(tip - move.tasks["goal"], axis=1) - 0.01 * np.square(move.actions).sum(axis=1)


TASKS = {
    "load": Factor("body_mass", "hand", base=3.0),
    "damping": Factor("dof_damping", ("shoulder", "elbow"), shared=True),
    "goal": Goal(low=[0.2, 0.8], high=[0.6, 1.2]),
}
Arm = mujoco_family("Arm", Path(__file__).with_name("arm.xml"), reward, TASKS, frame_skip=5)
gymnasium.register("my/Arm-v0", entry_point=Arm, vector_entry_point=Arm.vector_class, max_episode_steps=100)
