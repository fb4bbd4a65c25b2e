"""Seconds per meta-iteration and where they go, on the two workloads that other toolkits were timed on.

W1 is 2D navigation, 20 tasks x 20 rollouts x 100 steps; W2 the half-cheetah with a target velocity, 20 x 20 x 200
steps of 0.05 s. Both: Gaussian policy with two hidden layers of 100 tanh units, one inner step, TRPO with 10
conjugate-gradient iterations.

    python benchmarks/meta_iteration.py --workload W2 --json w2.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import trange

import mamlrl.learners.maml as maml
from mamlrl.advantages import make_batch
from mamlrl.config import AdaptationConfig, Config, EnvironmentConfig, SamplingConfig, TrustRegionConfig
from mamlrl.envs.making import make_task_envs
from mamlrl.policies import make_policy
from mamlrl.sampler import collect
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import MetaBatch
from mamlrl.training.loop import Stopwatch
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


def timed_objective(watch: WrappingStopwatch) -> type[maml.AdaptedSurrogate]:
    """The objective of the meta-step with its parts on the stopwatch."""

    class TimedObjective(maml.AdaptedSurrogate):
        __init__ = watch.wrap("meta_gradient", maml.AdaptedSurrogate.__init__)
        gradient = watch.wrap("meta_gradient", maml.AdaptedSurrogate.gradient)
        fisher_vector_product = watch.wrap("cg", maml.AdaptedSurrogate.fisher_vector_product)
        evaluate = watch.wrap("line_search", maml.AdaptedSurrogate.evaluate)

    return TimedObjective


def workload_config(workload: str, curvature_fraction: float) -> Config:
    """The settings of a workload."""
    env, horizon, step_size = WORKLOADS[workload]
    config = Config(
        env=env,
        environment=EnvironmentConfig(horizon=horizon),
        sampling=SamplingConfig(tasks=20, rollouts=20),
        adaptation=AdaptationConfig(step_size=step_size),
        trust_region=TrustRegionConfig(curvature_fraction=curvature_fraction),
    )
    return config


def time_iterations(config: Config, threads: int, repeats: int) -> list[dict[str, float]]:
    """Seconds by part of each timed meta-iteration; the first, untimed one warms up."""
    settings, sampling = config.environment, config.sampling
    envs = make_task_envs(
        config.env, sampling.tasks * sampling.rollouts, settings.horizon, settings.kwargs, num_threads=threads
    )
    policy = make_policy(config.policy, envs.single_observation_space, envs.single_action_space)
    learner = maml.MAML(policy, config)
    streams = Streams(config.seed)
    state = learner.init(policy.init_params(streams.torch(Stream.INITIALISATION)))
    timings, original = [], maml.AdaptedSurrogate
    for iteration in trange(repeats + 1, desc="meta-iterations"):
        watch = WrappingStopwatch()
        start = time.perf_counter()
        tasks = envs.sample_tasks(sampling.tasks, streams.numpy(Stream.TASKS, iteration))  # type: ignore[attr-defined]
        with watch("sample"):
            rollouts = collect(envs, policy, state.params, tasks, streams.rollouts(iteration, 0), settings)
        with watch("advantages"):
            support, _ = make_batch(rollouts, sampling)
        with watch("adapt"):
            adapted = learner.adapt(state.params, support)
        with watch("sample"):
            rollouts = collect(envs, policy, adapted, tasks, streams.rollouts(iteration, 1), settings)
        with watch("advantages"):
            query, _ = make_batch(rollouts, sampling)
        maml.AdaptedSurrogate = timed_objective(watch)
        with watch("update"):
            generator = streams.torch(Stream.CURVATURE, iteration)
            state, metrics = learner.meta_step(state, MetaBatch((support,), query), generator)
        maml.AdaptedSurrogate = original
        tries = metrics["trust_region/backtracks"] + 1
        timings.append({**watch.seconds, "iteration": time.perf_counter() - start, "tries": tries})
    envs.close()
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
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of physics and arithmetic")
    parser.add_argument("--repeats", type=int, default=5, help="timed meta-iterations, after one to warm up")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()

    keep_freed_memory()
    torch.set_num_threads(args.threads)
    config = workload_config(args.workload, args.curvature_fraction)
    timings = time_iterations(config, args.threads, args.repeats)
    median = {part: statistics.median(timing[part] for timing in timings) for part in timings[0]}
    num_envs = config.sampling.tasks * config.sampling.rollouts
    env_steps = 2 * num_envs * config.environment.horizon
    result = {
        "workload": args.workload,
        "threads": args.threads,
        "curvature_fraction": args.curvature_fraction,
        **{f"{part}_s": median[part] for part in ("iteration", "sample", "advantages", "adapt", "update")},
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
