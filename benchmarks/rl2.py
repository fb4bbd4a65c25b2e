"""Seconds per 100 000 time steps of RL2 on bandits: acting, forward and backward through time, whole iterations.

    python benchmarks/rl2.py --hidden 32,64,256 --trials 1000 --json rl2.json

- `act`: the policy alone, one forward pass a time step of all trials side by side, as in sampling;
- `sample`: the same with environments, noise and what is kept (`mamlrl.sampler.collect`);
- `gradient`: loss and gradient of the clipped surrogate and the value function on all trials, once through the data;
- `loop`: the same forward and backward pass of `torch.nn.GRUCell` in a loop, for comparison;
- `iteration`: a meta-iteration in all, with three passes.

Networks are GRUs, and a memory for each arm (`--table`, units of a memory and of the context).

CPU seconds of one thread, the least of `--repeats`, alternating. Compare figures of one run, on a machine that does
nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mamlrl.config.files import make_config
from mamlrl.experiment import Experiment, draw_tasks, initial_state, make_experiment
from mamlrl.learners.base import LearnerState
from mamlrl.rounds import adaptation_rounds
from mamlrl.sampler import collect
from mamlrl.structs import MetaBatch, Rollouts, flatten
from mamlrl.training.iteration import meta_iteration


def experiment_of(policy: dict[str, Any], trials: int, episodes: int) -> Experiment:
    """Bandits with five arms."""
    settings = {
        "env": "mamlrl/Bandit-v0",
        "learner": "rl2",
        "environment": {"horizon": 1, "kwargs": {"arms": 5}},
        "policy": policy,
        "sampling": {"tasks": trials // 2, "rollouts": 2, "episodes": episodes},
        "adam": {"judge": False},
        "threads": 1,
    }
    return make_experiment(make_config(settings))


def by_torch(rollouts: Rollouts, units: int) -> Callable[[], None]:
    """A pass of torch's cell over the same observations, from its outputs back to its parameters."""
    cell = torch.nn.GRUCell(rollouts.observations.shape[-1], units)
    by_time = rollouts.observations.flatten(0, 1).transpose(0, 1).contiguous()

    def run() -> None:
        hidden, loss = torch.zeros(by_time.shape[1], units), torch.zeros(())
        for one in by_time:
            hidden = cell(one, hidden)
            loss = loss + hidden.square().sum()
        loss.backward()

    return run


def acting(experiment: Experiment, state: LearnerState, rollouts: Rollouts) -> Callable[[], None]:
    """The policy on observations that are there."""
    policy, params = experiment.policy, experiment.learner.start(state.meta)

    @torch.no_grad()
    def run() -> None:
        memory = policy.initial_state(*rollouts.mask.shape[:2])
        for t in range(rollouts.mask.shape[2]):
            _, memory = policy.step(params, rollouts.observations[:, :, t], memory)

    return run


def ways(policy_settings: dict[str, Any], trials: int, episodes: int) -> dict[str, Callable[[], object]]:
    """What is timed."""
    experiment = experiment_of(policy_settings, trials, episodes)
    config, envs, policy, learner, streams = experiment
    state = initial_state(experiment)
    tasks = draw_tasks(envs, config.sampling.tasks, np.random.default_rng(0))

    def sampled(params: dict[str, torch.Tensor], step: int) -> Rollouts:
        return collect(envs, policy, params, tasks, streams.rollouts(0, step), config.environment)

    (query,) = adaptation_rounds(learner, state.meta, sampled, 0, config.sampling)
    objective = learner.objective(state, MetaBatch((), query.batch))  # type: ignore[attr-defined]
    point = flatten(state.meta, state.meta)
    timed: dict[str, Callable[[], object]] = {
        "act": acting(experiment, state, query.rollouts),
        "sample": lambda: sampled(learner.start(state.meta), 0),
        "gradient": lambda: objective.loss_and_gradient(point),
        "iteration": lambda: meta_iteration(experiment, state, 0),
    }
    if "network" not in policy_settings:
        timed["loop"] = by_torch(query.rollouts, policy_settings["hidden_sizes"][0])
    return timed


def main() -> None:
    """Time everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", default="32,64,256", help="Units of the recurrent layer.")
    parser.add_argument("--table", default="16,32", help="Units of a memory for each arm, and of its context.")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = {}
    networks: dict[str, dict[str, Any]] = {
        f"GRU {units}": {"hidden_sizes": [int(units)]} for units in options.hidden.split(",")
    }
    table = [int(units) for units in options.table.split(",")]
    networks[f"table {options.table}"] = {"network": "categorical_tabular", "hidden_sizes": table}
    for name, settings in networks.items():
        timed = ways(settings, options.trials, options.episodes)
        seconds: dict[str, list[float]] = {part: [] for part in timed}
        for _ in range(options.repeats):
            for part, way in timed.items():
                start = time.process_time()
                way()
                seconds[part].append(time.process_time() - start)
        per = 100_000 / (options.trials * options.episodes)
        results[name] = {part: round(min(values) * per, 4) for part, values in seconds.items()}
        print(f"{name}: " + ", ".join(f"{part} {value:.3f}" for part, value in results[name].items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
