"""Networks for images over stacked parameters: each layer is one batched matrix product for M networks.

Batch normalisation is on the statistics of the batch at hand, each task's own. (With torch 2.13 second-order gradients
through `vmap` over `torch.nn.functional.batch_norm` are wrong by some percent; these are right.) What a network gives
for an image depends on the images beside it.

Source: Finn, Abbeel, Levine (2017), section 5.2, and the code that its authors released.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mamlrl.config import PolicyConfig
from mamlrl.errors import ConfigError
from mamlrl.policies.image_layers import convolved, whitened
from mamlrl.structs import Params


def normalized(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Batch normalisation over the rows of [M, R, F], then a learned scale and shift [M, F]."""
    return torch.addcmul(shift.unsqueeze(1), whitened(values), scale.unsqueeze(1))


def normalization_of(layers: int) -> tuple[str, ...]:
    """Names of the scales and shifts of so many layers."""
    return tuple(f"{name}_{layer}" for layer in range(layers) for name in ("scale", "shift"))


@dataclass(frozen=True)
class ConvNet:
    """Layers of 3 x 3 convolution, batch normalisation, ReLU and pooling; then a linear layer.

    Parameters of layer k are ``weight_k`` [F, C, 3, 3], ``scale_k`` [F] and ``shift_k`` [F]; of the last one ``weight``
    [E, Z] and ``bias`` [Z].

    Args:
        channels: C of the images.
        side: their height and width.
        filters: F of every layer.
        num_outputs: Z.
        stride: halve the size by convolution with stride 2, and average over what is left at the end; else by pooling
            of 2 x 2 pixels.
    """

    channels: int
    side: int
    filters: tuple[int, ...]
    num_outputs: int
    stride: bool = False
    head = ("weight", "bias")

    @property
    def normalization(self) -> tuple[str, ...]:
        """Names of the parameters of batch normalisation."""
        return normalization_of(len(self.filters))

    @property
    def features_size(self) -> int:
        """E, the numbers that the last layer sees."""
        side = self._sides()[-1]
        return self.filters[-1] * (1 if self.stride else side * side)

    @property
    def units_per_image(self) -> int:
        """Numbers that the layers compute for an image, before pooling."""
        sides = self._sides()[1:] if self.stride else self._sides()[:-1]
        return sum(filters * side * side for filters, side in zip(self.filters, sides, strict=True))

    def _sides(self) -> list[int]:
        """Height and width of the images, and behind each layer."""
        sides = [self.side]
        for _ in self.filters:
            sides.append((sides[-1] + 1) // 2 if self.stride else sides[-1] // 2)
        return sides

    def init_params(self, generator: torch.Generator) -> Params:
        """Xavier-uniform weights, scales of 1, shifts and bias of 0, float32."""
        params: Params = {}
        sizes = (self.channels, *self.filters)
        for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
            params[f"weight_{layer}"] = torch.empty(outputs, inputs, 3, 3)
            params[f"scale_{layer}"], params[f"shift_{layer}"] = torch.ones(outputs), torch.zeros(outputs)
        params["weight"], params["bias"] = (
            torch.empty(self.features_size, self.num_outputs),
            torch.zeros(self.num_outputs),
        )
        for name, leaf in params.items():
            if name.startswith("weight"):
                torch.nn.init.xavier_uniform_(leaf, generator=generator)
        return params

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Outputs [M, B, T, Z] of M networks on images [M, B, T, C * side * side]; differentiable."""
        features = self.features(params, observations)
        values = torch.baddbmm(params["bias"].unsqueeze(1), features, params["weight"])
        return values.unflatten(1, observations.shape[1:3])

    def features(self, params: Params, observations: Tensor) -> Tensor:
        """What the last layer sees, [M, B * T, E]."""
        num_tasks, count = len(observations), observations.shape[1] * observations.shape[2]
        images = observations.reshape(num_tasks, count, self.channels, self.side, self.side).permute(0, 1, 3, 4, 2)
        for layer in range(len(self.filters)):
            values = convolved(images, params[f"weight_{layer}"], 2 if self.stride else 1)
            scale, shift = params[f"scale_{layer}"], params[f"shift_{layer}"]
            images = normalized(values.flatten(1, 3), scale, shift).relu().view_as(values)
            if not self.stride:
                images = _pooled(images)
        return images.mean((2, 3)) if self.stride else images.permute(0, 1, 4, 2, 3).flatten(2)


def _pooled(images: Tensor) -> Tensor:
    """Maxima of 2 x 2 pixels, [M, N, H, W, C]."""
    rows = torch.nn.functional.max_pool2d(images.flatten(0, 1).permute(0, 3, 1, 2), 2)
    return rows.permute(0, 2, 3, 1).unflatten(0, images.shape[:2])


@dataclass(frozen=True)
class NormalizedMLP:
    """Linear layers with batch normalisation and ReLU, then a linear layer: the paper's network without convolution.

    Parameters are ``weight_k`` [H, H'], ``scale_k`` and ``shift_k`` [H']; of the last layer ``weight`` [E, Z] and
    ``bias`` [Z].

    Args:
        sizes: inputs, then units of every hidden layer, then Z.
    """

    sizes: tuple[int, ...]
    head = ("weight", "bias")

    @property
    def normalization(self) -> tuple[str, ...]:
        """Names of the parameters of batch normalisation."""
        return normalization_of(len(self.sizes) - 2)

    def init_params(self, generator: torch.Generator) -> Params:
        """Xavier-uniform weights, scales of 1, shifts and bias of 0, float32."""
        params: Params = {}
        for layer, (inputs, outputs) in enumerate(zip(self.sizes[:-2], self.sizes[1:-1], strict=True)):
            params[f"weight_{layer}"] = torch.empty(inputs, outputs)
            params[f"scale_{layer}"], params[f"shift_{layer}"] = torch.ones(outputs), torch.zeros(outputs)
        params["weight"], params["bias"] = torch.empty(self.sizes[-2], self.sizes[-1]), torch.zeros(self.sizes[-1])
        for name, leaf in params.items():
            if name.startswith("weight"):
                torch.nn.init.xavier_uniform_(leaf, generator=generator)
        return params

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Outputs [M, B, T, Z] on [M, B, T, O]; differentiable."""
        values = torch.baddbmm(params["bias"].unsqueeze(1), self.features(params, observations), params["weight"])
        return values.unflatten(1, observations.shape[1:3])

    def features(self, params: Params, observations: Tensor) -> Tensor:
        """What the last layer sees, [M, B * T, E]."""
        hidden = observations.flatten(1, 2)
        for layer in range(len(self.sizes) - 2):
            scale, shift = params[f"scale_{layer}"], params[f"shift_{layer}"]
            hidden = normalized(hidden @ params[f"weight_{layer}"], scale, shift).relu()
        return hidden


def conv(config: PolicyConfig, inputs: int, outputs: int) -> ConvNet:
    """The paper's network for mini-ImageNet: pooling. Filters of each layer are `policy.hidden_sizes`."""
    return _conv(config, inputs, outputs, stride=False)


def conv_stride(config: PolicyConfig, inputs: int, outputs: int) -> ConvNet:
    """The paper's network for Omniglot: strides in place of pooling."""
    return _conv(config, inputs, outputs, stride=True)


def mlp_norm(config: PolicyConfig, inputs: int, outputs: int) -> NormalizedMLP:
    """The paper's network without convolution."""
    return NormalizedMLP((inputs, *config.hidden_sizes, outputs))


def _conv(config: PolicyConfig, inputs: int, outputs: int, stride: bool) -> ConvNet:
    """Raises ConfigError where inputs are no images, or too small ones for so many layers."""
    channels, side = image_shape(inputs)
    network = ConvNet(channels, side, config.hidden_sizes, outputs, stride)
    if not config.hidden_sizes or not network.features_size:
        raise ConfigError(
            f"policy.hidden_sizes is {list(config.hidden_sizes)}, filters of each layer, which halves images of {side} "
            f"x {side} pixels; there must be from 1 to {int(math.log2(side))} layers"
        )
    return network


def image_shape(inputs: int) -> tuple[int, int]:
    """Channels and side of square images of so many numbers, of one channel or of three.

    Raises:
        ConfigError: there are none.
    """
    for channels in (1, 3):
        side = math.isqrt(inputs // channels)
        if channels * side * side == inputs and side > 1:
            return channels, side
    raise ConfigError(
        f"policy.network is one for images; inputs of size {inputs} are no square images of 1 or 3 channels"
    )
