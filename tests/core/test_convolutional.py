"""The networks for images: each task's own, right to second order, against torch's layers one task at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mamlrl.config import PolicyConfig
from mamlrl.errors import ConfigError
from mamlrl.policies.convolutional import ConvNet, NormalizedMLP, conv, image_shape
from mamlrl.policies.image_layers import convolved, whitened
from mamlrl.policies.linearization import AutogradLinearization
from mamlrl.structs import Params
from tests.core.problems import random_like

TASKS, COUNT = 3, 4
NETWORKS = {
    "pooling": ConvNet(1, 8, (3, 2), 5),
    "stride": ConvNet(3, 7, (3, 4), 5, stride=True),
    "without convolution": NormalizedMLP((16, 6, 4, 5)),
}
networks = pytest.mark.parametrize("name", NETWORKS)


def problem(name: str) -> tuple[ConvNet | NormalizedMLP, Params, Tensor]:
    generator, network = torch.Generator().manual_seed(0), NETWORKS[name]
    like = network.init_params(generator)
    params = {
        leaf: values.double() + 0.3 * torch.randn(TASKS, *values.shape, generator=generator, dtype=torch.float64)
        for leaf, values in like.items()
    }
    size = 16 if isinstance(network, NormalizedMLP) else network.channels * network.side**2
    return network, params, torch.randn(TASKS, COUNT, 1, size, generator=generator, dtype=torch.float64)


def of_one_task(network: ConvNet | NormalizedMLP, params: Params, inputs: Tensor) -> Tensor:
    """By torch's own layers."""
    if isinstance(network, NormalizedMLP):
        hidden = inputs
        for layer in range(2):
            hidden = hidden @ params[f"weight_{layer}"]
            scale, shift = params[f"scale_{layer}"], params[f"shift_{layer}"]
            hidden = functional.batch_norm(hidden, None, None, scale, shift, training=True, eps=1e-3).relu()
    else:
        hidden = inputs.reshape(-1, network.channels, network.side, network.side)
        for layer in range(len(network.filters)):
            hidden = functional.conv2d(hidden, params[f"weight_{layer}"], padding=1, stride=2 if network.stride else 1)
            scale, shift = params[f"scale_{layer}"], params[f"shift_{layer}"]
            hidden = functional.batch_norm(hidden, None, None, scale, shift, training=True, eps=1e-3).relu()
            hidden = hidden if network.stride else functional.max_pool2d(hidden, 2)
        hidden = hidden.mean((2, 3)) if network.stride else hidden.flatten(1)
    return hidden @ params["weight"] + params["bias"]


@networks
def test_outputs_are_those_of_torchs_layers_task_by_task(name: str) -> None:
    network, params, images = problem(name)
    outputs = network.outputs(params, images)
    for task in range(TASKS):
        expected = of_one_task(network, {leaf: values[task] for leaf, values in params.items()}, images[task, :, 0])
        torch.testing.assert_close(outputs[task, :, 0], expected)


@networks
def test_the_linearization_is_right_to_second_order(name: str) -> None:
    """Products against central differences of first derivatives by torch's own layers."""
    network, params, images = problem(name)
    generator = torch.Generator().manual_seed(1)
    tangent = random_like({leaf: values.float() for leaf, values in params.items()}, generator)
    tangent = {leaf: values.double() for leaf, values in tangent.items()}
    cotangent = torch.randn(TASKS, COUNT, 1, 5, generator=generator, dtype=torch.float64)

    def gradient(shift: float) -> tuple[Params, Tensor]:
        """Of <c, z> + 1/2 |z|^2, and the outputs, by torch's layers."""
        moved = {leaf: (values + shift * tangent[leaf]).requires_grad_() for leaf, values in params.items()}
        outputs = torch.stack(
            [
                of_one_task(network, {leaf: v[task] for leaf, v in moved.items()}, images[task, :, 0])
                for task in range(TASKS)
            ]
        ).unsqueeze(2)
        loss = (outputs * cotangent).sum() + 0.5 * outputs.square().sum()
        return dict(zip(moved, torch.autograd.grad(loss, list(moved.values())), strict=True)), outputs.detach()

    h = 1e-5
    (ahead, outputs_ahead), (behind, outputs_behind) = gradient(h), gradient(-h)
    linearization = AutogradLinearization(network.outputs, params, images)
    torch.testing.assert_close(
        linearization.pushforward(tangent), (outputs_ahead - outputs_behind) / (2 * h), rtol=1e-5, atol=1e-6
    )
    product = linearization.hessian(cotangent + linearization.outputs, lambda change: change)(tangent)
    for leaf, values in product.items():
        torch.testing.assert_close(values, (ahead[leaf] - behind[leaf]) / (2 * h), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_and_whitening_are_right_to_second_order(stride: int) -> None:
    """In images and weights, of odd and even sides, by finite differences."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    images, weights = random(2, 2, 5, 4, 2), random(2, 3, 2, 3, 3)

    def layer(images: Tensor, weights: Tensor) -> Tensor:
        return whitened(convolved(images, weights, stride).flatten(1, 3))

    torch.autograd.gradcheck(layer, (images, weights), fast_mode=True)
    torch.autograd.gradgradcheck(layer, (images, weights), fast_mode=True)


def test_images_are_square_of_one_channel_or_three() -> None:
    assert image_shape(28 * 28) == (1, 28) and image_shape(3 * 84 * 84) == (3, 84)
    for size in (1, 10):
        with pytest.raises(ConfigError, match=f"inputs of size {size} are no square images"):
            image_shape(size)


def test_more_layers_than_images_can_be_halved_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.hidden_sizes is \[4, 4, 4, 4\].*from 1 to 3 layers"):
        conv(PolicyConfig(hidden_sizes=(4, 4, 4, 4)), 64, 2)
