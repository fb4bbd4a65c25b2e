"""A run goes on, and is repeated, with the number of threads that it began with, whatever processors there are."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import yaml

from ..cli.conftest import SMALL, Command, reproducible
from .processes import Ended, run

WIDE = (
<<<<<<< HEAD
    "--env navigation --sampling.tasks 8 --sampling.rollouts 20 --environment.horizon 100 --trust_region.cg_iterations 3 "
    "--eval.every 0"
=======
    "--env navigation --sampling.tasks 8 --sampling.rollouts 20 --environment.horizon 100 "
    "--trust_region.cg_iterations 3 --eval.every 0"
>>>>>>> main
)
"""Large enough for torch to share the arithmetic among threads."""
PROCESSORS = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []

pytestmark = pytest.mark.skipif(len(PROCESSORS) < 2, reason="takes two processors, and a way to use one of them only")


def train_on(processors: int, folder: Path, flags: str) -> Ended:
    ended = run(folder, flags, prepare=partial(os.sched_setaffinity, 0, PROCESSORS[:processors]))
    assert (ended.code, ended.err) == (0, "")
    return ended


def threads_of(folder: Path) -> int:
    return yaml.safe_load((folder / "config.yaml").read_text())["threads"]


def test_a_run_on_other_processors_is_the_same_to_the_last_bit_and_says_how_it_is_faster(tmp_path: Path) -> None:
    train_on(2, tmp_path, f"{WIDE} --threads 0 --iterations 2 --out whole")
    train_on(2, tmp_path, f"{WIDE} --iterations 1 --out resumed")
    assert threads_of(tmp_path / "whole") == threads_of(tmp_path / "resumed") == 2
    resumed = train_on(1, tmp_path, "--resume resumed --iterations 2")
    repeated = train_on(1, tmp_path, "--config whole/config.yaml --out repeated")
    for ended in (resumed, repeated):
        assert "note: threads is 2, more than there are processors here; --threads 1 is faster" in ended.out
    train_on(1, tmp_path, f"{WIDE} --iterations 2 --out other")
    whole = reproducible(tmp_path / "whole")
    assert reproducible(tmp_path / "resumed") == reproducible(tmp_path / "repeated") == whole
    assert threads_of(tmp_path / "other") == 1
    assert reproducible(tmp_path / "other") != whole, "the number of threads changes nothing: this test shows nothing"


def test_a_run_on_more_processors_says_that_it_stays_as_it_began(tmp_path: Path) -> None:
    small = " ".join(SMALL).replace("--threads 1", "")
    train_on(1, tmp_path, f"{small} --iterations 1 --out run")
    ended = train_on(2, tmp_path, "--resume run --iterations 2")
    assert "note: threads stays 1, as the run began; --threads 2 takes all processors here" in ended.out
    for flags, note in (
        ("--threads 0", "threads was 1 and is now 2"),
        ("--threads 2", ""),
        ("--threads 1", "was 2 and is now 1"),
    ):
        ended = train_on(2, tmp_path, f"--resume run --iterations 3 {flags}")
        assert note in ended.out and ended.out.count("note: threads") == bool(note)


@pytest.mark.parametrize("threads", [0, 1, 2, 3])
def test_the_config_holds_the_number_that_was_used(small_run: Command, threads: int) -> None:
    small_run(f"--iterations 1 --out run --threads {threads}")
    assert threads_of(Path("run")) == (threads or len(os.sched_getaffinity(0)))
