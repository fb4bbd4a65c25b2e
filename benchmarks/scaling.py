"""Seconds and memory of a meta-iteration against its size, and against ranks and threads.

    python benchmarks/scaling.py --out runs/scaling
    python benchmarks/scaling.py --axes ranks --workload W1 --ranks 1x1,2x1,1x2

Every point is a process of its own, or as many as it has ranks. Those of an axis are measured in turn, several times
over, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mamlrl.config import AdaptationConfig, Config, EnvironmentConfig, PolicyConfig, SamplingConfig, TrustRegionConfig

WORKLOADS = {"W1": ("mamlrl/Navigation2D-v0", 100, 0.5), "W2": ("mamlrl/HalfCheetahVel-v0", 200, 0.1)}
"""Environment, horizon, inner step size, as in meta_iteration.py."""
AXES = {
    "tasks": (5, 10, 20, 40, 80, 160),
    "rollouts": (5, 10, 20, 40, 80),
    "horizon": (25, 50, 100, 200, 400),
    "width": (32, 64, 100, 200, 400),
}
RANKS = "1x1,2x1,1x2"


def config_of(workload: str, threads: int, **size: int) -> Config:
    """Settings of a workload, with one of its sizes changed."""
    env, horizon, step_size = WORKLOADS[workload]
    horizon, width = size.get("horizon", horizon), size.get("width", 100)
    return Config(
        env=env,
        threads=threads,
        environment=EnvironmentConfig(horizon=horizon),
        policy=PolicyConfig(hidden_sizes=(width, width)),
        sampling=SamplingConfig(tasks=size.get("tasks", 20), rollouts=size.get("rollouts", 20)),
        adaptation=AdaptationConfig(step_size=step_size),
        trust_region=TrustRegionConfig(curvature_fraction=1.0, cg_iterations=10, cg_tolerance=0.0),
    )


def measure(point: dict[str, Any]) -> int:
    """Meta-iterations of one point, as one of its ranks; the first one prints what was measured."""
    import torch

    from mamlrl.distributed import gather, is_first
    from mamlrl.experiment import initial_state, make_experiment
    from mamlrl.training.iteration import meta_iteration
    from mamlrl.training.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(point["threads"])
    experiment = make_experiment(config_of(point["workload"], point["threads"], **point["size"]))
    state, seconds = initial_state(experiment), []
    for iteration in range(1 + point["iterations"]):
        start = time.perf_counter()
        state, _ = meta_iteration(experiment, state, iteration)
        seconds.append(time.perf_counter() - start)
    experiment.envs.close()
    memory = gather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if is_first():
        print(json.dumps({"seconds": statistics.median(seconds[1:]), "mib": sum(memory)}))
    return 0


def run_point(point: dict[str, Any]) -> dict[str, float]:
    """Measure a point in processes of its own."""
    program = [os.path.abspath(__file__), "--measure", json.dumps(point)]
    ranks = str(point["ranks"])
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks] if point["ranks"] > 1 else []
    done = subprocess.run([sys.executable, *launcher, *program], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def points_of(axis: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The points of an axis."""
    common = {"workload": options.workload, "iterations": options.iterations, "threads": 1, "ranks": 1, "size": {}}
    if axis == "ranks":
        pairs = [tuple(map(int, word.split("x"))) for word in options.ranks.split(",")]
        return [{**common, "ranks": ranks, "threads": threads, "x": f"{ranks}x{threads}"} for ranks, threads in pairs]
    return [{**common, "size": {axis: value}, "x": value} for value in AXES[axis] if value <= options.largest]


def measure_axis(axis: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians over the repeats of all points of an axis."""
    points = points_of(axis, options)
    found: list[list[dict[str, float]]] = [[] for _ in points]
    for _ in range(options.repeats):
        for results, point in zip(found, points, strict=True):
            results.append(run_point(point))
            print(f"{axis} {point['x']}: {results[-1]['seconds']:.3f} s, {results[-1]['mib']:.0f} MiB", flush=True)
    return [
        {
            "axis": axis,
            "x": point["x"],
            "seconds": statistics.median(one["seconds"] for one in results),
            "mib": statistics.median(one["mib"] for one in results),
        }
        for point, results in zip(points, found, strict=True)
    ]


def exponent(rows: Sequence[dict[str, Any]]) -> float:
    """Slope of log seconds against log size over the upper half of the points: 1 where the cost is linear."""
    upper = rows[len(rows) // 2 - (len(rows) < 4) :]
    x, y = (np.log([row[name] for row in upper]) for name in ("x", "seconds"))
    return float(np.polyfit(x, y, 1)[0])


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel an axis: seconds, memory in grey, and dotted what would be proportional to the size."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure = Figure((3.2 * len(axes), 3.0), layout="constrained")
    for panel, axis in zip(np.atleast_1d(figure.subplots(1, len(axes))), axes, strict=True):
        of_axis = [row for row in rows if row["axis"] == axis]
        x = [row["x"] for row in of_axis]
        memory = panel.twinx()
        style = "" if axis == "ranks" else "--"
        memory.plot(x, [row["mib"] for row in of_axis], color="0.6", marker=".", linestyle=style)
        memory.set_ylabel("MiB", color="0.5")
        memory.set_ylim(bottom=0)
        panel.plot(x, [row["seconds"] for row in of_axis], marker="o", linestyle="" if axis == "ranks" else "-")
        if axis != "ranks":
            middle = of_axis[len(of_axis) // 2]
            panel.axline((0, 0), (middle["x"], middle["seconds"]), color="C0", linestyle=":", linewidth=1, zorder=0)
            panel.set_xlim(left=0)
        panel.set_xlabel("ranks x threads" if axis == "ranks" else axis)
        panel.set_ylabel("seconds per meta-iteration")
        panel.set_ylim(bottom=0)
        panel.spines["top"].set_visible(False)
        memory.spines["top"].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure all axes, or one point of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="W2")
    known = [*AXES, "ranks"]
    parser.add_argument("--axes", default=",".join(known), help=", ".join(known))
    parser.add_argument("--ranks", default=RANKS, help=f"ranks x threads of the last axis ({RANKS})")
    parser.add_argument("--largest", type=int, default=10**9, help="largest size of an axis")
    parser.add_argument("--iterations", type=int, default=3, help="timed meta-iterations of a point, after one (3)")
    parser.add_argument("--repeats", type=int, default=3, help="times that every point is measured (3)")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from mamlrl.launch import together

            together(lambda argv: measure(options.measure), [])
        else:
            measure(options.measure)
        return
    for axis in options.axes.split(","):
        if axis not in known:
            parser.error(f"unknown axis {axis!r} in --axes; they are {', '.join(known)}")
        if not points_of(axis, options):
            parser.error(f"--largest is {options.largest}; of {axis} it must be at least {AXES[axis][0]}")
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for axis in options.axes.split(","):
        of_axis = measure_axis(axis, options)
        rows += of_axis
        if axis == "ranks":
            base = of_axis[0]
            for row in of_axis[1:]:
                print(f"{row['x']} against {base['x']}: {base['seconds'] / row['seconds']:.2f} times as fast")
        elif len(of_axis) > 1:
            print(f"seconds grow with {axis} to the power of {exponent(of_axis):.2f}")
    with (options.out / "scaling.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["axis", "x", "seconds", "mib"])
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, options.out / "scaling.png")
    print(f"results: {options.out}")


if __name__ == "__main__":
    main()
