"""The command: ``python -m mamlrl.record RUN``: films and stills of a policy before and after gradient steps."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mamlrl.commands import OptionParser, run_command
from mamlrl.errors import ConfigError
from mamlrl.run_folder import folder as run_folder

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv


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
    parser.add_argument("run", type=Path, metavar="RUN", help="Run folder or checkpoint.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--task", type=float, nargs="+", metavar="X", help="Numbers of the one task to show.")
    choice.add_argument("--tasks", type=int, default=3, metavar="N", help="Held-out tasks, a film each (3).")
    parser.add_argument("--steps", default="0,1,3", metavar="K,K,...", help="Numbers of gradient steps (0,1,3).")
    parser.add_argument("--rollouts", type=int, metavar="N", help="Rollouts per gradient step (those of training).")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="Seed of tasks and of all noise (1).")
    parser.add_argument("--format", choices=("mp4", "gif"), default="mp4", help="MP4, or GIF of half the size (mp4).")
    parser.add_argument("--out", type=Path, metavar="DIR", help="Folder to write to (runs/recordings/<env>-<time>).")
    return parser


def _record(argv: Sequence[str]) -> int:
    options = build_parser().parse_args(list(argv))
    steps = parse_steps(options.steps)
    for name, least in (("tasks", 1), ("rollouts", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} is {value}; it must be at least {least}")
    from mamlrl.experiment import draw_tasks, initial_state, make_experiment
    from mamlrl.learners import find_learner
    from mamlrl.recording import films as video  # imports torch, which takes seconds: --help has answered by now
    from mamlrl.run_folder.pretrained import find_checkpoints, read_trained
    from mamlrl.seeding import Stream, Streams

    checkpoints = find_checkpoints(options.run)
    if len(checkpoints) > 1:
        raise ConfigError(f"{options.run} holds {len(checkpoints)} policies; name one, such as {checkpoints[0]}")
    trained = read_trained(checkpoints[0])
    config = trained.config
    if find_learner(config.learner).observes_task and steps[-1] > 0:
        raise ConfigError(f"--steps is {options.steps}, but learner {config.learner} does not adapt; give --steps 0")
    num_tasks = 1 if options.task else options.tasks
    sampling = dataclasses.replace(
        config.sampling, tasks=num_tasks, rollouts=options.rollouts or config.sampling.rollouts
    )
    experiment = make_experiment(dataclasses.replace(config, sampling=sampling))
    folder = options.out or run_folder.results_folder("recordings", config)
    run_folder.check_results(folder, f"task-1.{options.format}")
    write_film = video.write_gif
    if options.format == "mp4":
        video.check_ffmpeg()
        write_film = video.write_mp4
    try:
        meta, streams = trained.meta(initial_state(experiment)), Streams(options.seed).test()
        tasks = draw_tasks(experiment.envs, num_tasks, streams.numpy(Stream.TASKS, 0))
        if options.task:
            tasks = check_task(np.array([options.task]), tasks, experiment.envs)
        films = []
        for number, film in enumerate(
            video.film_tasks(experiment, experiment.envs, meta, tasks, steps, streams), start=1
        ):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"task-{number}.{options.format}"
            write_film(path, film)
            returns = ", ".join(f"{take.frame_returns[-1]:.1f} ({take.steps})" for take in film.takes)
            print(f"{path}: {video.task_name(film.environment, film.task)}, return (steps) {returns}", flush=True)
            films.append(film._replace(takes=[take._replace(frames=[]) for take in film.takes]))  # pictures are large
    finally:
        experiment.envs.close()
    figure = video.still(films)
    if figure is not None:
        figure.savefig(folder / "still.png", dpi=150)
        print(folder / "still.png")
    return 0


def parse_steps(text: str) -> list[int]:
    """Numbers of gradient steps, each once and ascending, from ``0,1,3``.

    Raises:
        ConfigError: the text is something else.
    """
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ConfigError(f"--steps is {text!r}; it must be numbers of gradient steps with commas, such as 0,1,3")
    return sorted({int(number) for number in text.split(",")})


def check_task(task: np.ndarray, drawn: np.ndarray, envs: VectorEnv) -> np.ndarray:
    """The task [1, P] given on the command line, if the environment has such tasks.

    Raises:
        ConfigError: it has another size, or is not in the task space.
    """
    if task.shape != drawn.shape:
        raise ConfigError(f"--task has {task.shape[1]} numbers; a task of this environment has {drawn.shape[1]}")
    space = getattr(envs, "task_space", None)
    if space is not None and not space.contains(task[0]):
        raise ConfigError(f"--task {' '.join(map(str, task[0]))} is not in the task space {space}")
    return task


if __name__ == "__main__":
    sys.exit(main())
