from __future__ import annotations

import pytest
import torch

from mamlrl.policies.mlp import MLP, LinearizedMLP
from mamlrl.structs import Params, stack
from tests.core.problems import ROLLOUTS, TIME, random_like

NUM_TASKS = 3


def problem(
    activation: str, stacked: bool, hidden: tuple[int, ...], generator: torch.Generator
) -> tuple[MLP, Params, torch.Tensor]:
    network = MLP((4, *hidden, 2), activation, free_outputs=2)  # type: ignore[arg-type]
    lead = (NUM_TASKS,) if stacked else ()
    params = {name: torch.randn(*lead, *shape, generator=generator) for name, shape in network.shapes.items()}
    return network, params, torch.randn(NUM_TASKS, ROLLOUTS, TIME, 4, generator=generator)


def forward(network: MLP, params: Params, inputs: torch.Tensor) -> torch.Tensor:
    return network.outputs(stack(params, NUM_TASKS, network.shapes), inputs)


cases = pytest.mark.parametrize("hidden", [(), (5,), (7, 6), (5, 4, 3)])
activations = pytest.mark.parametrize("activation", ["tanh", "relu"])
stackings = pytest.mark.parametrize("stacked", [True, False])


@cases
@activations
@stackings
def test_outputs_and_first_derivatives_equal_autograd(activation, stacked, hidden, generator):
    network, params, inputs = problem(activation, stacked, hidden, generator)
    linearized = LinearizedMLP(network, stack(params, NUM_TASKS, network.shapes), inputs)
    tangent = random_like(params, generator)
    outputs, output_tangent = torch.func.jvp(lambda p: forward(network, p, inputs), (params,), (tangent,))[:2]
    torch.testing.assert_close(linearized.outputs, outputs)
    torch.testing.assert_close(linearized.pushforward(tangent), output_tangent)

    cotangent = torch.randn(outputs.shape, generator=generator)
    vjp = torch.func.vjp(lambda p: forward(network, p, inputs), params)[1]
    expected = vjp(cotangent)[0]
    actual = linearized.pullback(cotangent)
    for name in params:  # the pullback is per task; a shared leaf's gradient is the sum over tasks
        torch.testing.assert_close(actual[name] if stacked else actual[name].sum(0), expected[name])


@cases
@activations
@stackings
def test_hessian_product_equals_double_backward(activation, stacked, hidden, generator):
    network, params, inputs = problem(activation, stacked, hidden, generator)
    scale = torch.rand(NUM_TASKS, ROLLOUTS, TIME, 4, generator=generator)

    def loss(outputs: torch.Tensor) -> torch.Tensor:
        return (scale * outputs.square() * outputs.sin()).sum()

    tangent = random_like(params, generator)
    gradient = torch.func.grad(lambda p: loss(forward(network, p, inputs)))
    expected = torch.func.jvp(gradient, (params,), (tangent,))[1]

    linearized = LinearizedMLP(network, stack(params, NUM_TASKS, network.shapes), inputs)
    cotangent = torch.func.grad(loss)(linearized.outputs)
    product = linearized.hessian(
        cotangent, lambda t: torch.func.jvp(torch.func.grad(loss), (linearized.outputs,), (t,))[1]
    )
    for _ in range(2):  # work space is used again: the second product must not see the first
        linearized.pullback(cotangent)
        actual = product(tangent)
        for name in params:
            torch.testing.assert_close(actual[name] if stacked else actual[name].sum(0), expected[name])


def test_leaves_keep_the_networks_order(generator):
    network, params, inputs = problem("tanh", False, (5, 4), generator)
    linearized = LinearizedMLP(network, stack(params, NUM_TASKS, network.shapes), inputs)
    cotangent = torch.randn(linearized.outputs.shape, generator=generator)
    assert list(linearized.pullback(cotangent)) == list(network.shapes)
    assert list(linearized.hessian(cotangent, lambda t: t)(params)) == list(network.shapes)
