"""Somebody's environment, as the sampler steps it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from mamlrl.envs.checks import (
    RESET_VALUES,
    STEP_VALUES,
    checked_flag,
    checked_info,
    checked_observation,
    checked_reward,
    contains_task,
    unpacked,
)
from mamlrl.envs.errors import WrongReturn
from mamlrl.errors import ConfigError, UserError, shown


def check_environment(env: Any, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """A policy that was trained on these spaces can act in the environment.

    Raises:
        UserError: it is none, or its spaces are others.
    """
    if isinstance(env, VectorEnv) or not isinstance(env, gymnasium.Env):
        raise UserError(f"{type(env).__name__} is not one environment; it must be a gymnasium.Env, wrapped or not")
    for name, ours in (("observation_space", observation_space), ("action_space", action_space)):
        theirs = getattr(env, name)
        fits = type(ours) is type(theirs) and ours.shape == theirs.shape
        if not fits or getattr(ours, "n", None) != getattr(theirs, "n", None):
            raise UserError(f"the environment's {name} is {theirs}; the policy was trained on {ours}")
    if isinstance(env.action_space, spaces.Box) and not env.action_space.is_bounded():
        raise UserError(f"the environment's action_space {env.action_space} has no finite bounds to map actions to")


def checked_task(env: gymnasium.Env, task: Any) -> np.ndarray | None:
    """A task as numbers [P], float64, before the environment sees it.

    One that it refuses at its reset would leave some wrappers of Gymnasium unusable.

    Raises:
        ConfigError: it is no list of finite numbers.
        UserError: the environment has a task space, and it is not in there.
    """
    if task is None:
        return None
    try:
        numbers = np.asarray(task, np.float64)
    except (TypeError, ValueError):
        numbers = np.asarray(np.nan)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ConfigError(f"task is {shown(task)}; it must be a list of finite numbers")
    space = env.get_wrapper_attr("task_space") if env.has_wrapper_attr("task_space") else None
    if isinstance(space, spaces.Space) and not contains_task(space, numbers):
        raise UserError(f"task is {shown(task)}; it is not in the environment's task space {space}")
    return numbers


def one_row(env: gymnasium.Env, task: np.ndarray | None) -> VectorEnv:
    """A vector environment of the one environment, which may not be copied and stays open."""
    envs = SyncVectorEnv([lambda: _OnTask(env, task)], autoreset_mode=AutoresetMode.DISABLED)
    envs.spec = env.spec or EnvSpec(type(env.unwrapped).__name__)  # its name in messages
    return envs


class _OnTask(gymnasium.Wrapper):
    """An environment on a fixed task; what it returns is checked. What it raises stays its owner's to see."""

    def __init__(self, env: gymnasium.Env, task: np.ndarray | None):
        super().__init__(env)
        self._options = None if task is None else {"task": task.copy()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=self._options)
        with self._naming("reset"):
            observation, info = unpacked(result, RESET_VALUES)
            return checked_observation(observation, self.observation_space), checked_info(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        space = self.action_space
        if isinstance(space, spaces.Box):  # a bound may be off by a rounding
            action = np.clip(action, space.low, space.high).astype(space.dtype)
        result = self.env.step(action)
        with self._naming("step"):
            observation, reward, terminated, truncated, info = unpacked(result, STEP_VALUES)
            observation = checked_observation(observation, self.observation_space)
            flags = checked_flag(terminated, "terminated"), checked_flag(truncated, "truncated")
            return observation, checked_reward(reward), *flags, checked_info(info)

    def close(self) -> None:
        """Leave it open: it is its owner's."""

    @contextmanager
    def _naming(self, method: str) -> Iterator[None]:
        try:
            yield
        except WrongReturn as error:
            raise UserError(f"environment {self.env}: {method} returned {error}") from error
