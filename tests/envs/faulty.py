"""Environments that do everything wrong that one can do, for test_failures.py. Nothing of mamlrl is imported."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class DoesNotPickle(Exception):
    """Holds a function, and cannot be built from its message."""

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.function = lambda: number


class CannotBeShown(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class OfItsOwnKind(BaseException):
    pass


RAISES: dict[str, Callable[[], Any]] = {
    "ValueError": lambda: ValueError("a value"),
    "TypeError": lambda: TypeError("a type"),
    "KeyError": lambda: KeyError("key"),
    "IndexError": lambda: [][1],
    "AttributeError": lambda: None.nothing,  # type: ignore[attr-defined]
    "ZeroDivisionError": lambda: 1 / 0,
    "RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "AssertionError": lambda: AssertionError(),
    "NotImplementedError": lambda: NotImplementedError,
    "StopIteration": lambda: StopIteration(3),
    "GeneratorExit": lambda: GeneratorExit(),
    "MemoryError": lambda: MemoryError(),
    "ImportError": lambda: ImportError("No module named 'pygame'"),
    "OSError": lambda: OSError(28, "No space left on device", "/some/file"),
    "FileNotFoundError": lambda: open("/no/such/file"),
    "BrokenPipeError": lambda: BrokenPipeError(32, "Broken pipe"),
    "EOFError": lambda: EOFError(),
    "ConnectionResetError": lambda: ConnectionResetError(104, "Connection reset by peer"),
    "TimeoutError": lambda: TimeoutError("the simulator"),
    "UnicodeDecodeError": lambda: b"\xff".decode(),
    "LinAlgError": lambda: np.linalg.inv(np.zeros((2, 2))),
    "SystemExit": lambda: SystemExit(3),
    "ExceptionGroup": lambda: ExceptionGroup("two", [ValueError("a"), OSError("b")]),
    "CancelledError": lambda: asyncio.CancelledError(),
    "OfItsOwnKind": lambda: OfItsOwnKind("from BaseException"),
    "DoesNotPickle": lambda: DoesNotPickle("a function in it", 3),
    "CannotBeShown": lambda: CannotBeShown(),
    "RuntimeError": lambda: RuntimeError("several\nlines\n\tand " + "much text " * 1000),
}
"""What raises, or returns what to raise, by the name of the exception."""

OBSERVATION = np.zeros(2)
WRONG_OBSERVATIONS = {
    "None": None,
    "text": "0, 0",
    "number": 0.0,
    "longer": np.zeros(3),
    "shorter": np.zeros(1),
    "matrix": np.zeros((1, 2)),
    "empty": np.zeros(0),
    "complex": np.zeros(2, complex),
    "objects": np.array([None, 1.0]),
    "ragged": [[1.0], [1.0, 2.0]],
    "dict": {"position": np.zeros(2)},
    "dates": np.zeros(2, "datetime64[s]"),
}
WRONG_FLAGS = {"None": None, "text": "False", "two": 2, "half": 0.5, "array": np.array([True]), "list": [False]}
WRONG_INFOS = {"None": None, "list": [], "text": "info", "number": 1.0}
WRONG_REWARDS = {
    "None": None,
    "text": "1.0",
    "array": np.zeros(1),
    "matrix": np.zeros((1, 1)),
    "list": [1.0],
    "complex": 1j,
    "dict": {},
    "object": np.array(None),
    "set": {1.0},
}

RESETS: dict[str, Any] = {
    "None": None,
    "observation alone": OBSERVATION,
    "observation alone, as a list": [0.0],
    "three values": (OBSERVATION, {}, 0.0),
    "one value": (OBSERVATION,),
    "dict": {"observation": OBSERVATION},
    **{f"observation {name}": (value, {}) for name, value in WRONG_OBSERVATIONS.items()},
    **{f"info {name}": (OBSERVATION, value) for name, value in WRONG_INFOS.items()},
}
STEPS: dict[str, Any] = {
    "None": None,
    "observation alone": OBSERVATION,
    "four values": (OBSERVATION, 0.0, False, {}),
    "six values": (OBSERVATION, 0.0, False, False, {}, None),
    "no values": (),
    **{f"observation {name}": (value, 0.0, False, False, {}) for name, value in WRONG_OBSERVATIONS.items()},
    **{f"reward {name}": (OBSERVATION, value, False, False, {}) for name, value in WRONG_REWARDS.items()},
    **{f"terminated {name}": (OBSERVATION, 0.0, value, False, {}) for name, value in WRONG_FLAGS.items()},
    **{f"truncated {name}": (OBSERVATION, 0.0, False, value, {}) for name, value in WRONG_FLAGS.items()},
    **{f"info {name}": (OBSERVATION, 0.0, False, False, value) for name, value in WRONG_INFOS.items()},
}
TASKS: dict[str, Callable[[int], Any]] = {
    "None": lambda n: None,
    "text": lambda n: "tasks",
    "number": lambda n: 1.0,
    "vector": lambda n: np.zeros(n),
    "three dimensions": lambda n: np.zeros((n, 1, 1)),
    "more": lambda n: np.zeros((n + 1, 1)),
    "fewer": lambda n: np.zeros((n - 1, 1)),
    "none": lambda n: np.zeros((0, 1)),
    "no numbers": lambda n: np.zeros((n, 0)),
    "NaN": lambda n: np.full((n, 1), np.nan),
    "infinite": lambda n: np.full((n, 1), np.inf),
    "texts": lambda n: np.full((n, 1), "left"),
    "objects": lambda n: np.full((n, 1), None),
    "complex": lambda n: np.zeros((n, 1), complex),
    "ragged": lambda n: [[0.0]] * (n - 1) + [[0.0, 1.0]],
    "dicts": lambda n: [{"goal": 0.0}] * n,
    "generator": lambda n: (np.zeros(1) for _ in range(n)),
}
PICTURES: dict[str, Any] = {"None": None, "text": "a picture", "ragged": [[1], [1, 2]], "object": object()}


def hang() -> None:
    while True:
        time.sleep(0.01)


ENDS: dict[str, Callable[[], Any]] = {
    "exit code 7": lambda: os._exit(7),
    "exit code 0": lambda: os._exit(0),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "SIGABRT": lambda: os.abort(),
    "exit code 1": lambda: os.closerange(3, 4096) or hang(),
}
"""What ends the process, by words of what is said of it."""

made = 0


class Faulty(gymnasium.Env):
    """Does what a table says under the name `fault`, in one of its methods.

    Args:
        method: which method does it; "row" is the constructor, but not that of the first environment.
        table: "RAISES", "RETURNS", "ENDS" or "HANGS".
        fault: a name in the table.
        after: steps that go well.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float64)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self, method: str = "", table: str = "", fault: str = "", after: int = 0, render_mode: str | None = None
    ):
        global made
        made += 1
        self._method, self._table, self._fault, self._after = method, table, fault, after
        self.render_mode = render_mode
        if method == "constructor" or (method == "row" and made > 1):
            self.misbehave()

    def misbehave(self) -> Any:
        if self._table == "RAISES":
            raise RAISES[self._fault]()
        if self._table == "ENDS":
            faulthandler.disable()  # pytest has switched it on
            ENDS[self._fault]()
        if self._table == "HANGS":
            hang()
        tables = {"reset": RESETS, "step": STEPS, "sample_tasks": TASKS, "render": PICTURES}
        return tables[self._method][self._fault]

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        if self._method == "sample_tasks":
            wrong = self.misbehave()
            return wrong(n)
        return rng.random((n, 1))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.misbehave() if self._method == "reset" else (OBSERVATION, {})

    def step(self, action: Any) -> Any:
        self._after -= 1
        return self.misbehave() if self._method == "step" and self._after < 0 else (OBSERVATION, 0.0, False, False, {})

    def render(self) -> Any:
        return self.misbehave() if self._method == "render" else np.zeros((4, 4, 3), np.uint8)


class ChangesItsTasks(Faulty):
    """Draws tasks of another length every time."""

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:
        self._after += 1
        return rng.random((n, self._after))


gymnasium.register("Faulty-v0", entry_point=f"{__name__}:Faulty")
gymnasium.register("ChangesItsTasks-v0", entry_point=f"{__name__}:ChangesItsTasks")
