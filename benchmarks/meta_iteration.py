"""Seconds per meta-iteration and where they go, on the two workloads that other toolkits were timed on.

W1 is 2D navigation, 20 tasks x 20 rollouts x 100 steps; W2 the half-cheetah with a target velocity, 20 x 20 x 200
steps of 0.05 s. Both: Gaussian policy with two hidden layers of 100 tanh units, one inner step, TRPO with 10
conjugate-gradient iterations.

    python benchmarks/meta_iteration.py --workload W2 --json w2.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import trange

from mamlrl.config import AdaptationConfig, Config, EnvironmentConfig, SamplingConfig, TrustRegionConfig
from mamlrl.experiment import initial_state, make_experiment
from mamlrl.learners.objective import AdaptedObjective
from mamlrl.training.iteration import Stopwatch, meta_iteration
from mamlrl.training.memory import keep_freed_memory

WORKLOADS = {
    "W1": ("mamlrl/Navigation2D-v0", 100, 0.5),
    "W2": ("mamlrl/HalfCheetahVel-v0", 200, 0.1),
}
"""Environment, horizon, inner step size."""


class WrappingStopwatch(Stopwatch):
    """The stopwatch of the training, for functions too."""

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is timed at each call."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(part):
                return function(*args, **kwargs)

        return timed


@contextlib.contextmanager
def timed_objective(watch: WrappingStopwatch) -> Iterator[None]:
    """While entered, the objective of the meta-step has its parts on the stopwatch."""
    parts = {
        "__init__": "meta_gradient",
        "loss_and_gradient": "meta_gradient",
        "curvature_product": "cg",
        "preconditioner": "cg",
        "evaluate": "line_search",
    }
    originals = {name: getattr(AdaptedObjective, name) for name in parts}
    for name, part in parts.items():
        setattr(AdaptedObjective, name, watch.wrap(part, originals[name]))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(AdaptedObjective, name, original)


def workload_config(workload: str, trust_region: TrustRegionConfig, threads: int) -> Config:
    """The settings of a workload."""
    env, horizon, step_size = WORKLOADS[workload]
    config = Config(
        env=env,
        environment=EnvironmentConfig(horizon=horizon),
        sampling=SamplingConfig(tasks=20, rollouts=20),
        adaptation=AdaptationConfig(step_size=step_size),
        trust_region=trust_region,
        threads=threads,
    )
    return config


def time_iterations(config: Config, repeats: int) -> list[dict[str, float]]:
    """Seconds by part of each timed meta-iteration of the training; the first, untimed one warms up."""
    experiment = make_experiment(config)
    state, timings = initial_state(experiment), []
    for iteration in trange(repeats + 1, desc="meta-iterations"):
        watch = WrappingStopwatch()
        with timed_objective(watch), watch("iteration"):
            state, outcome = meta_iteration(experiment, state, iteration)
        times = {part: float(outcome.metrics[f"time/{part}"] or 0) for part in ("sample", "adapt", "update")}
        tries = float(outcome.metrics["trust_region/backtracks"] or 0) + 1
        timings.append({**times, **watch.seconds, "tries": tries})
    experiment.envs.close()
    return timings[1:]


def raw_physics_rate(num_envs: int, frame_skip: int, threads: int, steps: int = 100) -> float:
    """Environment steps per second of nothing but `mujoco.batch.Batch.step` on the half-cheetah."""
    from mujoco.batch import Batch

    from mamlrl.envs.mujoco_vector import load_model

    batch = Batch(load_model("half_cheetah.xml"), num_envs, threads)
    rng = np.random.default_rng(0)
    batch.qpos[:] += rng.uniform(-0.1, 0.1, batch.qpos.shape)
    batch.forward()
    controls = rng.standard_normal((steps, num_envs, batch.model.nu)).clip(-1, 1)
    start = time.perf_counter()
    for control in controls:
        batch.ctrl[:] = control
        batch.step(nstep=frame_skip)
    return steps * num_envs / (time.perf_counter() - start)


def main() -> None:
    """Time a workload and print the split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workload", choices=WORKLOADS, default="W2")
    parser.add_argument("--curvature_fraction", type=float, default=1.0, help="share of rows in curvature products")
    parser.add_argument("--cg_iterations", type=int, default=10, help="iterations of conjugate gradient")
    parser.add_argument("--preconditioner", choices=("none", "kronecker"), default="none", help="of conjugate gradient")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of physics and arithmetic")
    parser.add_argument("--repeats", type=int, default=5, help="timed meta-iterations, after one to warm up")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()

    keep_freed_memory()
    torch.set_num_threads(args.threads)
    trust_region = TrustRegionConfig(
        curvature_fraction=args.curvature_fraction,
        cg_iterations=args.cg_iterations,
        preconditioner=args.preconditioner,
    )
    config = workload_config(args.workload, trust_region, args.threads)
    timings = time_iterations(config, args.repeats)
    median = {part: statistics.median(timing[part] for timing in timings) for part in timings[0]}
    num_envs = config.sampling.tasks * config.sampling.rollouts
    env_steps = 2 * num_envs * config.environment.horizon
    result = {
        "workload": args.workload,
        "threads": args.threads,
        "curvature_fraction": args.curvature_fraction,
        "cg_iterations": args.cg_iterations,
        "preconditioner": args.preconditioner,
        **{f"{part}_s": median[part] for part in ("iteration", "sample", "adapt", "update")},
        **{f"{part}_s": median[part] for part in ("meta_gradient", "cg", "line_search")},
        "line_search_tries": median["tries"],
        "sample_steps_per_s": env_steps / median["sample"],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if args.workload == "W2":
        result["raw_steps_per_s"] = raw_physics_rate(num_envs, 5, args.threads)
        result["sample_to_raw"] = result["sample_steps_per_s"] / result["raw_steps_per_s"]
    for name, value in result.items():
        print(f"{name:>20}  {value:.3f}" if isinstance(value, float) else f"{name:>20}  {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
