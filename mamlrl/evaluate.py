"""The command: ``python -m mamlrl.evaluate RUN [more runs ...]``: return or error against gradient steps.

The module can be called too: ``mamlrl.evaluate("runs/mine")`` is `mamlrl.api.evaluate`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mamlrl import api
from mamlrl.commands import make_callable, run_command
from mamlrl.distributed import is_first, share_of, size
from mamlrl.errors import ConfigError
from mamlrl.evaluation.protocols import eval_settings
from mamlrl.options import OptionParser, usable_path
from mamlrl.run_folder import folder as run_folder
from mamlrl.statistics import INTERVALS

NOT_OF_TRIALS = ("steps", "rollouts", "shots", "queries", "step_size_schedule", "random", "mismatched")
"""Options that protocol rl2 has no use for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate runs as the command line says.

    Returns:
        The exit code: 0 when done, 1 when something failed, 2 when the command or a setting is wrong.
    """
    return run_command(_evaluate, argv, spreads=True)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m mamlrl.evaluate`."""
    parser = OptionParser(
        prog="python -m mamlrl.evaluate",
        description="Adapt trained policies to held-out tasks and report the return after every gradient step; of "
        "supervised tasks the error, with the settings of the run where no others are given.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=usable_path,
        metavar="RUN",
        help="Run folder, checkpoint, or folder of runs; --protocol rl2 needs none.",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="Gradient steps on each task (3).")
    parser.add_argument("--tasks", type=int, metavar="N", help="Held-out tasks (40; rl2: 10000, in mazes 1000).")
    parser.add_argument("--rollouts", type=int, metavar="N", help="Rollouts per task and gradient step (20).")
    parser.add_argument("--shots", type=int, metavar="N", help="Examples that supervised tasks are adapted to on.")
    parser.add_argument("--queries", type=int, metavar="N", help="Examples that the error is measured on.")
    parser.add_argument(
        "--step_size_schedule",
        choices=("halve", "constant"),
        help="Step size of gradient steps beyond those of training: half of it, or the same (halve).",
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="Seed of the held-out tasks and of all noise (1)."
    )
    parser.add_argument(
        "--protocol",
        choices=("paper", "rl2"),
        help="Tasks, data and step sizes of the MAML paper; or the tables of the RL2 paper, with all their algorithms.",
    )
    parser.add_argument(
        "--cell",
        action="append",
        metavar="CELL",
        help="Of protocol rl2: bandit:n=100,k=10, tabular-mdp:n=25 or maze:size=7, with any sizes, or bandit alone for "
        "all of the paper's; more than once for several (those of the runs; without runs the paper's but mazes).",
    )
    parser.add_argument("--tune", action="store_true", help="Of protocol rl2: find the algorithms' parameters anew.")
    parser.add_argument(
        "--interval",
        choices=INTERVALS,
        default="student",
        help="Around each mean: 95%% by Student's t or by the percentile bootstrap, or the standard error (student).",
    )
    parser.add_argument("--random", action="store_true", help="Also evaluate the untrained policy of every seed.")
    parser.add_argument(
        "--mismatched",
        action="store_true",
        help="Also adapt every trained policy to another task than it then acts in: what it gains there too is owed to "
        "no knowledge of the task.",
    )
    parser.add_argument(
        "--out", type=usable_path, metavar="DIR", help="Folder of the results (runs/evaluations/<env>-<time>)."
    )
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda", help="Device of the policies (cpu).")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="Threads; 0 takes all processors.")
    return parser


def _evaluate(argv: Sequence[str]) -> int:
    parser = build_parser()
    options = parser.parse_args(list(argv))
    if options.protocol == "rl2":
        return _evaluate_trials(options)
    for name in ("cell", "tune"):
        if getattr(options, name):
            parser.error(f"--{name} is of --protocol rl2")
    if not options.runs:
        parser.error("the following arguments are required: RUN")
    names = ("steps", "tasks", "rollouts", "shots", "queries", "step_size_schedule", "seed", "device", "threads")
    given = {name: getattr(options, name) for name in names}
    eval_settings(given, options.protocol, prefix="--")  # what is wrong is said before anything is read
    from mamlrl.evaluation import comparison  # imports torch, which takes seconds: --help has answered by now
    from mamlrl.evaluation.fits import fits_figure
    from mamlrl.training.memory import keep_freed_memory

    entries = comparison.find_entries(options.runs, options.random, options.mismatched)
    first = entries[0].config
    settings = eval_settings(given, options.protocol, prefix="--", base=comparison.base_settings(first))
    plan = comparison.Plan(settings, options.seed, None, options.device, options.threads)
    if options.protocol:
        plan = comparison.of_paper(plan, first)
    amount = f"the number of tasks of --protocol {options.protocol}" if options.protocol else "--tasks"
    share_of(plan.settings.tasks, amount)  # there are not more ranks than tasks
    folder = options.out or run_folder.results_folder("evaluations", first)
    for name in comparison.RESULTS:
        run_folder.check_results(folder, name)
    keep_freed_memory()
    results, comparisons = comparison.carry_out(entries, plan, options.interval)
    if not is_first():
        return 0
    try:
        comparison.write_results(folder, results, comparisons, fits_figure(entries, plan))
    finally:  # what took minutes is seen although the disk is full
        print(f"\n{comparison.report(comparisons)}\n")
    print(f"results: {folder}", flush=True)
    return 0


def _evaluate_trials(options: argparse.Namespace) -> int:
    """The tables of the RL2 paper."""
    given = {name: getattr(options, name) for name in NOT_OF_TRIALS}
    refused = [name for name, value in given.items() if value is not None and value is not False]
    if options.interval != "student":  # its tables have the standard error
        refused.append("interval")
    if refused:
        raise ConfigError(f"--protocol rl2 excludes {', '.join(f'--{name}' for name in refused)}")
    if size() > 1:
        raise ConfigError(f"--protocol rl2 works in one process; torchrun has started {size()}")
    from mamlrl.evaluation.trial_tables import TrialPlan, carry_out, results_folder

    plan = TrialPlan(options.cell or [], options.tasks, options.seed, options.tune, options.device, options.threads)
    folder = options.out or results_folder()
    print(carry_out(options.runs, plan, folder))
    print(f"results: {folder}", flush=True)
    return 0


make_callable(__name__, api.evaluate)

if __name__ == "__main__":
    sys.exit(main())
