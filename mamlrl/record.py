"""The command: ``python -m mamlrl.record RUN``: films and stills of a policy before and after gradient steps."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mamlrl.commands import run_command
from mamlrl.envs.checks import contains_task
from mamlrl.errors import ConfigError
from mamlrl.options import OptionParser, usable_path
from mamlrl.run_folder import folder as run_folder

if TYPE_CHECKING:
    from pathlib import Path

    from gymnasium.vector import VectorEnv

    from mamlrl.recording import films
    from mamlrl.run_folder.pretrained import Trained

STILL = "still.png"
DEFAULT_STEPS = "0,1,3"
MAX_PANELS, MAX_STEPS = 8, 1000
RANGES = {
    "tasks": (1, 100),
    "rollouts": (1, 10_000),
    "seed": (0, 2**63 - 1),
    "speed": (0.05, 20.0),
    "threads": (0, 4096),
}
"""The least and the largest value of options."""


def main(argv: Sequence[str] | None = None) -> int:
    """Record a run as the command line says.

    Returns:
        The exit code: 0 when done, 1 when something failed, 2 when the command or a setting is wrong.
    """
    return run_command(_record, argv)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m mamlrl.record`."""
    parser = OptionParser(
        prog="python -m mamlrl.record",
        description="Film a trained policy on held-out tasks, before and after gradient steps side by side.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=usable_path, metavar="RUN", help="Run folder or checkpoint.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--task", type=float, nargs="+", metavar="X", help="Numbers of the one task to show.")
    choice.add_argument("--tasks", type=int, default=3, metavar="N", help="Held-out tasks, a film each (3).")
    parser.add_argument(
        "--steps",
        default=DEFAULT_STEPS,
        metavar="K,K,...",
        help=f"Numbers of gradient steps ({DEFAULT_STEPS}; of a learner that takes none 0).",
    )
    parser.add_argument("--rollouts", type=int, metavar="N", help="Rollouts per gradient step (those of training).")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="Seed of tasks and of all noise (1).")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="Of the film; 0.5 is slow motion (1).")
    parser.add_argument("--format", choices=("mp4", "gif"), default="mp4", help="MP4, or GIF of half the size (mp4).")
    parser.add_argument(
        "--out", type=usable_path, metavar="DIR", help="Folder to write to (runs/recordings/<env>-<time>)."
    )
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda", help="Device of the policies (cpu).")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="Threads; 0 takes all processors.")
    return parser


def _record(argv: Sequence[str]) -> int:
    options = build_parser().parse_args(list(argv))
    steps = parse_steps(options.steps)
    _check_ranges(options)
    trained, steps = _read_policy(options, steps)
    num_tasks = 1 if options.task else options.tasks
    folder = options.out or run_folder.results_folder("recordings", trained.config)
    paths = [folder / f"task-{number}.{options.format}" for number in range(1, num_tasks + 1)]
    for path in (*paths, folder / STILL):
        run_folder.check_results(folder, path.name)
    from mamlrl.recording.stills import still
    from mamlrl.run_folder.figures import save_figure

    figure = still(_write_films(options, trained, steps, paths))
    if figure is not None:
        save_figure(figure, folder / STILL)
        print(folder / STILL)
    return 0


def _read_policy(options: argparse.Namespace, steps: list[int]) -> tuple[Trained, list[int]]:
    """The one policy that is to be recorded, with the settings that the command line changes, and its gradient steps.

    Raises:
        UserError: there are several, or it does not adapt in so many steps.
    """
    from mamlrl.learners import find_learner  # imports torch, which takes seconds: --help has answered by now
    from mamlrl.run_folder.pretrained import find_checkpoints, read_trained

    checkpoints = find_checkpoints(options.run)
    if len(checkpoints) > 1:
        raise ConfigError(f"{options.run} holds {len(checkpoints)} policies; name one, such as {checkpoints[0]}")
    trained = read_trained(checkpoints[0])
    config = trained.config
    row = find_learner(config.learner)
    if row.recurrent and options.steps == DEFAULT_STEPS:
        steps = [0]
    if (row.observes_task or row.recurrent) and steps[-1] > 0:
        raise ConfigError(f"--steps is {options.steps}, but learner {config.learner} does not adapt; give --steps 0")
    sampling = dataclasses.replace(
        config.sampling,
        tasks=1 if options.task else options.tasks,
        rollouts=options.rollouts or config.sampling.rollouts,
    )
    config = dataclasses.replace(config, device=options.device, threads=options.threads, sampling=sampling)
    return trained._replace(config=config), steps


def _write_films(
    options: argparse.Namespace, trained: Trained, steps: list[int], paths: Sequence[Path]
) -> list[films.Film]:
    """A film of each task, into a file each; a line says what it shows."""
    import torch

    from mamlrl.experiment import draw_tasks, initial_state, make_experiment, num_threads
    from mamlrl.recording import films, writers
    from mamlrl.recording.panels import compose
    from mamlrl.recording.stage import open_stage
    from mamlrl.seeding import Stream, Streams

    write_film = writers.write_gif
    if options.format == "mp4":
        writers.check_ffmpeg()
        write_film = writers.write_mp4
    torch.set_num_threads(num_threads(trained.config))
    experiment = make_experiment(trained.config)
    made = []
    try:
        meta, streams = trained.meta(initial_state(experiment)), Streams(options.seed).test()
        tasks = draw_tasks(experiment.envs, len(paths), streams.numpy(Stream.TASKS, 0))
        if options.task:
            tasks = check_task(np.array([options.task]), tasks, experiment.envs)
        with open_stage(experiment, len(steps), options.speed) as stage:
            for path, subject in zip(paths, films.adapt(experiment, meta, tasks, steps, streams), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                with write_film(path, stage.frames_per_second) as write:
                    film = films.film(experiment, stage, subject, lambda panels, write=write: write(compose(panels)))
                made.append(film)
                returns = ", ".join(f"{value:.1f} ({count})" for count, value in zip(steps, film.returns, strict=True))
                print(f"{path}: {film.description}, return (steps) {returns}", flush=True)
    finally:
        experiment.envs.close()
    return made


def _check_ranges(options: argparse.Namespace) -> None:
    """Numbers on the command line are in their ranges.

    Raises:
        ConfigError: one is not.
    """
    for name, (least, most) in RANGES.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            raise ConfigError(f"--{name} is {value}; it must be in [{least}, {most}]")
    if options.task and not np.isfinite(options.task).all():
        raise ConfigError(f"--task is {' '.join(map(str, options.task))}; it must be finite numbers")


def parse_steps(text: str) -> list[int]:
    """Numbers of gradient steps, each once and ascending, from ``0,1,3``.

    Raises:
        ConfigError: the text is something else, or asks for too much.
    """
    shown = text if len(text) <= 50 else f"{text[:50]}..."
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
        raise ConfigError(f"--steps is {shown!r}; it must be numbers of gradient steps with commas, such as 0,1,3")
    numbers = [number.lstrip("0") or "0" for number in text.split(",")]
    if any(len(number) > len(str(MAX_STEPS)) or int(number) > MAX_STEPS for number in numbers):
        raise ConfigError(f"--steps is {shown!r}; each must be at most {MAX_STEPS} gradient steps")
    steps = sorted({int(number) for number in numbers})
    if len(steps) > MAX_PANELS:
        raise ConfigError(f"--steps is {shown!r}; a film has at most {MAX_PANELS} panels")
    return steps


def check_task(task: np.ndarray, drawn: np.ndarray, envs: VectorEnv) -> np.ndarray:
    """The task [1, P] given on the command line, if the environment has such tasks.

    Raises:
        ConfigError: it has another size, or is not in the task space.
    """
    if task.shape != drawn.shape:
        given, wanted = task.shape[1], drawn.shape[1]
        raise ConfigError(f"--task has {given} {'number' if given == 1 else 'numbers'}; a task here has {wanted}")
    space = getattr(envs, "task_space", None)
    if space is not None and not contains_task(space, task[0]):
        raise ConfigError(f"--task {' '.join(f'{number:g}' for number in task[0])} is not in the task space {space}")
    return task


if __name__ == "__main__":
    sys.exit(main())
