"""A family with discrete actions whose episodes end at different times, for the golden meta-iterations."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env):
    """Walk left, right or not at all; the episode ends at either border, and the task is where it is good to be."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(3)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-2.0, 2.0, (n, 1))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._goal = (options or {}).get("task", np.zeros(1))
        self._position = float(self.np_random.normal(0.0, 0.5))
        self._steps = 0
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        return np.array([self._position, 0.1 * self._steps])

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._position += 0.5 * (int(action) - 1)
        self._steps += 1
        return self._observe(), -float(abs(self._position - self._goal[0])), abs(self._position) > 2.0, False, {}


gymnasium.register("golden/Walk-v0", entry_point=f"{__name__}:Walk")
