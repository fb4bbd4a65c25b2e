"""Meta-reinforcement learning on Gymnasium, MuJoCo and PyTorch.

Importing the package registers its environments (``mamlrl/HalfCheetahVel-v0`` and others) with Gymnasium.
"""

from mamlrl import envs as envs  # importing registers the environments

__version__ = "0.1.0"
