"""What an outer step lowers. Vectors are flat tensors [D]; nothing here knows what is optimised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    """A loss, and a divergence that is zero, with zero gradient, where the objective was built."""

    point: Tensor
    """where the objective was built, [D]"""

    def loss_and_gradient(self, point: Tensor | None = None) -> tuple[float, Tensor]:
        """The loss and its gradient [D], where the objective was built or at another point."""
        ...

    def evaluate(self, point: Tensor) -> tuple[float, float]:
        """Loss and divergence at another point [D]."""
        ...


class CurvedObjective(Objective, Protocol):
    """An objective whose divergence has a Hessian to multiply with, as a trust region needs it."""

    def curvature_product(self, vector: Tensor) -> Tensor:
        """Hessian of the divergence where the objective was built, times a vector, [D]."""
        ...

    def preconditioner(self, damping: float) -> Callable[[Tensor], Tensor]:
        """A symmetric positive definite function [D] to [D], about the inverse of the curvature and the damping."""
        ...
