"""The command: ``python -m mamlrl.train --env cheetah-vel``. The loop that it runs is in `mamlrl.training`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mamlrl.cli import parse_command
from mamlrl.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Meta-train as the command line says.

    Returns:
        The exit code: 0 when done, 1 when something failed, 2 when the command or a setting is wrong, 130 or 143 when
        stopped by Ctrl-C or SIGTERM.
    """
    if os.getcwd() not in sys.path:  # --env my_module:... is found from the console script too, as from python -m
        sys.path.insert(0, os.getcwd())
    try:
        command = parse_command(sys.argv[1:] if argv is None else argv)
        from mamlrl.training import run  # imports torch, which takes seconds: --help has answered by now

        return run(command)
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        return 130


def _fail(message: str, exit_code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
