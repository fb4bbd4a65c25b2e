"""Meta-learners. A new one is a new file and a row in LEARNERS."""

from __future__ import annotations

from collections.abc import Callable

from mamlrl.config import Config
from mamlrl.learners.base import Learner
from mamlrl.learners.maml import MAML
from mamlrl.policies.base import Policy

LEARNERS: dict[str, Callable[[Policy, Config], Learner]] = {
    "maml": MAML,
}
