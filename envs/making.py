"""From an environment's id to N copies of it with tasks."""

from __future__ import annotations

import importlib
from typing import Any, Literal

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv

from .adapter import GymnasiumTaskVectorEnv
from .base import TaskVectorEnv


def make_task_envs(
    env_id: str,
    num_envs: int,
    horizon: int,
    env_kwargs: dict[str, Any] | None = None,
    vectorization: Literal["auto", "sync", "async"] = "auto",
    num_threads: int = 0,
) -> VectorEnv:
    """Make N copies of a registered environment with tasks, with the contract of `TaskVectorEnv`.

    Args:
        env_id: an id of Gymnasium's registry, or "module:id" to import the module first.
        num_envs: rows (N).
        horizon: time steps after which a row is truncated.
        env_kwargs: arguments of the environment's constructor.
        vectorization: "auto" takes the family's own vector environment, and steps other environments one after the
            other; "sync" always steps one after the other; "async" runs each row in its own process.
        num_threads: native threads of the simulator; 0 takes all CPUs.

    Raises:
        ValueError: there is no such environment, it has no `sample_tasks`, or it does not take the arguments.
    """
    if vectorization not in ("auto", "sync", "async"):
        raise ValueError(f"vectorization is {vectorization!r}; it must be 'auto', 'sync' or 'async'")
    spec, env_kwargs = _find_spec(env_id), dict(env_kwargs or {})
    try:
        if vectorization == "auto" and _has_task_vector_env(spec):
            return gymnasium.make_vec(spec, num_envs, max_episode_steps=horizon, num_threads=num_threads, **env_kwargs)
        return GymnasiumTaskVectorEnv(spec, num_envs, horizon, env_kwargs, asynchronous=vectorization == "async")
    except TypeError as error:
        raise ValueError(f"environment {env_id} cannot be made with {env_kwargs}: {error}") from error


def registered_horizon(env_id: str) -> int | None:
    """Time steps of an episode that an environment is registered with (max_episode_steps), if any.

    Raises:
        ValueError: there is no such environment.
    """
    return _find_spec(env_id).max_episode_steps


def _find_spec(env_id: str) -> EnvSpec:
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a module may fail in any way when it is imported
        raise ValueError(f"environment {env_id}: module {module}: {type(error).__name__}: {error}") from error
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise ValueError(f"environment {env_id}: {error}") from error


def _has_task_vector_env(spec: EnvSpec) -> bool:
    creator = spec.vector_entry_point
    if isinstance(creator, str):
        creator = load_env_creator(creator)
    return isinstance(creator, type) and issubclass(creator, TaskVectorEnv)
