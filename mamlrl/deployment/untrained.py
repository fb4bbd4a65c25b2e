"""A learner as it stood before training: what loading fills with what was learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from gymnasium import spaces

from mamlrl.config import Config, PolicyConfig
from mamlrl.experiment import make_learner, start_learner
from mamlrl.learner_settings import own_settings, resolved
from mamlrl.learners import find_learner
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.policies.base import Policy

MakePolicy = Callable[[PolicyConfig, spaces.Space, spaces.Space], Policy]


def untrained_learner(
    config: Config, make: MakePolicy, seen: spaces.Space, given: spaces.Space
) -> tuple[Config, Learner, LearnerState]:
    """The settings, complete and on the CPU; the learner and its state before the first meta-iteration.

    Args:
        config: settings of the training.
        make: the policy or predictor of its settings and two spaces.
        seen: what it sees: observations, inputs.
        given: what it gives: actions, targets.
    """
    row = find_learner(config.learner)
    own = own_settings(config, row)
    config = dataclasses.replace(resolved(config, row, own), device="cpu")
    learner = make_learner(row, make(config.policy, seen, given), config, own)
    return config, learner, start_learner(learner, learner.policy.init_params(torch.Generator()), config)
