"""The picture of a film at one time step: panels side by side, each under its caption."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mamlrl.recording.pictures import Picture, enlarged, fitted
from mamlrl.run_folder.figures import steps_name

COLORS = ("#8a94a3", "#f0a202", "#2f6db5", "#1b998b", "#7b3f98", "#d1495b")
"""One for every number of gradient steps, in films and stills alike."""

INK, GREEN, RED = "#1d2530", "#1b7f5c", "#c0392b"
TASK_SIZES = (24, 20, 16)  # pixels at full width
FULL_WIDTH = 480  # pixels; captions of a smaller picture shrink with it
MIN_WIDTH = 320  # pixels; smaller pictures are enlarged, so that captions can be read
CAPTION_HEIGHT, GAP = 84, 8  # pixels at full width
SHOWN_EPISODES = 5  # of a trial, the last ones: there is room for no more
ENDED_PALE = 0.4  # how far the picture of an ended episode fades


class Panel(NamedTuple):
    """One rollout at a time step."""

    steps: int
    """gradient steps of its policy"""
    task: str
    """in words"""
    picture: Picture
    episode_return: float
    """of the episode, undiscounted, so far"""
    speed: float | None
    """along x, m/s; None where the environment tells none"""
    ended: int | None
    """time steps after which the episode ended; None while it goes on"""
    outcomes: tuple[int | None, ...]
    """of each episode that is over or has had success: time steps until the environment told of it; None without"""
    episode: str = ""
    """which of a trial it is, in words; empty where there is none"""
    trial_return: float = 0.0
    """of all episodes of a trial, so far"""
    changed: int | None = None
    """time steps after which the task took another's place; None while it is the one that was given"""


def color_of_steps(steps: int) -> str:
    """The colour of a number of gradient steps."""
    return COLORS[steps % len(COLORS)]


def compose(panels: Sequence[Panel]) -> Picture:
    """The panels side by side, with even sides, as H.264 wants them."""
    drawn = [_drawn(panel) for panel in panels]
    drawn = [fitted(one, drawn[0]) for one in drawn]
    height, width = drawn[0].shape[:2]
    full_width = len(drawn) * (width + GAP) - GAP
    picture = np.full((height + height % 2, full_width + full_width % 2, 3), 255, np.uint8)
    for column, one in enumerate(drawn):
        left = column * (width + GAP)
        picture[:height, left : left + width] = one
    return picture


def _drawn(panel: Panel) -> Picture:
    """A panel's picture below its caption: gradient steps, task, return so far, speed; and above what became of it."""
    picture = Image.fromarray(enlarged(panel.picture, MIN_WIDTH))
    unit = picture.width / FULL_WIDTH
    caption_height = round(CAPTION_HEIGHT * unit)
    if panel.ended is not None:
        picture = Image.blend(picture, Image.new("RGB", picture.size, "white"), ENDED_PALE)
    whole = Image.new("RGB", (picture.width, picture.height + caption_height), "white")
    whole.paste(picture, (0, caption_height))
    canvas = ImageDraw.Draw(whole)
    canvas.rectangle((0, 0, picture.width, round(6 * unit)), fill=color_of_steps(panel.steps))
    earned = f"return {panel.episode_return:.1f}"
    if panel.episode:
        earned += f", trial {panel.trial_return:.1f}"
    _line(canvas, picture.width, 34, 26, INK, panel.episode or steps_name(panel.steps), earned)
    _task_line(canvas, picture.width, panel)
    if badge := _outcome(panel):
        _badge(canvas, badge, whole.size, GREEN if _succeeded(panel) else INK)
    return np.array(whole)


def _outcome(panel: Panel) -> str:
    """What became of an episode, if anything yet."""
    ended = "" if panel.ended is None else f"ended after {_time_steps(panel.ended)}"
    if not _succeeded(panel):
        return ended
    if panel.episode:
        told = ["-" if number is None else str(number) for number in panel.outcomes]
        cut = ["..."] if len(told) > SHOWN_EPISODES else []
        return f"steps to success: {', '.join([*cut, *told[-SHOWN_EPISODES:]])}"
    number = panel.outcomes[0]
    assert number is not None
    return f"success, {ended}" if ended else f"success after {_time_steps(number)}"


def _succeeded(panel: Panel) -> bool:
    return any(number is not None for number in panel.outcomes)


def _time_steps(number: int) -> str:
    return f"{number} step" if number == 1 else f"{number} steps"


def _line(canvas: ImageDraw.ImageDraw, width: int, y: float, size: float, color: str, left: str, right: str) -> None:
    """A line of the caption, in units of the full width; the text on the left is cut where the two do not fit."""
    unit = width / FULL_WIDTH
    font, margin = _font(size * unit), 8 * unit
    canvas.text((width - margin, y * unit), right, font=font, fill=color, anchor="rm")
    room = width - 3 * margin - font.getlength(right)
    canvas.text((margin, y * unit), _cut(left, font, room), font=font, fill=color, anchor="lm")


def _task_line(canvas: ImageDraw.ImageDraw, width: int, panel: Panel) -> None:
    """The task, as large as it fits and in up to two lines, and the speed; in red once it has changed."""
    unit = width / FULL_WIDTH
    task, margin = " ".join(panel.task.split()), 8 * unit
    if panel.changed is not None:
        task = f"since step {panel.changed}: {task}"
    color, room = INK if panel.changed is None else RED, width - 2 * margin
    if panel.speed is not None:
        font = _font(24 * unit)
        canvas.text((width - margin, 66 * unit), f"speed {panel.speed:.2f} m/s", font=font, fill=INK, anchor="rm")
        room -= margin + font.getlength("speed -0.00 m/s")  # the same all along, else the text would jump
    for size in TASK_SIZES:
        font = _font(size * unit)
        if font.getlength(task) <= room:
            break
    else:
        first, second = _halves(task, font, room)
        canvas.text((margin, 56 * unit), first, font=font, fill=color, anchor="lm")
        canvas.text((margin, 73 * unit), second, font=font, fill=color, anchor="lm")
        return
    canvas.text((margin, 66 * unit), task, font=font, fill=color, anchor="lm")


def _halves(text: str, font: ImageFont.FreeTypeFont, room: float) -> tuple[str, str]:
    """As many words as fit, and what fits of the others."""
    words = text[:200].split(" ")
    fitting = max((n for n in range(len(words)) if font.getlength(" ".join(words[:n])) <= room), default=0)
    return " ".join(words[:fitting]), _cut(" ".join(words[fitting:]), font, room)


def _cut(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The text, or as much of it as fits."""
    if font.getlength(text) <= room:
        return text
    text = text[:100]
    while text and font.getlength(f"{text}...") > room:
        text = text[:-1]
    return f"{text}..."


def _badge(canvas: ImageDraw.ImageDraw, text: str, size: tuple[int, int], color: str) -> None:
    """A word at the bottom left of the picture, white on a colour."""
    unit = size[0] / FULL_WIDTH
    font = _font(20 * unit)
    left, bottom, pad = 10 * unit, size[1] - 10 * unit, 10 * unit
    box = (left, bottom - 34 * unit, left + font.getlength(text) + 2 * pad, bottom)
    canvas.rounded_rectangle(box, radius=6 * unit, fill=color)
    canvas.text((left + pad, bottom - 17 * unit), text, font=font, fill="white", anchor="lm")


@functools.cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # of which every Pillow that takes a size has one
    return font
