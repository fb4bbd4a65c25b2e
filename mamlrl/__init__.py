"""Meta-reinforcement learning on Gymnasium, MuJoCo and PyTorch.

Importing the package registers its environments (``mamlrl/HalfCheetahVel-v0`` and others) with Gymnasium.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not (Path(__file__).parent / "envs").is_dir():  # a checkout, where envs/ and configs/ lie beside the package
    __path__.append(str(Path(__file__).parents[1]))

from mamlrl import envs as envs  # importing registers the environments

if TYPE_CHECKING:
    from mamlrl.api import evaluate as evaluate
    from mamlrl.api import load as load
    from mamlrl.api import load_adapted as load_adapted
    from mamlrl.api import train as train

__version__ = "0.1.0"
__all__ = ["__version__", "envs", "evaluate", "load", "load_adapted", "train"]


def __getattr__(name: str) -> Any:
    """The functions of `mamlrl.api`; `train` and `evaluate` as the modules of the commands, which can be called."""
    if name in ("train", "evaluate"):
        return importlib.import_module(f"mamlrl.{name}")
    if name in __all__:
        return getattr(importlib.import_module("mamlrl.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    ours = (name for name in globals() if f"{__name__}.{name}" in sys.modules or name.startswith("__"))
    return sorted({*ours, *__all__})
