"""Meta-reinforcement learning on Gymnasium, MuJoCo and PyTorch.

Importing the package registers its environments (``mamlrl/HalfCheetahVel-v0`` and others) with Gymnasium.
"""

import os

# Large tensors on huge pages, read by torch at its first allocation: a fresh 32 MB tensor costs 8 page faults
# instead of 8192, which is up to half of the time of a small matrix product.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from mamlrl import envs as envs  # importing registers the environments

__version__ = "0.1.0"
