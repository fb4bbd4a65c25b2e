"""Environments without the types that Gymnasium declares, which know nothing of tasks."""

from typing import Any

import gymnasium

import mamlrl.envs  # noqa: F401 (it registers them)


def make(env_id: str, **kwargs: Any) -> Any:
    """One environment."""
    return gymnasium.make(env_id, **kwargs)


def make_vec(env_id: str, **kwargs: Any) -> Any:
    """Many in lock step."""
    return gymnasium.make_vec(env_id, **kwargs)
