"""What environments draw, as pictures of one kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Picture = NDArray[np.uint8]
"""[height, width, 3]"""


def as_picture(drawn: Any) -> Picture:
    """What an environment's `render` returned, as a picture.

    Taken are arrays and nested lists of grayscale [H, W] or [H, W, 1], RGB [H, W, 3], RGBA [H, W, 4] (on white), and
    the last of several [K, H, W, C]; of numbers in [0, 255], or of floating point numbers that all lie in [0, 1].

    Raises:
        ValueError: it is something else.
    """
    if drawn is None or isinstance(drawn, (str, bytes)) or (isinstance(drawn, (list, tuple)) and not len(drawn)):
        what = "nothing" if drawn is None else "text" if isinstance(drawn, (str, bytes)) else "an empty list"
        raise ValueError(f"render() returned {what}, not a picture")
    try:
        pixels = np.asarray(drawn)
    except ValueError as error:  # rows of different lengths
        raise ValueError("render() returned rows of different lengths, not a picture") from error
    if pixels.ndim == 4 and len(pixels):
        pixels = pixels[-1]
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise ValueError(f"render() returned an array of shape {pixels.shape}; a picture has [height, width, 3]")
    pixels = _as_bytes(pixels)
    if pixels.shape[2] == 4:
        picture = Image.fromarray(pixels)
        return np.array(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _as_bytes(pixels: np.ndarray) -> NDArray[np.uint8]:
    """Brightness in [0, 255]."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"render() returned an array of {pixels.dtype}; a picture has numbers in [0, 255]")
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 255:
        raise ValueError(f"render() returned numbers from {low:g} to {high:g}; those of a picture lie in [0, 255]")
    of_one = pixels.dtype.kind == "b" or (pixels.dtype.kind == "f" and high <= 1)
    return np.round(pixels * 255.0 if of_one else pixels).astype(np.uint8)


def fitted(picture: Picture, like: Picture) -> Picture:
    """A picture as large as another: scaled and bordered in white where an environment changes its size."""
    if picture.shape == like.shape:
        return picture
    return np.array(ImageOps.pad(Image.fromarray(picture), (like.shape[1], like.shape[0]), color="white"))


def enlarged(picture: Picture, min_width: int) -> Picture:
    """A small picture whose pixels became squares, so that it is at least so wide."""
    factor = -(-min_width // picture.shape[1])
    return picture if factor <= 1 else picture.repeat(factor, 0).repeat(factor, 1)
