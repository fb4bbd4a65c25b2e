"""Picture of what adaptation does: one rollout on each of a few held-out tasks, before and after one inner step.

    python benchmarks/render_rollouts.py runs/a --out rollouts.png

A column per task, a row before and a row after adaptation; each is the last frame of a rollout with the mean action,
from the best checkpoint of the run. In 2D navigation the frame shows the whole path.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium
import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from matplotlib import pyplot as plt

from mamlrl.advantages import make_batch
from mamlrl.checkpoint import BEST, read_checkpoint
from mamlrl.cli import load_settings, make_config
from mamlrl.distributions import DiagonalGaussian
from mamlrl.errors import UserError
from mamlrl.run_folder import CHECKPOINTS
from mamlrl.sampler import collect, to_environment_actions
from mamlrl.seeding import Stream
from mamlrl.structs import Params
from mamlrl.training import Experiment, draw_tasks, initial_state, make_experiment


@torch.no_grad()
def last_frame(experiment: Experiment, params: Params, task: np.ndarray, frame_step: int) -> np.ndarray:
    """Frame [height, width, 3] at the end of a rollout, or after `frame_step` steps, with the mean action.

    Args:
        experiment: policy and settings.
        params: of one policy, not stacked.
        task: [P].
        frame_step: time step at which the rollout is stopped.
    """
    config = experiment.config
    env = gymnasium.make(config.env, render_mode="rgb_array", **config.environment.kwargs)
    observation, _ = env.reset(seed=0, options={"task": task})
    for _ in range(min(frame_step, config.environment.horizon)):
        rows = torch.as_tensor(observation, dtype=torch.float32).reshape(1, 1, -1)
        distribution, outputs = experiment.policy.distribution, experiment.policy.outputs(params, rows)
        action = (
            outputs[0, 0, : distribution.action_dim] if isinstance(distribution, DiagonalGaussian) else outputs.argmax()
        )
        env_action = to_environment_actions(action.numpy(), env.action_space, config.environment.action_scale)
        observation, _, terminated, truncated, _ = env.step(env_action)
        if terminated or truncated:
            break
    frame = env.render()
    env.close()
    return np.asarray(frame)


def frames_before_and_after(folder: Path, num_tasks: int, frame_step: int) -> np.ndarray:
    """Frames [2, M, height, width, 3] of M held-out tasks, before and after one inner step."""
    config = make_config(load_settings(folder / "config.yaml"))
    config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, tasks=num_tasks))
    experiment = make_experiment(config)
    progress, _ = read_checkpoint(folder / CHECKPOINTS / BEST, initial_state(experiment))
    theta = progress.state.params
    streams = experiment.streams.evaluation()
    tasks = draw_tasks(experiment.envs, num_tasks, streams.numpy(Stream.TASKS, 0))
    rollouts = collect(experiment.envs, experiment.policy, theta, tasks, streams.rollouts(0, 0), config.environment)
    adapted = experiment.learner.adapt(theta, make_batch(rollouts, config.sampling)[0])
    experiment.envs.close()
    before = [last_frame(experiment, theta, task, frame_step) for task in tasks]
    after = [
        last_frame(experiment, {name: leaf[i] for name, leaf in adapted.items()}, task, frame_step)
        for i, task in enumerate(tasks)
    ]
    return np.array([before, after])


def draw(frames: np.ndarray, crop: float, out: Path) -> None:
    """Write frames [2, M, height, width, 3] as a labelled grid, reduced to their middle `crop` in either direction."""
    height, width = frames.shape[2:4]
    top, left = int(height * (1 - crop) / 2), int(width * (1 - crop) / 2)
    frames = frames[:, :, top : height - top, left : width - left]
    columns = frames.shape[1]
    figure, grid = plt.subplots(2, columns, figsize=(1.7 * columns + 0.2, 3.4), squeeze=False, layout="constrained")
    for row, label in enumerate(("before adaptation", "after 1 step")):
        grid[row, 0].set_ylabel(label, fontsize=9)
        for axes, frame in zip(grid[row], frames[row], strict=True):
            axes.imshow(frame)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    figure.savefig(out, dpi=200)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what the command line says; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="run folder")
    parser.add_argument("--out", required=True, type=Path, metavar="PNG", help="picture to write")
    parser.add_argument("--tasks", default=3, type=int, metavar="N", help="held-out tasks, a column each (3)")
    parser.add_argument("--step", default=10**9, type=int, metavar="T", help="time step to show (default: the last)")
    parser.add_argument("--crop", default=1.0, type=float, metavar="F", help="share of the frame's sides to show (1)")
    arguments = parser.parse_args(argv)
    try:
        frames = frames_before_and_after(arguments.run, arguments.tasks, arguments.step)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        draw(frames, arguments.crop, arguments.out)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
