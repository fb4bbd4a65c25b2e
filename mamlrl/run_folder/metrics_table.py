"""The text of metrics.csv, and which of its rows are as the run wrote them."""

from __future__ import annotations

import codecs
import csv
import io
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

NUMBER = "iteration"
"""The first column."""
ABSENT = -1
"""Checksum of a row that is known not to be there."""


class Table(NamedTuple):
    """Columns and rows; a row may have fewer cells than there are columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def encode(self) -> bytes:
        """The table as CSV."""
        width = len(self.columns)
        padded = ([*row, *[""] * (width - len(row))] for row in self.rows)
        return b"".join(encode_row(row) for row in (self.columns, *padded)) if width else b""


class Written(NamedTuple):
    """What is known of the rows that a run wrote: by it they are found again in a table that somebody changed."""

    columns: Sequence[str] = ()
    """none where they are not known"""
    checksums: Sequence[int] = ()
    """a row each, ABSENT for those that are lost; of the first rows only, where not all are known"""


class Recovered(NamedTuple):
    """What a file still holds of the rows that a run wrote."""

    table: Table
    checksums: list[int]
    """a row each, ABSENT for those that are lost"""
    untouched: bool
    """the file is what the run wrote, but perhaps for rows of later iterations, the last of them cut short"""


def encode_row(cells: Iterable[str]) -> bytes:
    """A line of CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode()


def checksum(columns: Sequence[str], row: Sequence[str]) -> int:
    """Checksum of the cells that are not empty, with their names: a column that is added later does not change it."""
    pairs = zip(columns, row, strict=False)
    return zlib.crc32("\n".join(f"{name}={value}" for name, value in pairs if value).encode())


def recover(content: bytes, completed: int, written: Written) -> Recovered:
    """The rows of iterations 1 to `completed`, each once and in order, as far as they are as the run wrote them.

    Args:
        content: of the file.
        completed: iterations whose rows should be there.
        written: what is known of these rows; one without a checksum is taken if its cells are numbers.
    """
    lines = [_decode(line) for line in content.removeprefix(codecs.BOM_UTF8).splitlines()]
    head = lines[0] if lines and _is_head(lines[0]) else []
    columns = list(written.columns) or head
    places = [head.index(name) for name in columns] if set(columns) <= set(head) else range(len(columns))
    width, checksums = len(head) or len(columns), written.checksums
    rows: dict[int, list[str]] = {}
    for cells in lines:
        row = [cells[place] if place < len(cells) else "" for place in places]
        number = _number(row)
        known = checksums[number - 1] if 0 < number <= len(checksums) else ABSENT
        unknown_but_whole = known == ABSENT and len(cells) == width and _is_numbers(row)
        if 0 < number <= completed and (unknown_but_whole or known == checksum(columns, row)):
            rows.setdefault(number, row)
    numbers = range(1, completed + 1)
    found = [rows[number] for number in numbers if number in rows]
    new_checksums = [checksum(columns, rows[number]) if number in rows else ABSENT for number in numbers]
    lost = [number for number in numbers if number not in rows and checksums[number - 1 : number] != [ABSENT]]
    later_columns = head if head[: len(columns)] == columns else columns  # of later iterations, which are cut off
    untouched = not lost and _begins_with(content, Table(later_columns, found), completed)
    table = Table(later_columns if untouched else columns, found) if found else Table([], [])
    return Recovered(table, new_checksums, untouched)


def _is_head(cells: Sequence[str]) -> bool:
    return cells[:1] == [NUMBER] and len(set(cells)) == len(cells) and all(cells)


def _begins_with(content: bytes, table: Table, completed: int) -> bool:
    """Whether a file holds the table and after it nothing but rows of later iterations, the last perhaps cut short."""
    start = table.encode()
    if not content.startswith(start) or not start:
        return not content and not table.rows
    *lines, last = content[len(start) :].split(b"\n")
    later = [_number(_decode(line)) for line in lines]
    cut = f"{completed + len(later) + 1},".encode()
    return later == list(range(completed + 1, completed + len(later) + 1)) and last[: len(cut)] == cut[: len(last)]


def _decode(line: bytes) -> list[str]:
    """The cells of a line; none where it is no CSV."""
    try:
        return next(csv.reader([line.decode()]), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def _number(row: Sequence[str]) -> int:
    """The iteration of a row; 0 where it is no row of such a table."""
    return int(row[0]) if row and row[0].isdecimal() and len(row[0]) < 19 else 0


def _is_numbers(row: Sequence[str]) -> bool:
    try:
        return all(cell == "" or isinstance(float(cell), float) for cell in row)
    except ValueError:
        return False
