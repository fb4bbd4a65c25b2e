"""Errors that a user can act on: the command line prints them as one line and exits with their code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 160
"""Characters of a value or a name in a message; what is longer is cut."""
LONGEST_MESSAGE = 500
"""Characters of an exception's text in a message."""


class UserError(Exception):
    """Something the user can put right. The message names the thing, its value and what would be right."""

    exit_code = 1


class ConfigError(UserError):
    """A setting or an argument that cannot be right."""

    exit_code = 2


class NonFiniteError(UserError):
    """A policy produced numbers that are not finite."""


class RankFailure(UserError):
    """What ended the work of another rank, or that it does not answer.

    Args:
        message: which rank, and what.
        exit_code: of its error.
        traceback: of an error that nobody expected; None of others. A lost rank has left none: it is empty.
    """

    def __init__(self, message: str, exit_code: int = 1, traceback: str | None = ""):
        super().__init__(message)
        self.exit_code, self.traceback = exit_code, traceback


class OutputError(OSError):
    """Standard output cannot be written: nobody reads it any more, or its disk is full."""


class LearnerFailure(Exception):
    """A method of a user's learner raised an exception, or returned what it must not; the text says which and what."""


def cut(text: str) -> str:
    """A text for a message: long ones lose their middle."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 40]} ... {text[-30:]}"


def shown(value: object) -> str:
    """A value for a message, as Python writes it: whatever a file holds, it is never printed whole."""
    try:
        return cut(repr(value))
    except ValueError:  # Python does not write out integers of thousands of digits
        return "a number of thousands of digits"


def said(error: BaseException) -> str:
    """What an exception says, in a line that is not too long; its kind where it says nothing."""
    return _in_a_line(f"no {error}" if isinstance(error, KeyError) else str(error)) or type(error).__name__


def described(error: BaseException) -> str:
    """An exception in a line that is not too long: its kind and what it says."""
    return _in_a_line(f"{type(error).__name__}: {error}")


def _in_a_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."


def suggestion(name: str, candidates: Iterable[str], count: int = 1) -> str:
    """The nearest known names as a question at the end of a message; empty where none is near."""
    nearest = difflib.get_close_matches(name[:200], list(candidates), n=count)
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""
