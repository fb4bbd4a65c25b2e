"""Products by automatic differentiation, and those of the MLP's own sweeps, against forward mode and dense derivatives.

The generic linearization differentiates in reverse only. What it is held against is `torch.func`: Jacobians and
Hessians in forward mode, and nothing that it uses itself.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mamlrl.policies.linearization import AutogradLinearization
from mamlrl.policies.mlp import MLP
from mamlrl.policies.network_policy import WithFreeOutputs
from mamlrl.structs import Params, stack
from tests.core.outside import GatedNetwork
from tests.core.problems import ROLLOUTS, TIME, random_like

NUM_TASKS = 3


class Constant:
    """Outputs that are parameters themselves: no observation enters."""

    def init_params(self, generator: torch.Generator) -> Params:
        return {"value": torch.zeros(2)}

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        return params["value"][:, None, None].expand(*observations.shape[:-1], 2)


NETWORKS = {
    "tanh": lambda: MLP((4, 5, 3, 2), "tanh", free_outputs=2),
    "relu": lambda: MLP((4, 5, 3, 2), "relu", free_outputs=2),
    "linear": lambda: MLP((4, 2), "tanh"),
    "gated": lambda: GatedNetwork(None, 4, 2),  # type: ignore[arg-type]
    "gated and free": lambda: WithFreeOutputs(GatedNetwork(None, 4, 2), 2, math.log(0.5)),  # type: ignore[arg-type]
    "constant": Constant,
    "tanh and free": lambda: WithFreeOutputs(MLP((4, 3, 2), "tanh"), 2, 0.0),
}
networks = pytest.mark.parametrize("network", NETWORKS)
stackings = pytest.mark.parametrize("stacked", [True, False], ids=["stacked", "shared"])


def shapes_of(network) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in network.init_params(torch.Generator()).items()}


def problem(name: str, generator: torch.Generator):
    network = NETWORKS[name]()
    params = {n: torch.randn((NUM_TASKS, *shape), generator=generator) for n, shape in shapes_of(network).items()}
    return network, params, torch.randn(NUM_TASKS, ROLLOUTS, TIME, 4, generator=generator)


def linearizations(network, params: Params, observations: Tensor):
    yield AutogradLinearization(network.outputs, params, observations)
    if hasattr(network, "linearize"):
        yield network.linearize(params, observations)


def loss(outputs: Tensor) -> Tensor:
    """Per task; bends in the outputs, couples them, and gives time steps different weights."""
    weights = torch.linspace(0.5, 2.0, TIME)[:, None]
    return (weights * outputs.square() * outputs.sin()).sum((1, 2, 3)) + outputs.sum((1, 2, 3)).square()


@networks
@stackings
def test_outputs_and_first_derivatives_equal_forward_mode(network, stacked, generator):
    network, params, observations = problem(network, generator)
    tangent = random_like(params if stacked else {n: leaf[0] for n, leaf in params.items()}, generator)
    whole_tangent = stack(tangent, NUM_TASKS, shapes_of(network))
    outputs, pushed = torch.func.jvp(lambda p: network.outputs(p, observations), (params,), (whole_tangent,))[:2]
    jacobians = torch.func.jacfwd(lambda p: network.outputs(p, observations))(params)
    cotangent = torch.randn(outputs.shape, generator=generator)
    for linearized in linearizations(network, params, observations):
        torch.testing.assert_close(linearized.outputs, outputs)
        torch.testing.assert_close(linearized.pushforward(tangent), pushed)
        pulled = linearized.pullback(cotangent)
        assert pulled.keys() == params.keys()
        for name, jacobian in jacobians.items():
            expected = torch.einsum("mbtz,mbtz...->...", cotangent, jacobian)
            torch.testing.assert_close(pulled[name], expected)
        assert not linearized.outputs.requires_grad and not any(leaf.requires_grad for leaf in pulled.values())


@networks
@stackings
def test_hessian_products_equal_the_dense_hessian(network, stacked, generator):
    network, params, observations = problem(network, generator)
    tangent = random_like(params if stacked else {n: leaf[0] for n, leaf in params.items()}, generator)
    shapes = shapes_of(network)
    lengths = [math.prod(shape) for shape in shapes.values()]

    def flat(leaves: Params) -> Tensor:
        return torch.cat([leaves[name].reshape(NUM_TASKS, -1) for name in shapes], dim=1)

    def task_loss(vector: Tensor, task: int) -> Tensor:
        pieces = dict(zip(shapes, vector.split(lengths), strict=True))
        one = {name: pieces[name].view(1, *shape) for name, shape in shapes.items()}
        return loss(network.outputs(one, observations[task : task + 1])).sum()

    vectors, tangents = flat(params), flat(stack(tangent, NUM_TASKS, shapes))
    expected = torch.stack(
        [
            torch.func.jacfwd(torch.func.jacfwd(task_loss))(vectors[task], task) @ tangents[task]
            for task in range(NUM_TASKS)
        ]
    )
    for linearized in linearizations(network, params, observations):
        gradient = torch.func.grad(lambda z: loss(z).sum())
        cotangent = gradient(linearized.outputs)
        outputs = linearized.outputs.clone()

        def output_hessian(tangent: Tensor, outputs: Tensor = outputs, gradient=gradient) -> Tensor:
            return torch.func.jvp(gradient, (outputs,), (tangent,))[1]

        product = linearized.hessian(cotangent, output_hessian)
        for _ in range(2):  # the second product must not see the first
            torch.testing.assert_close(flat(product(tangent)), expected)
            linearized.pullback(cotangent)
            linearized.pushforward(tangent)


@networks
def test_products_take_no_part_in_autograd_and_need_none(network, generator):
    """The line search runs without gradients; the products must be the same there."""
    network, params, observations = problem(network, generator)
    tangent = random_like(params, generator)
    results = []
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            linearized = AutogradLinearization(network.outputs, params, observations)
            pushed = linearized.pushforward(tangent)
            pulled = linearized.pullback(pushed)
            bent = linearized.hessian(pushed, lambda t: 2 * t)(tangent)
        assert not pushed.requires_grad and not any(leaf.requires_grad for leaf in (*pulled.values(), *bent.values()))
        results.append((linearized.outputs, pushed, pulled, bent))
    torch.testing.assert_close(results[0], results[1])


def test_leaves_that_the_outputs_ignore_have_zero_derivatives(generator):
    network, params, observations = problem("gated", generator)
    linearized = AutogradLinearization(network.outputs, params, observations)
    cotangent = torch.randn(linearized.outputs.shape, generator=generator)
    nothing = {name: torch.zeros_like(leaf) for name, leaf in params.items()}
    tangent = {**nothing, "ignored": torch.ones_like(params["ignored"])}
    assert (linearized.pushforward(tangent) == 0).all()
    assert (linearized.pullback(cotangent)["ignored"] == 0).all()
    assert (linearized.hessian(cotangent, lambda t: t)(random_like(params, generator))["ignored"] == 0).all()
    assert all((leaf == 0).all() for leaf in linearized.hessian(cotangent, lambda t: t)(tangent).values())


def test_free_outputs_must_not_hide_a_parameter_of_the_network():
    class Named(Constant):
        def init_params(self, generator: torch.Generator) -> Params:
            return {"free": torch.zeros(2)}

    with pytest.raises(ValueError, match="a parameter named free"):
        WithFreeOutputs(Named(), 2, 0.0).init_params(torch.Generator())


def test_a_network_of_a_policy_is_linearized_by_its_own_sweeps_or_generically(generator):
    from mamlrl.distributions import Categorical
    from mamlrl.policies.mlp import LinearizedMLP
    from mamlrl.policies.network_policy import NetworkPolicy

    for name, kind in (("linear", LinearizedMLP), ("gated", AutogradLinearization)):
        network, params, observations = problem(name, generator)
        policy = NetworkPolicy(network, Categorical(2), (1.0, 0.5, 2.0, 0.1))
        linearized = policy.linearize(params, observations)
        assert isinstance(linearized, kind)
        scaled = observations * torch.tensor([1.0, 0.5, 2.0, 0.1])
        torch.testing.assert_close(linearized.outputs, network.outputs(params, scaled))
        torch.testing.assert_close(policy.outputs(params, observations), linearized.outputs)
        step, memory = policy.step(params, observations[:, :, 0], None)
        torch.testing.assert_close(step, linearized.outputs[:, :, 0])
        assert memory is None


def test_a_gradient_whose_way_is_kept_is_the_same_and_the_hessian_does_not_go_it_again(generator, built_sweeps):
    network, params, observations = problem("gated", generator)
    here, there = (AutogradLinearization(network.outputs, params, observations) for _ in range(2))
    cotangent, tangent = torch.randn(here.outputs.shape, generator=generator), random_like(params, generator)
    kept, gradient = here.pullback_and_keep(cotangent), there.pullback(cotangent)
    assert len(built_sweeps) == 1
    product, expected = (one.hessian(cotangent, lambda change: 2 * change)(tangent) for one in (here, there))
    assert len(built_sweeps) == 2
    for name in params:
        torch.testing.assert_close(kept[name], gradient[name])
        torch.testing.assert_close(product[name], expected[name])
        assert not kept[name].requires_grad
