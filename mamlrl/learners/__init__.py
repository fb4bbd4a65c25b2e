"""Meta-learners. A new one is a new file and a row in LEARNERS; one from outside is named as module:Name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any, NamedTuple

from mamlrl.config import Config
from mamlrl.errors import ConfigError
from mamlrl.external import load_external, unknown_name
from mamlrl.learners.base import Learner
from mamlrl.learners.context import ContextSettings, make_context
from mamlrl.learners.maml import MAML, MAMLSettings
from mamlrl.policies.base import Policy


@dataclass(frozen=True)
class NoSettings:
    """Of a learner that has no settings of its own."""


class LearnerRow(NamedTuple):
    """A learner that can be chosen by name, and all that the rest needs to know of it."""

    make: Callable[[Policy, Config, Any], Learner]
    """(policy, settings of the run, its own settings) -> learner"""
    settings: type = NoSettings
    """dataclass of its own settings, the section `learner_settings`"""
    adapts_in_training: bool = True
    """else a meta-iteration samples the unadapted policy alone"""
    observes_task: bool = False
    """its policy sees the task in the observation, and does not adapt in evaluation either"""
    trained: bool = True
    """else it is there to be compared with"""


LEARNERS = {
    "maml": LearnerRow(lambda policy, config, own: MAML(policy, config, own.first_order), MAMLSettings),
    "fomaml": LearnerRow(lambda policy, config, own: MAML(policy, config, first_order=True)),
    "context": LearnerRow(make_context, ContextSettings),
    # Baselines of Finn et al. (2017), section 5.3. One policy for all tasks ("pretrained" in the paper):
    "multitask": LearnerRow(lambda policy, config, own: MAML(policy, config), adapts_in_training=False),
    # The untrained policy:
    "random": LearnerRow(lambda policy, config, own: MAML(policy, config), trained=False),
    # One policy for all tasks that is told the task, what adaptation could reach at best:
    "oracle": LearnerRow(
        lambda policy, config, own: MAML(policy, config), adapts_in_training=False, observes_task=True
    ),
}


def find_learner(name: str) -> LearnerRow:
    """The row of a learner: of LEARNERS, or of what ``module:Name`` names.

    That is a `LearnerRow`, or a class that is called as `LearnerRow.make` and may have a dataclass `Settings`.

    Raises:
        ConfigError: there is no such learner, or its settings are no dataclass.
    """
    if ":" in name:
        found = load_external("learner", name)
        row = found if isinstance(found, LearnerRow) else LearnerRow(found, getattr(found, "Settings", NoSettings))
        if not (isinstance(row.settings, type) and is_dataclass(row.settings)):
            raise ConfigError(f"learner is {name!r}, but its Settings are no dataclass")
        return row
    if name not in LEARNERS:
        raise unknown_name("learner", name, LEARNERS)
    return LEARNERS[name]


def training_steps(config: Config) -> int:
    """Inner steps of a meta-iteration before its query rollouts."""
    return config.adaptation.steps if find_learner(config.learner).adapts_in_training else 0


def evaluation_steps(config: Config) -> int:
    """Gradient steps on a held-out task."""
    return 0 if find_learner(config.learner).observes_task else config.eval.steps


def step_scale(config: Config, step: int) -> float:
    """Factor on the step sizes of gradient step `step`, from 0, on a held-out task.

    A half beyond the steps of training (Finn et al. 2017, section 5.3), unless `eval.step_size_schedule` is constant.
    """
    beyond_training = step >= config.adaptation.steps
    return 0.5 if beyond_training and config.eval.step_size_schedule == "halve" else 1.0
