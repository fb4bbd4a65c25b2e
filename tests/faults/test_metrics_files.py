"""A metrics.csv that was changed: said, kept aside, and the run goes on with every row that is as it was written."""

from __future__ import annotations

import csv
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mamlrl.run_folder.metrics_table import ABSENT, Table, Written, checksum, recover
from mamlrl.training import run as training

from ..cli.conftest import SMALL, Command, reproducible
from ..cli.conftest import read_metrics as read_rows
from .test_checkpoints import KINDS, kinds_of_things

EVALUATED = "--checkpoint.keep 10 --eval.every 4 --eval.tasks 2 --eval.rollouts 2 --eval.steps 1"
DONE, ALL = 4, 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of DONE iterations and one of ALL."""
    from mamlrl.train import main

    folder = tmp_path_factory.mktemp("runs")
    for name, iterations in (("begun", DONE), ("whole", ALL)):
        assert main([*SMALL, *EVALUATED.split(), "--iterations", str(iterations), "--out", str(folder / name)]) == 0
    return folder


# Ways to change a table, each with the rows that can still be known


def edited(text: str) -> Iterator[tuple[str, bytes, set[int]]]:
    """Name, content, and the numbers of the rows that are in it as they were written."""
    head, *rows = text.splitlines()
    everything = set(range(1, len(rows) + 1))

    def lines(*some: str, end: str = "\n") -> bytes:
        return "".join(line + end for line in some).encode()

    def table(change: Callable[[list[str]], list[str]]) -> bytes:
        return lines(*(",".join(change(line.split(","))) for line in (head, *rows)))

    yield "empty", b"", set()
    yield "one new line", b"\n", set()
    yield "only the header", lines(head), set()
    yield "half of the header", head[: len(head) // 2].encode(), set()
    yield "no header", lines(*rows), everything
    yield "half of the header, and the rows", lines(head[: len(head) // 2], *rows), everything
    yield "a header of others", lines("a,b,c", *rows), everything
    yield "a name changed", lines(head.replace("env_steps", "steps"), *rows), everything
    yield "a name twice", lines(head.replace("env_steps", "return/step_0"), *rows), everything
    yield "the first name changed", lines(head.replace("iteration", "Iteration"), *rows), everything
    yield "the header at the end", lines(*rows, head), everything
    yield "the header between", lines(rows[0], head, *rows[1:]), everything
    yield "the header twice", lines(head, head, *rows), everything
    yield "a title above", lines("My run", "", head, *rows), everything
    for number in everything:
        others = [row for row in rows if not row.startswith(f"{number},")]
        row = rows[number - 1]
        yield f"row {number} gone", lines(head, *others), everything - {number}
        yield f"row {number} alone", lines(head, row), {number}
        yield f"row {number} twice", lines(head, *rows, row), everything
        yield f"row {number} twice, changed first", lines(head, row.replace(".", ".1", 1), *rows), everything
        yield f"row {number} empty", lines(head, *rows[: number - 1], "", *rows[number:]), everything - {number}
        yield f"row {number} cut", lines(head, *rows[: number - 1], row[:20], *rows[number:]), everything - {number}
        yield (
            f"row {number} of another number",
            lines(head, *others, row.replace(f"{number},", "99,", 1)),
            everything - {number},
        )
        yield f"a return of row {number}", lines(head, *others, row.replace("-", "-1", 1)), everything - {number}
        yield f"text in row {number}", lines(head, *others, f"{number},good{row[3:]}"), everything - {number}
    for number in everything - {len(rows)}:
        yield f"everything after row {number} gone", lines(head, *rows[:number]), set(range(1, number + 1))
        yield f"everything up to row {number} gone", lines(head, *rows[number:]), everything - set(range(1, number + 1))
    yield "every row twice", lines(head, *(row for row in rows for _ in range(2))), everything
    yield "backwards", lines(head, *reversed(rows)), everything
    yield "empty lines", lines(head, "", *(line for row in rows for line in (row, "", ""))), everything
    yield "notes between", lines(head, *(line for row in rows for line in (row, "# fine"))), everything
    yield "a note at the end", lines(head, *rows, "# stopped here, see notebook"), everything
    yield "a sum at the end", lines(head, *rows, "mean,-3.5,,,"), everything
    yield "an endless number", lines(head, *rows, "9" * 5000), everything
    yield "negative numbers", lines(head, *rows, "-1,2,3", "0,1,2", "1.0,2", "٣,1"), everything
    yield "Windows", lines(head, *rows, end="\r\n"), everything
    yield "an old Mac", lines(head, *rows, end="\r"), everything
    yield "a byte order mark", b"\xef\xbb\xbf" + lines(head, *rows), everything
    yield "all quoted", table(lambda cells: [f'"{cell}"' for cell in cells]), everything
    yield "spaces at the ends", lines(*(f"{line}  " for line in (head, *rows))), set()
    yield "commas at the ends", lines(*(f"{line}," for line in (head, *rows))), everything
    yield "tabs for commas", lines(head, *rows).replace(b",", b"\t"), set()
    yield "semicolons for commas", lines(head, *rows).replace(b",", b";"), set()
    yield "decimal commas", lines(head, *rows).replace(b",", b";").replace(b".", b","), set()
    yield "rounded", table(lambda cells: [cell[:6] for cell in cells]), set()
    yield "a column more", table(lambda cells: [*cells, "note" if cells[0] == "iteration" else "fine"]), everything
    yield (
        "a column more, in the middle",
        table(lambda cells: [*cells[:3], "note" if cells[0] == "iteration" else "7", *cells[3:]]),
        everything,
    )
    yield "a column less", table(lambda cells: [*cells[:3], *cells[4:]]), set()
    yield "the first column last", table(lambda cells: [*cells[1:], cells[0]]), set()
    yield "other order of columns", table(lambda cells: [cells[0], *reversed(cells[1:])]), everything
    yield "only two columns", table(lambda cells: cells[:2]), set()
    yield "no line end at the end", lines(head, *rows)[:-1], everything
    yield "the last line cut", lines(head, *rows)[:-9], everything - {len(rows)}
    yield "UTF-16", "\n".join((head, *rows)).encode("utf-16"), set()
    yield "gzip", b"\x1f\x8b\x08\x00" + bytes(range(256)) * 9, set()
    yield "zeros", bytes(5000), set()
    yield "zeros at the end", lines(head, *rows) + bytes(4096), everything
    yield "zeros in the middle", lines(head, rows[0]) + bytes(4096) + b"\n" + lines(*rows[2:]), everything - {2}
    yield "random bytes", random.Random(0).randbytes(3000), set()
    yield "no text", lines(head, *rows[1:]) + b"\xff\xfe" + lines(rows[0]), everything - {1}
    yield "a long line", lines(head, "x" * 300_000, *rows), everything
    yield "many columns", lines("iteration" + ",a" * 10_000, *rows), everything
    yield "an open quote", lines(head, '"', *rows), everything
    yield "a page", b"<!doctype html><html><body>Not found</body></html>", set()
    yield (
        "a conflict of git",
        lines("<<<<<<< HEAD", head, *rows, "=======", head, *rows[:2], ">>>>>>> other"),
        everything,
    )
    yield "two tables", lines(head, *rows, head, *rows), everything


def cases(runs: Path) -> dict[str, tuple[bytes, set[int]]]:
    return {name: (content, left) for name, content, left in edited((runs / "begun/metrics.csv").read_text())}


def numbers(rows: list[dict[str, str]]) -> list[int]:
    return [int(row["iteration"]) for row in rows]


def assert_goes_on(name: str, command: Command, runs: Path, left: set[int], content: bytes | None) -> None:
    """The run in the folder `name` goes on with the rows of DONE iterations that are left, and whatever was there."""
    whole = reproducible(runs / "whole")
    outcome = command(f"--resume {name} --iterations {ALL}")
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    rows = reproducible(name)
    expected = [row for row in whole if int(row["iteration"]) in left or int(row["iteration"]) > DONE]
    assert [{key: value for key, value in row.items() if value} for row in rows] == [
        {key: value for key, value in row.items() if value} for row in expected
    ]
    notes = [line for line in outcome.out.splitlines() if "metrics.csv" in line]
    kept = Path(name, "metrics.csv.kept-1")
    if content is not None:
        assert kept.read_bytes() == content
        assert (
            f"note: {Path(name).absolute()}/metrics.csv is not as this run wrote it, and kept as {kept.name}"
            in notes[0]
        )
    else:
        assert "is gone" in notes[0] and not os.path.lexists(kept)
    assert f"{len(left)} of {DONE} rows are left" in notes[0] and len(notes) == 1
    assert f"iteration {ALL}/{ALL}" in outcome.out


def test_every_change_is_said_and_what_can_be_known_stays(runs: Path, command: Command) -> None:
    table = cases(runs)
    for number, (name, (content, left)) in enumerate(table.items()):
        shutil.copytree(runs / "begun", f"run-{number}")
        Path(f"run-{number}/metrics.csv").write_bytes(content)
        try:
            assert_goes_on(f"run-{number}", command, runs, left, content)
        except BaseException as error:
            error.add_note(name)
            raise
    assert len(table) >= 95, len(table)


def test_a_table_that_is_gone(runs: Path, command: Command) -> None:
    shutil.copytree(runs / "begun", "run")
    Path("run/metrics.csv").unlink()
    assert_goes_on("run", command, runs, set(), None)


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_in_its_place(runs: Path, command: Command, kind: str) -> None:
    shutil.copytree(runs / "begun", "run")
    kinds_of_things(Path("run/metrics.csv"), kind)
    outcome = command(f"--resume run --iterations {ALL}")
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert "kept as metrics.csv.kept-1; 0 of 4 rows are left" in outcome.out
    assert os.path.lexists("run/metrics.csv.kept-1")
    assert reproducible("run") == reproducible(runs / "whole")[DONE:]


@pytest.mark.parametrize("rows", range(DONE + 1))
@pytest.mark.parametrize("cut", [0, 1, 9])
def test_rows_beyond_the_checkpoint_are_no_change(runs: Path, command: Command, rows: int, cut: int) -> None:
    shutil.copytree(runs / "begun", "run")
    for number in range(rows + 1, DONE + 1):
        Path(f"run/checkpoints/iteration-{number:06d}.pt").unlink()
    content = Path("run/metrics.csv").read_bytes()
    Path("run/metrics.csv").write_bytes(content[: len(content) - cut] if rows < DONE else content)
    outcome = command(f"--resume run --iterations {ALL}")
    assert (outcome.code, outcome.err) == (0, "")
    assert "is not as this run wrote it" not in outcome.out
    assert reproducible("run") == reproducible(runs / "whole")


def change_before(iteration: int, path: Path, content: bytes, replaced: bool) -> Callable[..., Any]:
    """A meta-iteration before which an editor changes a file, in place or by another one."""
    meta_iteration = training.meta_iteration

    def changing(experiment: Any, state: Any, number: int) -> Any:
        if number == iteration:
            if replaced:
                path.unlink()
            path.write_bytes(content)
        return meta_iteration(experiment, state, number)

    return changing


def test_a_change_while_the_run_goes_on(runs: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    table = dict(list(cases(runs).items())[::4])
    whole = {row["iteration"]: row for row in reproducible(runs / "whole")}
    for number, (name, (content, in_it)) in enumerate(table.items()):
        shutil.copytree(runs / "begun", f"run-{number}")
        path, replaced = Path(f"run-{number}/metrics.csv"), number % 2 == 0
        left = set(range(1, DONE + 1)) if replaced else in_it  # where it was replaced the run has its own file still
        with monkeypatch.context() as patch:
            patch.setattr(training, "meta_iteration", change_before(DONE, path, content, replaced))
            outcome = command(f"--resume run-{number} --iterations {ALL}")
        assert (outcome.code, outcome.err) == (0, ""), (name, outcome.err)
        assert f"{len(left)} of {DONE} rows are left" in outcome.out, name
        assert path.with_name("metrics.csv.kept-1").read_bytes() == content, name
        assert numbers(read_rows(path.parent)) == [*sorted(left), *range(DONE + 1, ALL + 1)], name
        for row in reproducible(path.parent):
            assert all(value == whole[row["iteration"]].get(key, "") for key, value in row.items()), name
    assert len(table) >= 24


def test_a_table_changed_again_and_again(runs: Path, command: Command) -> None:
    shutil.copytree(runs / "begun", "run")
    path = Path("run/metrics.csv")
    for iterations in range(DONE + 1, ALL + 1):
        head, *rows = path.read_text().splitlines()
        path.write_text("\n".join([head, *rows[1:]]))
        assert command(f"--resume run --iterations {iterations}").code == 0
    assert [path.name for path in sorted(Path("run").glob("metrics.csv.kept-*"))] == [
        "metrics.csv.kept-1",
        "metrics.csv.kept-2",
    ]
    assert reproducible("run") == reproducible(runs / "whole")[2:]


def test_a_row_that_was_lost_may_be_put_back(runs: Path, command: Command) -> None:
    shutil.copytree(runs / "begun", "run")
    path = Path("run/metrics.csv")
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *rows[1:]]) + "\n")
    assert command(f"--resume run --iterations {DONE + 1}").code == 0
    head, *later = path.read_text().splitlines()
    path.write_text("\n".join([head, rows[0], *later]) + "\n")
    assert command(f"--resume run --iterations {ALL}").code == 0
    assert reproducible("run") == reproducible(runs / "whole")


# Any change at all, to any table

CELLS = st.floats(allow_nan=False, width=32).map(str) | st.just("")


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, Written]:
    names = draw(st.lists(st.sampled_from("abcdefg"), unique=True, max_size=4))
    count = draw(st.integers(1, 5))
    rows = [[str(number), *(draw(CELLS) for _ in names)] for number in range(1, count + 1)]
    table = Table(["iteration", *names], rows)
    return table, Written(table.columns, [checksum(table.columns, row) for row in rows])


EDITS = st.lists(
    st.tuples(
        st.integers(0, 300), st.integers(0, 20), st.binary(max_size=6) | st.sampled_from([b"\n", b",", b'"', b"1,"])
    ),
    max_size=3,
)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(tables(), EDITS)
@example((Table(["iteration"], [["1"]]), Written(["iteration"], [checksum(["iteration"], ["1"])])), [(0, 0, b"9" * 6)])
def test_no_edit_gives_rows_that_the_run_did_not_write(
    known: tuple[Table, Written], edits: list[tuple[int, int, bytes]]
) -> None:
    table, written = known
    content = table.encode()
    for place, cut, new in edits:
        content = content[:place] + new + content[place + cut :]
    completed = len(table.rows)
    recovered = recover(content, completed, written)
    own = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    found = [dict(zip(recovered.table.columns, row, strict=False)) for row in recovered.table.rows]
    assert all(any(non_empty(row) == non_empty(other) for other in own) for row in found)
    assert len({row["iteration"] for row in found}) == len(found)
    assert [value != ABSENT for value in recovered.checksums] == [
        row[0] in {one["iteration"] for one in found} for row in table.rows
    ]
    if content == table.encode():
        assert recovered.untouched and found == own
    again = recover(recovered.table.encode(), completed, Written(recovered.table.columns, recovered.checksums))
    assert again.untouched and again.table == recovered.table


def non_empty(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if value}


def test_a_line_of_the_table_is_as_csv_has_it() -> None:
    table = Table(["iteration", 'a "name", quoted'], [["1", "0.5"], ["2"]])
    assert list(csv.reader(io.StringIO(table.encode().decode()))) == [
        ["iteration", 'a "name", quoted'],
        ["1", "0.5"],
        ["2", ""],
    ]
