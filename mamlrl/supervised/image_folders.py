"""Omniglot and mini-ImageNet from a local folder in the layout in which they are distributed. Nothing is downloaded.

Images are decoded once into a file of the cache, which is mapped into memory from then on.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mamlrl.config.schema import require
from mamlrl.errors import ConfigError, UserError, cut, described, shown
from mamlrl.supervised.glyphs import cache_folder, from_cache
from mamlrl.supervised.images import ImageTasks, flag

OMNIGLOT = "images_background/ALPHABET/CHARACTER/*.png and images_evaluation/ALPHABET/CHARACTER/*.png"
MINI_IMAGENET = "images/*.jpg with train.csv, val.csv and test.csv (filename,label), or train, val and test/CLASS/*.jpg"
SUFFIXES = (".png", ".jpg", ".jpeg")
VERSION = 1
"""Of the decoding: another one is another file of the cache."""
Classes = Mapping[str, Sequence[Path]]
"""Files of images by class."""


def make_omniglot(
    split: str,
    folder: str = "data/omniglot",
    ways: int = 5,
    rotations: bool = True,
    train_characters: int = 1100,
    validation_characters: int = 100,
) -> ImageTasks:
    """Characters of Omniglot (Lake et al. 2015), 28 x 28, ink 1 on paper 0.

    As in the code of the MAML paper characters are split irrespective of the alphabet, after a shuffle that is always
    the same: 1100 for training, 100 for validation, the rest (423) for test.

    Args:
        split: "train", "validation" or "test".
        folder: holds images_background and images_evaluation.
        ways: classes of a task.
        rotations: whether quarter turns of characters are characters of their own.
        train_characters: how many are for training.
        validation_characters: how many are for validation.

    Raises:
        UserError: the folder has another layout, or an image cannot be read.
    """
    root = _folder(folder, "Omniglot", OMNIGLOT)
    classes = {}
    for half in ("images_background", "images_evaluation"):
        characters = sorted(path for path in root.glob(f"{half}/*/*") if path.is_dir())
        if not characters:
            raise _layout(folder, "Omniglot", OMNIGLOT)
        for character in characters:
            classes[f"{half}/{character.parent.name}/{character.name}"] = _files(character)
    names = list(classes)
    for name, value in (("train_characters", train_characters), ("validation_characters", validation_characters)):
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        require(is_count, f"environment.kwargs.{name}", value, "a positive integer")
    held = train_characters + validation_characters
    if held >= len(names):
        raise ConfigError(
            f"environment.kwargs.train_characters {train_characters} and validation_characters {validation_characters} "
            f"leave none of {len(names)} characters for test"
        )
    order = np.random.default_rng(1).permutation(len(names))
    parts = {"train": order[:train_characters], "validation": order[train_characters:held], "test": order[held:]}
    images = decoded("omniglot", classes, (28, 28))
    return ImageTasks(images, parts[split], ways, 4 if flag("rotations", rotations) else 1, dark_ink=True, split=split)


def make_mini_imagenet(split: str, folder: str = "data/mini-imagenet", ways: int = 5) -> ImageTasks:
    """Mini-ImageNet in the split of Ravi and Larochelle (2017): 64, 16 and 20 classes, 84 x 84, three channels.

    Args:
        split: "train", "validation" or "test".
        folder: see MINI_IMAGENET.
        ways: classes of a task.

    Raises:
        UserError: the folder has another layout, or an image cannot be read.
    """
    root, part = _folder(folder, "mini-ImageNet", MINI_IMAGENET), {"validation": "val"}.get(split, split)
    if (root / part).is_dir():
        classes = {path.name: _files(path) for path in sorted((root / part).iterdir()) if path.is_dir()}
    elif (root / f"{part}.csv").is_file():
        classes = _listed(root / f"{part}.csv", root / "images")
    else:
        classes = {}
    if not classes:
        raise _layout(folder, "mini-ImageNet", MINI_IMAGENET)
    images = decoded(f"mini-imagenet-{part}", classes, (84, 84, 3))
    return ImageTasks(images, np.arange(len(classes)), ways, split=split)


def decoded(name: str, classes: Classes, shape: tuple[int, ...]) -> np.ndarray:
    """Images uint8 [C, N, *shape] of all classes, N being the smallest number that a class has; from the cache.

    Args:
        name: of the file in the cache.
        classes: files of images by class.
        shape: (height, width) for one channel, (height, width, 3) for three.

    Raises:
        UserError: an image cannot be read, or a class has none.
    """
    count = min(len(files) for files in classes.values())
    if not count:
        empty = next(name for name, files in classes.items() if not files)
        raise UserError(f"class {cut(empty)} has no images ({', '.join(SUFFIXES)})")
    files = [file for of_class in classes.values() for file in of_class[:count]]
    listed = [(str(file.resolve()), file.stat().st_size) for file in files]
    key = hashlib.sha256(f"{VERSION} {shape} {listed}".encode()).hexdigest()[:16]
    path = cache_folder() / f"{name}-{key}.npy"
    images: Any = from_cache(path, (len(files), *shape))
    if images is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            array = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(files), *shape))
            for number, file in enumerate(files):
                array[number] = _pixels(file, shape)
            array.flush()
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        images = np.load(path, mmap_mode="r")
    return images.reshape(len(classes), count, *shape)


def _pixels(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An image, resized; raises UserError where it cannot be read."""
    from PIL import Image  # takes a while

    try:
        with Image.open(file) as image:
            whole = image.convert("L" if len(shape) == 2 else "RGB")
            return np.asarray(whole.resize((shape[1], shape[0]), Image.Resampling.LANCZOS))
    except Exception as error:  # whatever a damaged file leads to
        raise UserError(f"image {cut(str(file))} cannot be read: {described(error)}") from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _listed(table: Path, images: Path) -> dict[str, list[Path]]:
    """Images by label of a table with the columns filename and label; raises UserError where one is not there."""
    classes: dict[str, list[Path]] = {}
    try:
        with table.open(newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                if not row["label"] or not row["filename"]:
                    raise UserError(f"{cut(str(table))}: row {number} lacks a filename or a label")
                classes.setdefault(row["label"], []).append(images / row["filename"])
    except (KeyError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{cut(str(table))}: not a table with the columns filename and label") from error
    for path in (path for files in classes.values() for path in files):
        if not path.is_file():
            raise UserError(f"{cut(str(table))} names {cut(path.name)}, which is not in {cut(str(images))}")
    return classes


def _folder(folder: object, name: str, layout: str) -> Path:
    if not isinstance(folder, str) or not folder:
        raise ConfigError(f"environment.kwargs.folder is {shown(folder)}; it must be the folder of {name}")
    if not Path(folder).is_dir():
        raise ConfigError(
            f"environment.kwargs.folder is {shown(folder)}, which is not there; put {name} there, {layout}, or name "
            "another folder"
        )
    return Path(folder)


def _layout(folder: str, name: str, layout: str) -> ConfigError:
    return ConfigError(f"environment.kwargs.folder is {shown(folder)}, which has another layout than {name}: {layout}")
