"""Trainings read back from their folders, finished or not: settings and metrics."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mamlrl.config import Config
from mamlrl.config.files import CONFIG_FILE, load_settings, make_config
from mamlrl.errors import ConfigError, UserError
from mamlrl.learner_settings import completed
from mamlrl.messages import say
from mamlrl.run_folder.folder import METRICS_FILE


class NoRowsError(UserError):
    """A run has not finished an iteration."""


class Run(NamedTuple):
    """One training: its settings, and its metrics by name."""

    path: Path
    """the run folder"""
    config: Config
    metrics: dict[str, np.ndarray]
    """columns of metrics.csv [T], NaN where nothing was measured"""


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs in run folders and in folders of runs; what is named twice counts once.

    A run without a row yet is left out with a note, unless it was named itself.

    Raises:
        UserError: a path holds no run with a row, or a run cannot be read.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        found = 0
        for folder in run_folders(path):
            try:
                runs.setdefault(folder.resolve(), read_run(folder))
                found += 1
            except NoRowsError as error:
                if folder == path:
                    raise
                say(f"note: {error}; it is left out")
        if not found:
            raise UserError(f"{path}: no run there has done an iteration yet")
    return list(runs.values())


def run_folders(path: Path) -> list[Path]:
    """A run folder, or all below a folder.

    Raises:
        ConfigError: there is none.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such folder")
    if not path.is_dir():
        raise ConfigError(f"{path}: is a file; it must be a run folder, or a folder of runs")
    found = [file.parent for file in sorted(path.rglob(METRICS_FILE)) if (file.parent / CONFIG_FILE).is_file()]
    if not found:
        raise ConfigError(f"{path}: no run is there; a run folder holds {CONFIG_FILE} and {METRICS_FILE}")
    return found


def read_run(folder: Path) -> Run:
    """Settings and metrics of a run, finished or not.

    Raises:
        UserError: the settings are not of this version, or the metrics cannot be read.
    """
    return Run(folder, completed(make_config(load_settings(folder / CONFIG_FILE))), read_metrics(folder / METRICS_FILE))


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """Columns of a metrics.csv, NaN where a cell is empty; a last line that is still being written is left out.

    Raises:
        UserError: it is no such table.
        NoRowsError: it has no row yet.
    """
    if not path.is_file():
        raise UserError(f"{path}: not a file")
    try:
        text = path.read_text()
        whole_lines = text.rpartition("\n")[0]
        head, *rows = list(csv.reader(whole_lines.splitlines())) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a table of metrics ({error})") from error
    if not text:
        raise NoRowsError(f"{path}: no iteration is done yet")
    if "iteration" not in head or len(set(head)) < len(head):
        raise UserError(f"{path}: not a table of metrics; its first line must name iteration, and every column once")
    if not rows:
        raise NoRowsError(f"{path}: no iteration is done yet")
    columns = {name: [] for name in head}
    for line, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise UserError(f"{path}, line {line}: {len(row)} cells; it must be {len(head)}, as in the first line")
        for name, cell in zip(head, row, strict=True):
            columns[name].append(_number(cell, f"{path}, line {line}: {name}"))
    metrics = {name: np.array(values) for name, values in columns.items()}
    iterations = metrics["iteration"]
    if not (np.isfinite(iterations).all() and (np.diff(iterations) > 0).all()):
        raise UserError(f"{path}: iterations are not in order; the table was edited, or two trainings wrote it")
    return metrics


def _number(cell: str, where: str) -> float:
    try:
        return float(cell or "nan")
    except ValueError as error:
        raise UserError(f"{where} is {cell[:40]!r}; it must be a number") from error
