"""Errors that a user can act on: the command line prints them as one line and exits with their code."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right. The message names the thing, its value and what would be right."""

    exit_code = 1


class ConfigError(UserError):
    """A setting or an argument that cannot be right."""

    exit_code = 2


class NonFiniteError(UserError):
    """An environment or a policy produced numbers that are not finite."""
