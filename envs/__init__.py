"""Families of tasks for meta-reinforcement learning, registered with Gymnasium.

Each row of the table is one family. ``gymnasium.make`` gives one environment, ``gymnasium.make_vec`` many in lock
step. Nothing but Gymnasium is imported until an environment is made.
"""

import gymnasium

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
)

for _id, _module, _env, _vector_env, _horizon in FAMILIES:
    gymnasium.register(
        _id,
        entry_point=f"mamlrl.envs.{_module}:{_env}",
        vector_entry_point=f"mamlrl.envs.{_module}:{_vector_env}",
        max_episode_steps=_horizon,
    )
