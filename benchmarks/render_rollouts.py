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

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from mamlrl.errors import UserError
from mamlrl.experiment import draw_tasks, initial_state, make_experiment
from mamlrl.recording.films import adapt, film
from mamlrl.recording.panels import Panel
from mamlrl.recording.stage import open_stage
from mamlrl.run_folder.pretrained import find_checkpoints, read_trained
from mamlrl.seeding import Stream


def frames_before_and_after(folder: Path, num_tasks: int, frame_step: int) -> np.ndarray:
    """Frames [2, M, height, width, 3] of M held-out tasks, before and after one inner step.

    Args:
        folder: the run folder.
        num_tasks: M.
        frame_step: time step to show, or the last one where the rollout is shorter.
    """
    trained = read_trained(find_checkpoints(folder)[0])
    config = dataclasses.replace(trained.config, sampling=dataclasses.replace(trained.config.sampling, tasks=num_tasks))
    experiment = make_experiment(config)
    meta, streams = trained.meta(initial_state(experiment)), experiment.streams.test()
    tasks = draw_tasks(experiment.envs, num_tasks, streams.numpy(Stream.TASKS, 0))
    columns = []
    with open_stage(experiment, 2) as stage:
        for subject in adapt(experiment, meta, tasks, (0, 1), streams):
            shown: list[list[Panel]] = []
            film(experiment, stage, subject, shown.append)
            panels = shown[min(round(frame_step / stage.stride), len(shown) - 1)]
            columns.append([panel.picture for panel in panels])
    experiment.envs.close()
    return np.array(columns).swapaxes(0, 1)


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
