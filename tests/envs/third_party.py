"""Environments as a user of the package might write them, most of them without any import of mamlrl."""

import gc
import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from mamlrl.envs.navigation import Navigation2DVectorEnv


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


class Infos(Countdown):
    """Tells numbers and other things in its info, not always the same."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        info["success"] = terminated if self.length < 4 else float(terminated)
        info |= {"text": "a", "object": self, "frame": np.zeros((9, 9)), "_hidden": 1.0, 7: 7.0, "nested": {"a": 1.0}}
        info |= {"position": np.full(2, self.steps), "of_row": np.zeros(int(self.length)), "huge": 10**400}
        if self.steps == 2:
            info["second"] = np.float32(0.5)
        info["sometimes"] = "none" if self.length == 3 else 1
        return observation, reward, terminated, truncated, info


class Garbage:
    """Can only be collected, and says in which process it was."""

    collected: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        Garbage.collected.append(os.getpid())


class Collects(Countdown):
    """Collects garbage in every step; the reward is how much of it there has been in this process."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        gc.collect()
        return observation, Garbage.collected.count(os.getpid()), *rest


class FailsFrom2(Countdown):
    """Fails on tasks from 2 on."""

    def step(self, action: Any) -> Any:
        if self.length >= 2:
            raise RuntimeError(f"of {self.length:.0f}")
        return super().step(action)


class Described(Countdown):
    """Says what its tasks are and what stills show."""

    still = "speed"

    def describe_task(self, task: np.ndarray) -> str:
        return f"{task[0]:.0f} steps"

    def target_speed(self, task: np.ndarray) -> float:
        return 2.0 * float(task[0])


class Inheriting(Countdown):
    """Hands arguments on to its base class."""

    def __init__(self, factor: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.factor = factor

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, self.factor * reward, *rest


class NoTaskSpace(Countdown):
    task_space = (0, 1)


class NoStill(Countdown):
    still = "photo"


class OfDicts(Countdown):
    observation_space = spaces.Dict({"position": spaces.Box(-1.0, 1.0)})  # type: ignore[assignment]


class NoActions(Countdown):
    action_space = None  # type: ignore[assignment]


class OfAnySize(Countdown):
    """No two of them have the same observations."""

    number = 0

    def __init__(self) -> None:
        super().__init__()
        OfAnySize.number += 1
        self.observation_space = spaces.Box(-1.0, 1.0, (OfAnySize.number,))


class PoleTasks(gymnasium.Wrapper):
    """CartPole with tasks, as a wrapper: the task scales the reward."""

    task_space = spaces.Box(0.0, 3.0, (2,))

    def __init__(self, env: gymnasium.Env | None = None, scale: float = 1.0):
        super().__init__(env or gymnasium.make("CartPole-v1"))
        self.scale, self.task = scale, np.zeros(2)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(0, 3, (n, 2))

    def describe_task(self, task: np.ndarray) -> str:
        return f"pole {task[0]}"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        options = options or {}
        self.task = options.get("task", self.task)
        observation, info = self.env.reset(seed=seed)
        return observation, {**info, "given": self.task, "wind": options.get("wind", 0.0)}

    def step(self, action: Any) -> Any:
        observation, _, *rest = self.env.step(action)
        return observation, self.scale * self.task[0], *rest


class Inert(Countdown):
    """Cannot be drawn."""

    def __init__(self) -> None:
        super().__init__()


def drawn_pole(render_mode: str | None = None) -> gymnasium.Env:
    return PoleTasks(gymnasium.make("CartPole-v1", render_mode=render_mode))


def wrapped(scale: float = 1.0) -> gymnasium.Env:
    return PoleTasks(scale=scale)


def wrapped_twice(scale: float = 1.0) -> gymnasium.Env:
    return gymnasium.wrappers.TransformObservation(PoleTasks(scale=scale), lambda x: x, None)


class Camera(Countdown):
    """Sees a picture, 4 x 5 pixels of three colours."""

    observation_space = spaces.Box(0.0, 1.0, (4, 5, 3), np.float64)

    def observe(self) -> np.ndarray:
        return self.np_random.random((4, 5, 3))


class FlatCamera(Camera):
    """Sees a picture row by row, and says of what shape it is."""

    observation_space = spaces.Box(0.0, 1.0, (60,), np.float64)

    picture_shape = (4, 5, 3)

    def observe(self) -> np.ndarray:
        return super().observe().ravel()


class ByteCamera(Camera):
    observation_space = spaces.Box(0, 255, (4, 5, 3), np.uint8)  # type: ignore[assignment]


class NoPicture(Camera):
    picture_shape = (4, 6, 3)


class VectorTasks(Navigation2DVectorEnv):
    """A family that somebody else has written as a vector environment."""


for env in (
    Countdown,
    Described,
    Infos,
    Collects,
    FailsFrom2,
    DiscreteCountdown,
    NoTasks,
    BadTasks,
    Inheriting,
    NoTaskSpace,
    NoStill,
    OfDicts,
    NoActions,
    OfAnySize,
    Inert,
    Camera,
    FlatCamera,
    ByteCamera,
    NoPicture,
):
    gymnasium.register(f"{env.__name__}-v0", entry_point=f"tests.envs.third_party:{env.__name__}")
gymnasium.register("Wrapped-v0", entry_point=f"{__name__}:PoleTasks")
gymnasium.register("WrappedByFunction-v0", entry_point=f"{__name__}:wrapped")
gymnasium.register("DrawnPole-v0", entry_point=f"{__name__}:drawn_pole")
gymnasium.register("WrappedTwice-v0", entry_point=f"{__name__}:wrapped_twice")
gymnasium.register("VectorTasks-v0", vector_entry_point=f"{__name__}:VectorTasks")
