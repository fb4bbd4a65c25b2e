"""Options on a command line: a parser whose errors are of one line, and paths."""

from __future__ import annotations

import argparse
import errno
from pathlib import Path
from typing import Any, NoReturn

from mamlrl.errors import ConfigError, cut, shown, suggestion

MOST_LISTED = 30
"""Flags that a message lists at most; the training has more, and checks them itself."""


class OptionParser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it, but for a flag whose value is `--`, which argparse would drop."""
        for word in args or ():
            if word.endswith("=--"):
                raise ConfigError(f"{cut(word)}: -- is no value")
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does it, but an unknown flag is answered with the one that was meant, or with all."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            hint = suggestion(unknown[0].partition("=")[0], flags)
            if not hint and unknown[0].startswith("-") and len(flags) <= MOST_LISTED:
                hint = f"; flags are {', '.join(flags)}"
            raise ConfigError(f"unrecognized arguments: {cut(' '.join(unknown))}{hint}")
        return found

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong."""
        raise ConfigError(cut(message))


def usable_path(text: str) -> Path:
    """The path of an option, for `argparse`.

    Raises:
        argparse.ArgumentTypeError: no file or folder can have this name.
    """
    try:
        Path(text).lstat()
    except ValueError as error:  # a zero byte, or bytes that are no text
        raise argparse.ArgumentTypeError(f"{shown(text)} cannot be a file or folder") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise argparse.ArgumentTypeError(f"{shown(text)}: {error.strerror}") from error
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{shown(text)} cannot be a file or folder")
    return Path(text)
