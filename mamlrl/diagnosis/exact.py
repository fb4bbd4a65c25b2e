"""Exact expected meta-gradients on a family of Markov decision processes small enough to sum over all trajectories.

With R(phi) the expected return of a policy divided by the horizon T, two meta-objectives (Rothfuss et al. 2019):

    I    V(theta) = R(theta + a grad R(theta))                      the inner step is the expected one
    II   V(theta) = E_{tau ~ theta}[ R(theta + a grad R_tau(theta)) ]      it is taken on one sampled trajectory tau

with grad R_tau = 1/T sum_t grad log pi(a_t|s_t) G_t, G_t the return from time t on, neither discounted nor normalised.
An estimator is unbiased where its own expectation, summed over all trajectories as well, is the gradient of V.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.config import AdaptationConfig, Config, PolicyConfig
from mamlrl.diagnosis.estimators import (
    ESTIMATORS,
    begin,
    check_objective,
    curvature_products,
    estimator_config,
    meta_gradient,
)
from mamlrl.experiment import make_learner
from mamlrl.learner_settings import own_settings
from mamlrl.learners import find_learner
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.policies import make_policy
from mamlrl.policies.base import Policy
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params, flatten, unflatten

STATES, ACTIONS = 2, 2


class Trajectories(NamedTuple):
    """All N trajectories of one process."""

    states: Tensor
    """[N, T]"""
    actions: Tensor
    """[N, T]"""
    dynamics: Tensor
    """[N], product of the probabilities of the start and of all transitions"""
    returns: Tensor
    """[N, T], G_t"""


class Problem(NamedTuple):
    """Processes with the same dynamics and other rewards, a softmax policy, an initialisation and a step size."""

    policy: Policy
    theta: Params
    tasks: Sequence[Trajectories]
    step_size: float


def make_problem(seed: int = 1, horizon: int = 3, num_tasks: int = 2, step_size: float = 1.0) -> Problem:
    """A random problem in float64: two states, two actions, a logit for each state and action."""
    rng = np.random.default_rng(seed)
    start = torch.from_numpy(rng.dirichlet(np.ones(STATES)))
    transitions = torch.from_numpy(rng.dirichlet(np.ones(STATES), (STATES, ACTIONS)))
    tasks = [
        enumerate_trajectories(start, transitions, torch.from_numpy(rng.normal(size=(STATES, ACTIONS))), horizon)
        for _ in range(num_tasks)
    ]
    policy = make_policy(PolicyConfig(hidden_sizes=()), spaces.Box(0, 1, (STATES,)), spaces.Discrete(ACTIONS))
    init = policy.init_params(torch.Generator().manual_seed(seed))
    return Problem(policy, {name: leaf.double() for name, leaf in init.items()}, tasks, step_size)


def enumerate_trajectories(start: Tensor, transitions: Tensor, rewards: Tensor, horizon: int) -> Trajectories:
    """Every sequence of states and actions.

    Args:
        start: probabilities of the first state [S].
        transitions: of the next state, [S, A, S].
        rewards: [S, A].
        horizon: T.
    """
    choices = [torch.arange(STATES)] * horizon + [torch.arange(ACTIONS)] * horizon
    states, actions = torch.cartesian_prod(*choices).split(horizon, dim=1)
    steps = transitions[states[:, :-1], actions[:, :-1], states[:, 1:]]
    gains = rewards[states, actions]
    return Trajectories(states, actions, start[states[:, 0]] * steps.prod(1), gains.flip(1).cumsum(1).flip(1))


def log_probs(policy: Policy, params: Params, trajectories: Trajectories) -> Tensor:
    """Of the actions, [N, T], under one policy whose parameters have no leading M; differentiable."""
    stacked = {name: leaf.unsqueeze(0) for name, leaf in params.items()}
    observations = torch.nn.functional.one_hot(trajectories.states, STATES).double()
    outputs = policy.outputs(stacked, observations.unsqueeze(0))
    return policy.distribution.log_prob(outputs, trajectories.actions.unsqueeze(0))[0]


def expected_return(policy: Policy, params: Params, trajectories: Trajectories) -> Tensor:
    """R, the expected return divided by the horizon; differentiable."""
    probabilities = trajectories.dynamics * log_probs(policy, params, trajectories).sum(1).exp()
    return (probabilities * trajectories.returns[:, 0]).sum() / trajectories.states.shape[1]


def adapted_return(problem: Problem, theta: Params, trajectories: Trajectories) -> Tensor:
    """V of formulation I for one task; differentiable."""
    gain = expected_return(problem.policy, theta, trajectories)
    return expected_return(problem.policy, _step(problem, theta, gain), trajectories)


def expected_adapted_return(problem: Problem, theta: Params, trajectories: Trajectories) -> Tensor:
    """V of formulation II for one task; differentiable."""
    scores = log_probs(problem.policy, theta, trajectories)
    probabilities = trajectories.dynamics * scores.sum(1).exp()
    value = probabilities.new_zeros(())
    for number, returns in enumerate(trajectories.returns):
        gain = (scores[number] * returns).mean()
        value = value + probabilities[number] * expected_return(
            problem.policy, _step(problem, theta, gain), trajectories
        )
    return value


def _step(problem: Problem, theta: Params, gain: Tensor) -> Params:
    """The inner step theta + a grad gain; differentiable."""
    gradients = torch.autograd.grad(gain, list(theta.values()), create_graph=True)
    return {name: leaf + problem.step_size * g for (name, leaf), g in zip(theta.items(), gradients, strict=True)}


def exact_gradient(problem: Problem, value: Callable[[Problem, Params, Trajectories], Tensor]) -> Tensor:
    """Gradient of -V, mean over tasks, [D]: the sign of a loss."""
    theta = {name: leaf.detach().requires_grad_() for name, leaf in problem.theta.items()}
    loss = -torch.stack([value(problem, theta, task) for task in problem.tasks]).mean()
    gradients = torch.autograd.grad(loss, list(theta.values()))
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def exact_hessian(problem: Problem) -> Tensor:
    """Hessian of the inner loss -R of the first task, [D, D]."""
    like = MetaParams(problem.theta)

    def loss(point: Tensor) -> Tensor:
        return -expected_return(problem.policy, unflatten(point, like).init, problem.tasks[0])

    hessian = torch.autograd.functional.hessian(loss, flatten(like, like))
    assert isinstance(hessian, Tensor)
    return hessian


def batch_of(policy: Policy, params: Params, trajectories: Trajectories, rows: slice | Tensor = slice(None)) -> Batch:
    """Trajectories as B rollouts of one task, weighted so that sums over them are expectations under the policy.

    Args:
        policy: the policy.
        params: that sample, without a leading M.
        trajectories: all of them.
        rows: those that the batch holds; their weights add up to one.
    """
    sampled = log_probs(policy, params, trajectories).detach()[rows]
    probabilities = trajectories.dynamics[rows] * sampled.sum(1).exp()
    probabilities = (probabilities / probabilities.sum()).unsqueeze(1)
    count, horizon = sampled.shape
    returns = trajectories.returns[rows]
    batch = Batch(
        observations=torch.nn.functional.one_hot(trajectories.states[rows], STATES).double(),
        actions=trajectories.actions[rows],
        log_probs=sampled,
        advantages=returns,
        weights=(probabilities / horizon).expand(-1, horizon),
        returns=returns * probabilities * count,  # whose mean over rollouts is the expectation
        advantage_std=torch.ones_like(returns),
    )
    return Batch(*(leaf.unsqueeze(0) for leaf in batch))


def make_estimator(problem: Problem, name: str) -> tuple[Learner, LearnerState]:
    """An estimator's learner on the problem, and its state.

    Raises:
        UserError: it cannot be made, or does not fit.
    """
    config = Config(adaptation=AdaptationConfig(step_size=problem.step_size))
    config = estimator_config(name, config)
    row = find_learner(config.learner)
    learner = make_learner(row, problem.policy, config, own_settings(config, row))
    check_objective(name, learner)
    return learner, begin(f"--estimators has {name}, which", learner, config, problem.theta)


def expectation(problem: Problem, learner: Learner, state: LearnerState, sampled: bool) -> Tensor:
    """The expected meta-gradient of an estimator, [D].

    Args:
        problem: the problem.
        learner: of the estimator.
        state: of the learner.
        sampled: whether the inner step is taken on one trajectory, weighted by its probability (formulation II), or on
            all of them at once (formulation I).
    """
    total = torch.zeros(())
    for task in problem.tasks:
        everything = batch_of(problem.policy, problem.theta, task)
        probabilities = everything.weights[0].sum(1)
        rows = [slice(n, n + 1) for n in range(len(probabilities))] if sampled else [slice(None)]
        for one in rows:
            support = batch_of(problem.policy, problem.theta, task, one)
            phi = learner.adapt(state.meta, learner.start(state.meta), support).params
            query = batch_of(problem.policy, {name: leaf[0] for name, leaf in phi.items()}, task)
            gradient = meta_gradient(learner, state, MetaBatch((support,), query))
            total = total + probabilities[one].sum() * gradient / len(problem.tasks)
    return total


def expected_hessian(problem: Problem, learner: Learner, state: LearnerState) -> Tensor:
    """The Hessian of the first task's inner loss in the estimator's inner step, [D, D]."""
    everything = batch_of(problem.policy, problem.theta, problem.tasks[0])
    like = MetaParams(problem.theta)
    directions = list(torch.eye(len(flatten(like, like)), dtype=torch.float64))
    products = curvature_products(learner, state, MetaBatch((everything,), everything), directions)
    return torch.stack(products, dim=1) / problem.step_size


class Bias(NamedTuple):
    """Of an estimator: distance of its expectation from the exact value, relative to it."""

    estimator: str
    hessian: float
    """of the inner loss; NaN where the inner step is no gradient step of a fixed size"""
    formulation_1: float
    """of the meta-gradient; NaN for an estimator that credits single rollouts"""
    formulation_2: float


def biases(problem: Problem, estimators: Sequence[str]) -> list[Bias]:
    """The bias of each estimator."""
    exact = [
        exact_hessian(problem),
        exact_gradient(problem, adapted_return),
        exact_gradient(problem, expected_adapted_return),
    ]
    rows = []
    for name in estimators:
        learner, state = make_estimator(problem, name)
        credits = name in ESTIMATORS and ESTIMATORS[name].credits
        found = [
            expected_hessian(problem, learner, state),
            expectation(problem, learner, state, sampled=False) * (math.nan if credits else 1.0),
            expectation(problem, learner, state, sampled=True),
        ]
        rows.append(Bias(name, *(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))))
    return rows
