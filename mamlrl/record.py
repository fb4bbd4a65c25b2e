"""The command: ``python -m mamlrl.record RUN``: films and stills of a policy before and after gradient steps."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mamlrl.commands import run_command
from mamlrl.envs.base import complaint
from mamlrl.envs.checks import contains_task
from mamlrl.errors import ConfigError, cut
from mamlrl.messages import counted
from mamlrl.options import OptionParser, usable_path
from mamlrl.progress import say_without_bar
from mamlrl.run_folder import folder as run_folder

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from gymnasium.vector import VectorEnv
    from matplotlib.figure import Figure

    from mamlrl.recording import films, writers
    from mamlrl.run_folder.pretrained import Trained
    from mamlrl.supervised.base import TaskDistribution

STILL = "still.png"
MAX_PANELS, MAX_STEPS = 8, 1000
STEPS, STEPS_OF_FITS = (0, 1, 3), (0, 1, 10)
"""Numbers of gradient steps where none are given."""
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
    choice.add_argument("--task", type=_number, nargs="+", metavar="X", help="Numbers of the one task to show.")
    choice.add_argument("--tasks", type=int, default=3, metavar="N", help="Held-out tasks, a film each (3).")
    parser.add_argument(
        "--steps",
        metavar="K,K,...",
        help="Numbers of gradient steps (0,1,3; of a function that is fitted 0,1,10; of a learner that takes none 0).",
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
    given = None if options.steps is None else parse_steps(options.steps)
    _check_ranges(options)
    trained = _read_policy(options)
    import torch

    from mamlrl.experiment import num_threads
    from mamlrl.learners import find_learner
    from mamlrl.supervised import find_task_set

    row, of_examples = find_learner(trained.config.learner), find_task_set(trained.config.env) is not None
    steps = given or list(STEPS_OF_FITS if of_examples else (0,) if row.recurrent else STEPS)
    if (row.observes_task or row.recurrent) and steps[-1] > 0:
        told = ",".join(map(str, steps))
        raise ConfigError(f"--steps is {told}, but learner {trained.config.learner} does not adapt; give --steps 0")
    num_tasks = 1 if options.task else options.tasks
    folder = options.out or run_folder.results_folder("recordings", trained.config)
    paths = [folder / f"task-{number}.{options.format}" for number in range(1, num_tasks + 1)]
    for path in (*paths, folder / STILL):
        run_folder.check_results(folder, path.name)
    from mamlrl.run_folder.figures import save_figure

    torch.set_num_threads(num_threads(trained.config))
    figure = (_write_fits if of_examples else _write_films)(options, trained, steps, paths)
    if figure is not None:
        save_figure(figure, folder / STILL)
        print(folder / STILL)
    return 0


def _number(text: str) -> float:
    """A number of a task.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        hint = "; several numbers have spaces between them, as in --task 0.3 -0.2" if "," in text else ""
        raise argparse.ArgumentTypeError(f"{cut(text)!r} is not a number{hint}") from None


def _read_policy(options: argparse.Namespace) -> Trained:
    """The one policy that is to be recorded, with the settings that the command line changes.

    Raises:
        UserError: there are several.
    """
    # imports torch, which takes seconds: --help has answered by now
    from mamlrl.run_folder.pretrained import find_checkpoints, read_trained

    checkpoints = find_checkpoints(options.run)
    if len(checkpoints) > 1:
        raise ConfigError(f"{options.run} holds {len(checkpoints)} policies; name one, such as {checkpoints[0]}")
    trained = read_trained(checkpoints[0])
    config = trained.config
    sampling = dataclasses.replace(
        config.sampling,
        tasks=1 if options.task else options.tasks,
        rollouts=options.rollouts or config.sampling.rollouts,
    )
    config = dataclasses.replace(config, device=options.device, threads=options.threads, sampling=sampling)
    return trained._replace(config=config)


def _write_films(
    options: argparse.Namespace, trained: Trained, steps: list[int], paths: Sequence[Path]
) -> Figure | None:
    """A film of each task, into a file each; a line says what it shows. Returns the still."""
    from mamlrl.experiment import draw_tasks, initial_state, make_experiment
    from mamlrl.recording import films
    from mamlrl.recording.panels import compose
    from mamlrl.recording.stage import open_stage
    from mamlrl.recording.stills import still
    from mamlrl.seeding import Stream, Streams

    open_film = _open_films(options, len(paths))
    experiment = make_experiment(trained.config)
    made = []
    try:
        meta, streams = trained.meta(initial_state(experiment)), Streams(options.seed).test()
        tasks = draw_tasks(experiment.envs, len(paths), streams.numpy(Stream.TASKS, 0))
        if options.task:
            tasks = check_task(np.array([options.task]), tasks, experiment.envs)
        with open_stage(experiment, len(steps), options.speed) as stage:
            for path, subject in zip(paths, films.adapt(experiment, meta, tasks, steps, streams), strict=True):
                with open_film(path, stage.frames_per_second) as write:
                    film = films.film(experiment, stage, subject, lambda panels, write=write: write(compose(panels)))
                made.append(film)
                print(f"{path}: {film.description}, {_returns(film)}", flush=True)
    finally:
        experiment.envs.close()
    return still(made)


def _returns(film: films.Film) -> str:
    """The returns of some episodes of a trial, or those after each number of gradient steps."""
    if film.episodes is not None:
        from mamlrl.sampler import shown_episodes

        shown = shown_episodes(len(film.episode_returns))
        told = ", ".join(f"{film.episode_returns[number]:.1f} ({number + 1})" for number in shown)
        return f"return (episode) {told}, trial {film.returns[0]:.1f}"
    told = (f"{value:.1f} ({count})" for count, value in zip(film.steps, film.returns, strict=True))
    return f"return (steps) {', '.join(told)}"


def _write_fits(options: argparse.Namespace, trained: Trained, steps: list[int], paths: Sequence[Path]) -> Figure:
    """The same of functions that are fitted, with every gradient step up to the last; the still shows those given.

    Raises:
        ConfigError: the tasks are no functions of one number, or an option is one of environments.
    """
    from mamlrl.evaluation.comparison import supervised_entry
    from mamlrl.evaluation.fits import draw_fits, fits_of, is_function_of_one_number
    from mamlrl.experiment import check_device
    from mamlrl.recording.fitting import film_of_fit
    from mamlrl.recording.writers import FRAMES_PER_SECOND
    from mamlrl.seeding import Stream, Streams

    check_device(options.device)
    if options.rollouts is not None:
        raise ConfigError(f"--rollouts is {options.rollouts}, but {trained.config.env} is learned from examples")
    held_out = dataclasses.replace(trained.config.eval, steps=max(steps[-1], 1))
    experiment, meta = supervised_entry(dataclasses.replace(trained.config, eval=held_out, device="cpu"), trained)
    if not is_function_of_one_number(experiment.tasks):
        raise ConfigError(
            f"there are films of functions of one number, which the inputs and targets of {trained.config.env} with "
            f"learner {trained.config.learner} are not; python -m mamlrl.evaluate draws what it makes of images"
        )
    open_film, streams = _open_films(options, len(paths)), Streams(options.seed).test()
    tasks = experiment.tasks.sample_tasks(len(paths), streams.numpy(Stream.TASKS, 0))
    if options.task:
        tasks = check_task(np.array([options.task]), tasks, experiment.tasks)
    fits = fits_of(experiment, meta, tasks, range(steps[-1] + 1), streams)
    for path, task, fit in zip(paths, tasks, fits, strict=True):
        name = f"task {' '.join(f'{number:.2f}' for number in task)}"
        with open_film(path, FRAMES_PER_SECOND) as write:
            film_of_fit(fit, name, write, options.speed)
        errors = ", ".join(f"{fit.error(count):.3f} ({count})" for count in steps)
        print(f"{path}: {name}, error (steps) {errors}", flush=True)
    chosen = [fit._replace(predicted={count: fit.predicted[count] for count in steps}) for fit in fits]
    return draw_fits([(trained.config.learner, chosen)])


def _open_films(
    options: argparse.Namespace, num_films: int
) -> Callable[[Path, float], AbstractContextManager[writers.Write]]:
    """What opens a film of the format that is asked for, in a folder that need not be there; a line says it is at work.

    Raises:
        UserError: there is no ffmpeg for it.
    """
    from mamlrl.recording import writers

    if options.format == "mp4":
        writers.check_ffmpeg()
    write_film = writers.write_gif if options.format == "gif" else writers.write_mp4
    say_without_bar(f"adapting to {counted(num_films, 'task')} and filming ...")

    def open_film(path: Path, frames_per_second: float) -> AbstractContextManager[writers.Write]:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_film(path, frames_per_second)

    return open_film


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


def check_task(task: np.ndarray, drawn: np.ndarray, envs: VectorEnv | TaskDistribution) -> np.ndarray:
    """The task [1, P] given on the command line, if the environment has such tasks.

    Raises:
        ConfigError: it has another size, or is not in the task space.
    """
    if task.shape != drawn.shape:
        given, wanted = task.shape[1], drawn.shape[1]
        raise ConfigError(f"--task has {given} {'number' if given == 1 else 'numbers'}; a task here has {wanted}")
    space = getattr(envs, "task_space", None)
    if space is not None and not contains_task(space, task[0]):
        raise ConfigError(f"--task {' '.join(f'{number:g}' for number in task[0])} {complaint(space, task[0])}")
    return task


if __name__ == "__main__":
    sys.exit(main())
