"""The command: ``python -m mamlrl.evaluate RUN [more runs ...]``: return against number of gradient steps."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mamlrl.commands import OptionParser, run_command, usable_path
from mamlrl.config import Config, EvalConfig
from mamlrl.config.files import differences, to_settings
from mamlrl.errors import ConfigError
from mamlrl.evaluation.protocols import STEPS, TASKS, environment_settings, paper_protocol
from mamlrl.run_folder import folder as run_folder

if TYPE_CHECKING:
    from mamlrl.run_folder.pretrained import Trained

IRRELEVANT = ("seed", "name", "iterations", "device", "threads", "eval", "video", "checkpoint")
"""Settings in which runs of one method may differ."""


class Entry(NamedTuple):
    """What is evaluated under the name of a method."""

    method: str
    config: Config
    trained: Trained | None
    """None for the untrained initialisation"""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate runs as the command line says.

    Returns:
        The exit code: 0 when done, 1 when something failed, 2 when the command or a setting is wrong.
    """
    return run_command(_evaluate, argv)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m mamlrl.evaluate`."""
    parser = OptionParser(
        prog="python -m mamlrl.evaluate",
        description="Adapt trained policies to held-out tasks and report the return after every gradient step.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="+", type=usable_path, metavar="RUN", help="Run folder, checkpoint, or folder of runs."
    )
    parser.add_argument("--steps", type=int, metavar="N", help="Gradient steps on each task (3).")
    parser.add_argument("--tasks", type=int, metavar="N", help="Held-out tasks (40).")
    parser.add_argument("--rollouts", type=int, metavar="N", help="Rollouts per task and gradient step (20).")
    parser.add_argument(
        "--step_size_schedule",
        choices=("halve", "constant"),
        help="Step size of gradient steps beyond those of training: half of it, or the same (halve).",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="Seed of the held-out tasks and of all noise (1).")
    parser.add_argument("--protocol", choices=("paper",), help="Tasks, rollouts and step sizes of the MAML paper.")
    parser.add_argument("--random", action="store_true", help="Also evaluate the untrained policy of every seed.")
    parser.add_argument(
        "--out", type=usable_path, metavar="DIR", help="Folder of the results (runs/evaluations/<env>-<time>)."
    )
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda", help="Device of the policies (cpu).")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="Threads; 0 takes all processors.")
    return parser


def _evaluate(argv: Sequence[str]) -> int:
    options = build_parser().parse_args(list(argv))
    settings = _eval_settings(options)
    import torch  # takes seconds: --help has answered by now

    from mamlrl.evaluation import comparison
    from mamlrl.experiment import num_threads
    from mamlrl.run_folder.pretrained import find_checkpoints, read_trained
    from mamlrl.training.memory import keep_freed_memory

    paths = dict.fromkeys(path for run in options.runs for path in find_checkpoints(run))
    trained = [read_trained(path) for path in paths]
    entries = make_entries(trained, options.random)
    first = entries[0].config
    protocol = paper_protocol(first) if options.protocol else None
    if protocol:
        settings = dataclasses.replace(settings, tasks=TASKS, rollouts=protocol.rollouts, min_steps=STEPS)
    folder = options.out or run_folder.results_folder("evaluations", first)
    run_folder.check_results(folder, comparison.CSV_FILE)
    keep_freed_memory()
    torch.set_num_threads(num_threads(dataclasses.replace(first, threads=options.threads)))
    seed = 1 if options.seed is None else options.seed
    results = []
    for entry in entries:
        config = dataclasses.replace(entry.config, eval=settings, device=options.device, threads=options.threads)
        print(f"{entry.method}, seed {config.seed}: {entry.trained.path if entry.trained else 'untrained'}", flush=True)
        returns = comparison.evaluate_config(config, entry.trained, seed, protocol.tasks() if protocol else None)
        results.append(comparison.Evaluated(entry.method, config.seed, returns))
    curves, title = comparison.pool(results), title_of(first, settings)
    published = protocol.published if protocol else {}
    try:
        comparison.write_results(folder, results, curves, published, title)
    finally:  # what took minutes is seen although the disk is full
        print(f"\n{title}\n\n{comparison.table(curves, published)}\n")
    print(f"results: {folder}", flush=True)
    return 0


def title_of(config: Config, settings: EvalConfig) -> str:
    """What was measured, in a line."""
    name, horizon = config.env.rpartition("/")[2], config.environment.horizon
    data = f"{settings.rollouts} rollouts of {horizon} steps"
    if settings.min_steps:
        data = f"{settings.min_steps} steps in rollouts of {horizon}"
    return f"{name}: {settings.tasks} held-out tasks, {data}"


def _eval_settings(options: argparse.Namespace) -> EvalConfig:
    """Settings of the evaluation, but for what the protocol says of them; the other options are checked too."""
    given = {
        name: value
        for name in ("tasks", "rollouts", "step_size_schedule")
        if (value := getattr(options, name)) is not None
    }
    if options.protocol and given:
        flags = ", ".join(f"--{name}" for name in given)
        raise ConfigError(f"--protocol {options.protocol} excludes {flags}: the protocol says what they are")
    if options.steps is not None:
        given["steps"] = options.steps
    try:
        Config(seed=options.seed or 0, device=options.device, threads=options.threads)  # checks them
        return EvalConfig(**given)
    except ConfigError as error:
        raise ConfigError(f"--{str(error).removeprefix('eval.')}") from error


def make_entries(trained: Sequence[Trained], random: bool) -> list[Entry]:
    """Name the method of every run, and add the untrained policies.

    Runs of different seeds whose settings differ in nothing else but the length are runs of one method. It has the
    learner's name; where several methods have the same learner, with that of the configuration or of the checkpoint.

    Methods are in the order of LEARNERS.

    Raises:
        ConfigError: the runs are not of the same environment.
    """
    from mamlrl.learners import LEARNERS

    for run in trained[1:]:
        check_same_environment(trained[0], run)
    groups: list[list[Trained]] = []
    for run in trained:
        same = next((group for group in groups if _is_another_seed(run.config, group)), None)
        groups.append([run]) if same is None else same.append(run)
    order = {learner: number for number, learner in enumerate(LEARNERS)}
    groups.sort(key=lambda group: order.get(group[0].config.learner, len(order)))
    names = _method_names([group[0] for group in groups])
    entries = [Entry(name, run.config, run) for name, group in zip(names, groups, strict=True) for run in group]
    if random:
        untrained = {
            run.config.seed: dataclasses.replace(run.config, learner="random", learner_settings={})
            for run in reversed(trained)
        }
        entries += [Entry("random", config, None) for _, config in sorted(untrained.items())]
    return entries


def _is_another_seed(config: Config, group: Sequence[Trained]) -> bool:
    """Whether a run is one more of a method, with a seed that is not there yet."""

    def relevant(config: Config) -> dict[str, object]:
        return {name: value for name, value in to_settings(config).items() if name not in IRRELEVANT}

    seeds = {run.config.seed for run in group}
    return config.seed not in seeds and relevant(config) == relevant(group[0].config)


def _method_names(runs: Sequence[Trained]) -> list[str]:
    """The learner; where several have it, with the configuration's name; where that is the same, with the file's."""
    candidates = [
        [run.config.learner for run in runs],
        [f"{run.config.learner} ({run.config.name or run.config.env.rpartition('/')[2]})" for run in runs],
        [f"{run.config.learner} ({_run_name(run.path)})" for run in runs],
    ]
    return [
        next((names[row] for names in candidates if names.count(names[row]) == 1), candidates[-1][row])
        for row in range(len(runs))
    ]


def _run_name(checkpoint: Path) -> str:
    """The run folder of a checkpoint, and its own name."""
    folder = checkpoint.absolute().parent
    return f"{(folder.parent if folder.name == 'checkpoints' else folder).name} {checkpoint.stem}"


def check_same_environment(run: Trained, other: Trained) -> None:
    """Two runs were trained on the same environment: returns on different ones do not compare.

    Raises:
        ConfigError: names what differs.
    """
    changed = differences(environment_settings(run.config), environment_settings(other.config))
    if changed:
        named = {"env": changed["env"]} if "env" in changed else changed  # other families have other arguments
        listed = "; ".join(f"{name} is {theirs!r}, not {ours!r}" for name, (ours, theirs) in named.items())
        raise ConfigError(f"{other.path} is of another environment than {run.path}: {listed}")


if __name__ == "__main__":
    sys.exit(main())
