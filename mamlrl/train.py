"""The command: ``python -m mamlrl.train --env cheetah-vel``. The loop that it runs is in `mamlrl.training`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mamlrl.cli import exit_code_of, parse_command


def main(argv: Sequence[str] | None = None) -> int:
    """Meta-train as the command line says.

    Returns:
        The exit code: 0 when done, 1 when something failed, 2 when the command or a setting is wrong, 130 or 143 when
        stopped by Ctrl-C or SIGTERM.
    """
    if os.getcwd() not in sys.path:  # --env my_module:... is found from the console script too, as from python -m
        sys.path.insert(0, os.getcwd())
    return exit_code_of(lambda: _train(sys.argv[1:] if argv is None else argv))


def _train(argv: Sequence[str]) -> int:
    command = parse_command(argv)
    from mamlrl.training import run  # imports torch, which takes seconds: --help has answered by now

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
