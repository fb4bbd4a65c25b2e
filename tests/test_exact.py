"""Expected meta-gradients of the estimators, all trajectories of a small process summed: 'unbiased' is an equality."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mamlrl.config import AdaptationConfig, Config
from mamlrl.diagnosis.estimators import ESTIMATORS, Estimator, meta_gradient
from mamlrl.diagnosis.exact import (
    ACTIONS,
    STATES,
    Problem,
    Trajectories,
    adapted_return,
    batch_of,
    enumerate_trajectories,
    exact_gradient,
    exact_hessian,
    expectation,
    expected_adapted_return,
    expected_hessian,
    expected_return,
    log_probs,
    make_estimator,
    make_problem,
)
from mamlrl.learners.emaml import EMAMLSettings, make_emaml
from mamlrl.structs import MetaBatch, MetaParams, flatten, unflatten

ROUNDING = 1e-10


def distance(found: Tensor, exact: Tensor) -> float:
    """Relative."""
    return float((found - exact).norm() / exact.norm())


def hessian_bias(problem: Problem, name: str) -> float:
    return distance(expected_hessian(problem, *make_estimator(problem, name)), exact_hessian(problem))


def bias_1(problem: Problem, name: str) -> float:
    """Of the meta-gradient for formulation I, the expected inner step."""
    expected = expectation(problem, *make_estimator(problem, name), sampled=False)
    return distance(expected, exact_gradient(problem, adapted_return))


def bias_2(problem: Problem, name: str) -> float:
    """Of the meta-gradient for formulation II, an inner step on one sampled trajectory."""
    expected = expectation(problem, *make_estimator(problem, name), sampled=True)
    return distance(expected, exact_gradient(problem, expected_adapted_return))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(horizon=3)


@pytest.fixture(scope="module")
def small() -> Problem:
    """Short enough for an inner step on each of its trajectories."""
    return make_problem(horizon=2, num_tasks=1)


def test_the_expected_return_is_that_of_dynamic_programming(problem: Problem) -> None:
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.dirichlet(np.ones(STATES)))
    transitions = torch.from_numpy(rng.dirichlet(np.ones(STATES), (STATES, ACTIONS)))
    rewards = torch.from_numpy(rng.normal(size=(STATES, ACTIONS)))
    trajectories = enumerate_trajectories(start, transitions, rewards, horizon=3)
    assert trajectories.dynamics.shape == (STATES**3 * ACTIONS**3,)

    stacked = {name: leaf.unsqueeze(0) for name, leaf in problem.theta.items()}
    probabilities = problem.policy.outputs(stacked, torch.eye(STATES).double()[None, None])[0, 0].softmax(-1)
    values = torch.zeros(STATES, dtype=torch.float64)
    for _ in range(3):
        values = (probabilities * (rewards + transitions @ values)).sum(1)
    assert float(expected_return(problem.policy, problem.theta, trajectories)) == pytest.approx(
        float(start @ values) / 3, abs=1e-12
    )


@pytest.mark.parametrize("value", [adapted_return, expected_adapted_return])
def test_exact_gradients_are_those_of_central_differences(value, small: Problem) -> None:
    like = MetaParams(small.theta)
    point = flatten(like, like)
    direction = torch.randn(point.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(vector: Tensor) -> float:
        theta = {name: leaf.requires_grad_() for name, leaf in unflatten(vector.clone(), like).init.items()}
        return -float(value(small, theta, small.tasks[0]).detach())

    h = 1e-5
    difference = (loss(point + h * direction) - loss(point - h * direction)) / (2 * h)
    assert float(exact_gradient(small, value) @ direction) == pytest.approx(difference, rel=1e-7)


def test_the_expected_inner_hessian_of_dice_is_exact(problem: Problem) -> None:
    assert hessian_bias(problem, "dice") < ROUNDING


@pytest.mark.parametrize("name", ["log_prob", "likelihood_ratio", "first_order"])
def test_the_expected_inner_hessians_of_others_are_not(name: str, problem: Problem) -> None:
    assert hessian_bias(problem, name) > 0.1


def test_without_the_outer_product_of_the_score_no_horizon_is_short_enough() -> None:
    problem = make_problem(horizon=1)
    assert hessian_bias(problem, "log_prob") > 0.1
    assert hessian_bias(problem, "likelihood_ratio") < ROUNDING


def test_the_likelihood_ratio_leaves_out_the_products_of_scores_of_different_times(problem: Problem) -> None:
    """The difference to the exact Hessian, term by term and by autograd, is those products."""
    trajectories, policy = problem.tasks[0], problem.policy
    like = MetaParams(problem.theta)
    point = flatten(like, like)

    def scores(vector: Tensor) -> Tensor:
        return log_probs(policy, unflatten(vector, like).init, trajectories)

    jacobian = torch.autograd.functional.jacobian(scores, point)  # [N, T, D]
    assert isinstance(jacobian, Tensor)
    probabilities = trajectories.dynamics * scores(point).sum(1).exp()
    earlier = jacobian.cumsum(1) - jacobian
    cross = torch.einsum("n,nt,ntd,nte->de", probabilities, trajectories.returns, jacobian, earlier) / 3
    found = expected_hessian(problem, *make_estimator(problem, "likelihood_ratio"))
    torch.testing.assert_close(found - exact_hessian(problem), cross + cross.T, rtol=0, atol=1e-12)


def test_the_bias_of_the_likelihood_ratio_vanishes_towards_a_local_optimum() -> None:
    """Rothfuss et al. 2019, section 5: relative to the Hessian it falls with the distance to the optimum."""
    problem = make_problem(horizon=3)
    weight = next(name for name in problem.theta if name.startswith("weight"))

    def deterministic(choice: tuple[int, int], sharpness: float) -> Problem:
        theta = {name: torch.zeros_like(leaf) for name, leaf in problem.theta.items()}
        theta[weight][torch.arange(STATES), torch.tensor(choice)] = sharpness
        return problem._replace(theta=theta)

    choices = [(a, b) for a in range(ACTIONS) for b in range(ACTIONS)]
    best = max(
        choices,
        key=lambda choice: float(expected_return(problem.policy, deterministic(choice, 20.0).theta, problem.tasks[0])),
    )
    near = [hessian_bias(deterministic(best, sharpness), "likelihood_ratio") for sharpness in (2.0, 6.0, 10.0)]
    assert near[0] > 10 * near[1] > 100 * near[2]
    assert near[2] < 1e-3


def test_dice_is_unbiased_for_the_expected_inner_step(problem: Problem) -> None:
    assert bias_1(problem, "dice") < ROUNDING


@pytest.mark.parametrize("name", ["log_prob", "likelihood_ratio", "first_order"])
def test_others_are_biased_for_the_expected_inner_step(name: str, problem: Problem) -> None:
    assert bias_1(problem, name) > 0.05


def test_emaml_is_unbiased_for_an_inner_step_on_sampled_trajectories(small: Problem) -> None:
    assert bias_2(small, "emaml") < ROUNDING


@pytest.mark.parametrize("name", ["log_prob", "likelihood_ratio", "dice", "first_order"])
def test_without_its_credit_nothing_is(name: str, small: Problem) -> None:
    assert bias_2(small, name) > 0.01


def test_emaml_with_the_likelihood_ratio_credits_twice(small: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, "twice", Estimator("emaml", "likelihood_ratio", credits=True))
    assert bias_2(small, "twice") > 0.01


def expected_return_after_two(problem: Problem, theta: dict[str, Tensor], trajectories: Trajectories) -> Tensor:
    """V of formulation II, the inner step taken on two sampled trajectories; differentiable."""
    scores, value = log_probs(problem.policy, theta, trajectories), torch.zeros((), dtype=torch.float64)
    probabilities = trajectories.dynamics * scores.sum(1).exp()
    for pair in itertools.product(range(len(scores)), repeat=2):
        gain = (scores * trajectories.returns)[list(pair)].mean()
        gradients = torch.autograd.grad(gain, list(theta.values()), create_graph=True)
        phi = {name: leaf + problem.step_size * g for (name, leaf), g in zip(theta.items(), gradients, strict=True)}
        value = value + probabilities[list(pair)].prod() * expected_return(problem.policy, phi, trajectories)
    return value


@pytest.mark.parametrize(("credit", "unbiased"), [(2.0, True), (1.0, False)])
def test_emaml_is_unbiased_after_two_trajectories_where_the_credit_is_their_number(
    credit: float, unbiased: bool
) -> None:
    problem = make_problem(horizon=1, num_tasks=1)
    policy, theta, trajectories = problem.policy, problem.theta, problem.tasks[0]
    adaptation = AdaptationConfig(step_size=problem.step_size, inner_loss="log_prob")
    learner = make_emaml(policy, Config(adaptation=adaptation, outer="trust_region"), EMAMLSettings(credit))
    state = learner.init(theta)
    probabilities = trajectories.dynamics * log_probs(policy, theta, trajectories).sum(1).exp()
    total = torch.zeros((), dtype=torch.float64)
    for pair in itertools.product(range(len(probabilities)), repeat=2):
        support = batch_of(policy, theta, trajectories, torch.tensor(pair))
        support = support._replace(weights=torch.full_like(support.weights, 1 / support.weights.numel()))
        phi = learner.adapt(state.meta, learner.start(state.meta), support).params
        query = batch_of(policy, {name: leaf[0] for name, leaf in phi.items()}, trajectories)
        gradient = meta_gradient(learner, state, MetaBatch((support,), query))
        total = total + probabilities[list(pair)].prod() * gradient
    bias = distance(total, exact_gradient(problem, expected_return_after_two))
    assert bias < ROUNDING if unbiased else bias > 0.01


def test_weights_of_a_batch_are_the_probabilities_of_its_trajectories(small: Problem) -> None:
    batch = batch_of(small.policy, small.theta, small.tasks[0])
    assert float(batch.weights.sum()) == pytest.approx(1.0, abs=1e-12)
    mean_return = float(batch.returns[0, :, 0].mean())
    expected = float(expected_return(small.policy, small.theta, small.tasks[0]))
    assert math.isclose(mean_return / 2, expected, abs_tol=1e-12)
