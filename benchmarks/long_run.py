"""Two thousand iterations of a small configuration: memory, open files, event files and checkpoints stay as they are.

    python benchmarks/long_run.py
    python benchmarks/long_run.py --iterations 200 --learner promp

Exits with 1 where the memory of the process grows by more than a percent after the first fifth of the run, a file stays
open, or files grow by more than the rows that they are there for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mamlrl

MIB = 2**20
FOLDER = Path("runs/long-run")
"""Of the run; one of an earlier time is deleted."""
EVERY = 20
"""Iterations between two looks."""
MOST_GROWTH = 0.01
"""Share by which the memory may grow after the first fifth."""


class Look(NamedTuple):
    """What the process and its run folder hold after an iteration."""

    iteration: int
    memory: float
    """resident, MiB"""
    files: int
    """open"""
    checkpoints: int
    events: int
    """bytes of event files"""


def look(folder: Path, iteration: int) -> Look:
    """At this process, by Linux's /proc."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Look(
        iteration,
        pages * os.sysconf("SC_PAGE_SIZE") / MIB,
        len(os.listdir("/proc/self/fd")),
        len(list((folder / "checkpoints").glob("*.pt"))),
        sum(path.stat().st_size for path in folder.glob("events.out.*")),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train, look, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--learner", default="maml")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args(argv)
    if options.iterations < EVERY:
        parser.error(f"--iterations is {options.iterations}; it must be at least {EVERY}")
    if options.out.exists():
        if options.out != FOLDER:
            parser.error(f"--out {options.out} is there already; it must be a new folder")
        shutil.rmtree(FOLDER)
    looks: list[Look] = []

    def callback(iteration: int, metrics: dict) -> None:
        if iteration % EVERY == 0:
            looks.append(look(options.out, iteration))

    mamlrl.train(
        "navigation",
        learner=options.learner,
        out=options.out,
        iterations=options.iterations,
        threads=1,
        sampling={"tasks": 4, "rollouts": 4},
        environment={"horizon": 20},
        policy={"hidden_sizes": [16, 16]},
        eval={"every": 10, "tasks": 4, "rollouts": 2, "steps": 1},
        callback=callback,
    )
    settled = looks[len(looks) // 5 :]
    for one in [settled[0], *settled[:: max(1, len(settled) // 8)][1:], settled[-1]]:
        print(
            f"iteration {one.iteration:5d}: {one.memory:7.1f} MiB, {one.files} open files, "
            f"{one.checkpoints} checkpoints, events {one.events / one.iteration:.0f} bytes an iteration"
        )
    growth = max(one.memory for one in settled) / settled[0].memory - 1
    per_iteration = [one.events / one.iteration for one in (settled[0], settled[-1])]
    flat = {
        f"memory grew by {growth:.2%}": growth <= MOST_GROWTH,
        f"open files {settled[0].files} -> {settled[-1].files}": settled[-1].files <= settled[0].files,
        f"checkpoints {settled[-1].checkpoints}": settled[-1].checkpoints <= 3,
        "event bytes an iteration {:.0f} -> {:.0f}".format(*per_iteration): per_iteration[1] <= 1.05 * per_iteration[0],
    }
    for what, fine in flat.items():
        print(f"{'ok    ' if fine else 'FAILED'} {what}")
    return 0 if all(flat.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
