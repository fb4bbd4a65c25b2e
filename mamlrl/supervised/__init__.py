"""Supervised tasks: regression and classification from few examples. A new set is a new file and a row in TASK_SETS."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mamlrl.config import Config
from mamlrl.errors import ConfigError, UserError, described, shown, suggestion
from mamlrl.objectives import Loss, accuracy, cross_entropy_loss, squared_error_loss
from mamlrl.supervised.base import TaskDistribution
from mamlrl.supervised.glyphs import make_glyphs
from mamlrl.supervised.image_folders import make_mini_imagenet, make_omniglot
from mamlrl.supervised.sinusoid import make_sinusoid, make_sinusoid_frequency


class Quantity(NamedTuple):
    """What tables and figures tell of a task."""

    name: str
    words: str
    larger_is_better: bool = False

    def score(self, value: float) -> float:
        """The larger the better."""
        return value if self.larger_is_better else -value


class TaskSetRow(NamedTuple):
    """Supervised tasks that can be chosen as `env`, and all that the rest needs to know of them."""

    make: Callable[..., TaskDistribution]
    """(split, arguments of the set) -> tasks; a split is "train", "validation" or "test" """
    loss: str
    """the inner loss that they take, a row of `objectives.EXAMPLE_LOSSES`"""
    quantity: Quantity
    """what is told of them first"""
    measures: Mapping[str, Loss]
    """by name, that of the quantity first: (distribution, outputs, examples) -> [M]"""


ERROR, ACCURACY = Quantity("error", "mean squared error"), Quantity("accuracy", "accuracy in %", True)
OF_CLASSES = {"accuracy": accuracy, "loss": cross_entropy_loss}

TASK_SETS = {
    "mamlrl/Sinusoid-v0": TaskSetRow(make_sinusoid, "squared_error", ERROR, {"error": squared_error_loss}),
    "mamlrl/SinusoidFrequency-v0": TaskSetRow(
        make_sinusoid_frequency, "squared_error", ERROR, {"error": squared_error_loss}
    ),
    "mamlrl/Glyphs-v0": TaskSetRow(make_glyphs, "cross_entropy", ACCURACY, OF_CLASSES),
    "mamlrl/Omniglot-v0": TaskSetRow(make_omniglot, "cross_entropy", ACCURACY, OF_CLASSES),
    "mamlrl/MiniImageNet-v0": TaskSetRow(make_mini_imagenet, "cross_entropy", ACCURACY, OF_CLASSES),
}


def find_task_set(env: str) -> TaskSetRow | None:
    """The supervised tasks of this id; None for the id of an environment."""
    return TASK_SETS.get(env)


def make_tasks(config: Config, split: str) -> TaskDistribution:
    """The configured tasks.

    Args:
        config: the settings; `env` is a row of TASK_SETS, `environment.kwargs` has its arguments.
        split: "train", "validation" or "test".

    Raises:
        ConfigError: an argument is unknown or wrong.
    """
    make, kwargs = TASK_SETS[config.env].make, config.environment.kwargs
    known = [name for name in inspect.signature(make).parameters if name != "split"]
    for name in kwargs:
        if name not in known:
            raise ConfigError(
                f"environment.kwargs.{name} is no argument of {config.env}{suggestion(name, known)}; "
                f"it takes {', '.join(known) or 'none'}"
            )
    try:
        return make(split, **kwargs)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{config.env} cannot be made of environment.kwargs {shown(kwargs)}: {described(error)}"
        ) from error


@functools.cache
def quantity_of(env: str) -> Quantity:
    """What tables and figures tell of an environment or of supervised tasks first."""
    row = find_task_set(env)
    return Quantity("return", "return", True) if row is None else row.quantity
