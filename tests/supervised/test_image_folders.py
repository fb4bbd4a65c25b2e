"""Omniglot and mini-ImageNet from small folders of the layouts in which they are distributed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mamlrl
from mamlrl.config.files import make_config, shipped_settings
from mamlrl.errors import ConfigError, UserError
from mamlrl.evaluation.protocols import paper_settings
from mamlrl.supervised.glyphs import cache_folder
from mamlrl.supervised.image_folders import make_mini_imagenet, make_omniglot


def picture(path: Path, size: int, colour: int | tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", (size, size), colour).save(path)


@pytest.fixture
def omniglot(tmp_path: Path) -> str:
    """Two alphabets in each half, three characters in each, four drawers; the grey is that of the character."""
    number = 0
    for half in ("images_background", "images_evaluation"):
        for alphabet in (f"{half}-A", f"{half}-B"):
            for character in range(3):
                for drawer in range(4):
                    picture(tmp_path / half / alphabet / f"character{character:02}" / f"{drawer}.png", 105, 10 * number)
                number += 1
    return str(tmp_path)


def mini_imagenet_folders(root: Path) -> None:
    for part, classes in (("train", 3), ("val", 2), ("test", 2)):
        for label in range(classes):
            for image in range(5 + label):
                picture(root / part / f"n{label}" / f"{image}.jpg", 90, (40 * label, 100, 250))


def mini_imagenet_tables(root: Path) -> None:
    for part in ("train", "val", "test"):
        rows = []
        for label in range(2):
            for image in range(3):
                name = f"{part}{label}{image}.jpg"
                picture(root / "images" / name, 84, (40 * label, 100, 250))
                rows.append(f"{name},n{label}")
        (root / f"{part}.csv").write_text("\n".join(["filename,label", *rows]) + "\n")


def test_omniglot_is_split_irrespective_of_alphabets_and_ink_is_one(omniglot: str) -> None:
    splits = {
        split: make_omniglot(split, omniglot, 2, train_characters=6, validation_characters=2)
        for split in ("train", "validation", "test")
    }
    classes = [set(tasks.classes) for tasks in splits.values()]
    assert [len(one) for one in classes] == [6, 2, 4] and set.union(*classes) == set(range(12))
    train = splits["train"]
    assert train.rotations == 4 and train.most_examples == 4 and train.input_space.shape == (784,)
    support, _ = train.draw(np.array([[0.0, 4.0]]), 1, 1, np.random.default_rng(0))
    for way in range(2):
        np.testing.assert_allclose(support.inputs[0, way], 1 - 10 * train.classes[way] / 255, atol=1e-6)


@pytest.mark.parametrize("make", [mini_imagenet_folders, mini_imagenet_tables])
def test_mini_imagenet_is_read_in_both_layouts(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    tasks = make_mini_imagenet("validation", str(tmp_path), 2)
    assert tasks.most_examples == (5 if make is mini_imagenet_folders else 3)  # the fewest that a class has
    assert tasks.input_space.shape == (3 * 84 * 84,) and tasks.rotations == 1
    support, _ = tasks.draw(np.array([[1.0, 0.0]]), 1, 1, np.random.default_rng(0))
    channels = support.inputs.reshape(2, 3, 84 * 84).mean(-1)
    np.testing.assert_allclose(channels, np.array([[40, 100, 250], [0, 100, 250]]) / 255, atol=0.02)


def test_images_are_decoded_once(omniglot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_omniglot("train", omniglot, 2, True, 6, 2).images
    assert any(path.name.startswith("omniglot-") for path in cache_folder().iterdir())
    monkeypatch.setattr("mamlrl.supervised.image_folders._pixels", None)
    again = make_omniglot("test", omniglot, 2, True, 6, 2).images
    assert isinstance(again, np.memmap) and np.array_equal(first, again)


def test_what_is_wrong_with_a_folder_is_named(omniglot: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"folder is 'nowhere', which is not there; put Omniglot there, images_back"):
        make_omniglot("train", "nowhere")
    with pytest.raises(ConfigError, match="another layout than mini-ImageNet: images"):
        make_mini_imagenet("train", omniglot)
    with pytest.raises(ConfigError, match="leave none of 12 characters for test"):
        make_omniglot("train", omniglot)
    (tmp_path / "half" / "images_background" / "A" / "character01").mkdir(parents=True)
    with pytest.raises(ConfigError, match="another layout than Omniglot: images_background"):
        make_omniglot("train", str(tmp_path / "half"))
    bad = tmp_path / "images_background" / "images_background-A" / "character00" / "0.png"
    bad.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"image .*character00/0\.png cannot be read"):
        make_omniglot("train", omniglot, 2, True, 6, 2)
    for file in bad.parent.iterdir():
        file.unlink()
    with pytest.raises(UserError, match="class images_background/images_background-A/character00 has no images"):
        make_omniglot("train", omniglot, 2, True, 6, 2)


def test_an_image_of_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    mini_imagenet_tables(tmp_path)
    (tmp_path / "images" / "test11.jpg").unlink()
    with pytest.raises(UserError, match=r"test\.csv names test11\.jpg, which is not in"):
        make_mini_imagenet("test", str(tmp_path), 2)
    (tmp_path / "train.csv").write_text("filename,label\ntrain00.jpg,n0\ntrain01.jpg\n")
    with pytest.raises(UserError, match=r"train\.csv: row 3 lacks a filename or a label"):
        make_mini_imagenet("train", str(tmp_path), 2)
    (tmp_path / "val.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"val\.csv: not a table with the columns filename and label"):
        make_mini_imagenet("validation", str(tmp_path), 2)


def test_a_truncated_cache_is_decoded_again(omniglot: str) -> None:
    whole = np.array(make_omniglot("train", omniglot, 2, True, 6, 2).images)
    file = max(cache_folder().glob("omniglot-*.npy"), key=lambda path: path.stat().st_mtime)
    file.write_bytes(file.read_bytes()[:200])
    np.testing.assert_array_equal(make_omniglot("train", omniglot, 2, True, 6, 2).images, whole)


@pytest.mark.parametrize("name", ["omniglot", "mini-imagenet"])
def test_images_of_a_folder_are_learned_and_evaluated(
    tmp_path: Path, omniglot: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini_imagenet_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    characters = {"train_characters": 6, "validation_characters": 2} if name == "omniglot" else {}
    run = mamlrl.train(
        name,
        iterations=1,
        threads=1,
        environment={"kwargs": {"folder": omniglot, "ways": 2, **characters}},
        policy={"hidden_sizes": [2, 2]},
        sampling={"tasks": 2},
        data={"queries": 1, "updates": 2},
        eval={"every": 1, "tasks": 2, "queries": 1, "steps": 1},
    )
    assert 0 <= run.metrics[-1]["eval/accuracy/step_1"] <= 100
    table = mamlrl.evaluate(run.folder, tasks=3, queries=2, steps=1, threads=1)
    assert {row["quantity"] for row in table.summary} >= {"accuracy", "loss"}


@pytest.mark.parametrize(("name", "step", "published"), [("omniglot", 3, 98.7), ("mini-imagenet", 10, 48.7)])
def test_published_accuracies_stand_beside_whatever_the_folder_is(name: str, step: int, published: float) -> None:
    settings = shipped_settings(name)
    settings["environment"]["kwargs"]["folder"] = "elsewhere"
    changes, _, means = paper_settings(make_config(settings))
    assert means["maml"][step] == published and changes["steps"] == step
    settings["environment"]["kwargs"]["ways"] = 20
    with pytest.raises(ConfigError, match=r"kwargs\.ways is 20, in the paper 5"):
        paper_settings(make_config(settings))
