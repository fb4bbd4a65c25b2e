"""The command: ``python -m mamlrl.train --env cheetah-vel``. The loop that it runs is in `mamlrl.training`.

The module can be called too: ``mamlrl.train("cheetah-vel")`` is `mamlrl.api.train`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mamlrl import api
from mamlrl.commands import make_callable, run_command
from mamlrl.config.command_line import parse_command
from mamlrl.distributed import from_first


def main(argv: Sequence[str] | None = None) -> int:
    """Meta-train as the command line says.

    Returns:
        The exit code: 0 when done, 1 when something failed, 2 when the command or a setting is wrong, 130 or 143 when
        stopped by Ctrl-C or SIGTERM.
    """
    return run_command(_train, argv, lasting=True, spreads=True)


def _train(argv: Sequence[str]) -> int:
    command = from_first(lambda: parse_command(argv, _settings_of))
    from mamlrl.training.run import run  # imports torch, which takes seconds: --help has answered by now

    return run(command).exit_code


def _settings_of(learner: str) -> type:
    from mamlrl.learners import find_learner  # imports torch: only who asks for a learner's settings waits for it

    return find_learner(learner).settings


make_callable(__name__, api.train)

if __name__ == "__main__":
    sys.exit(main())
