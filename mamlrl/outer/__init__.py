"""Outer steps: how a learner moves what it meta-learns. A new one is a new file and a row in OUTER_STEPS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor
from torch.optim.adam import adam as functional_adam

from mamlrl.config import Config
from mamlrl.errors import ConfigError
from mamlrl.outer.descent import Descent, Moments, cosine
from mamlrl.outer.trust_region import TrustRegion

ADAM_UPDATES = 5
"""Steps of Adam on the same data where neither the settings nor the learner say how many."""


class OuterStep(Protocol):
    """A step on a flat vector [D], as a function of what the step remembers."""

    def init(self, point: Tensor) -> Any:
        """What it remembers before the first step."""
        ...

    def step(self, objective: Any, memory: Any, /) -> tuple[Tensor, Any, Any]:
        """(new point, new memory, `mamlrl.learners.base.Outcome`); a refused step leaves point and memory as they were.

        Args:
            objective: built where the step begins (`mamlrl.outer.objective`).
            memory: what the step remembers.
        """
        ...


def adam(config: Config) -> Descent:
    """Adam (Kingma and Ba 2015)."""
    settings = config.adam

    def advance(vector: Tensor, gradient: Tensor, moments: Moments, rate: float) -> None:
        mean, square, step = moments["exp_avg"], moments["exp_avg_sq"], moments["step"]
        beta1, beta2 = settings.betas
        functional_adam(
            [vector],
            [gradient],
            [mean],
            [square],
            [],
            [step],
            foreach=False,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=rate,
            weight_decay=0.0,
            eps=settings.epsilon,
            maximize=False,
        )

    def rate(done: int) -> float:
        return cosine(settings.rate, settings.final_rate or settings.rate, settings.anneal_updates, done)

    updates, longest = settings.updates or ADAM_UPDATES, settings.longest_gradient or math.inf
    names = ("step",), ("exp_avg", "exp_avg_sq")
    return Descent("adam", advance, *names, updates, rate, longest_gradient=longest, judge=settings.judge)


def sgd(config: Config) -> Descent:
    """Gradient descent, one step a meta-iteration."""
    settings = config.sgd

    def advance(vector: Tensor, gradient: Tensor, moments: Moments, rate: float) -> None:
        if settings.momentum:
            gradient = moments["momentum_buffer"].mul_(settings.momentum).add_(gradient)
        vector.add_(gradient, alpha=-rate)

    vectors = ("momentum_buffer",) if settings.momentum else ()
    return Descent("sgd", advance, (), vectors, 1, lambda done: settings.rate)


OUTER_STEPS: dict[str, Callable[[Config], OuterStep]] = {
    "trust_region": lambda config: TrustRegion(config.trust_region),
    "adam": adam,
    "sgd": sgd,
}


def make_outer(config: Config) -> OuterStep:
    """The outer step that is configured.

    Raises:
        ConfigError: none is, as for a learner from outside that is no `LearnerRow`.
    """
    if config.outer not in OUTER_STEPS:
        raise ConfigError(
            f"outer is {config.outer!r}, and nothing says what that is for learner {config.learner}; name, in place of "
            "a function, a LearnerRow that says which outer steps it takes"
        )
    return OUTER_STEPS[config.outer](config)
