"""The command: ``python -m mamlrl.diagnose RUN_OR_CONFIG``: bias and noise of estimators of the meta-gradient."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mamlrl.commands import run_command
from mamlrl.errors import ConfigError, shown, suggestion
from mamlrl.options import OptionParser, usable_path
from mamlrl.run_folder import folder as run_folder

if TYPE_CHECKING:
    from mamlrl.config import Config
    from mamlrl.learners.base import LearnerState

EXACT = "exact"
ALL = "log_prob,likelihood_ratio,dice,emaml,first_order"
SAMPLED = {"rollouts": "5,10,20,40", "repeats": 50, "tasks": 4, "reference": 0, "threads": 0}
"""Options that say how samples are drawn, with their defaults; `exact` draws none."""
RANGES = {
    "repeats": (2, 10**5),
    "tasks": (1, 10**4),
    "reference": (0, 10**6),
    "seed": (0, 2**63 - 1),
    "threads": (0, 4096),
}
"""Of the numbers on the command line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Diagnose as the command line says.

    Returns:
        The exit code: 0 when done, 1 when something failed, 2 when the command or a setting is wrong.
    """
    return run_command(_diagnose, argv)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m mamlrl.diagnose`."""
    parser = OptionParser(
        prog="python -m mamlrl.diagnose",
        description="Bias, variance, signal-to-noise ratio and cosine of estimators of the meta-gradient, by number of "
        "rollouts, against one from many times the data; or exactly, on a process small enough to sum over.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "subject",
        metavar="RUN|CONFIG|exact",
        help="Run folder or checkpoint; short name or YAML file of a configuration, whose policy is untrained; or "
        "exact, for the enumerable process.",
    )
    parser.add_argument(
        "--estimators", default=ALL, metavar="NAME,...", help=f"Those of {ALL}, learners, or module:Name (the five)."
    )
    parser.add_argument("--rollouts", metavar="N,...", help="Per task and round (5,10,20,40).")
    parser.add_argument("--repeats", type=int, metavar="N", help="Independent meta-batches of each (50).")
    parser.add_argument("--tasks", type=int, metavar="N", help="Tasks, the same for all of them (4).")
    parser.add_argument(
        "--reference",
        type=int,
        metavar="N",
        help="Rollouts per task and round of the reference's meta-batches; 0 takes five times the most of --rollouts.",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="Seed of tasks and of all noise (1).")
    parser.add_argument(
        "--out", type=usable_path, metavar="DIR", help="Folder of the results (runs/diagnoses/<env>-<time>)."
    )
    parser.add_argument("--threads", type=int, metavar="N", help="Threads; 0 takes all processors.")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, with the defaults of those that are not given.

    Raises:
        ConfigError: one is given that says how samples are drawn, and there are none.
    """
    options = build_parser().parse_args(list(argv))
    given = [f"--{name}" for name in SAMPLED if getattr(options, name) is not None]
    if options.subject == EXACT and given:
        raise ConfigError(f"exact draws no samples, and does not read {', '.join(given)}")
    values = vars(options).items()
    return argparse.Namespace(**{name: SAMPLED.get(name) if value is None else value for name, value in values})


def _diagnose(argv: Sequence[str]) -> int:
    options = parse(argv)
    for name, (least, most) in RANGES.items():
        if not least <= getattr(options, name) <= most:
            raise ConfigError(f"--{name} is {getattr(options, name)}; it must be in [{least}, {most}]")
    rollouts = parse_rollouts(options.rollouts)
    import torch  # takes seconds: --help has answered by now

    from mamlrl.diagnosis import report
    from mamlrl.diagnosis.estimators import parse_estimators
    from mamlrl.diagnosis.measure import Plan, diagnose
    from mamlrl.evaluation.tables import write_csv
    from mamlrl.experiment import num_threads
    from mamlrl.run_folder.figures import save_figure
    from mamlrl.training.memory import keep_freed_memory

    estimators = parse_estimators(options.estimators)
    if options.subject == EXACT:
        return _exact(estimators, options.seed, options.out)
    config, trained = read_subject(options.subject)
    config = dataclasses.replace(config, threads=options.threads, device="cpu")
    folder = options.out or run_folder.results_folder("diagnoses", config)
    table, picture = folder / "diagnosis.csv", folder / "diagnosis.png"
    for path in (table, picture):
        run_folder.check_results(folder, path.name)
    torch.set_num_threads(num_threads(config))
    keep_freed_memory()
    of_reference = options.reference or 5 * max(rollouts)
    plan = Plan(estimators, rollouts, options.repeats, options.tasks, of_reference, options.seed)
    rows, reference = diagnose(config, trained, plan)
    folder.mkdir(parents=True, exist_ok=True)  # files first: a reader that closes the pipe loses none of the work
    write_csv(table, [row._asdict() for row in rows])
    save_figure(report.figure(rows, f"{options.subject}: {options.tasks} tasks, {options.repeats} repeats"), picture)
    noise = reference.noise()
    print(f"\n{report.tables(rows)}\n\n{report.reference_note(noise, plan)}\n")
    for note in report.notes(rows, noise):
        print(f"note: {note}")
    print(f"results: {table}, {picture}", flush=True)
    return 0


def _exact(estimators: Sequence[str], seed: int, folder: Path | None) -> int:
    from mamlrl.diagnosis.exact import biases, make_problem
    from mamlrl.diagnosis.report import exact_table
    from mamlrl.evaluation.tables import write_csv

    if folder:
        run_folder.check_results(folder, "exact.csv")
    found = biases(make_problem(seed), estimators)
    print(f"\nrelative bias, all trajectories summed\n\n{exact_table(found)}\n", flush=True)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / "exact.csv", [row._asdict() for row in found])
        print(f"results: {folder / 'exact.csv'}", flush=True)
    return 0


def parse_rollouts(text: str) -> list[int]:
    """Numbers of rollouts, each once and ascending, from ``5,10``.

    Raises:
        ConfigError: the text is something else.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,5}(,[1-9][0-9]{0,5})*", text):
        raise ConfigError(f"--rollouts is {shown(text)}; it must be numbers from 1 with commas, such as 5,10,20,40")
    return sorted({int(number) for number in text.split(",")})


def read_subject(subject: str) -> tuple[Config, LearnerState | None]:
    """Settings, and all that the learner has learned; None for an untrained one.

    Args:
        subject: short name or YAML file of a configuration, run folder, or checkpoint.

    Raises:
        UserError: it is none of these, or holds more than one run.
    """
    from mamlrl.config.command_line import make_command
    from mamlrl.config.files import shipped_names
    from mamlrl.experiment import initial_state, make_experiment
    from mamlrl.learners import check_names
    from mamlrl.run_folder.pretrained import find_checkpoints, read_trained

    path = usable_path(subject)
    if subject in shipped_names():
        return make_command({"env": subject}, None, None, None).config, None
    if path.suffix in (".yaml", ".yml"):
        command = make_command({}, path, None, None)
        check_names(f"a key of learners in {subject}", command.learners)
        return command.config, None
    if not path.exists():
        names = ", ".join(shipped_names())
        hint = suggestion(subject, [*shipped_names(), EXACT])
        there = f"shipped configurations are {names}; or exact"
        raise ConfigError(f"{subject}: no run, checkpoint or YAML file{hint}; {there}")
    checkpoints = find_checkpoints(path)
    if len(checkpoints) > 1:
        raise ConfigError(f"{subject}: holds {len(checkpoints)} runs; name one of them")
    trained = read_trained(checkpoints[0])
    experiment = make_experiment(trained.config)
    try:
        return trained.config, trained.state(initial_state(experiment))
    finally:
        experiment.envs.close()


if __name__ == "__main__":
    sys.exit(main())
