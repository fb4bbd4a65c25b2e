"""Families of tasks that misbehave, each in a way that the command has to report."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Line(gymnasium.Env):
    """Walk on a line; the task is the goal, and the reward minus the distance to it."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Box(-1.0, 1.0, (1,))
    task_space = spaces.Box(-1.0, 1.0, (1,), np.float64)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, (n, 1))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._goal = (options or {}).get("task", np.zeros(1))
        self._position = np.zeros(1, np.float32)
        return self._position, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._position = (self._position + action).astype(np.float32)
        return self._position, self._reward(), False, False, {}

    def _reward(self) -> float:
        return -float(np.abs(self._position - self._goal)[0])


class NaNRewardLine(Line):
    def _reward(self) -> float:
        return float("nan")


class NaNObservationLine(Line):
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.full(1, np.nan, np.float32), 0.0, False, False, {}


class FarTasksLine(Line):
    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return np.full((n, 1), 7.0)


class TasklessLine(gymnasium.Env):
    observation_space, action_space = Line.observation_space, Line.action_space


class DiscreteLine(Line):
    action_space = spaces.Discrete(2)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return super().step(np.array([2.0 * action - 1.0]))


class MeasuredLine(Line):
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"success": float(reward > -0.5)}


class ToldAtTheEnd(Line):
    """Of its third and last time step alone."""

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        self._time = 0
        return super().reset(**kwargs)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, *_ = super().step(action)
        self._time += 1
        info = {"success": True, "distance": -reward} if self._time == 3 else {}
        return observation, reward, self._time == 3, False, info


gymnasium.register("toy/ShortLine-v0", entry_point=f"{__name__}:Line", max_episode_steps=7)
FAMILIES = (
    Line,
    MeasuredLine,
    ToldAtTheEnd,
    NaNRewardLine,
    NaNObservationLine,
    FarTasksLine,
    TasklessLine,
    DiscreteLine,
)
for family in FAMILIES:
    gymnasium.register(f"toy/{family.__name__}-v0", entry_point=f"{__name__}:{family.__name__}")
