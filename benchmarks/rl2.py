"""Seconds per 100 000 time steps of RL2 on bandits: acting, forward and backward through time, whole iterations.

    python benchmarks/rl2.py --hidden 32,64,256 --trials 1000 --json rl2.json

- `act`: the policy alone, one forward pass a time step of all trials side by side, as in sampling;
- `sample`: the same with environments, noise and what is kept (`mamlrl.sampler.collect`);
- `gradient`: loss and gradient of the clipped surrogate and the value function on all trials, once through the data;
- `loop`: the same forward and backward pass of `torch.nn.GRUCell` in a loop, for comparison;
- `iteration`: a meta-iteration in all, with three passes.

CPU seconds of one thread, the least of `--repeats`, alternating. Compare figures of one run, on a machine that does
nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mamlrl.config.files import make_config
from mamlrl.experiment import Experiment, draw_tasks, initial_state, make_experiment
from mamlrl.learners.base import LearnerState
from mamlrl.rounds import adaptation_rounds
from mamlrl.sampler import collect
from mamlrl.structs import MetaBatch, Rollouts, flatten
from mamlrl.training.iteration import meta_iteration


def experiment_of(units: int, trials: int, episodes: int) -> Experiment:
    """Bandits with five arms and a GRU."""
    settings = {
        "env": "mamlrl/Bandit-v0",
        "learner": "rl2",
        "environment": {"horizon": 1, "kwargs": {"arms": 5}},
        "policy": {"hidden_sizes": [units]},
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


def ways(units: int, trials: int, episodes: int) -> dict[str, Callable[[], object]]:
    """What is timed."""
    experiment = experiment_of(units, trials, episodes)
    config, envs, policy, learner, streams = experiment
    state = initial_state(experiment)
    tasks = draw_tasks(envs, config.sampling.tasks, np.random.default_rng(0))

    def sampled(params: dict[str, torch.Tensor], step: int) -> Rollouts:
        return collect(envs, policy, params, tasks, streams.rollouts(0, step), config.environment)

    (query,) = adaptation_rounds(learner, state.meta, sampled, 0, config.sampling)
    objective = learner.objective(state, MetaBatch((), query.batch))  # type: ignore[attr-defined]
    point = flatten(state.meta, state.meta)
    return {
        "act": acting(experiment, state, query.rollouts),
        "sample": lambda: sampled(learner.start(state.meta), 0),
        "gradient": lambda: objective.loss_and_gradient(point),
        "loop": by_torch(query.rollouts, units),
        "iteration": lambda: meta_iteration(experiment, state, 0),
    }


def main() -> None:
    """Time everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", default="32,64,256", help="Units of the recurrent layer.")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = {}
    for units in map(int, options.hidden.split(",")):
        timed = ways(units, options.trials, options.episodes)
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(options.repeats):
            for name, way in timed.items():
                start = time.process_time()
                way()
                seconds[name].append(time.process_time() - start)
        per = 100_000 / (options.trials * options.episodes)
        results[str(units)] = {name: round(min(values) * per, 4) for name, values in seconds.items()}
        print(f"GRU {units}: " + ", ".join(f"{name} {value:.3f}" for name, value in results[str(units)].items()))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
