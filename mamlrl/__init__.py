"""Meta-reinforcement learning on Gymnasium, MuJoCo and PyTorch.

Importing the package registers its environments (``mamlrl/HalfCheetahVel-v0`` and others) with Gymnasium.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if not (Path(__file__).parent / "envs").is_dir():  # a checkout, where envs/ and configs/ lie beside the package
    __path__.append(str(Path(__file__).parents[1]))

from mamlrl import envs as envs  # importing registers the environments

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mamlrl.deploy import MetaPolicy


def load(path: str | PathLike[str]) -> MetaPolicy:
    """A meta-trained policy, to be adapted in an environment of one's own.

    Args:
        path: a run folder, whose best checkpoint is taken, or a checkpoint.

    Raises:
        mamlrl.errors.UserError: there is no readable checkpoint, or not one alone.
    """
    from mamlrl.deploy import load_policy  # imports torch, which takes seconds

    return load_policy(path)
