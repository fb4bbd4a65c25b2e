"""Time steps per second of families whose dynamics differ between tasks, beside plain ones and nothing but the physics.

Each pair is stepped in turns in one run, so that both sides see the same machine: a round of each, then the next.

    python benchmarks/worlds.py --rows 400 --threads 1 --json worlds.json

- `HalfCheetahDynamics`, ... against `HalfCheetahDir`: what varying the model costs;
- `mujoco_family` on a small arm and on Gymnasium's half-cheetah against `mujoco.batch.Batch.step` on the same model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
from mujoco.batch import Batch

from mamlrl.envs import Factor, Move, mujoco_family
from mamlrl.envs.making import make_task_envs
from mamlrl.envs.mujoco_vector import MODEL_FOLDER

PAIRS = (
    ("HalfCheetahDynamics", "HalfCheetahDir"),
    ("CheetahSlope", "HalfCheetahDir"),
    ("AntCrippled", "AntDir"),
    ("AntPayload", "AntDir"),
    ("HopperDynamics", "HopperVel"),
    ("Walker2DDynamics", "Walker2DVel"),
)
ROOT = Path(__file__).parents[1]


def forward(move: Move) -> np.ndarray:
    """Velocity along the first coordinate, minus a little for actions."""
    velocity = (move.data.qpos[:, 0] - move.qpos_before[:, 0]) / move.dt
    return velocity - 0.05 * np.square(move.actions).sum(axis=1)


Cheetah = mujoco_family(
    "Cheetah",
    MODEL_FOLDER / "half_cheetah.xml",
    forward,
    {"mass": Factor("body_mass", ("torso", "bthigh", "fthigh"))},
    frame_skip=5,
)
OurArm = mujoco_family(
    "OurArm", ROOT / "tests/envs/arm.xml", forward, {"load": Factor("body_mass", "hand")}, frame_skip=5
)


def stepper(env_id: str, rows: int, threads: int) -> Callable[[], None]:
    """A time step of a family with random actions; episodes that have ended start anew."""
    envs, rng = make_task_envs(env_id, rows, 10**9, num_threads=threads), np.random.default_rng(0)
    envs.reset(seed=0)
    low, high = envs.single_action_space.low, envs.single_action_space.high  # type: ignore[attr-defined]
    actions = rng.uniform(low, high, (50, rows, len(low)))
    moves = iter(range(10**9))

    def step() -> None:
        terminated = envs.step(actions[next(moves) % 50])[2]
        if terminated.any():
            envs.reset(options={"reset_mask": terminated})

    return step


def raw_stepper(env_id: str, rows: int, threads: int) -> Callable[[], None]:
    """A time step of the physics alone, on the model of a family."""
    envs = make_task_envs(env_id, 1, 10**9).unwrapped
    model, frame_skip, stage = envs._model, envs._frame_skip, envs._stage  # type: ignore[attr-defined]
    batch, rng = Batch(model, rows, threads), np.random.default_rng(0)
    controls = rng.uniform(model.actuator_ctrlrange[:, 0], model.actuator_ctrlrange[:, 1], (50, rows, model.nu))
    moves = iter(range(10**9))

    def step() -> None:
        batch.ctrl[:] = controls[next(moves) % 50]
        batch.step(None, frame_skip, stage)

    return step


def rates(sides: tuple[Callable[[], None], Callable[[], None]], rows: int, rounds: int, moves: int) -> list[float]:
    """Row steps per second of both, medians over rounds in which they take turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for one in range(rounds + 1):
        for side, step in enumerate(sides):
            start = time.perf_counter()
            for _ in range(moves):
                step()
            if one:  # the first warms up
                seconds[side].append(time.perf_counter() - start)
    return [rows * moves / statistics.median(spent) for spent in seconds]


def main() -> None:
    """Measure all pairs and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--moves", type=int, default=10, help="time steps of a round")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for name, family in (("bench/Cheetah-v0", Cheetah), ("bench/Arm-v0", OurArm)):
        gymnasium.register(name, entry_point=family, vector_entry_point=family.vector_class)
    figures = {}
    for name, plain in PAIRS:
        sides = tuple(stepper(f"mamlrl/{one}-v0", args.rows, args.threads) for one in (name, plain))
        figures[f"{name} / {plain}"] = rates(sides, args.rows, args.rounds, args.moves)  # type: ignore[arg-type]
    for name in ("bench/Cheetah-v0", "bench/Arm-v0"):
        sides = stepper(name, args.rows, args.threads), raw_stepper(name, args.rows, args.threads)
        figures[f"mujoco_family {name} / Batch.step"] = rates(sides, args.rows, args.rounds, args.moves)
    for name, (ours, theirs) in figures.items():
        print(f"{name}: {ours:,.0f} / {theirs:,.0f} steps/s, ratio {ours / theirs:.2f}")
    if args.json:
        rows = [{"pair": name, "steps_per_s": both, "ratio": both[0] / both[1]} for name, both in figures.items()]
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
