"""Checkpoints that are damaged, cut, of wrong types, or no files: never loaded with other values, never a traceback."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mamlrl
from mamlrl import evaluate, record
from mamlrl.errors import UserError
from mamlrl.experiment import initial_state, make_experiment
from mamlrl.learners.base import LearnerState
from mamlrl.run_folder.checkpoints import CheckpointError, config_of, latest_checkpoint, plain, read_checkpoint
from mamlrl.train import main as train

from ..cli.conftest import SMALL, Command, assert_fails, reproducible

LAST, BEFORE = "iteration-000003.pt", "iteration-000002.pt"


class Trained(NamedTuple):
    """A run of three iterations, and what is read back from it."""

    folder: Path
    whole: Path
    """the same run with one iteration more"""
    like: LearnerState
    content: bytes
    """of the last checkpoint"""
    read: dict[str, Any]
    """the same as `comparable` has it"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("trained")
    for iterations, name in ((3, "run"), (4, "whole")):
        assert train([*SMALL, "--iterations", str(iterations), "--out", str(folder / name)]) == 0
    path = folder / "run/checkpoints" / LAST
    content = torch.load(path, weights_only=True)
    experiment = make_experiment(config_of(content, path))
    yield Trained(
        folder / "run", folder / "whole", initial_state(experiment), path.read_bytes(), read(path, experiment)
    )
    experiment.envs.close()


def read(path: Path, like: Any) -> dict[str, Any]:
    """All that a checkpoint says, as plain data."""
    state = like if isinstance(like, LearnerState) else initial_state(like)
    checkpoint = read_checkpoint(path, state)
    return {"progress": plain(checkpoint.progress), "config": checkpoint.config, "rows": checkpoint.written}


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


# Damage to the file


def regions(content: bytes) -> dict[str, tuple[int, int]]:
    """Every region of a ZIP archive, from byte to byte: local headers, data, directory, its end."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    entries = archive.infolist()
    found, ends = {}, [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
    for entry, end in zip(entries, ends, strict=True):
        name_length, extra_length = (
            int.from_bytes(content[entry.header_offset + at :][:2], "little") for at in (26, 28)
        )
        data = entry.header_offset + 30 + name_length + extra_length
        found[f"header of {entry.filename}"] = (entry.header_offset, data)
        found[entry.filename] = (data, data + entry.file_size)
        found[f"after {entry.filename}"] = (data + entry.file_size, end)
    end_record = content.rindex(b"PK\x05\x06")
    return found | {"directory": (archive.start_dir, end_record), "end": (end_record, len(content))}


def damaged(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Flips of one bit in every region, runs of other bytes, bytes that are gone or new, and every kind of cut."""
    rng = random.Random(0)
    for name, (start, end) in regions(content).items():
        places = (
            range(start, end) if end - start <= 8 else [start, end - 1, *(rng.randrange(start, end) for _ in range(6))]
        )
        if name in ("directory", "end"):
            places = range(start, end, 1 if name == "end" else 5)
        for place in places:
            flipped = bytearray(content)
            flipped[place] ^= 1 << rng.randrange(8)
            yield f"bit of byte {place}, in {name}", bytes(flipped)
        if end > start:
            middle = (start + end) // 2
            yield f"cut within {name}", content[:middle]
            yield f"zeros in {name}", content[:middle] + bytes(end - middle) + content[end:]
            yield f"ones in {name}", content[:start] + b"\xff" * (end - start) + content[end:]
            yield f"a byte less in {name}", content[:middle] + content[middle + 1 :]
            yield f"a byte more in {name}", content[:middle] + b"x" + content[middle:]
            yield f"without {name}", content[:start] + content[end:]
    for length in (*range(0, 100, 9), *range(100, len(content), 997)):
        yield f"first {length} bytes", content[:length]
        yield f"last {length} bytes", content[len(content) - length :]
    for size in (512, 4096):  # sectors of a disk
        for start in range(0, len(content), size):
            yield (
                f"sector {start} of zeros",
                content[:start] + bytes(len(content[start : start + size])) + content[start + size :],
            )
    yield "twice", content * 2
    yield "with something after it", content + b"something"


def test_no_damage_is_read_as_other_values(trained: Trained, tmp_path: Path) -> None:
    path, counts = tmp_path / LAST, {"refused": 0, "read": 0}
    for name, content in damaged(trained.content):
        path.write_bytes(content)
        try:
            assert same(read(path, trained.like), trained.read), name
            counts["read"] += 1  # what was damaged does not count: a date, padding
        except CheckpointError as error:
            assert str(path) in str(error) and len(str(error)) < 900, name
            counts["refused"] += 1
    assert sum(counts.values()) >= 600 and counts["refused"] >= 500, counts


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.data())
def test_no_flips_of_bits_are_read_as_other_values(trained: Trained, data: st.DataObject) -> None:
    content = bytearray(trained.content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3), "places"):
        content[place] ^= data.draw(st.integers(1, 255), "flips")
    path = trained.folder.with_name("flipped.pt")
    path.write_bytes(content)
    try:
        assert same(read(path, trained.like), trained.read)
    except CheckpointError as error:
        assert str(path) in str(error)


def test_the_one_before_is_used_in_place_of_a_damaged_one(
    trained: Trained, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [(name, content) for name, content in damaged(trained.content) if name.startswith(("cut", "first"))]
    cases = cases[:: len(cases) // 12]
    for number, (name, content) in enumerate(cases):
        run = f"run-{number}"
        shutil.copytree(trained.folder, run)
        Path(run, "checkpoints", LAST).write_bytes(content)
        outcome = command(f"--resume {run} --iterations 4")
        assert (outcome.code, outcome.err) == (0, ""), name
        kept = Path(run, "checkpoints", f"{LAST}.kept-1")
        assert f"{LAST} is damaged" in outcome.out and "going back to iteration 2" in outcome.out, name
        assert kept.name in outcome.out and kept.read_bytes() == content
        assert reproducible(run) == reproducible(trained.whole), name
    assert len(cases) >= 12


# Content that no run writes

CODE = "import os; os.close(os.open('executed', os.O_CREAT))"
JUNK: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        10**30,
        2**40,
        1.5,
        float("nan"),
        "",
        "x" * 100_000,
        b"\0",
        [],
        [[]],
        {},
        {"a": 1},
        {1: 2},
        (1,),
        set(),
    ),
    *(torch.zeros(0), torch.zeros(3), torch.tensor(1), torch.zeros(2, 2), torch.zeros(1, dtype=torch.complex64)),
    *(torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.int8), torch.eye(2).to_sparse(), torch.float32),
    *(torch.zeros(1, device="meta"), torch.Size([1])),
)


def nodes(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in nested content, from the whole to the leaves."""
    yield at
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in children:
        yield from nodes(child, (*at, key))


def replaced(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    tree = copy.copy(tree)
    tree[at[0]] = replaced(tree[at[0]], at[1:], value)
    return tree


def without(tree: Any, at: tuple[Any, ...]) -> Any:
    tree = copy.copy(tree)
    if len(at) == 1:
        del tree[at[0]]
    else:
        tree[at[0]] = without(tree[at[0]], at[1:])
    return tree


def wrong_contents(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The content of a checkpoint with one thing replaced by each kind of junk, or left out, or added."""
    for at in nodes(content):
        name = ".".join(map(str, at))
        for number, junk in enumerate(JUNK if at[:1] != ("config",) else JUNK[::9]):
            yield f"{name} is {str(junk)[:20]} ({number})", replaced(content, at, junk)
        if at:
            yield f"{name} is left out", without(content, at)
    yield "something more", content | {"more": 3}


def test_content_of_a_wrong_type_is_refused_or_is_what_it_says(trained: Trained, tmp_path: Path) -> None:
    content = torch.load(io.BytesIO(trained.content), weights_only=True)
    path, count = tmp_path / LAST, 0
    for name, wrong in wrong_contents(content):
        count += 1
        torch.save(wrong, path)
        try:
            plain(read(path, trained.like))
        except CheckpointError as error:
            assert str(path) in str(error) and len(str(error)) < 900, name
    assert count >= 900, count


def surface(content: dict[str, Any]) -> list[tuple[str, Any]]:
    """Some of `wrong_contents`, of everything at its top."""
    tops = [(name, wrong) for name, wrong in wrong_contents(content) if "." not in name.split(" is ")[0]]
    return tops[::8]


def assert_one_line(code: int, err: str, name: str) -> None:
    assert code == 0 or (code in (1, 2) and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 900), (
        name,
        err,
    )
    assert code != 0 or err == "", (name, err)


def test_commands_on_content_of_a_wrong_type(
    trained: Trained, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    content = torch.load(io.BytesIO(trained.content), weights_only=True)
    cases = surface(content)
    for number, (name, wrong) in enumerate(cases):
        folder = tmp_path / f"run-{number}"
        shutil.copytree(trained.folder, folder)
        path = folder / "checkpoints" / LAST
        torch.save(wrong, path)
        outcome = command(f"--resume run-{number} --iterations 3")
        assert_one_line(outcome.code, outcome.err, name)
        torch.save(wrong, path)
        flags = ["--tasks", "1", "--rollouts", "1", "--threads", "1", "--steps", "1", "--out", f"results-{number}"]
        assert_one_line(evaluate.main([str(path), *flags]), capsys.readouterr().err, name)
        flags = ["--tasks", "1", "--rollouts", "1", "--steps", "0", "--format", "gif", "--out", f"films-{number}"]
        if number % 8 == 0:
            assert_one_line(record.main([str(path), *flags]), capsys.readouterr().err, name)
        try:
            policy = mamlrl.load(path)
            assert len(repr(policy)) < 900
        except UserError as error:
            assert len(str(error)) < 900, name
    assert len(cases) >= 35, len(cases)


# Settings that do not parse


@pytest.mark.parametrize(
    "config",
    [
        "text", 3, None, {}, {"env": 3}, {"env": "navigation"}, {"unknown": 1}, {"seed": "one"}, {"seed": -1},
        {"env": "no_such_module:X-v0"}, {"learner": "nobody"}, {"policy": []}, {"sampling": {"tasks": 10**30}},
        {1: 2}, {"environment": {"kwargs": {"x": torch.zeros(1)}}}, {"environment": {"horizon": "\x1b[2J" * 1000}},
    ],
)  # fmt: skip
def test_settings_that_do_not_parse(trained: Trained, command: Command, config: Any) -> None:
    shutil.copytree(trained.folder, "run")
    content = torch.load(io.BytesIO(trained.content), weights_only=True)
    path = Path("run/checkpoints", LAST)
    torch.save(content | {"config": config}, path)
    outcome = command("--resume run --iterations 4")
    assert_one_line(outcome.code, outcome.err, str(config)[:50])
    if outcome.code == 0:
        assert LAST in outcome.out and "going back to iteration 2" in outcome.out
        assert reproducible("run") == reproducible(trained.whole)
    else:  # they parse, and are not those of the run
        assert "keeps its settings" in outcome.err


# What is no file of ours


def kinds_of_things(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a folder that holds something":
        path.mkdir()
        (path / "something").touch()
    elif kind == "a link to nothing":
        path.symlink_to("nothing")
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    elif kind == "an endless device":
        path.symlink_to("/dev/zero")
    elif kind == "a terminal":
        path.symlink_to("/dev/null")


KINDS = (
    *("a pipe", "a folder", "a folder that holds something", "a link to nothing", "a link to itself"),
    *("an endless device", "a terminal"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_in_place_of_a_checkpoint(trained: Trained, command: Command, kind: str) -> None:
    shutil.copytree(trained.folder, "run")
    path = Path("run/checkpoints", LAST)
    kinds_of_things(path, kind)
    outcome = command("--resume run --iterations 4")
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert LAST in outcome.out and f"kept as {LAST}.kept-1" in outcome.out
    assert os.path.lexists(f"{path}.kept-1")
    assert reproducible("run") == reproducible(trained.whole)


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_in_place_of_the_best_checkpoint(
    trained: Trained, command: Command, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    shutil.copytree(trained.folder, "run")
    kinds_of_things(Path("run/checkpoints/best.pt"), kind)
    flags = ["--tasks", "1", "--rollouts", "1", "--threads", "1", "--steps", "1", "--out", "results"]
    assert_one_line(evaluate.main(["run", *flags]), capsys.readouterr().err, kind)
    outcome = command("--resume run --iterations 4")
    assert_one_line(outcome.code, outcome.err, kind)
    if outcome.code == 0:
        assert reproducible("run") == reproducible(trained.whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["versions.txt", "error.txt", ".lock", "config.yaml", "checkpoints"])
def test_something_else_in_place_of_another_file(trained: Trained, command: Command, name: str, kind: str) -> None:
    shutil.copytree(trained.folder, "run")
    path = Path("run", name)
    if path.is_dir():
        shutil.rmtree(path)
    path.touch()
    kinds_of_things(path, kind)
    outcome = command("--resume run --iterations 4")
    assert_one_line(outcome.code, outcome.err, kind)


# Code


class Runs:
    """Unpickled, it runs code."""

    def __init__(self, function: Any, *arguments: Any):
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, Any]:
        return self._call


def test_code_in_a_checkpoint_does_not_run(trained: Trained, command: Command, tmp_path: Path) -> None:
    content = torch.load(io.BytesIO(trained.content), weights_only=True)
    shutil.copytree(trained.folder, "run")
    path, count = Path("run/checkpoints", LAST), 0
    runs = [
        Runs(exec, CODE),
        Runs(eval, "open('executed', 'w')"),
        Runs(os.system, "touch executed"),
        Runs(open, "executed", "w"),
    ]
    for at in (at for at in nodes(content) if at[:1] != ("config",) or len(at) < 3):
        for attack in runs:
            count += 1
            for save in (lambda wrong: torch.save(wrong, path), lambda wrong: path.write_bytes(pickle.dumps(wrong))):
                save(replaced(content, at, attack))
                with pytest.raises(CheckpointError):
                    read_checkpoint(path, trained.like)
        checkpoint, passed_over = latest_checkpoint(path.parent, trained.like)
        assert checkpoint is not None and checkpoint.progress.iteration == 2
        assert list(passed_over) == [path]
    assert_fails(command(f"--resume run --iterations 3 --config {path}"), 2, LAST)
    assert command("--resume run --iterations 4").code == 0
    assert not (tmp_path / "executed").exists() and not Path("executed").exists()
    assert count >= 100
