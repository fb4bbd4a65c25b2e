"""Errors that a user can act on: the command line prints them as one line and exits with their code."""

from __future__ import annotations

LONGEST = 160
"""Characters of a value or a name in a message; what is longer is cut."""


class UserError(Exception):
    """Something the user can put right. The message names the thing, its value and what would be right."""

    exit_code = 1


class ConfigError(UserError):
    """A setting or an argument that cannot be right."""

    exit_code = 2


class NonFiniteError(UserError):
    """An environment or a policy produced numbers that are not finite."""


class OutputError(OSError):
    """Standard output cannot be written: nobody reads it any more, or its disk is full."""


def cut(text: str) -> str:
    """A text for a message: long ones lose their middle."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 40]} ... {text[-30:]}"


def shown(value: object) -> str:
    """A value for a message, as Python writes it: whatever a file holds, it is never printed whole."""
    try:
        return cut(repr(value))
    except ValueError:  # Python does not write out integers of thousands of digits
        return "a number of thousands of digits"
