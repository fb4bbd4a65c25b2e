"""Options on a command line: a parser whose errors are of one line, and paths."""

from __future__ import annotations

import argparse
import errno
from pathlib import Path
from typing import Any, NoReturn

from mamlrl.errors import ConfigError, cut, shown


class OptionParser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it, but for a flag whose value is `--`, which argparse would drop."""
        for word in args or ():
            if word.endswith("=--"):
                raise ConfigError(f"{cut(word)}: -- is no value")
        return super().parse_known_args(args, namespace)

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
