"""Characters of fonts, drawn by many hands: a few-shot image set that needs no download.

The characters are those of `glyphs.txt`, letters and numerals of the fonts that matplotlib ships, look-alikes left out.
A drawer is a face with a small affine change and a smooth elastic field of its own. Whole scripts are held out:
training, validation and test have none in common.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from importlib import resources, util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mamlrl.errors import ConfigError, UserError, shown
from mamlrl.messages import say
from mamlrl.supervised.images import ImageTasks, flag

FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
"""Files of the fonts, in the order of the bits in `glyphs.txt`."""
SPLITS = ("train", "validation", "test")
SIDE, MASTER, DRAWERS, MOST_FACES = 28, 56, 20, 8
"""Pixels of an image and of what it is drawn from, drawers, and faces of a character at most."""
ROTATION, SHEAR, LOG_SCALE, SHIFT, ELASTIC = np.deg2rad(15.0), 0.2, 0.2, 0.08, 0.03
"""Largest change of each kind (uniform), in radians and shares of the side; standard deviation of the elastic field."""
KNOWN_HASH = "1bd01d013e74753e97f9229fc9c1340077dd57fd15d75569942153309497d78e"
"""SHA-256 of the pixels that the results in docs/results.md are of."""
KNOWN_FREETYPE = "2.14.3"
"""That they were drawn with."""
VERSION = 1
"""Of the drawing: another one is another file of the cache."""


class Character(NamedTuple):
    """A row of `glyphs.txt`."""

    code: int
    split: str
    faces: tuple[int, ...]
    """indices of FACES that have it"""


def characters() -> list[Character]:
    """The characters, in the order of the cache."""
    rows = []
    split = ""
    for line in resources.files("mamlrl.supervised").joinpath("glyphs.txt").read_text().splitlines():
        if line.startswith("["):
            split = line.strip("[]")
        elif line and not line.startswith("#"):
            code, bits = (int(word, 16) for word in line.split())
            rows.append(Character(code, split, tuple(n for n in range(len(FACES)) if bits >> n & 1)))
    return rows


def font_files() -> list[Path]:
    """The files of FACES, in matplotlib's folder of fonts; matplotlib itself is not imported.

    Raises:
        UserError: one is not there.
    """
    found = util.find_spec("matplotlib")
    folder = Path(str(found.origin)).parent / "mpl-data" / "fonts" / "ttf" if found else Path("matplotlib")
    paths = [folder / f"{face}.ttf" for face in FACES]
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"glyphs are drawn from the fonts of matplotlib, and {path} is not there; reinstall matplotlib"
            )
    return paths


def master(font: Any, code: int) -> np.ndarray:
    """A character, as large as fits, in the middle of an image [MASTER, MASTER] in [0, 1]; zeros where it is blank."""
    from PIL import Image, ImageDraw  # takes a while

    box = font.getbbox(chr(code))
    width, height = box[2] - box[0], box[3] - box[1]
    picture = np.zeros((MASTER, MASTER), np.float32)
    if width <= 0 or height <= 0:
        return picture
    large = Image.new("L", (width, height))
    ImageDraw.Draw(large).text((-box[0], -box[1]), chr(code), 255, font=font)
    ratio = 0.68 * MASTER / max(width, height)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    top, left = (MASTER - size[1]) // 2, (MASTER - size[0]) // 2
    drawn = np.asarray(large.resize(size, Image.Resampling.BOX), np.float32) / 255
    picture[top : top + size[1], left : left + size[0]] = drawn
    return picture


def masters(fonts: Sequence[Any], character: Character, extra: Sequence[Any]) -> np.ndarray:
    """The faces of a character, [at most MOST_FACES, MASTER, MASTER]."""
    faces = [fonts[n] for n in character.faces[:MOST_FACES]]
    drawn = [master(font, character.code) for font in (*faces, *(font for font in extra if has(font, character.code)))]
    return np.stack(drawn)


def has(font: Any, code: int) -> bool:
    """Whether a font has a character: what it draws is not what it draws for one that there is none of."""
    mask, nothing = (font.getmask(text) for text in (chr(code), "\uffff"))
    return mask.getbbox() is not None and (mask.size, bytes(mask)) != (nothing.size, bytes(nothing))


def drawings(faces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All drawers' images of a character, uint8 [DRAWERS, SIDE, SIDE].

    Args:
        faces: [F, MASTER, MASTER]; the drawers take them in turn.
        rng: of the character.
    """
    angle, shear, shift_x, shift_y, scale_x, scale_y = rng.uniform(-1, 1, (6, DRAWERS)) * np.array(
        [ROTATION, SHEAR, SHIFT, SHIFT, LOG_SCALE, LOG_SCALE]
    ).reshape(6, 1)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)
    sheared = np.array([[np.ones(DRAWERS), shear], [np.zeros(DRAWERS), np.ones(DRAWERS)]]).transpose(2, 0, 1)
    scales = np.exp(np.stack([scale_x, scale_y], axis=1))[:, None]
    places = np.linspace(-1, 1, SIDE + 1)[:-1] + 1 / SIDE  # pixel centres, the image being [-1, 1] x [-1, 1]
    grid = np.stack(np.meshgrid(places, places), axis=-1)  # x, y
    points = np.einsum("dij,yxj->dyxi", rotation @ sheared * scales, grid)
    points += 2 * np.stack([shift_x, shift_y], axis=1)[:, None, None]
    smooth = _smooth(places)
    points += 2 * ELASTIC * np.einsum("ya,xb,dabi->dyxi", smooth, smooth, rng.standard_normal((DRAWERS, 4, 4, 2)))
    which = np.arange(DRAWERS) % len(faces)
    values = _sampled(faces, which, ((points + 1) / 2 * MASTER - 0.5).astype(np.float32))
    return np.rint(255 * values).astype(np.uint8)


def _smooth(places: np.ndarray) -> np.ndarray:
    """Weights [SIDE, 4] of four places across the image at each pixel."""
    weights = np.exp(-((places[:, None] - np.linspace(-1, 1, 4)) ** 2) / (2 * 0.4**2))
    return weights / np.sqrt((weights**2).sum(1, keepdims=True))


def _sampled(faces: np.ndarray, which: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear values of images at points (x, y) in pixels, [D, SIDE, SIDE]; 0 outside."""
    padded = np.pad(faces, ((0, 0), (1, 2), (1, 2)))
    x, y = (np.clip(points[..., n], -1.0, MASTER) + 1 for n in (0, 1))
    left, top = x.astype(int), y.astype(int)
    right, bottom = x - left, y - top
    face = which[:, None, None]
    return (
        padded[face, top, left] * (1 - right) * (1 - bottom)
        + padded[face, top, left + 1] * right * (1 - bottom)
        + padded[face, top + 1, left] * (1 - right) * bottom
        + padded[face, top + 1, left + 1] * right * bottom
    )


def draw_all(extra: Sequence[Path] = ()) -> np.ndarray:
    """All images, uint8 [characters, DRAWERS, SIDE, SIDE]; in seconds.

    Args:
        extra: further font files.
    """
    from PIL import ImageFont

    try:
        fonts, further = ([ImageFont.truetype(str(path), MASTER) for path in paths] for paths in (font_files(), extra))
    except OSError as error:
        raise UserError(f"a font of {[path.name for path in extra]} cannot be read: {error}") from error
    return np.stack(
        [
            drawings(masters(fonts, character, further), np.random.default_rng(character.code))
            for character in characters()
        ]
    )


def images(extra: str = "") -> np.ndarray:
    """All images [characters, DRAWERS, SIDE, SIDE], from the cache, where they are put if they are not there.

    Args:
        extra: a folder of further fonts (.ttf, .otf).

    Raises:
        UserError: a font cannot be read.
    """
    paths = _extra_fonts(extra)
    path = cache_folder() / f"glyphs-{_key([*font_files(), *paths])}.npy"
    cached = from_cache(path, (len(characters()), DRAWERS, SIDE, SIDE))
    if cached is not None:
        return cached
    drawn = draw_all(paths)
    if not paths and hashlib.sha256(drawn.tobytes()).hexdigest() != KNOWN_HASH:
        say("note: glyphs look a little different here than where the documented results are of (another FreeType)")
    _keep(path, drawn)
    return drawn


def from_cache(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Images uint8 of a file of the cache, mapped into memory; None where it is missing or another."""
    try:
        cached = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return cached if cached.shape == shape and cached.dtype == np.uint8 else None


def _keep(path: Path, drawn: np.ndarray) -> None:
    """Write to the cache, whole or not at all; without one they are drawn again next time."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                np.save(file, drawn)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _extra_fonts(folder: str) -> list[Path]:
    """Raises ConfigError where the folder holds no font."""
    if not folder:
        return []
    found = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in (".ttf", ".otf"))
    if not found:
        raise ConfigError(f"environment.kwargs.fonts is {shown(folder)}; it must be a folder of .ttf or .otf files")
    return found


def _key(fonts: Sequence[Path]) -> str:
    """Of all that the pixels depend on."""
    from PIL import __version__, features

    listed = resources.files("mamlrl.supervised").joinpath("glyphs.txt").read_text()
    sizes = [(path.name, path.stat().st_size) for path in fonts]
    text = f"{VERSION} {features.version('freetype2')} {__version__} {sizes} {listed}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where data sets are kept once they are made: ``$MAMLRL_CACHE``, or ``~/.cache/mamlrl``."""
    named = os.environ.get("MAMLRL_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "mamlrl"


def make_glyphs(
    split: str, ways: int = 5, rotations: bool = True, mirrored: bool = False, fonts: str = ""
) -> ImageTasks:
    """Tasks of a split.

    Args:
        split: "train", "validation" or "test".
        ways: classes of a task.
        rotations: whether quarter turns of characters are characters of their own, in training.
        mirrored: whether mirror images of them are, in training.
        fonts: folder of further fonts, whose faces are added where they have a character.

    Raises:
        UserError: an argument is wrong, or a font cannot be read.
    """
    if not isinstance(fonts, str):
        raise ConfigError(f"environment.kwargs.fonts is {shown(fonts)}; it must be a folder of .ttf or .otf files")
    turns = 4 if flag("rotations", rotations) and split == "train" else 1
    mirrors = flag("mirrored", mirrored) and split == "train"
    classes = [number for number, character in enumerate(characters()) if character.split == split]
    return ImageTasks(images(fonts), np.array(classes), ways, turns, mirrors, split=split)
