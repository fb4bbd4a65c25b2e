"""Meta-reinforcement learning on Gymnasium, MuJoCo and PyTorch.

Importing the package registers its environments (``mamlrl/HalfCheetahVel-v0`` and others) with Gymnasium.
"""

from pathlib import Path

if not (Path(__file__).parent / "envs").is_dir():  # a checkout, where envs/ and configs/ lie beside the package
    __path__.append(str(Path(__file__).parents[1]))

from mamlrl import envs as envs  # importing registers the environments

__version__ = "0.1.0"
