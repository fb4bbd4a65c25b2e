"""Small random problems, and the independent computations that the core is compared with.

The reference differentiates through the adaptation by plain autograd, one task at a time: it shares the policy's
forward pass and the losses with the code under test, and neither its sweeps nor its batching.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mamlrl.config import AdaptationConfig, Config, PolicyConfig, TrustRegionConfig
from mamlrl.learners.maml import MAML, AdaptedSurrogate, unflatten
from mamlrl.objectives import likelihood_ratio_loss, mean_kl
from mamlrl.policies.base import Policy
from mamlrl.policies.categorical_mlp import CategoricalMLP
from mamlrl.policies.gaussian_mlp import GaussianMLP
from mamlrl.structs import Batch, MetaBatch, Params

OBSERVATION, ACTIONS, ROWS = 4, 3, 15


def make_policy(kind: str, activation: str = "tanh", min_std: float = 1e-6) -> Policy:
    config = PolicyConfig(hidden_sizes=(7, 6), activation=activation, initial_std=0.7, min_std=min_std)  # type: ignore[arg-type]
    return (GaussianMLP if kind == "gaussian" else CategoricalMLP)(config, OBSERVATION, ACTIONS)


def random_params(policy: Policy, generator: torch.Generator, num_tasks: int | None = None) -> Params:
    """Initial parameters with noise on every leaf, shared or stacked."""
    lead = () if num_tasks is None else (num_tasks,)
    return {
        name: leaf.double() + 0.2 * torch.randn(*lead, *leaf.shape, generator=generator)
        for name, leaf in policy.init_params(generator).items()
    }


def random_batch(policy: Policy, params: Params, num_tasks: int, generator: torch.Generator) -> Batch:
    """Rows that the policy itself sampled, a fifth of them padding, with random advantages."""
    observations = torch.randn(num_tasks, ROWS, OBSERVATION, generator=generator)
    outputs = policy.outputs(params, observations).detach()
    shape = (num_tasks, ROWS, *policy.distribution.noise_shape)
    draw = torch.randn if policy.distribution.noise == "normal" else torch.rand
    actions = policy.distribution.sample(outputs, draw(shape, generator=generator))
    mask = (torch.rand(num_tasks, ROWS, generator=generator) > 0.2).double()
    mask[:, 0] = 1
    return Batch(
        observations,
        actions,
        policy.distribution.log_prob(outputs, actions),
        torch.randn(num_tasks, ROWS, generator=generator),
        mask / mask.sum(1, keepdim=True),
    )


def make_learner(policy: Policy, steps: int = 1, fraction: float = 1.0, **adaptation: object) -> MAML:
    config = Config(
        adaptation=AdaptationConfig(steps=steps, step_size=0.3, **adaptation),  # type: ignore[arg-type]
        trust_region=TrustRegionConfig(curvature_fraction=fraction),
    )
    return MAML(policy, config)


def sample_meta_batch(
    learner: MAML, params: Params, num_tasks: int, steps: int, generator: torch.Generator
) -> tuple[MetaBatch, Params]:
    """A meta-batch whose batches were each sampled by the policies adapted so far; and the adapted parameters."""
    support = []
    for _ in range(steps):
        support.append(random_batch(learner.policy, params, num_tasks, generator))
        params = learner.adapt(params, support[-1])
    return MetaBatch(tuple(support), random_batch(learner.policy, params, num_tasks, generator)), params


def one_task(batch: Batch, task: int) -> Batch:
    return Batch(*(leaf[task : task + 1] for leaf in batch))


def reference_adapt(learner: MAML, params: Params, batches: Sequence[Batch]) -> Params:
    """Adapt on one task by autograd; differentiable."""
    step_sizes = dict.fromkeys(learner.adapted_leaves or params, learner.settings.step_size)
    for batch in batches:
        outputs = learner.policy.outputs(params, batch.observations)
        loss = learner.inner_loss(learner.policy.distribution, outputs, batch).sum()
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {
            name: leaf - step_sizes.get(name, 0.0) * gradient
            for (name, leaf), gradient in zip(params.items(), gradients, strict=True)
        }
    return params


def reference_objective(
    learner: MAML, like: Params, vector: Tensor, meta_batch: MetaBatch, objective: AdaptedSurrogate
) -> tuple[Tensor, Tensor]:
    """Surrogate and mean KL at the flat parameters `vector`, task by task; differentiable."""
    distribution, surrogates, kls = learner.policy.distribution, [], []
    for task in range(len(meta_batch.query.weights)):
        params = {name: leaf.unsqueeze(0) for name, leaf in unflatten(vector, like).items()}
        params = reference_adapt(learner, params, [one_task(batch, task) for batch in meta_batch.support])
        query = one_task(objective.query, task)
        outputs = learner.policy.outputs(params, query.observations)
        surrogates.append(likelihood_ratio_loss(distribution, outputs, query))
        kls.append(mean_kl(distribution, objective.old_outputs[task : task + 1], outputs, query.weights))
    return torch.stack(surrogates).mean(), torch.stack(kls).mean()
