"""Estimators of the meta-gradient by name. Any other learner that has an `objective` is one too."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from mamlrl.adaptation import GradientStep
from mamlrl.config import Config
from mamlrl.errors import ConfigError
from mamlrl.experiment import start_learner
from mamlrl.external import unknown_name
from mamlrl.learners import LEARNERS, find_learner, training_steps
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.objectives import mean_over_tasks
from mamlrl.structs import MetaBatch, MetaParams, Params, flatten, unflatten


class Estimator(NamedTuple):
    """A learner and its inner loss."""

    learner: str
    inner_loss: str
    credits: bool = False
    """whether it credits single rollouts, so that it makes no sense with all of them at once"""


ESTIMATORS = {
    "log_prob": Estimator("maml", "log_prob"),
    "likelihood_ratio": Estimator("maml", "likelihood_ratio"),
    "dice": Estimator("maml", "dice"),
    "emaml": Estimator("emaml", "log_prob", credits=True),  # unbiased with it, after an inner step on one rollout
    "first_order": Estimator("fomaml", "log_prob"),
}
REFERENCE = "dice"
"""Whose expectation, with ever more rollouts, is the gradient of the return after the expected inner step."""


def parse_estimators(text: str) -> list[str]:
    """Names of estimators from ``dice,emaml,my_module:MyLearner``, each once.

    Raises:
        ConfigError: there is no such estimator or learner.
    """
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in ESTIMATORS and name not in LEARNERS and ":" not in name:
            rows = LEARNERS.items()
            learners = [name for name, row in rows if row.trained and row.adapts_in_training and not row.examples_only]
            raise unknown_name("--estimators", name, dict.fromkeys([*ESTIMATORS, *learners]))
    return names


def estimator_config(name: str, config: Config) -> Config:
    """The settings with the learner and inner loss of an estimator; those of the run where it is the run's learner.

    Raises:
        ConfigError: the learner does not adapt in training.
    """
    if name == config.learner:
        learner, inner_loss, own, outer = name, config.adaptation.inner_loss, config.learner_settings, config.outer
    else:
        learner, inner_loss, _ = ESTIMATORS.get(name, Estimator(name, config.adaptation.inner_loss))
        own, outer = {}, "auto"
    adaptation = dataclasses.replace(config.adaptation, inner_loss=inner_loss)
    config = dataclasses.replace(config, learner=learner, learner_settings=own, outer=outer, adaptation=adaptation)
    row = find_learner(learner)
    if row.examples_only:
        raise ConfigError(f"--estimators has {name}, which does not learn from rollouts: {row.examples_only}")
    if not training_steps(config) or row.observes_task or not row.trained:
        raise ConfigError(f"--estimators has {name}, which does not adapt in training")
    return config


def begin(who: str, learner: Learner, config: Config, theta: Params) -> LearnerState:
    """The state of an estimator's learner at an initialisation.

    Args:
        who: the estimator, as the beginning of a message.
        learner: its learner.
        config: settings of the estimator.
        theta: the initialisation.

    Raises:
        ConfigError: it meta-learns another initialisation, or a user's learner fails.
    """
    _check_same(who, learner.policy.init_params(torch.Generator()), theta)
    state = start_learner(learner, theta, config)
    _check_same(who, state.meta.init, theta)
    return state


def check_objective(name: str, learner: Learner) -> None:
    """It has a meta-gradient that can be asked for.

    Raises:
        ConfigError: it has none.
    """
    if not hasattr(learner, "objective"):
        raise ConfigError(
            f"--estimators has {name}, which has no method objective(state, meta_batch, generator); its "
            "loss_and_gradient() is what is diagnosed"
        )


def _check_same(who: str, init: Params, theta: Params) -> None:
    found, wanted = ({key: list(leaf.shape) for key, leaf in one.items()} for one in (init, theta))
    if found != wanted:
        others = ", ".join(sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)))
        raise ConfigError(f"{who} meta-learns another initialisation than what is diagnosed: {others}")


def meta_gradient(learner: Any, state: LearnerState, meta_batch: MetaBatch) -> torch.Tensor:
    """The gradient of a learner's objective in the initialisation, [D]; learned step sizes are left out."""
    _, gradient = learner.objective(state, meta_batch, None).loss_and_gradient()
    init = MetaParams(unflatten(gradient, state.meta).init)
    return flatten(init, init)


def curvature_products(
    learner: Learner, state: LearnerState, meta_batch: MetaBatch, directions: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """What the derivative of the first inner step takes for a H v along each direction v, mean over tasks, [D].

    The Jacobian of a gradient step of a fixed size is I - a H: a H v is what it takes away from v. Of other steps NaN.
    """
    step = learner.adapt(state.meta, learner.start(state.meta), meta_batch.support[0])
    like = MetaParams(state.meta.init)
    if not (isinstance(step, GradientStep) and all(isinstance(size, int | float) for size in step.step_sizes.values())):
        return [torch.full_like(direction, math.nan) for direction in directions]
    products = []
    for direction in directions:
        tangent = unflatten(direction, like).init
        pushed = step.pushforward(tangent)
        per_task = {name: leaf - pushed[name] for name, leaf in tangent.items()}
        mean = {
            name: mean_over_tasks(leaf) if leaf.dim() > tangent[name].dim() else leaf for name, leaf in per_task.items()
        }
        products.append(flatten(MetaParams(mean), like))
    return products
