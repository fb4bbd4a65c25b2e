"""Small random problems, and the independent computations that the core is compared with.

The reference differentiates through the adaptation by plain autograd, one task at a time: it shares the policy's
forward pass, the losses and the order of a flat vector with the code under test, and neither its sweeps, nor its
inner step, nor its batching. How a learner adapts is said once more, as a `Rule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.config import AdaptationConfig, Config, PolicyConfig, TrustRegionConfig
from mamlrl.learners.adaptations import Adaptation
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.learners.gradient import GradientLearner
from mamlrl.learners.maml import MAMLSettings
from mamlrl.learners.maml import make_maml as make_maml_of
from mamlrl.objectives import INNER_LOSSES, likelihood_ratio_loss, mean_kl
from mamlrl.policies import POLICIES
from mamlrl.policies import make_policy as make_policy_for
from mamlrl.policies.base import Policy
from mamlrl.policies.recurrent import RecurrentPolicy
from mamlrl.structs import Batch, MetaBatch, MetaParams, Params, StepSizes, flatten, unflatten

OBSERVATION, ACTIONS, ROLLOUTS, TIME = 4, 3, 3, 5
STEP_SIZE = 0.3
PICTURE = 4, 3, 2
"""Height, width and colours."""


def observation_space() -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (OBSERVATION,))


def picture_of(network: str) -> tuple[int, ...]:
    """Shape of the pictures that a network sees; empty of those that see none."""
    return PICTURE if network in POLICIES and POLICIES[network].pictures else ()


def observation_space_of(network: str, actions: int) -> spaces.Box:
    """That which a network can see: of some what a trial tells, of four states or of pictures."""
    if network == "categorical_tabular":
        return spaces.Box(-1.0, 1.0, (OBSERVATION + actions + 2,))
    if picture_of(network):
        return spaces.Box(-1.0, 1.0, (math.prod(PICTURE) + actions + 2,))
    return observation_space()


def action_space(kind: str) -> spaces.Space:
    return spaces.Discrete(ACTIONS) if kind == "categorical" else spaces.Box(-1.0, 1.0, (ACTIONS,))


def make_policy(kind: str, activation: str = "tanh", min_std: float = 1e-6, network: str = "auto") -> Policy:
    config = PolicyConfig(
        network=network,
        hidden_sizes=(5, 4),
        activation=activation,  # type: ignore[arg-type]
        initial_std=0.7,
        min_std=min_std,
    )
    return make_policy_for(config, observation_space(), action_space(kind))


def random_params(policy: Policy, generator: torch.Generator, num_tasks: int | None = None) -> Params:
    """Initial parameters with noise on every leaf, shared or stacked."""
    lead = () if num_tasks is None else (num_tasks,)
    return {
        name: leaf.double() + 0.2 * torch.randn((*lead, *leaf.shape), generator=generator)
        for name, leaf in policy.init_params(generator).items()
    }


def random_state(learner: Any, generator: torch.Generator) -> LearnerState:
    """A state with noise on all that is meta-learned: step sizes differ from each other and from the configured one."""
    state = learner.init(random_params(learner.policy, generator))
    point = flatten(state.meta, state.meta)
    return state._replace(meta=unflatten(point + 0.05 * torch.rand(point.shape, generator=generator), state.meta))


def is_first_order(objective: Any) -> bool:
    """Whether it takes the derivative of an inner step as the identity."""
    return any(getattr(step, "first_order", False) for step in objective.path.steps)


def random_like(params: Params, generator: torch.Generator) -> Params:
    return {name: torch.randn(leaf.shape, generator=generator) for name, leaf in params.items()}


def by_single_steps(policy: RecurrentPolicy, params: Params, observations: Tensor) -> Tensor:
    """Outputs of a policy with a memory on rollouts [M, B, T, O], one time step after the other."""
    memory, steps = policy.initial_state(*observations.shape[:2]), []
    for t in range(observations.shape[2]):
        outputs, memory = policy.step(params, observations[:, :, t], memory)
        steps.append(outputs)
    return torch.stack(steps, dim=2)


def random_mask(num_tasks: int, generator: torch.Generator) -> Tensor:
    """Rollouts [M, B, T] of different lengths: the first of each task is whole, the others may be padded."""
    lengths = torch.randint(1, TIME + 1, (num_tasks, ROLLOUTS), generator=generator)
    lengths[:, 0] = TIME
    return (torch.arange(TIME) < lengths.unsqueeze(-1)).double()


def random_observations(policy: Policy, rows: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers; where a network takes one-hot states and actions, these."""
    inputs = getattr(policy, "inputs", OBSERVATION)
    if inputs != OBSERVATION + ACTIONS + 2:
        return torch.randn(*rows, inputs, generator=generator)
    state, action = (
        torch.nn.functional.one_hot(torch.randint(size, rows, generator=generator), size).double()
        for size in (OBSERVATION, ACTIONS)
    )
    action[:, :, 0] = 0.0
    return torch.cat([state, action, torch.randn(*rows, 2, generator=generator)], dim=-1)


def random_batch(policy: Policy, params: Params, num_tasks: int, generator: torch.Generator) -> Batch:
    """Time steps that the policy itself sampled, with padded tails and random advantages."""
    rows = (num_tasks, ROLLOUTS, TIME)
    observations = random_observations(policy, rows, generator)
    outputs = policy.outputs(params, observations).detach()
    draw = torch.randn if policy.distribution.noise == "normal" else torch.rand
    noise = draw((*rows, *policy.distribution.noise_shape), generator=generator)
    actions = policy.distribution.sample(outputs, noise)
    mask = random_mask(num_tasks, generator)
    return Batch(
        observations,
        actions,
        policy.distribution.log_prob(outputs, actions),
        torch.randn(rows, generator=generator),
        mask / mask.sum((1, 2), keepdim=True),
        torch.randn(rows, generator=generator) * mask,
        torch.linspace(0.5, 1.5, num_tasks)[:, None, None].expand(rows),
    )


def make_config(
    steps: int = 1, inner_loss: str = "likelihood_ratio", fraction: float = 1.0, outer: str = "trust_region"
) -> Config:
    return Config(
        outer=outer,  # type: ignore[arg-type]
        adaptation=AdaptationConfig(steps=steps, step_size=STEP_SIZE, inner_loss=inner_loss),  # type: ignore[arg-type]
        trust_region=TrustRegionConfig(curvature_fraction=fraction),
    )


def make_maml(policy: Policy, first_order: bool = False, **settings: Any) -> GradientLearner:
    return make_maml_of(policy, make_config(**settings), MAMLSettings(first_order))


def sample_meta_batch(
    learner: Learner | Adaptation, meta: MetaParams, num_tasks: int, steps: int, generator: torch.Generator
) -> tuple[MetaBatch, Params]:
    """A meta-batch whose batches were each sampled by the policies adapted so far; and the adapted parameters."""
    params, support = learner.start(meta), []
    for step in range(steps):
        support.append(random_batch(learner.policy, params, num_tasks, generator))
        params = learner.adapt(meta, params, support[-1], step).params
    return MetaBatch(tuple(support), random_batch(learner.policy, params, num_tasks, generator)), params


def select(batch: Batch, tasks: slice | Tensor) -> Batch:
    """Some of the tasks of a batch."""
    return Batch(*(leaf[tasks] for leaf in batch))


def one_task(batch: Batch, task: int) -> Batch:
    return select(batch, slice(task, task + 1))


def padded(batch: Batch, extra: int = 2) -> Batch:
    """The same batch with `extra` more time steps of padding, and with garbage in all of it."""

    def lengthened(leaf: Tensor) -> Tensor:
        return torch.cat([leaf, leaf[:, :, :extra]], dim=2)

    longer = Batch(*map(lengthened, batch))
    weights = torch.cat([batch.weights, torch.zeros_like(batch.weights[:, :, :extra])], dim=2)
    valid = weights > 0
    return Batch(
        torch.where(valid.unsqueeze(-1), longer.observations, 7.0),
        torch.where(valid if longer.actions.dim() == 3 else valid.unsqueeze(-1), longer.actions, 1),
        torch.where(valid, longer.log_probs, -3.0),
        torch.where(valid, longer.advantages, 1e3),
        weights,
        torch.where(valid, longer.returns, 1e3),
        longer.advantage_std,
    )


class Rule(NamedTuple):
    """How a learner adapts: its start, and the step sizes of inner step k, as functions of what it meta-learns."""

    policy: Policy
    loss: str = "likelihood_ratio"
    start: Callable[[MetaParams], Params] = lambda meta: meta.init
    sizes: Callable[[MetaParams, int], StepSizes] = lambda meta, step: dict.fromkeys(meta.init, STEP_SIZE)


def reference_adapt(rule: Rule, meta: MetaParams, batches: Sequence[Batch]) -> Params:
    """Adapted parameters of the one task in the batches, by autograd; differentiable."""
    params = {name: leaf.unsqueeze(0) for name, leaf in rule.start(meta).items()}
    for step, batch in enumerate(batches):
        params = reference_step(rule, params, batch, rule.sizes(meta, step))
    return params


def reference_step(rule: Rule, params: Params, batch: Batch, sizes: Mapping[str, float | Tensor]) -> Params:
    """One gradient step on one task, by autograd; differentiable, in the parameters (leading 1) and in the sizes."""
    params = {name: leaf if leaf.requires_grad else leaf.detach().requires_grad_() for name, leaf in params.items()}
    outputs = rule.policy.outputs(params, batch.observations)
    loss = INNER_LOSSES[rule.loss](rule.policy.distribution, outputs, batch).sum()
    adapting = list(sizes)
    gradients = torch.autograd.grad(
        loss, [params[name] for name in adapting], create_graph=True, allow_unused=True, materialize_grads=True
    )
    steps = {name: sizes[name] * gradient for name, gradient in zip(adapting, gradients, strict=True)}
    return {name: leaf - steps[name] if name in steps else leaf for name, leaf in params.items()}


class Reference:
    """Surrogate and mean KL of the adapted policies, task by task; differentiable functions of a flat vector.

    Args:
        rule: how the learner adapts.
        built: where the KL is measured from.
        meta_batch: support and query batches.
    """

    def __init__(self, rule: Rule, built: MetaParams, meta_batch: MetaBatch):
        self._rule, self._built, self._meta_batch = rule, built, meta_batch

    def _tasks(self, vector: Tensor) -> list[tuple[Params, Params, Batch]]:
        """Adapted parameters at the vector and where the objective was built, and the query batch, by task."""
        meta, tasks = unflatten(vector, self._built), []
        for task in range(len(self._meta_batch.query.weights)):
            support = [one_task(batch, task) for batch in self._meta_batch.support]
            old = {name: leaf.detach() for name, leaf in reference_adapt(self._rule, self._built, support).items()}
            tasks.append((reference_adapt(self._rule, meta, support), old, one_task(self._meta_batch.query, task)))
        return tasks

    def surrogate(self, vector: Tensor) -> Tensor:
        """-mean of ratio times advantage, the ratio to the policy that sampled; mean over tasks."""
        policy, values = self._rule.policy, []
        for params, _, query in self._tasks(vector):
            outputs = policy.outputs(params, query.observations)
            values.append(likelihood_ratio_loss(policy.distribution, outputs, query))
        return torch.cat(values).mean()

    def kl(self, vector: Tensor) -> Tensor:
        """Mean KL from the adapted policies where the objective was built."""
        policy, values = self._rule.policy, []
        for params, old, query in self._tasks(vector):
            outputs, old_outputs = (policy.outputs(each, query.observations) for each in (params, old))
            values.append(mean_kl(policy.distribution, old_outputs, outputs, query.weights))
        return torch.cat(values).mean()

    def gradient(self, vector: Tensor) -> Tensor:
        """Of the surrogate."""
        vector = vector.detach().clone().requires_grad_()
        return torch.autograd.grad(self.surrogate(vector), vector)[0]

    def kl_hessian_product(self, point: Tensor, vector: Tensor) -> Tensor:
        """By reverse over reverse mode."""
        product = torch.autograd.functional.hvp(self.kl, point.detach().clone(), vector)[1]
        assert isinstance(product, Tensor)
        return product

    def kl_hessian(self, vector: Tensor) -> Tensor:
        """Dense."""
        hessian = torch.autograd.functional.hessian(self.kl, vector.detach().clone(), vectorize=True)
        assert isinstance(hessian, Tensor)
        return hessian


def central_difference(function: Callable[[Tensor], float], point: Tensor, direction: Tensor, h: float = 3e-4) -> float:
    """Derivative along a direction, by four values.

    The step is h long, whatever the direction: errors are of order h^4 from truncation and 1e-16 / h from rounding.
    """
    h = h / float(direction.norm())
    near, far = (function(point + n * h * direction) - function(point - n * h * direction) for n in (1, 2))
    return (8 * near - far) / (12 * h)
