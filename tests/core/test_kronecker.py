"""The Kronecker-factored preconditioner against dense matrices and a loop over rows."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from mamlrl.config import PolicyConfig, TrustRegionConfig
from mamlrl.errors import ConfigError
from mamlrl.learners import find_learner
from mamlrl.learners.gradient import GradientLearner
from mamlrl.learners.kronecker import KroneckerPreconditioner
from mamlrl.learners.objective import AdaptedObjective
from mamlrl.outer.trust_region import SolverEnd, conjugate_gradient, trust_region_step
from mamlrl.policies import make_policy as make_policy_for
from mamlrl.policies.base import Factored, LayerFactors
from mamlrl.structs import MetaParams
from tests.core.problems import (
    action_space,
    make_config,
    make_maml,
    make_policy,
    observation_space,
    random_params,
    sample_meta_batch,
)

kinds = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
DAMPING = 0.01


def problem(kind: str, learner: str = "maml") -> AdaptedObjective:
    generator = torch.Generator().manual_seed(3)
    row, config = find_learner(learner), make_config()
    made = row.build(make_policy(kind), config, row.settings())
    assert isinstance(made, GradientLearner)
    state = made.init(random_params(made.policy, generator))
    meta_batch, _ = sample_meta_batch(made, state.meta, 3, 1, generator)
    return made.objective(state, meta_batch, generator)


def dense(function, size: int) -> Tensor:
    return torch.stack([function(row) for row in torch.eye(size, dtype=torch.float64)], dim=1)


@kinds
def test_factors_are_second_moments_of_inputs_and_errors_row_by_row(kind):
    generator = torch.Generator().manual_seed(0)
    policy = make_policy(kind)
    params = random_params(policy, generator, num_tasks=2)
    observations = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    lin = policy.linearize(params, observations)
    cotangent = torch.randn(lin.outputs.shape, generator=generator, dtype=torch.float64)
    assert isinstance(lin, Factored)
    factors = lin.factors(cotangent, weights)
    assert {name for layer in factors for name in (layer.weight, layer.bias) if name} == set(params)
    for layer in factors:
        inputs, errors = torch.zeros_like(layer.inputs), torch.zeros_like(layer.errors)
        for index in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)).tolist():
            task, weight = index[0], weights[tuple(index)]
            alone = torch.zeros_like(cotangent)
            alone[tuple(index)] = cotangent[tuple(index)]
            gradient = {name: leaf[task] for name, leaf in lin.pullback(alone).items()}  # of one row: a e', and e
            error = gradient[layer.bias]
            errors[task] += weight * torch.outer(error, error)
            if layer.weight is None:
                inputs[task] += weight
            else:
                largest = int(error.abs().argmax())
                entering = torch.cat([gradient[layer.weight][:, largest] / error[largest], error.new_ones(1)])
                inputs[task] += weight * torch.outer(entering, entering)
        torch.testing.assert_close(layer.inputs, inputs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(layer.errors, errors, rtol=1e-9, atol=1e-12)


def test_it_inverts_the_damped_kronecker_product_of_the_mean_factors():
    generator = torch.Generator().manual_seed(1)

    def moments(size: int) -> Tensor:
        rows = torch.randn(2, 5, size, generator=generator, dtype=torch.float64)
        return rows.mT @ rows / 5

    layers = [
        LayerFactors("w", "b", moments(4), moments(3)),
        LayerFactors(None, "free", torch.ones(2, 1, 1), moments(2)),
    ]
    meta = MetaParams({"w": torch.randn(3, 3).double(), "free": torch.randn(2).double(), "b": torch.randn(3).double()})
    solved = KroneckerPreconditioner(layers, DAMPING)(meta)
    for layer in layers:
        inputs, errors = layer.inputs.double().mean(0), layer.errors.mean(0)
        pi = math.sqrt((inputs.trace() / len(inputs)) / (errors.trace() / len(errors)))
        damped = torch.kron(
            inputs + pi * math.sqrt(DAMPING) * torch.eye(len(inputs)),
            errors + math.sqrt(DAMPING) / pi * torch.eye(len(errors)),
        )
        leaves = [name for name in (layer.weight, layer.bias) if name]
        given, found = (torch.cat([one.init[name].reshape(-1) for name in leaves]) for one in (meta, solved))
        torch.testing.assert_close(damped @ found, given, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("learner", ["maml", "metasgd", "anil", "cavia", "context", "imaml", "dice", "emaml"])
@kinds
def test_it_is_symmetric_and_positive_definite_for_whatever_is_meta_learned(kind, learner):
    objective = problem(kind, learner)
    matrix = dense(objective.preconditioner(DAMPING), len(objective.point))
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-12)
    assert torch.linalg.eigvalsh(matrix).min() > 0


def test_without_hidden_layers_and_inner_steps_it_is_near_the_inverse():
    """One linear layer whose inputs are independent of the errors: nothing is left out but the noise of the sample."""
    generator = torch.Generator().manual_seed(5)
    policy = make_policy_for(PolicyConfig(hidden_sizes=()), observation_space(), action_space("gaussian"))
    learner = make_maml(policy)
    meta = MetaParams(random_params(policy, generator))
    meta_batch, _ = sample_meta_batch(learner, meta, 400, 0, generator)
    objective = AdaptedObjective(learner, meta, meta_batch)
    curvature = dense(objective.curvature_product, len(objective.point))
    product = dense(objective.preconditioner(1e-6), len(objective.point)) @ curvature
    assert torch.linalg.eigvals(product).abs().sub(1).abs().max() < 0.3


@kinds
def test_conjugate_gradient_comes_further_with_it(kind):
    objective = problem(kind)
    _, gradient = objective.loss_and_gradient()

    def damped(vector: Tensor) -> Tensor:
        return objective.curvature_product(vector) + DAMPING * vector

    def left(iterations: int, preconditioner=None) -> float:
        """What the solution lacks of the minimum of the quadratic, in the norm of the curvature."""
        x = conjugate_gradient(damped, gradient, iterations, preconditioner=preconditioner).x - best
        return float(x.dot(damped(x)))

    best = torch.linalg.solve(dense(damped, len(gradient)), gradient)
    preconditioner = objective.preconditioner(DAMPING)
    assert left(3, preconditioner) < 0.7 * left(3)
    assert left(60, preconditioner) < 1e-6 * float(best.dot(damped(best)))


def test_conjugate_gradient_with_the_inverse_itself_takes_one_product():
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(6), torch.randn(6, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.inv(matrix)
    solution = conjugate_gradient(lambda v: matrix @ v, b, 5, 1e-20, lambda v: inverse @ v)
    assert (solution.end, solution.iterations) == (SolverEnd.CONVERGED, 1)
    torch.testing.assert_close(solution.x, inverse @ b)


def test_the_step_takes_it_where_it_is_configured():
    objective = problem("gaussian")
    settings = make_config().trust_region
    plain, _ = trust_region_step(objective, dataclasses.replace(settings, cg_iterations=2))
    point, outcome = trust_region_step(
        objective, dataclasses.replace(settings, cg_iterations=2, preconditioner="kronecker")
    )
    assert outcome.accepted
    assert outcome.kl <= settings.max_kl
    assert not torch.equal(point, plain)


def test_a_network_that_tells_no_factors_is_refused():
    config = dataclasses.replace(make_config(), trust_region=TrustRegionConfig(preconditioner="kronecker"))
    policy = make_policy("gaussian", network="tests.core.outside:GatedNetwork")
    with pytest.raises(ConfigError, match="preconditioner is 'kronecker', and policy"):
        find_learner("maml").build(policy, config, find_learner("maml").settings())
    adam = dataclasses.replace(config, outer="adam")
    assert find_learner("maml").build(policy, adam, find_learner("maml").settings())
