"""Arguments of an environment's constructor: which there are, and which was meant."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from .base import TaskEnv, TaskVectorEnv

GIVEN_BY_US = (
    "id",
    "num_envs",
    "max_episode_steps",
    "num_threads",
    "disable_env_checker",
    "vectorization_mode",
    "vector_kwargs",
    "wrappers",
)
"""Arguments that are settings of their own, or no affair of a user."""
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_arguments(env_id: str, constructor: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    """Refuse arguments of which the constructor's signature alone tells that there are none such.

    Raises:
        ValueError: there is no such argument.
    """
    parameters = _parameters(constructor)
    takes_any = parameters is None or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    known = {one.name for one in parameters or () if one.kind in NAMED}
    for name in kwargs:
        if name == "render_mode" and not takes_any and name not in known:
            raise ValueError(f"environment {env_id} cannot be drawn: its constructor takes no render_mode")
        if name in GIVEN_BY_US or (not takes_any and name not in known):
            raise ValueError(f"environment {env_id} {_no_such_argument(str(name), constructor)}")


def refused_argument(constructor: Callable[..., Any], complaint: str) -> str:
    """That there is no such argument, and which there are, if that is what a constructor has complained of."""
    refused = re.search(
        r"TypeError:.* (?:unexpected keyword|multiple values for)(?: keyword)? argument '(\w+)'", complaint
    )
    return _no_such_argument(refused[1], constructor) if refused else ""


def _no_such_argument(name: str, constructor: Callable[..., Any]) -> str:
    names = sorted(set(_argument_names(constructor)) - {*GIVEN_BY_US, "render_mode"})
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ";"
    return f"takes no argument {name!r}{hint} it takes {', '.join(names) or 'none'}"


def _argument_names(constructor: Callable[..., Any]) -> Iterable[str]:
    """Arguments of a function, or of a class and of the base classes that it hands further arguments on to."""
    if isinstance(constructor, type) and issubclass(constructor, TaskEnv):
        constructor = constructor.vector_class  # to which it hands all of them on
    if not isinstance(constructor, type):
        yield from (one.name for one in _parameters(constructor) or () if one.kind in NAMED)
        return
    family = issubclass(constructor, TaskVectorEnv)
    for depth, kind in enumerate(one for one in constructor.__mro__ if "__init__" in vars(one)):
        parameters = _parameters(vars(kind)["__init__"]) or []
        # A family gives its base classes' positional arguments itself.
        kinds = NAMED[1:] if family and depth else NAMED
        yield from (one.name for one in parameters if one.kind in kinds and one.name != "self")
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
            return


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Parameters of a function or constructor; None if it does not tell them."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
