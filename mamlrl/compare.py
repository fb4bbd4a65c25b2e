"""The command: ``python -m mamlrl.compare RUN [more runs ...]``: learning curves of several runs."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from mamlrl.commands import run_command
from mamlrl.errors import ConfigError, shown
from mamlrl.options import OptionParser, usable_path
from mamlrl.run_folder import folder as run_folder
from mamlrl.statistics import INTERVALS

MOST_SMOOTHED = 1_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Compare runs as the command line says.

    Returns:
        The exit code: 0 when done, 1 when something failed, 2 when the command or a setting is wrong.
    """
    return run_command(_compare, argv)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m mamlrl.compare`."""
    parser = OptionParser(
        prog="python -m mamlrl.compare",
        description="Learning curves of trainings, finished or not: a mean with its interval over seeds for every "
        "learner and setting, a panel for every environment.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=usable_path, metavar="RUN", help="Run folder, or folder of runs.")
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="Column of metrics.csv, such as return/step_1; return and eval/return are all their numbers of gradient "
        "steps (return; of supervised tasks error or accuracy).",
    )
    parser.add_argument(
        "--against",
        choices=("iterations", "env_steps", "seconds"),
        default="iterations",
        help="Meta-iterations, environment steps, or seconds of training (iterations).",
    )
    parser.add_argument(
        "--interval",
        choices=INTERVALS,
        default="student",
        help="Around each mean: 95%% by Student's t or by the percentile bootstrap, or the standard error (student).",
    )
    parser.add_argument(
        "--smooth",
        type=int,
        default=1,
        metavar="N",
        help="Measurements that each point of a run is the centred mean of, an odd number (1).",
    )
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="NAME:STEPS=RETURN",
        help="Published return of a configuration or environment after so many gradient steps; may be repeated.",
    )
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="Of the figure (png).")
    parser.add_argument(
        "--out", type=usable_path, metavar="DIR", help="Folder of the results (runs/comparisons/<environments>-<time>)."
    )
    return parser


def _compare(argv: Sequence[str]) -> int:
    options = build_parser().parse_args(list(argv))
    if not 1 <= options.smooth <= MOST_SMOOTHED or options.smooth % 2 == 0:
        wanted = f"odd, for a mean that is centred, and in [1, {MOST_SMOOTHED}]"
        raise ConfigError(f"--smooth is {options.smooth}; it must be {wanted}")
    from mamlrl.evaluation import learning_curves as curves  # matplotlib takes a second: --help has answered by now
    from mamlrl.evaluation.learning_curves_figure import figure
    from mamlrl.evaluation.tables import write_csv
    from mamlrl.run_folder.figures import save_figure
    from mamlrl.run_folder.history import find_runs
    from mamlrl.supervised import quantity_of

    references = [curves.Reference(*parse_reference(text)) for text in options.reference]
    runs = find_runs(options.runs)
    metric = quantity_of(runs[0].config.env).name if options.metric is None else options.metric
    choice = curves.Choice(metric, options.against, options.interval, options.smooth)
    panels = curves.make_panels(runs, choice, references)
    folder = options.out or run_folder.results_folder("comparisons", *(run.config for run in runs))
    picture, table = folder / f"curves.{options.format}", folder / "curves.csv"
    for path in (picture, table):
        run_folder.check_results(folder, path.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(table, curves.rows_of(panels, choice))
    save_figure(figure(panels, choice), picture)
    print(f"{curves.final_table(panels, choice)}\n")
    for note in curves.missing(panels, runs, choice):
        print(f"note: {note}")
    print(f"results: {picture}, {table}", flush=True)
    return 0


def parse_reference(text: str) -> tuple[str, int, float]:
    """`navigation:1=-11.68` as name, number of gradient steps and return.

    Raises:
        ConfigError: the text has another form.
    """
    target, _, value = text.rpartition("=")
    name, _, steps = target.rpartition(":")
    try:
        reference = name, int(steps), float(value)
        if not name or reference[1] < 0 or not math.isfinite(reference[2]):
            raise ValueError
    except ValueError as error:
        form = "NAME:STEPS=RETURN, such as navigation:1=-11.68"
        raise ConfigError(f"--reference is {shown(text)}; it must be {form}") from error
    return reference


if __name__ == "__main__":
    sys.exit(main())
