"""A preconditioner for the curvature of the adapted policies: the inverse of its Kronecker-factored approximation.

The Fisher matrix of a layer is E[(a a') (x) (e e')] over its inputs a (and a 1 for the bias) and the errors e at its
outputs, those of log-probabilities of sampled actions. Taking the two for independent, and layers too, it is A (x) E
with A = E[a a'] and E = E[e e'], whose inverse costs next to nothing (K-FAC: Martens and Grosse 2015; for policies
Wu et al. 2017, ACKTR). The Jacobian of the inner steps is left out. Conjugate gradient corrects what is wrong in all
that; it takes a third of the products to come as far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mamlrl.distributed import means_over_tasks
from mamlrl.policies.base import LayerFactors
from mamlrl.structs import MetaParams, Params


class InvertedLayer(NamedTuple):
    """The inverse factors of one layer."""

    weight: str | None
    bias: str
    inputs: Tensor
    """[I + 1, I + 1], the last for the bias"""
    errors: Tensor
    """[H, H]"""


class KroneckerPreconditioner:
    """V -> (A + pi sqrt(damping) I)^-1 V (E + sqrt(damping) / pi I)^-1, layer by layer.

    pi^2 is the ratio of the mean eigenvalues of A and E (Martens and Grosse 2015, section 6.3). Parameters that belong
    to no layer are divided by the mean curvature of the others.

    Args:
        factors: of every layer, for M tasks.
        damping: relative to nothing: in units of the curvature.
    """

    def __init__(self, factors: Sequence[LayerFactors], damping: float):
        both = iter(means_over_tasks([factor for layer in factors for factor in (layer.inputs, layer.errors)]))
        means = [layer._replace(inputs=next(both).double(), errors=next(both).double()) for layer in factors]
        self._layers = [_invert(layer, damping) for layer in means]
        curvature = sum(float(layer.inputs.trace() * layer.errors.trace()) for layer in means)
        size = sum(len(layer.inputs) * len(layer.errors) for layer in means)
        self._elsewhere = 1 / (curvature / size + damping)

    def __call__(self, meta: MetaParams) -> MetaParams:
        """The preconditioner times a vector."""
        init = self._scaled(meta.init)
        for layer in self._layers:
            bias = meta.init[layer.bias]
            weight = bias.new_empty(0, len(bias)) if layer.weight is None else meta.init[layer.weight]
            rows = torch.cat([weight, bias.unsqueeze(0)]).to(layer.inputs.dtype)
            solved = (layer.inputs @ rows @ layer.errors).to(bias.dtype)
            if layer.weight is not None:
                init[layer.weight] = solved[:-1]
            init[layer.bias] = solved[-1]
        return MetaParams(init, tuple(map(self._scaled, meta.step_sizes)))

    def _scaled(self, params: Params) -> Params:
        return {name: self._elsewhere * leaf for name, leaf in params.items()}


def _invert(layer: LayerFactors, damping: float) -> InvertedLayer:
    """Both factors inverted, the damping shared out between them."""
    tiny = torch.finfo(layer.inputs.dtype).tiny
    eigenvalues = [float(factor.trace()) / len(factor) + tiny for factor in (layer.inputs, layer.errors)]
    ratio = math.sqrt(eigenvalues[0] / eigenvalues[1])
    return InvertedLayer(
        layer.weight,
        layer.bias,
        _damped_inverse(layer.inputs, math.sqrt(damping) * ratio),
        _damped_inverse(layer.errors, math.sqrt(damping) / ratio),
    )


def _damped_inverse(factor: Tensor, damping: float) -> Tensor:
    """(F + damping I)^-1 of a symmetric positive semidefinite factor [N, N]."""
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(factor + damping * identity))
