"""What is seen within mazes, by casting a ray for each column of each picture; and maps of mazes.

Shapes: N mazes, S cells of a side, W columns and H rows of a picture. x goes along the columns of cells, y along the
rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .base import Array, Mask

FIELD_OF_VIEW = np.deg2rad(75.0)
PILLAR = 0.2
"""Radius of the target, in cells."""
FRAME_WIDTH, FRAME_HEIGHT = 480, 280
"""Of a picture for people, in pixels; there is room beneath for what a film says of the outcome."""
CEILING, FLOOR, GREEN = (np.array(color) / 255.0 for color in ((225, 232, 240), (150, 145, 140), (40, 170, 80)))
PALETTE = (
    np.array(
        [
            [208, 92, 80],
            [226, 160, 74],
            [214, 204, 96],
            [96, 150, 200],
            [146, 110, 190],
            [200, 120, 160],
            [120, 120, 120],
        ]
    )
    / 255.0
)
BESIDE = 1e-6
"""How far rays go to the side of what they are to reach, in radians."""
NEVER = 1e9
"""Distance of what a ray does not meet, in cells."""


class View:
    """Pictures from within.

    Args:
        height: H.
        width: W.
    """

    def __init__(self, height: int, width: int):
        across = np.linspace(-1.0, 1.0, width) * np.tan(FIELD_OF_VIEW / 2)
        self._angles = np.arctan(across)
        self._heights = np.abs(np.arange(height) + 0.5 - height / 2)
        # a wall at distance 1 is as high as it is wide
        self._scale = width / (4.0 * np.tan(FIELD_OF_VIEW / 2))
        above = (np.arange(height) + 0.5 < height / 2)[:, None, None]
        self._background = np.broadcast_to(np.where(above, CEILING, FLOOR), (height, width, 3))

    def take(self, upright: Mask, level: Mask, positions: Array, headings: Array, targets: Array) -> Array:
        """Take a picture in each of N mazes, [N, H, W, 3] in [0, 1].

        Args:
            upright: walls to the left and right of cells, [N, S, S + 1].
            level: walls above and below cells, [N, S + 1, S].
            positions: x and y, [N, 2].
            headings: angles from x towards y, [N].
            targets: x and y of their middles, [N, 2].
        """
        angles = headings[:, None] + self._angles
        rays = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        walls, colors = nearest_walls(upright, level, positions, rays)
        pillars = _pillars(positions, rays, targets)
        flat = np.cos(self._angles)  # distances to the plane of the picture: straight walls stay straight
        picture = self._paint(self._background, walls * flat, colors)
        return self._paint(
            picture, np.where(pillars < walls, pillars * flat, NEVER), np.broadcast_to(GREEN, colors.shape)
        )

    def faces(self, positions: Array, headings: Array, points: Array) -> Mask:
        """Whether points [N, 2] are within the field of view, if no wall is in the way, [N]; others as of `take`."""
        offsets = points - positions
        ahead = offsets[:, 0] * np.cos(headings) + offsets[:, 1] * np.sin(headings)
        return ahead >= np.cos(FIELD_OF_VIEW / 2) * np.hypot(*offsets.T)

    def reaches(self, upright: Mask, level: Mask, positions: Array, points: Array) -> Mask:
        """Whether no wall is between positions and points [N, 2], nor the corner of two, [N]; others as of `take`."""
        offsets = points - positions
        distances = np.hypot(*offsets.T)
        rays = (offsets / np.maximum(distances, 1e-9)[:, None])[:, None]
        aside = BESIDE * np.stack([-rays[..., 1], rays[..., 0]], axis=-1)  # a ray through a corner meets neither wall
        walls = [nearest_walls(upright, level, positions, ray)[0][:, 0] for ray in (rays - aside, rays + aside)]
        return distances < np.minimum(*walls)

    def _paint(self, picture: Array, distances: Array, colors: Array) -> Array:
        """Columns [N, W] of some height and colour, darker the farther they are, in front of a picture."""
        half = self._scale / np.maximum(distances, 0.02)
        shade = 1.0 / (1.0 + 0.15 * distances)
        covered = self._heights[:, None] <= np.where(distances < NEVER / 2, half, -1.0)[:, None, :]
        return np.where(covered[..., None], (colors * shade[..., None])[:, None], picture)


def nearest_walls(upright: Mask, level: Mask, positions: Array, rays: Array) -> tuple[Array, Array]:
    """Distances of the walls that rays [N, W, 2] meet first, [N, W], and their colours, [N, W, 3]."""
    x, y = positions[:, 0], positions[:, 1]
    to_upright, at_upright = _crossings(upright.transpose(0, 2, 1), x, y, rays[..., 0], rays[..., 1])
    to_level, at_level = _crossings(level, y, x, rays[..., 1], rays[..., 0])
    colors = np.where(to_upright <= to_level, at_upright, at_level + 3) % len(PALETTE)
    return np.minimum(to_upright, to_level), PALETTE[colors]


def _crossings(walls: Mask, along: Array, beside: Array, step: Array, drift: Array) -> tuple[Array, NDArray[np.intp]]:
    """Distances to the first wall on the lines across an axis, [N, W], and numbers that tell walls apart.

    Args:
        walls: on each of the lines, by cell along the line, [N, S + 1, S].
        along: positions on the axis, [N].
        beside: positions on the other one, [N].
        step: components of the rays on the axis, [N, W].
        drift: their components on the other one, [N, W].
    """
    lines, size = walls.shape[1:]
    step = np.where(np.abs(step) < 1e-9, 1e-9, step)
    distances = (np.arange(lines) - along[:, None, None]) / step[..., None]  # [N, W, S + 1]
    places = beside[:, None, None] + distances * drift[..., None]
    cells = np.clip(places, 0, size - 1).astype(np.intp)
    n, line = np.arange(len(walls))[:, None, None], np.arange(lines)
    met = (distances > 0) & (places >= 0) & (places <= size) & walls[n, line, cells]
    distances = np.where(met, distances, NEVER)
    first = distances.argmin(axis=-1)[..., None]
    numbers = 2 * first + np.take_along_axis(cells, first, -1)
    return np.take_along_axis(distances, first, -1)[..., 0], numbers[..., 0]


def _pillars(positions: Array, rays: Array, targets: Array) -> Array:
    """Distances at which rays meet the targets, [N, W]; NEVER where they do not."""
    offsets = (targets - positions)[:, None]
    along = (offsets * rays).sum(-1)
    aside = np.square(offsets).sum(-1) - np.square(along)
    met = (aside < PILLAR**2) & (along > 0)
    return np.where(met, along - np.sqrt(np.maximum(PILLAR**2 - aside, 0.0)), NEVER)


def draw_maze(view: Array, walls: tuple[Mask, Mask], path: Array, heading: float, target: Array) -> NDArray[np.uint8]:
    """Draw what is seen, and beside it the map, [FRAME_HEIGHT, FRAME_WIDTH, 3].

    Args:
        view: the picture from within, [H, W, 3].
        walls: to the left and right of cells, [S, S + 1], above and below, [S + 1, S].
        path: positions from the start of the episode to now, [T, 2].
        heading: angle from x towards y.
        target: its middle, [2].
    """
    from PIL import Image, ImageDraw  # only those who render pay for it

    scale, size = 2, len(walls[0])
    image = Image.new("RGB", (scale * FRAME_WIDTH, scale * FRAME_HEIGHT), "white")
    seen = Image.fromarray(np.round(255 * view).astype(np.uint8))
    side = scale * FRAME_WIDTH // 2
    image.paste(
        seen.resize((round(side * 0.94), round(side * 0.7)), Image.Resampling.NEAREST), (side // 40, side * 3 // 20)
    )
    canvas = ImageDraw.Draw(image)
    cell = 0.9 * side / size
    left, top = side * 1.05, side * 0.05

    def pixel(point: Array) -> tuple[float, float]:
        return left + cell * float(point[0]), top + cell * float(point[1])

    def wall(start: tuple[int, int], end: tuple[int, int]) -> None:
        canvas.line([pixel(np.array(start)), pixel(np.array(end))], fill="#3c4450", width=3 * scale)

    for row, line in np.argwhere(walls[0]).tolist():
        wall((line, row), (line, row + 1))
    for line, column in np.argwhere(walls[1]).tolist():
        wall((column, line), (column + 1, line))
    canvas.circle(pixel(target), 0.25 * cell, fill="#28aa50")
    if len(path) > 1:
        canvas.line([pixel(point) for point in path], fill="#7fa8d9", width=2 * scale, joint="curve")
    here = path[-1]
    for offset in (-FIELD_OF_VIEW / 2, FIELD_OF_VIEW / 2):
        end = here + 0.7 * np.array([np.cos(heading + offset), np.sin(heading + offset)])
        canvas.line([pixel(here), pixel(end)], fill="#2f6db5", width=scale)
    canvas.circle(pixel(here), 0.14 * cell, fill="#2f6db5")
    return np.array(image.reduce(scale))
