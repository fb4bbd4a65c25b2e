"""Films and figures as files, which appear when they are whole."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mamlrl.errors import UserError
from mamlrl.recording.pictures import Picture
from mamlrl.run_folder.files import replacing

Write = Callable[[Picture], None]
"""Adds a picture to a film."""

FRAMES_PER_SECOND = 25.0  # at most; of faster simulations some time steps are left out
GIF_FRAMES_PER_SECOND = 12.5  # about; more make the file larger


def check_ffmpeg() -> None:
    """MP4 files can be written: a small one is, and goes.

    Raises:
        UserError: there is no ffmpeg that does.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, write_mp4(Path(folder, "film.mp4"), FRAMES_PER_SECOND) as write:
            write(np.zeros((16, 16, 3), np.uint8))
    except (UserError, ImportError) as error:
        if named := os.environ.get("IMAGEIO_FFMPEG_EXE"):
            told = f"IMAGEIO_FFMPEG_EXE={named} is no ffmpeg that writes MP4 files; unset it to take imageio-ffmpeg's"
        else:
            told = (
                "no ffmpeg was found that writes MP4 files; pip install imageio-ffmpeg brings one, or install ffmpeg "
                "and set IMAGEIO_FFMPEG_EXE to its path"
            )
        raise UserError(told) from error


@contextlib.contextmanager
def write_mp4(path: Path, frames_per_second: float) -> Iterator[Write]:
    """Write a film from the pictures that the block hands over, all of the first one's size; both sides are even.

    Raises:
        UserError: ffmpeg failed.
        OSError: the folder cannot be written.
    """
    import imageio_ffmpeg

    ffmpeg, written = None, 0
    with replacing(path) as temporary:

        def write(picture: Picture) -> None:
            nonlocal ffmpeg, written
            try:
                if ffmpeg is None:
                    ffmpeg = imageio_ffmpeg.write_frames(
                        str(temporary),
                        (picture.shape[1], picture.shape[0]),
                        fps=frames_per_second,  # type: ignore[arg-type] # ffmpeg takes fractions
                        quality=None,  # type: ignore[arg-type] # as its documentation says
                        output_params=["-crf", "23"],
                        macro_block_size=2,
                        ffmpeg_log_level="quiet",  # what it said would stand around our own line
                    )
                    ffmpeg.send(None)
                ffmpeg.send(picture.tobytes())
                written += 1
            except (OSError, RuntimeError) as error:  # it died, or there is none, or none that knows H.264
                raise _ffmpeg_failed(path) from error

        try:
            yield write
        finally:
            if ffmpeg is not None:
                ffmpeg.close()
        try:  # whether ffmpeg could write to the end, it does not say
            readable = imageio_ffmpeg.count_frames_and_secs(str(temporary))[0] or 0
        except (OSError, RuntimeError) as error:
            raise _ffmpeg_failed(path) from error
        if readable < written:
            raise _ffmpeg_failed(path)


def _ffmpeg_failed(path: Path) -> UserError:
    return UserError(f"{path}: ffmpeg could not write it; is the disk full, or the picture too large?")


@contextlib.contextmanager
def write_gif(path: Path, frames_per_second: float) -> Iterator[Write]:
    """Write a film as an animated GIF, as `write_mp4` does.

    Raises:
        OSError: the file cannot be written.
    """
    gif = Gif(frames_per_second)
    yield gif.add
    with replacing(path) as temporary:
        temporary.write_bytes(gif.encoded())


class Gif:
    """An animated GIF in the making, of half the size of the pictures and with fewer of them.

    Args:
        frames_per_second: of the pictures added.
    """

    def __init__(self, frames_per_second: float):
        self._stride = max(1, round(frames_per_second / GIF_FRAMES_PER_SECOND))
        self._pause = round(1000 * self._stride / frames_per_second)  # ms
        self._added = 0
        self._images: list[Image.Image] = []

    def add(self, picture: Picture) -> None:
        """Take a picture, or leave it out."""
        if self._added % self._stride == 0:
            image = Image.fromarray(picture)
            size = (image.width // 2, image.height // 2)
            self._images.append(image.resize(size, Image.Resampling.LANCZOS).quantize(64))
        self._added += 1

    def encoded(self) -> bytes:
        """The file's content."""
        buffer, (first, *others) = io.BytesIO(), self._images
        first.save(buffer, "GIF", save_all=True, append_images=others, duration=self._pause, loop=0)
        return buffer.getvalue()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self._images[0].size
