"""What a method of an environment returned is what Gymnasium's interface says.

Values that convert without loss of meaning are taken: a reward or flag as an array without dimensions, an observation
in a wider type or as a list.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .base import Array, Infos, array_or_none
from .errors import WrongReturn

RESET_VALUES = ("observation", "info")
STEP_VALUES = ("observation", "reward", "terminated", "truncated", "info")


def checked_space(env: gymnasium.Env, name: str) -> spaces.Space:
    """A space that an environment must have."""
    space = getattr(env, name, None)
    if not isinstance(space, spaces.Space):
        raise WrongReturn(f"an environment whose {name} is {_kind(space)}; it must be a Gymnasium space")
    return space


def unpacked(result: Any, names: tuple[str, ...]) -> Any:
    """The values that a method returned, as many as there are names."""
    if not isinstance(result, (tuple, list)):
        raise WrongReturn(f"{_kind(result)} in place of the {len(names)} values {', '.join(names)}")
    if len(result) != len(names):
        raise WrongReturn(f"{len(result)} values in place of the {len(names)} values {', '.join(names)}")
    return result


def checked_observation(value: Any, space: spaces.Space) -> NDArray[Any]:
    """An observation as an array of the space's shape, of a type that the space's can hold."""
    if isinstance(value, np.ndarray) and value.shape == space.shape and value.dtype == space.dtype:
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise WrongReturn(f"{_kind(value)} as its observation; it must be an array of numbers")
    if array.shape != space.shape:
        raise WrongReturn(f"an observation of shape {array.shape}; that of the observation space is {space.shape}")
    if not np.can_cast(array.dtype, space.dtype, "same_kind"):  # type: ignore[arg-type]
        raise WrongReturn(f"an observation of type {array.dtype}; that of the observation space is {space.dtype}")
    return array


def checked_reward(value: Any) -> float:
    """A reward as a number."""
    if isinstance(value, (float, int)):
        return float(value)
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise WrongReturn(f"{_kind(value)} as its reward; it must be a number")
    if array.shape:
        raise WrongReturn(f"a reward of shape {array.shape}; it must be a number")
    return float(array)


def checked_flag(value: Any, name: str) -> bool:
    """A flag as a bool."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    array = np.asarray(value)
    if array.shape or array.dtype.kind not in "iub" or array not in (0, 1):
        raise WrongReturn(f"{_kind(value)} as {name}; it must be True or False")
    return bool(array)


def checked_info(value: Any) -> Infos:
    """An info, which is a dict."""
    if not isinstance(value, dict):
        raise WrongReturn(f"{_kind(value)} as its info; it must be a dict")
    return value


def checked_picture(value: Any) -> NDArray[Any]:
    """A picture as an array of whatever shape."""
    picture = array_or_none(value)
    if picture.dtype.kind not in "fiub":
        raise WrongReturn(f"{_kind(value)} in place of a picture; it must be an array of numbers")
    return picture


def checked_tasks(value: Any, n: int) -> Array:
    """Tasks as an array, float64 [n, P]."""
    tasks = array_or_none(value)
    if tasks.dtype.kind not in "fiub":
        raise WrongReturn(f"{_kind(value)}; it must return an array of numbers of shape ({n}, P)")
    if tasks.ndim != 2 or len(tasks) != n or not tasks.shape[1]:
        raise WrongReturn(f"an array of shape {tasks.shape}; it must be ({n}, P)")
    if not np.isfinite(tasks).all():
        raise WrongReturn("tasks that are not finite (NaN or infinite)")
    return tasks.astype(np.float64)


def contains_task(space: spaces.Space, task: Array) -> bool:
    """Whether a task is in a space, in the numbers that the space itself has (Gymnasium's boxes are of float32)."""
    if space.dtype is None or space.shape is None or task.size != np.prod(space.shape):
        return space.contains(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NaN as an integer
        as_its_own = task.astype(space.dtype).reshape(space.shape)
    if np.issubdtype(space.dtype, np.integer) and (as_its_own.reshape(-1) != task).any():
        return False
    return space.contains(as_its_own)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and type {value.dtype}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
