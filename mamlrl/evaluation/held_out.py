"""How well an initialisation adapts to tasks that it was not trained on."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor
from tqdm import tqdm

from mamlrl.advantages import make_batch
from mamlrl.config import Config
from mamlrl.learners import evaluation_steps
from mamlrl.learners.base import Learner
from mamlrl.policies.base import Policy
from mamlrl.sampler import collect_steps, mean_returns
from mamlrl.seeding import Streams
from mamlrl.structs import Params


def evaluate_adaptation(
    envs: VectorEnv,
    policy: Policy,
    learner: Learner,
    params: Params,
    tasks: np.ndarray,
    streams: Streams,
    config: Config,
    iteration: int = 0,
) -> Tensor:
    """Mean undiscounted return of each task after 0, 1, ..., `evaluation_steps(config)` gradient steps.

    Each step is taken on fresh rollouts. Steps beyond those of training have half the step size (Finn et al. 2017,
    section 5.3: the first step as in training, later ones halved), unless `config.eval.step_size_schedule` is constant.

    Args:
        envs: vector environment with M * `config.eval.rollouts` rows.
        policy: the policy.
        learner: adapts it.
        params: the initialisation.
        tasks: [M, P].
        streams: the run's streams of evaluation.
        config: the run's settings.
        iteration: which evaluation of the run this is; each has noise of its own.

    Returns:
        Returns, [steps + 1, M].
    """
    returns, steps = [], evaluation_steps(config)
    for step in tqdm(range(steps + 1), "gradient steps", leave=False, disable=None):
        rollouts = collect_steps(
            envs,
            policy,
            params,
            tasks,
            streams.rollouts(iteration, step),
            config.environment,
            config.eval.min_steps,
        )
        returns.append(mean_returns(rollouts))
        if step < steps:
            batch, _ = make_batch(rollouts, config.sampling)
            params = learner.adapt(params, batch, step_size_of(step, config))
    return torch.stack(returns)


def step_size_of(step: int, config: Config) -> float | None:
    """Step size of gradient step `step`, from 0, on a held-out task; None for that of training."""
    beyond_training = step >= config.adaptation.steps
    halved = beyond_training and config.eval.step_size_schedule == "halve"
    return config.adaptation.step_size / 2 if halved else None
