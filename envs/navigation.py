"""2D navigation: a point moves to a goal that it cannot see.

Source: Finn, Abbeel, Levine (2017), "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", section 5.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .argument_checks import check_positive
from .base import Array, GoalSpace, Infos, Mask, TaskEnv, TaskVectorEnv

FRAME_SIZE = 480  # pixels, width and height


class Navigation2DVectorEnv(TaskVectorEnv):
    """N points in lock step; see `Navigation2DEnv` for the environment."""

    still = "path"

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        num_threads: int = 0,  # of the simulator; numpy needs none
        *,
        max_step: float = 0.1,
        goal_range: float = 0.5,
        goal_radius: float = 0.01,
        **kwargs: Any,
    ):
        for name, value in (("max_step", max_step), ("goal_range", goal_range), ("goal_radius", goal_radius)):
            check_positive(name, value)
        super().__init__(
            observation_space=spaces.Box(-np.inf, np.inf, (2,), np.float64),
            action_space=spaces.Box(-max_step, max_step, (2,), np.float64),
            task_space=GoalSpace(goal_range),
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            **kwargs,
        )
        self._goal_radius, self._goal_range = goal_radius, goal_range
        self._positions = np.zeros((num_envs, 2))
        self._paths: list[list[Array]] = [[] for _ in range(num_envs)]  # only kept to be drawn

    def _start_rows(self, rows: NDArray[np.intp]) -> None:
        self._positions[rows] = 0.0
        for row in rows:
            self._paths[row] = [self._positions[row].copy()]

    def _advance(self, actions: Array, rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        rows_or_all = slice(None) if rows is None else rows
        self._positions[rows_or_all] += actions[rows_or_all]
        if self.render_mode is not None:
            for row in range(self.num_envs) if rows is None else rows:
                self._paths[row].append(self._positions[row].copy())
        offsets = self._positions - self.tasks
        distances = np.sqrt(np.square(offsets).sum(axis=1))
        arrived = np.all(np.abs(offsets) < self._goal_radius, axis=1)
        return -distances, arrived, {"distance": distances}

    def _observe(self) -> Array:
        return self._positions.copy()

    def _draw_row(self, row: int) -> NDArray[np.uint8]:
        return draw_path(np.array(self._paths[row]), self.tasks[row], self._goal_range, self._half_width())

    def _half_width(self) -> float:
        """Half the side of every row's picture, so that rows side by side are to one scale: all paths are in it."""
        reach = max(float(np.abs(path).max()) for path in self._paths if path)
        return max(1.4 * self._goal_range, 1.1 * reach)


def draw_path(path: Array, goal: Array, goal_range: float, half_width: float) -> NDArray[np.uint8]:
    """Draw the square of goals, the start, the path so far, the position and the goal.

    Args:
        path: positions from the start to now, [T, 2].
        goal: [2].
        goal_range: half the side of the square of goals.
        half_width: half the side of the picture.

    Returns:
        The picture, [FRAME_SIZE, FRAME_SIZE, 3].
    """
    from PIL import Image, ImageDraw  # only those who render pay for it

    scale = 4  # drawn larger and reduced: Pillow's lines are not antialiased
    size = scale * FRAME_SIZE

    def pixel(point: Array) -> tuple[float, float]:
        x, y = (np.asarray(point) / half_width * (1.0, -1.0) + 1.0) / 2.0 * size
        return float(x), float(y)

    image = Image.new("RGB", (size, size), "white")
    canvas = ImageDraw.Draw(image)

    def disc(center: Array, radius: int, fill: str, outline: str = "white") -> None:
        canvas.circle(pixel(center), scale * radius, fill=fill, outline=outline, width=2 * scale)

    corner = np.full(2, goal_range)
    (left, bottom), (right, top) = pixel(-corner), pixel(corner)
    canvas.rectangle((left, top, right, bottom), fill="#f3f5f8", outline="#b8c0cc", width=scale)
    canvas.line(((left, size / 2), (right, size / 2)), fill="#dde2e9", width=scale)
    canvas.line(((size / 2, top), (size / 2, bottom)), fill="#dde2e9", width=scale)
    if len(path) > 1:
        canvas.line([pixel(point) for point in path], fill="#7fa8d9", width=3 * scale, joint="curve")
    for point in path[1:-1]:
        disc(point, 3, "#7fa8d9", outline="#7fa8d9")
    disc(path[0], 6, "white", outline="#5a6472")
    disc(goal, 11, "white", outline="#d1495b")
    disc(goal, 5, "#d1495b")
    disc(path[-1], 8, "#2f6db5")
    return np.array(image.reduce(scale))


class Navigation2DEnv(TaskEnv):
    """A point on the plane has to reach a goal that only the reward tells of.

    ## Description
    The point starts at the origin and moves by a bounded step in each coordinate. Tasks differ in the goal, which is
    uniform in a square around the origin. The policy does not observe it.

    ## Action Space
    `Box(-max_step, max_step, (2,), float64)`; larger actions are clipped, each coordinate by itself.

    | Num | Action | Min | Max | Unit |
    |---|---|---|---|---|
    | 0 | move along x | -max_step | max_step | position (m) |
    | 1 | move along y | -max_step | max_step | position (m) |

    ## Observation Space
    `Box(-inf, inf, (2,), float64)`

    | Num | Observation | Min | Max | Unit |
    |---|---|---|---|---|
    | 0 | x | -inf | inf | position (m) |
    | 1 | y | -inf | inf | position (m) |

    ## Rewards
    `reward = -|position - goal|`, the Euclidean distance after the move. `info["distance"]` is the distance.

    ## Starting State
    The origin.

    ## Episode End
    Terminated when both coordinates are within `goal_radius` of the goal. Truncated after 100 time steps by
    `gymnasium.make`. Ending early is a gain, since every step costs.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `max_step` | float | 0.1 | largest move per coordinate and time step (m) |
    | `goal_range` | float | 0.5 | goals are uniform in [-goal_range, goal_range]^2 (m) |
    | `goal_radius` | float | 0.01 | tolerance of arrival per coordinate (m) |
    | `change_at` | int or None | None | time step at which another task takes the given one's place |
    | `change_in` | str | "episode" | "episode" or "trial": what these are counted in |

    The task is the goal [2], given by `reset(options={"task": goal})`.

    ## Version History
    * v0: first version.
    """

    vector_class = Navigation2DVectorEnv
