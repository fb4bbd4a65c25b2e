"""What an environment did wrong, in one line, wherever it was: this process or another."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

HERE = str(Path(__file__).parent)
LONGEST_TEXT = 300  # characters of an exception's message that are shown


class EnvironmentFailure(Exception):
    """A method of an environment raised an exception, returned what it must not, hung, or ended its process.

    Attributes:
        environment: its id.
        method: "import", "constructor", "sample_tasks", "reset", "step", "render" or another.
        what: what the method did: "raised ValueError: ...", "returned ...".
        task: that it was on, or None.
        user_traceback: of the environment's own code, as Python prints it; empty where nothing was raised.
    """

    def __init__(
        self, environment: str, method: str, what: str, task: ArrayLike | None = None, user_traceback: str = ""
    ):
        # As the exception's arguments they travel between processes; so all of them are plain values.
        self.task = None if task is None else np.asarray(task, np.float64).tolist()
        self.environment, self.method, self.what, self.user_traceback = environment, method, what, user_traceback
        super().__init__(environment, method, what, self.task, user_traceback)

    def __str__(self) -> str:
        task = "" if self.task is None else f" (task {_in_brackets(self.task)})"
        return " ".join(f"environment {self.environment}: {self.method} {self.what}{task}".split())


class WrongArgument(ValueError):
    """What a caller gave to `reset`, such as a task that is in no task space: the caller's mistake, not its."""


class WrongReturn(Exception):
    """A method returned something that it must not; the text says what, after the word "returned"."""


def failure(environment: str, method: str, error: BaseException, task: ArrayLike | None = None) -> EnvironmentFailure:
    """The failure behind an exception that came out of a method of the environment."""
    if isinstance(error, EnvironmentFailure):
        return error
    if isinstance(error, WrongReturn):
        return EnvironmentFailure(environment, method, f"returned {error}", task)
    return EnvironmentFailure(environment, method, f"raised {_in_a_line(error)}", task, _traceback(error))


def _in_a_line(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(its message cannot be shown)"
    if len(text) > LONGEST_TEXT:
        text = text[:LONGEST_TEXT] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _traceback(error: BaseException) -> str:
    """The traceback from where our code called the environment's."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(HERE):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    except Exception:  # an exception that cannot even be shown
        return "".join(traceback.format_tb(frames)) + type(error).__name__ + "\n"


def _in_brackets(task: list[float], longest: int = 8) -> str:
    numbers = [f"{number:.4g}" for number in task[:longest]]
    return f"[{', '.join(numbers)}{', ...' if len(task) > longest else ''}]"
