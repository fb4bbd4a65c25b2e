"""Environments as a user of the package might write them, for test_adapter.py. Nothing of mamlrl is imported."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Countdown(gymnasium.Env):
    """Ends after as many steps as the task says. The observation is (steps so far, a random number)."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space: spaces.Space = spaces.Box(-1.0, 1.0, (1,), np.float64)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(self, bonus: float = 0.0, render_mode: str | None = None):
        self.bonus, self.render_mode = bonus, render_mode
        self.steps, self.length = 0, 1.0

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(2, 6, (n, 1)).astype(float)

    def observe(self) -> np.ndarray:
        return np.array([self.steps, self.np_random.random()])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        (self.length,) = (options or {}).get("task", [self.length])
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps > self.length:
            raise AssertionError("stepped on after the end")
        return self.observe(), float(action[0]) + self.bonus, self.steps >= self.length, False, {"steps": self.steps}

    def render(self) -> Any:
        return np.full((8, 8, 3), self.steps, np.uint8)


class DiscreteCountdown(Countdown):
    """With three actions, rewarded by their index, and a declared space of tasks."""

    action_space = spaces.Discrete(3)
    task_space = spaces.Box(1.0, 5.0, (1,), np.float64)

    def step(self, action: Any) -> Any:
        assert isinstance(action, (int, np.integer))
        return super().step([action])


class NoTasks(gymnasium.Env):
    """Has no sample_tasks."""

    observation_space = Countdown.observation_space
    action_space = Countdown.action_space


class BadTasks(Countdown):
    """Draws tasks of a wrong shape."""

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.random(n)


class Described(Countdown):
    """Says what its tasks are and what stills show."""

    still = "speed"

    def describe_task(self, task: np.ndarray) -> str:
        return f"{task[0]:.0f} steps"

    def target_speed(self, task: np.ndarray) -> float:
        return 2.0 * float(task[0])


for env in (Countdown, Described, DiscreteCountdown, NoTasks, BadTasks):
    gymnasium.register(f"{env.__name__}-v0", entry_point=f"tests.envs.third_party:{env.__name__}")
