"""Families of tasks for meta-reinforcement learning, registered with Gymnasium.

Each row of the table is one family. ``gymnasium.make`` gives one environment, ``gymnasium.make_vec`` many in lock
step. Nothing but Gymnasium is imported until an environment is made.
"""

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from .family import Move, mujoco_family
    from .mujoco_vector import Camera
    from .task_table import Factor, Goal, Value, Variation

__all__ = ["FAMILIES", "Camera", "Factor", "Goal", "Move", "Value", "Variation", "mujoco_family"]

# id, module, single environment, vector environment, time steps of an episode
FAMILIES = (
    ("mamlrl/Navigation2D-v0", "navigation", "Navigation2DEnv", "Navigation2DVectorEnv", 100),
    ("mamlrl/HalfCheetahVel-v0", "half_cheetah", "HalfCheetahVelEnv", "HalfCheetahVelVectorEnv", 100),
    ("mamlrl/HalfCheetahDir-v0", "half_cheetah", "HalfCheetahDirEnv", "HalfCheetahDirVectorEnv", 100),
    ("mamlrl/AntVel-v0", "ant", "AntVelEnv", "AntVelVectorEnv", 100),
    ("mamlrl/AntDir-v0", "ant", "AntDirEnv", "AntDirVectorEnv", 100),
    ("mamlrl/AntGoal-v0", "ant", "AntGoalEnv", "AntGoalVectorEnv", 100),
    ("mamlrl/Bandit-v0", "bandit", "BanditEnv", "BanditVectorEnv", 100),
    ("mamlrl/TabularMDP-v0", "tabular_mdp", "TabularMDPEnv", "TabularMDPVectorEnv", 10),
    ("mamlrl/Maze-v0", "maze", "MazeEnv", "MazeVectorEnv", 250),
    ("mamlrl/HalfCheetahDynamics-v0", "dynamics", "HalfCheetahDynamicsEnv", "HalfCheetahDynamicsVectorEnv", 100),
    ("mamlrl/HopperDynamics-v0", "dynamics", "HopperDynamicsEnv", "HopperDynamicsVectorEnv", 100),
    ("mamlrl/Walker2DDynamics-v0", "dynamics", "Walker2DDynamicsEnv", "Walker2DDynamicsVectorEnv", 100),
    ("mamlrl/CheetahCrippled-v0", "dynamics", "CheetahCrippledEnv", "CheetahCrippledVectorEnv", 100),
    ("mamlrl/CheetahSlope-v0", "dynamics", "CheetahSlopeEnv", "CheetahSlopeVectorEnv", 100),
    ("mamlrl/AntPayload-v0", "payload", "AntPayloadEnv", "AntPayloadVectorEnv", 100),
    ("mamlrl/ArmPayload-v0", "payload", "ArmPayloadEnv", "ArmPayloadVectorEnv", 40),
    ("mamlrl/AntCrippled-v0", "dynamics", "AntCrippledEnv", "AntCrippledVectorEnv", 100),
    ("mamlrl/HopperVel-v0", "runners", "HopperVelEnv", "HopperVelVectorEnv", 100),
    ("mamlrl/Walker2DVel-v0", "runners", "Walker2DVelEnv", "Walker2DVelVectorEnv", 100),
    ("mamlrl/SwimmerVel-v0", "runners", "SwimmerVelEnv", "SwimmerVelVectorEnv", 100),
    ("mamlrl/HumanoidDir-v0", "runners", "HumanoidDirEnv", "HumanoidDirVectorEnv", 100),
    ("mamlrl/ReacherGoal-v0", "reacher", "ReacherGoalEnv", "ReacherGoalVectorEnv", 100),
)

for _id, _module, _env, _vector_env, _horizon in FAMILIES:
    gymnasium.register(
        _id,
        entry_point=f"mamlrl.envs.{_module}:{_env}",
        vector_entry_point=f"mamlrl.envs.{_module}:{_vector_env}",
        max_episode_steps=_horizon,
    )

_MODULES = {
    "family": ("Move", "mujoco_family"),
    "mujoco_vector": ("Camera",),
    "task_table": ("Factor", "Goal", "Value", "Variation"),
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """What one makes a family with; it imports MuJoCo."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
