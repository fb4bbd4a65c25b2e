"""Families of tasks that draw, rightly and wrongly, end early, and tell of success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from .toy_envs import DiscreteLine, Line

RGB = np.full((31, 41, 3), 90, np.uint8)


def fail(error: BaseException) -> Any:
    raise error


GOOD: dict[str, Callable[[int], Any]] = {
    "rgb": lambda _: RGB,
    "rgba": lambda _: np.dstack([RGB, np.full((31, 41), 200, np.uint8)]),
    "grayscale": lambda _: RGB[..., 0],
    "one channel": lambda _: RGB[..., :1],
    "nested lists": lambda _: RGB.tolist(),
    "list of one": lambda _: [RGB],
    "several": lambda _: np.stack([RGB, RGB]),
    "floats to 1": lambda _: RGB / 255.0,
    "floats to 255": lambda _: RGB.astype(np.float32),
    "integers": lambda _: RGB.astype(np.int64),
    "truth values": lambda _: RGB > 0,
    "an image": lambda _: Image.fromarray(RGB),
    "not contiguous": lambda _: RGB[::-1, ::-1],
    "growing": lambda time: np.full((31 + time, 41, 3), 90, np.uint8),
}
"""What `render` may return, by the number of the time step."""

BAD: dict[str, Callable[[int], Any]] = {
    "nothing": lambda _: None,
    "text": lambda _: "o-->",
    "bytes": lambda _: b"123",
    "empty list": lambda _: [],
    "ragged": lambda _: [[1, 2], [3]],
    "number": lambda _: 3,
    "one row": lambda _: RGB[0, 0],
    "five dimensions": lambda _: RGB[None, None],
    "two channels": lambda _: RGB[..., :2],
    "channels first": lambda _: RGB.transpose(2, 0, 1),
    "no pixels": lambda _: RGB[:0],
    "NaN": lambda _: np.full((4, 4, 3), np.nan),
    "infinite": lambda _: np.full((4, 4, 3), np.inf),
    "negative": lambda _: RGB.astype(int) - 100,
    "large": lambda _: RGB.astype(int) + 200,
    "complex": lambda _: RGB.astype(complex),
    "words": lambda _: np.full((4, 4, 3), "red"),
    "objects": lambda _: np.full((4, 4, 3), None),
    "a dictionary": lambda _: {"picture": RGB},
    "no package": lambda _: fail(gymnasium.error.DependencyNotInstalled("pygame is not installed, run `pip install`")),
    "import": lambda _: fail(ModuleNotFoundError("No module named 'pygame'")),
    "OpenGL": lambda _: fail(RuntimeError("an OpenGL platform library has not been loaded")),
    "no message": lambda _: fail(AssertionError()),
    "lines": lambda _: fail(ValueError("first line\nsecond line")),
    "I/O": lambda _: fail(OSError(5, "Input/output error")),
    "pipe": lambda _: fail(BrokenPipeError()),
    "end": lambda _: fail(StopIteration()),
}
"""What no film can be made of."""


class Drawn(Line):
    """A line that draws as it is told, and ends after some time steps or when it says so.

    Args:
        render_mode: None or "rgb_array".
        draws: a key of GOOD or BAD.
        fails_at: number of the picture at which drawing begins to fail; 0 for never.
        ends_after: time steps to the end of the episode; 0 for never.
        succeeds_after: time steps to success; 0 for an environment that tells nothing of it.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        render_mode: str | None = None,
        draws: str = "rgb",
        fails_at: int = 0,
        ends_after: int = 0,
        succeeds_after: int = 0,
    ):
        self.render_mode = render_mode
        self._draws, self._fails_at = draws, fails_at
        self._ends_after, self._succeeds_after = ends_after, succeeds_after
        self._drawn = self._time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self._time = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._time += 1
        observation, reward, _, _, info = super().step(action)
        if self._succeeds_after:
            info["success"] = float(self._time >= self._succeeds_after)
        return observation, reward, bool(self._ends_after) and self._time >= self._ends_after, False, info

    def render(self) -> Any:
        self._drawn += 1
        if self._fails_at and self._drawn >= self._fails_at:
            raise RuntimeError("the camera fell over")
        return (GOOD | BAD)[self._draws](self._time)


class DrawnDiscrete(Drawn, DiscreteLine):
    """With two actions, and frame rates as environments of others may have them."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": None}  # noqa: RUF012


class Text(Line):
    """Draws text only."""

    metadata: dict[str, Any] = {"render_modes": ["ansi"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode


class Undeclared(Line):
    """Its constructor takes no render mode, against its own word."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012


class NeedsPackage(Drawn):
    """Lacks what it would draw with as soon as it is made."""

    def __init__(self, render_mode: str | None = None):
        if render_mode:
            raise gymnasium.error.DependencyNotInstalled("pygame is not installed")
        super().__init__()


for family in (Drawn, DrawnDiscrete, Text, Undeclared, NeedsPackage):
    gymnasium.register(f"toy/{family.__name__}-v0", entry_point=f"{__name__}:{family.__name__}")
