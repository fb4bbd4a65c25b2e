"""Convolution and batch normalisation of M networks at once, with derivatives of any order.

Images are [M, N, H, W, C], channels last, so that a convolution is one matrix product a network. torch's grouped
convolution gives the same; its second derivative takes one group after the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-3
"""Added to the variance in batch normalisation."""
SIDE = 3
"""Of a patch, in pixels."""


def convolved(images: Tensor, weights: Tensor, stride: int) -> Tensor:
    """3 x 3 convolution with a border of zeros, [M, N, H', W', F] with H' = ceil(H / stride).

    Args:
        images: [M, N, H, W, C].
        weights: as torch has them, [M, F, C, 3, 3].
        stride: pixels from patch to patch.
    """
    count, *sides = images.shape[1:4]
    patches: Tensor = _Patches.apply(images, stride)  # type: ignore[assignment]
    products = torch.bmm(patches, weights.permute(0, 3, 4, 2, 1).flatten(1, 3))
    return products.unflatten(1, (count, *(_halved(side, stride) for side in sides)))


def whitened(values: Tensor) -> Tensor:
    """Mean 0 and variance 1 (but for EPSILON) over dimension 1 of [M, R, F]."""
    return _Whitening.apply(values)[0]  # type: ignore[index]


def _halved(side: int, stride: int) -> int:
    return (side - 1) // stride + 1


class _Patches(torch.autograd.Function):
    """Images [M, N, H, W, C] -> what lies around every output pixel, [M, N H' W', 9 C]."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, stride: int) -> Tensor:
        ctx.size, ctx.stride = images.shape, stride
        padded = torch.nn.functional.pad(images, (0, 0, 1, 1, 1, 1))
        views = padded.unfold(2, SIDE, stride).unfold(3, SIDE, stride)  # [M, N, H', W', C, 3, 3]
        return views.permute(0, 1, 2, 3, 5, 6, 4).flatten(4).flatten(1, 3)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Added.apply(cotangent, ctx.size, ctx.stride), None  # type: ignore[return-value]


class _Added(torch.autograd.Function):
    """The transpose of `_Patches`: every pixel is the sum of the places in patches that show it."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, size: torch.Size, stride: int) -> Tensor:
        ctx.stride = stride
        tasks, count, height, width, channels = size
        rows, columns = (_halved(side, stride) for side in (height, width))
        patches = patches.view(tasks, count, rows, columns, SIDE, SIDE, channels)
        lines = patches.new_zeros(tasks, count, height + 2, columns, SIDE, channels)
        for i in range(SIDE):
            lines[:, :, i : i + stride * rows : stride] += patches[:, :, :, :, i]
        images = patches.new_zeros(tasks, count, height, width + 2, channels)
        for j in range(SIDE):
            images[:, :, :, j : j + stride * columns : stride] += lines[:, :, 1:-1, :, j]
        return images[:, :, :, 1:-1]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Patches.apply(cotangent, ctx.stride), None, None  # type: ignore[return-value]


class _Whitening(torch.autograd.Function):
    """x [M, R, F] -> z = (x - mean) r and r = (variance + EPSILON)^-1/2, [M, 1, F].

    With <> the mean over rows, the transposes of their derivatives are

        r (c - <c> - z <c z>)    and    -r^2 z c_r / R,

    functions of the outputs alone, which autograd takes further: fewer passes over the data than through mean and
    variance.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        centred = values - values.mean(1, keepdim=True)
        scale = (centred.square().mean(1, keepdim=True) + EPSILON).rsqrt()
        white = centred.mul_(scale)
        ctx.save_for_backward(white, scale)
        ctx.set_materialize_grads(False)
        return white, scale

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None, by_scale: Tensor | None) -> Tensor | None:  # type: ignore[override]
        white, scale = ctx.saved_tensors
        along = None  # factor of z
        if by_scale is not None:
            along = by_scale * scale * (-1.0 / white.shape[1])
        if cotangent is None:
            return None if along is None else scale * along * white
        mean = (cotangent * white).mean(1, keepdim=True)
        along = -mean if along is None else along - mean
        return scale * torch.addcmul(cotangent - cotangent.mean(1, keepdim=True), white, along)
