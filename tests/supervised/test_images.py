"""n-way k-shot tasks of images, and the glyphs."""

from __future__ import annotations

import hashlib
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import features

from mamlrl.config.files import make_config, merge, shipped_settings
from mamlrl.errors import ConfigError, UserError
from mamlrl.evaluation.examples import nearest_neighbour
from mamlrl.experiment import make_supervised
from mamlrl.seeding import Streams
from mamlrl.supervised import glyphs
from mamlrl.supervised.images import ImageTasks

CLASSES, IMAGES, SIDE = 6, 5, 4


def numbered() -> np.ndarray:
    """Images whose first pixel is the class and whose second one is the image."""
    images = np.zeros((CLASSES, IMAGES, SIDE, SIDE), np.uint8)
    images[:, :, 0, 0] = np.arange(CLASSES)[:, None]
    images[:, :, 0, 1] = np.arange(IMAGES)
    return images


def told(inputs: np.ndarray) -> np.ndarray:
    """Class and image of inputs [..., O]."""
    return np.rint(255 * inputs[..., :2]).astype(int)


def test_a_task_has_different_classes_and_no_image_twice() -> None:
    rng, tasks = np.random.default_rng(0), ImageTasks(numbered(), np.array([1, 3, 4, 5]), 3)
    numbers = tasks.sample_tasks(50, rng)
    support, query = tasks.draw(numbers, 2, 3, rng)
    assert support.inputs.shape == (50, 6, 16) and query.inputs.shape == (50, 9, 16)
    for task in range(50):
        assert len(set(numbers[task])) == 3
        seen = np.concatenate([told(support.inputs[task]), told(query.inputs[task])])
        assert len({tuple(row) for row in seen}) == 15  # every image once
        targets = np.concatenate([support.targets[task], query.targets[task]])
        classes = {target: set(seen[targets == target, 0]) for target in range(3)}
        assert [classes[target] for target in range(3)] == [{(1, 3, 4, 5)[int(number)]} for number in numbers[task]]
    used = {int(number) for number in numbers.ravel()}
    assert used == {0, 1, 2, 3} and set(told(support.inputs)[..., 0].ravel()) == {1, 3, 4, 5}


def test_a_quarter_turn_is_a_class_of_its_own_and_turns_all_its_images() -> None:
    rng, tasks = np.random.default_rng(0), ImageTasks(numbered(), np.arange(CLASSES), 2, rotations=4)
    assert tasks.sample_tasks(400, rng).max() == 4 * CLASSES - 1
    support, _ = tasks.draw(np.array([[4 * 5 + 1, 4 * 5]]), 1, 1, rng)
    turned, plain = (np.rint(255 * image.reshape(SIDE, SIDE)).astype(int) for image in support.inputs[0])
    assert plain[0, 0] == 5 and turned[-1, 0] == 5  # counter-clockwise: the first row becomes the first column
    assert list(support.targets[0]) == [0, 1]


def test_a_mirror_image_is_a_class_of_its_own_and_turns_too() -> None:
    rng = np.random.default_rng(0)
    tasks = ImageTasks(numbered(), np.arange(CLASSES), 2, rotations=4, mirrored=True)
    assert tasks.sample_tasks(400, rng).max() == 8 * CLASSES - 1
    support, _ = tasks.draw(np.array([[8 * 5 + 4, 8 * 5 + 5]]), 1, 1, rng)
    mirrored, turned = (np.rint(255 * image.reshape(SIDE, SIDE)).astype(int) for image in support.inputs[0])
    assert mirrored[0, -1] == 5 and turned[0, 0] == 5  # the last of the first row is turned to be the first
    alone = ImageTasks(numbered(), np.arange(CLASSES), 2, mirrored=True)
    assert alone.views == 2 and alone.draw(np.array([[1.0, 0.0]]), 1, 1, rng)[0].inputs.shape == (1, 2, SIDE * SIDE)


def test_colours_come_first() -> None:
    images = np.zeros((2, 3, SIDE, SIDE, 3), np.uint8)
    images[..., 2] = 255
    tasks = ImageTasks(images, np.arange(2), 2)
    support, _ = tasks.draw(tasks.sample_tasks(1, np.random.default_rng(0)), 1, 1, np.random.default_rng(0))
    assert tasks.input_space.shape == (48,)
    np.testing.assert_array_equal(support.inputs[0, 0], [0.0] * 32 + [1.0] * 16)


@pytest.mark.parametrize("ways", [0, 1, 7, 2.0, True, "5"])
def test_ways_that_are_none_are_named(ways: object) -> None:
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.ways is "):
        ImageTasks(numbered(), np.arange(CLASSES), ways)  # type: ignore[arg-type]


def test_more_images_than_a_class_has_are_refused() -> None:
    tasks = ImageTasks(numbered(), np.arange(CLASSES), 2)
    with pytest.raises(ValueError, match="6 images of a class are asked for; there are 5"):
        tasks.draw(tasks.sample_tasks(1, np.random.default_rng(0)), 3, 3, np.random.default_rng(0))


def test_glyphs_are_split_by_script_and_have_the_pixels_that_results_are_of() -> None:
    """With another FreeType they differ a little, and a note says so."""
    listed = glyphs.characters()
    scripts = {split: {script(row.code) for row in listed if row.split == split} for split in glyphs.SPLITS}
    assert {"GEORGIAN", "ARMENIAN", "HEBREW", "NKO", "LAO"} == scripts["test"]
    assert not scripts["test"] & scripts["train"] and not scripts["validation"] & scripts["train"]
    assert [sum(row.split == split for row in listed) for split in glyphs.SPLITS] == [837, 123, 272]
    assert len({row.code for row in listed}) == len(listed) and all(len(row.faces) >= 2 for row in listed)
    drawn = glyphs.images()
    assert drawn.shape == (1232, 20, 28, 28) and (drawn.max((2, 3)) > 0).all()
    if features.version("freetype2") == glyphs.KNOWN_FREETYPE:
        assert hashlib.sha256(np.ascontiguousarray(drawn).tobytes()).hexdigest() == glyphs.KNOWN_HASH


def script(code: int) -> str:
    return unicodedata.name(chr(code)).split()[0]


def test_drawings_are_kept_and_a_damaged_file_is_drawn_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = np.array(glyphs.images())
    (path,) = glyphs.cache_folder().glob("glyphs-*.npy")
    monkeypatch.setenv("MAMLRL_CACHE", str(tmp_path))
    shutil.copy(path, tmp_path)
    monkeypatch.setattr(glyphs, "draw_all", lambda extra: first)
    np.testing.assert_array_equal(glyphs.images(), first)
    (tmp_path / path.name).write_bytes(b"x")
    np.testing.assert_array_equal(glyphs.images(), first)
    assert np.load(tmp_path / path.name, mmap_mode="r").shape == first.shape


def test_fonts_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.fonts is .*folder of \.ttf or \.otf"):
        glyphs.make_glyphs("train", fonts=str(tmp_path))
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    with pytest.raises(UserError, match=r"bad\.ttf"):
        glyphs.make_glyphs("train", fonts=str(tmp_path))


def test_a_font_has_what_it_draws_otherwise_than_what_it_has_not() -> None:
    from PIL import ImageFont

    font = ImageFont.truetype(str(glyphs.font_files()[12]), 56)  # STIXGeneral, which has no Georgian
    assert glyphs.has(font, ord("A")) and not glyphs.has(font, 0x10D0) and not glyphs.has(font, ord(" "))


def test_glyphs_are_as_hard_as_they_are_said_to_be_without_learning() -> None:
    """Nearest neighbour by the cosine of pixels, 5-way 1-shot, test scripts: 41 %."""
    config = make_config(merge(shipped_settings("glyphs"), {"eval": {"tasks": 400, "queries": 5}}))
    experiment, streams = make_supervised(config, "test"), Streams(1).test()
    tasks = experiment.tasks.sample_tasks(400, np.random.default_rng(0))
    found = nearest_neighbour(experiment, tasks, streams)["accuracy"]
    assert found.shape == (1, 400) and found.mean() == pytest.approx(41, abs=3)
