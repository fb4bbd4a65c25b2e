from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mamlrl.train import main

TINY = (
    "--env navigation --sampling.tasks 4 --sampling.rollouts 3 --environment.horizon 8 --policy.hidden_sizes [8] "
    "--threads 1 --eval.every 0"
).split()
"""A run whose iterations take milliseconds, with any learner and outer step."""
SMALL = [*TINY, "--trust_region.cg_iterations", "3"]
"""One with a trust region, whose first steps are accepted."""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def runner(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command's `main`; takes flags, in strings that are split at spaces."""

    def run(*flags: str) -> Outcome:
        code = main([word for flag in flags for word in flag.split()])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return runner(main, capsys)


@pytest.fixture
def small_run(command: Command) -> Command:
    """`command` with the settings of SMALL first."""
    return lambda *flags: command(*SMALL, *flags)


@pytest.fixture
def tiny_run(command: Command) -> Command:
    """`command` with the settings of TINY first."""
    return lambda *flags: command(*TINY, *flags)


def read_metrics(folder: Path | str) -> list[dict[str, str]]:
    with (Path(folder) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def reproducible(folder: Path | str) -> list[dict[str, str]]:
    """Metrics without the seconds that things took."""
    rows = read_metrics(folder)
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def assert_fails(outcome: Outcome, code: int, *words: str) -> None:
    """One line on stderr that holds the words, and the exit code."""
    assert outcome.code == code, outcome
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1, outcome.err
    for word in words:
        assert word in outcome.err
