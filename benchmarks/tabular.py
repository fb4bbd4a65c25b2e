"""Millions of time steps per second of bandits and tabular MDPs, on one thread.

python benchmarks/tabular.py
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium
import numpy as np

import mamlrl.envs  # noqa: F401 (registers the families)

KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Bandit", {"arms": 10}),
    ("Bandit", {"arms": 10, "reward": "gaussian"}),
    ("TabularMDP", {}),
)


def measure(family: str, kwargs: dict[str, Any], rows: int, steps: int) -> tuple[float, float, float]:
    """Seconds of a reset with seeds and tasks, and of a time step and a reset within a trial (the best of each)."""
    envs = gymnasium.make_vec(f"mamlrl/{family}-v0", num_envs=rows, max_episode_steps=None, **kwargs)
    rng = np.random.default_rng(0)
    tasks = envs.unwrapped.sample_tasks(rows, rng)  # type: ignore[attr-defined]
    assert isinstance(envs.single_action_space, gymnasium.spaces.Discrete)
    actions = rng.integers(envs.single_action_space.n, size=(steps, rows))
    everyone = np.ones(rows, bool)
    start = time.perf_counter()
    envs.reset(seed=0, options={"task": tasks})
    seeding = time.perf_counter() - start
    stepping, resetting = [], []
    for action in actions:
        start = time.perf_counter()
        envs.step(action)
        between = time.perf_counter()
        envs.reset(options={"reset_mask": everyone})
        stepping.append(between - start)
        resetting.append(time.perf_counter() - between)
    return seeding, min(stepping), min(resetting)


def main() -> None:
    """Print a row for each kind of environment and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 2000, 20000], metavar="N")
    parser.add_argument("--steps", type=int, default=200, metavar="N")
    options = parser.parse_args()
    print(f"{'':24} {'rows':>6} {'steps, M/s':>10} {'resets in trials, M/s':>21} {'seeding, us a row':>17}")
    for family, kwargs in KINDS:
        for rows in options.rows:
            seeding, stepping, resetting = measure(family, kwargs, rows, options.steps)
            name = f"{family} {kwargs.get('reward', '')}"
            rates = rows / stepping / 1e6, rows / resetting / 1e6
            print(f"{name:24} {rows:6} {rates[0]:10.1f} {rates[1]:21.1f} {seeding / rows * 1e6:17.1f}")


if __name__ == "__main__":
    main()
