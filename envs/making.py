"""From an environment's id to N copies of it with tasks."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any, Literal

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv

from .adapter import GymnasiumTaskVectorEnv
from .arguments import check_arguments, refused_argument
from .base import TaskEnv, TaskVectorEnv, check_change
from .errors import EnvironmentFailure, failure
from .guarded import GuardedVectorEnv
from .rendering import use_headless_gl


def make_task_envs(
    env_id: str,
    num_envs: int,
    horizon: int,
    env_kwargs: dict[str, Any] | None = None,
    vectorization: Literal["auto", "sync", "async"] = "auto",
    num_threads: int = 0,
    workers: int = 0,
    timeout: float = 0.0,
    episodes: int | None = None,
) -> VectorEnv:
    """Make N copies of a registered environment with tasks, with the contract of `TaskVectorEnv`.

    Args:
        env_id: an id of Gymnasium's registry, or "module:id" to import the module first.
        num_envs: rows (N).
        horizon: time steps after which a row is truncated.
        env_kwargs: arguments of the environment's constructor.
        vectorization: "auto" takes the family's own vector environment, and steps other environments one after the
            other; "sync" always steps one after the other; "async" spreads the rows over worker processes.
        num_threads: native threads of the simulator; 0 takes all CPUs.
        workers: processes of "async"; 0 takes one for each processor.
        timeout: seconds that one call of an environment's method may take in "async"; 0 for any time.
        episodes: that a row will go through in a task that it is given; None where that is not known.

    Raises:
        ValueError: there is no such environment, it has no `sample_tasks`, or it does not take the arguments.
        EnvironmentFailure: it failed in another way. Methods of what is returned raise it too.
    """
    if vectorization not in ("auto", "sync", "async"):
        raise ValueError(f"vectorization is {vectorization!r}; it must be 'auto', 'sync' or 'async'")
    spec, env_kwargs = _find_spec(env_id), dict(env_kwargs or {})
    native = vectorization == "auto" and spec.vector_entry_point is not None
    constructor = _load(spec, spec.vector_entry_point if native else spec.entry_point)
    if native and not (isinstance(constructor, type) and issubclass(constructor, TaskVectorEnv)):
        native, constructor = False, _load(spec, spec.entry_point)
    check_arguments(env_id, constructor, env_kwargs)
    if isinstance(constructor, type) and issubclass(
        constructor, (TaskEnv, TaskVectorEnv)
    ):  # which do not know them all
        check_change(env_kwargs.get("change_at"), env_kwargs.get("change_in", "episode"), horizon, episodes)
    if isinstance(constructor, type) and issubclass(constructor, gymnasium.Wrapper):
        # Gymnasium before 1.4 takes the class's property of that name for the metadata of the environment.
        spec = dataclasses.replace(spec, entry_point=functools.partial(constructor))
    try:
        if native:
            return _make_native(
                spec, num_envs, {"max_episode_steps": horizon, "num_threads": num_threads, **env_kwargs}
            )
        processes = workers if vectorization == "async" else None
        return GymnasiumTaskVectorEnv(spec, num_envs, horizon, env_kwargs, processes, timeout)
    except EnvironmentFailure as error:
        if error.method == "constructor" and (told := refused_argument(constructor, error.what)):
            raise ValueError(f"environment {env_id} {told}") from error
        cause = error.__cause__
        if type(cause) is ValueError and error.method == "constructor" and set(env_kwargs) - {"render_mode"}:
            raise ValueError(f"environment {env_id} cannot be made with {env_kwargs}: {cause}") from error
        raise


def _make_native(spec: EnvSpec, num_envs: int, kwargs: dict[str, Any]) -> VectorEnv:
    """The family's own vector environment; what one of somebody else does wrong becomes an EnvironmentFailure."""
    if kwargs.get("render_mode") is not None:
        use_headless_gl()
    try:
        envs = gymnasium.make_vec(spec, num_envs, **kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise failure(spec.id, "constructor", error) from error
    return envs if spec.id.startswith("mamlrl/") else GuardedVectorEnv(envs)


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
            _import(env_id, module)
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        ours = sorted(spec.id for spec in gymnasium.registry.values() if module and _is_from(spec, module))
        told = f" {module} registers {', '.join(ours)}" if ours else ""
        raise ValueError(f"environment {env_id}: {error}{told}") from error


def _is_from(spec: EnvSpec, module: str) -> bool:
    """Whether an environment's class lies in a module or package."""
    maker = spec.entry_point or spec.vector_entry_point
    found = maker.partition(":")[0] if isinstance(maker, str) else getattr(maker, "__module__", "")
    return f"{found}.".startswith(f"{module}.")


def _import(env_id: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # There is no such module; or there is, and it fails, which may be for want of another.
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"environment {env_id}: {error}") from error
        if module.startswith(".") or ".." in module:
            raise ValueError(f"environment {env_id}: {module!r} is no name of a module") from error
        raise failure(env_id, "import", error) from error


def _load(spec: EnvSpec, constructor: Any) -> Callable[..., Any]:
    """The class or function that makes an environment."""
    if constructor is None:
        raise ValueError(f"environment {spec.id} can be made neither singly nor as a vector environment")
    if callable(constructor):
        return constructor
    try:
        return load_env_creator(constructor)
    except KeyboardInterrupt:
        raise
    except ImportError as error:  # such as a version of MuJoCo that our families cannot use
        raise ValueError(f"environment {spec.id}: {error}") from error
    except BaseException as error:
        raise failure(spec.id, "import", error) from error
