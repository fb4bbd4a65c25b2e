"""Outer steps along the gradient: Adam and SGD, several of them on the same data if so configured.

The arithmetic is that of torch's optimisers, which are functions of their state here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mamlrl.outer.objective import Objective

Moments = dict[str, Tensor]
"""What torch's optimiser remembers of a parameter, by its names for it, and `done`, the meta-updates so far."""
Advance = Callable[[Tensor, Tensor, Moments, float], None]
"""(vector, gradient, moments, step length): one step, which writes to vector and moments."""


def cosine(first: float, last: float, updates: int, done: int) -> float:
    """Step length after `done` of so many meta-updates: a half cosine from the first to the last one."""
    share = min(done / max(updates - 1, 1), 1.0)
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


class DescentOutcome(NamedTuple):
    """What became of the steps of one meta-update."""

    name: str
    """of the optimiser"""
    gradient_norm: float
    """of the first step"""
    surrogate_improvement: float | None = 0.0
    """loss before all steps minus loss after them, 0 when refused; None where the steps are not judged"""
    kl: float | None = 0.0
    """mean KL of all steps together, nats, 0 when refused; None likewise, and where the objective has no divergence"""
    rate: float = 0.0
    not_finite: bool = False
    """whether the update was refused, as a whole, because a number was not finite"""

    def undone(self) -> DescentOutcome:
        """The outcome where the update was refused after all, because a number was not finite."""
        improvement, kl = (None if value is None else 0.0 for value in (self.surrogate_improvement, self.kl))
        return self._replace(surrogate_improvement=improvement, kl=kl, not_finite=True)

    def metrics(self) -> dict[str, float]:
        """The outcome as numbers by name."""
        measured = {"surrogate_improvement": self.surrogate_improvement, "kl": self.kl}
        return {
            f"{self.name}/gradient_norm": self.gradient_norm,
            **{f"{self.name}/{name}": value for name, value in measured.items() if value is not None},
            f"{self.name}/rate": self.rate,
            f"{self.name}/nonfinite": float(self.not_finite),
        }


@dataclass(frozen=True)
class Descent:
    """Steps of a torch optimiser on a flat vector [D].

    Args:
        name: of the optimiser, the prefix of its metrics.
        advance: a step of the optimiser.
        scalars: moments that are one number.
        vectors: moments of the size of the vector.
        updates: steps on the data of one meta-iteration.
        rate: step length of a meta-update, given how many came before.
        divergence: whether the objectives have one, and the outcome a KL.
        longest_gradient: a longer one is scaled down to this norm.
        judge: take the loss and the KL after the steps; without, the outcome has neither.
        on_minibatches: whether each loss and gradient of the objective is one on a minibatch of the data.
    """

    name: str
    advance: Advance
    scalars: tuple[str, ...]
    vectors: tuple[str, ...]
    updates: int
    rate: Callable[[int], float]
    divergence: bool = True
    longest_gradient: float = math.inf
    judge: bool = True
    on_minibatches: bool = False

    def init(self, point: Tensor) -> Moments:
        """What the optimiser remembers after no step: zeros."""
        scalars = {name: torch.zeros(()) for name in ("done", *self.scalars)}
        return scalars | {name: torch.zeros_like(point) for name in self.vectors}

    def step(self, objective: Objective, moments: Moments) -> tuple[Tensor, Moments, DescentOutcome]:
        """`updates` steps from where the objective was built, all or none of them.

        Returns:
            The new point (`objective.point` itself where a number was not finite), the new moments and what happened.
        """
        vector, remembered = objective.point.detach().clone(), {name: leaf.clone() for name, leaf in moments.items()}
        rate = self.rate(int(moments["done"]))
        loss, gradient = objective.loss_and_gradient()
        first = objective.evaluate(objective.point)[0] if self.on_minibatches and self.judge else loss
        norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
        improvement, kl = 0.0 if self.judge else None, 0.0 if self.judge and self.divergence else None
        outcome = DescentOutcome(self.name, norm, improvement, kl, rate)
        refused = objective.point, moments, outcome.undone()
        for update in range(self.updates):
            if update:
                loss, gradient = objective.loss_and_gradient(vector)
            if not (math.isfinite(loss) and gradient.isfinite().all()):
                return refused
            with torch.no_grad():
                self.advance(vector, self._clipped(gradient), remembered, rate)
        remembered["done"] += 1
        if not all(leaf.isfinite().all() for leaf in (vector, *(remembered[name] for name in self.vectors))):
            return refused
        if not self.judge:
            return vector, remembered, outcome
        last, kl = objective.evaluate(vector)
        if not math.isfinite(last):
            return refused
        kl = kl if self.divergence else None
        return vector, remembered, outcome._replace(surrogate_improvement=first - last, kl=kl)

    def _clipped(self, gradient: Tensor) -> Tensor:
        if math.isinf(self.longest_gradient):
            return gradient
        return gradient * (self.longest_gradient / torch.linalg.vector_norm(gradient)).clamp(max=1.0)
