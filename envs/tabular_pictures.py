"""Pictures of bandits and of tabular Markov decision processes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Array

FRAME_SIZE = 480  # pixels, width and height
SCALE = 2  # drawn larger and reduced: Pillow's lines are not antialiased
SIDE = SCALE * FRAME_SIZE
DARK, GRAY, LIGHT, BLUE, RED = "#5a6472", "#b8c0cc", "#f3f5f8", "#2f6db5", "#d1495b"


def draw_arms(means: Array, pulls: Array, paid: Array) -> NDArray[np.uint8]:
    """Draw the arms' means as bars, what their pulls have paid on average as dots, and the pulls beneath.

    Args:
        means: [k].
        pulls: how often each arm was pulled, [k].
        paid: the sum of what it has paid, [k].

    Returns:
        The picture, [FRAME_SIZE, FRAME_SIZE, 3].
    """
    image, canvas = _sheet()
    low, high = min(0.0, float(means.min()) - 0.5), max(1.0, float(means.max()) + 0.5)
    if means.min() >= 0 and means.max() <= 1:
        low, high = 0.0, 1.0
    top, floor, bottom = 0.05 * SIDE, 0.62 * SIDE, 0.95 * SIDE

    def height(value: float) -> float:
        return floor - (float(np.clip(value, low, high)) - low) / (high - low) * (floor - top)

    width = 0.9 * SIDE / len(means)
    most = max(10.0, float(pulls.max()))
    for arm, mean in enumerate(means.tolist()):
        left, right = 0.05 * SIDE + (arm + 0.12) * width, 0.05 * SIDE + (arm + 0.88) * width
        best = mean == means.max()
        canvas.rectangle((left, height(mean), right, floor), fill="#f0c4ca" if best else "#e4e8ee")
        if pulls[arm]:
            depth = floor + (0.04 + 0.96 * pulls[arm] / most) * (bottom - floor)
            canvas.rectangle((left, floor, right, depth), fill="#7fa8d9")
            center, radius = ((left + right) / 2, height(paid[arm] / pulls[arm])), min(16.0, width / 3)
            canvas.circle(center, radius, fill=BLUE, outline="white", width=SCALE)
    canvas.line(((0.05 * SIDE, floor), (0.95 * SIDE, floor)), fill=DARK, width=SCALE)
    return np.array(image.reduce(SCALE))


def draw_table(rewards: Array, visits: Array, state: int) -> NDArray[np.uint8]:
    """Draw a table of states (rows) and actions: blue to red for mean rewards, a dot for visits, the state framed.

    Args:
        rewards: mean rewards [S, A].
        visits: how often an action was taken in a state, [S, A].
        state: the current one.

    Returns:
        The picture, [FRAME_SIZE, FRAME_SIZE, 3].
    """
    image, canvas = _sheet()
    states, actions = rewards.shape
    height, width = 0.9 * SIDE / states, 0.9 * SIDE / actions
    middle = float(rewards.mean())
    spread = max(float(np.abs(rewards - middle).max()), 1e-12)
    largest = 0.42 * min(height, width)
    most = max(4.0, float(visits.max()))
    for s in range(states):
        for a in range(actions):
            left, top = 0.05 * SIDE + a * width, 0.05 * SIDE + s * height
            canvas.rectangle(
                (left + SCALE, top + SCALE, left + width - SCALE, top + height - SCALE),
                fill=_tint((rewards[s, a] - middle) / spread),
            )
            if visits[s, a]:
                radius = largest * max(0.2, float(np.sqrt(visits[s, a] / most)))
                center = (left + width / 2, top + height / 2)
                canvas.circle(center, radius, fill=DARK, outline="white", width=SCALE)
    top = 0.05 * SIDE + state * height
    canvas.rectangle((0.05 * SIDE, top, 0.95 * SIDE, top + height), outline=DARK, width=3 * SCALE)
    return np.array(image.reduce(SCALE))


def _tint(value: float) -> tuple[int, int, int]:
    """A colour from blue (-1) over white (0) to red (1)."""
    far = np.array((209, 73, 91) if value > 0 else (47, 109, 181))
    red, green, blue = np.round(255 + (far - 255) * min(1.0, abs(value))).astype(int).tolist()
    return red, green, blue


def _sheet() -> tuple[Any, Any]:
    from PIL import Image, ImageDraw  # only those who render pay for it

    image = Image.new("RGB", (SIDE, SIDE), "white")
    return image, ImageDraw.Draw(image)
