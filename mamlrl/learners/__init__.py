"""Meta-learners. A new one is a new file and a row in LEARNERS."""

from __future__ import annotations

from collections.abc import Callable

from mamlrl.config import Config
from mamlrl.learners.base import Learner
from mamlrl.learners.context import Context
from mamlrl.learners.fomaml import FOMAML
from mamlrl.learners.maml import MAML
from mamlrl.learners.multitask import MultiTask, Oracle, Random
from mamlrl.policies.base import Policy

LEARNERS: dict[str, Callable[[Policy, Config], Learner]] = {
    "maml": MAML,
    "fomaml": FOMAML,
    "context": Context,
    "multitask": MultiTask,
    "random": Random,
    "oracle": Oracle,
}

UNADAPTED_IN_TRAINING = {"multitask", "oracle"}
"""Learners whose meta-iterations sample the unadapted policy alone."""

OBSERVE_TASK = {"oracle"}
"""Learners whose policy sees the task in its observation. They do not adapt in evaluation either."""

UNTRAINED = {"random"}
"""Learners that are evaluated and never trained."""


def training_steps(config: Config) -> int:
    """Inner steps of a meta-iteration before its query rollouts."""
    return 0 if config.learner in UNADAPTED_IN_TRAINING else config.adaptation.steps


def evaluation_steps(config: Config) -> int:
    """Gradient steps on a held-out task."""
    return 0 if config.learner in OBSERVE_TASK else config.eval.steps
