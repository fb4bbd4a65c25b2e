"""The command: ``python -m mamlrl.evaluate RUN [more runs ...]``: return against number of gradient steps."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mamlrl.commands import OptionParser, run_command, usable_path
from mamlrl.config import Config, EvalConfig
from mamlrl.errors import ConfigError
from mamlrl.evaluation.protocols import STEPS, TASKS, paper_protocol
from mamlrl.run_folder import folder as run_folder
from mamlrl.statistics import INTERVALS

if TYPE_CHECKING:
    from mamlrl.evaluation.comparison import Entry


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
    parser.add_argument(
        "--interval",
        choices=INTERVALS,
        default="student",
        help="Around each mean: 95%% by Student's t or by the percentile bootstrap, or the standard error (student).",
    )
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
    from mamlrl.training.memory import keep_freed_memory

    entries = comparison.find_entries(options.runs, options.random)
    first = entries[0].config
    protocol = paper_protocol(first) if options.protocol else None
    if protocol:
        settings = dataclasses.replace(settings, tasks=TASKS, rollouts=protocol.rollouts, min_steps=STEPS)
    folder = options.out or run_folder.results_folder("evaluations", first)
    for name in comparison.RESULTS:
        run_folder.check_results(folder, name)
    keep_freed_memory()
    torch.set_num_threads(num_threads(dataclasses.replace(first, threads=options.threads)))
    seed = 1 if options.seed is None else options.seed
    tasks = protocol.tasks() if protocol else None
    plan = comparison.Plan(settings, seed, tasks, options.device, options.threads)
    results = comparison.evaluate_runs(entries, plan, announce)
    published = protocol.published if protocol else {}
    comparisons = comparison.compare(results, title_of(first, settings), options.interval, published)
    try:
        comparison.write_results(folder, results, comparisons)
    finally:  # what took minutes is seen although the disk is full
        print(f"\n{comparison.report(comparisons)}\n")
    print(f"results: {folder}", flush=True)
    return 0


def announce(entry: Entry) -> None:
    """Say which policy is evaluated now."""
    print(
        f"{entry.method}, seed {entry.config.seed}: {entry.trained.path if entry.trained else 'untrained'}", flush=True
    )


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


if __name__ == "__main__":
    sys.exit(main())
