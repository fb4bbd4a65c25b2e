"""Numbers of an environment's info that were asked for and are not told, such as one whose name is misspelt."""

from __future__ import annotations

from typing import Any

import numpy as np

from mamlrl.config import EnvironmentConfig
from mamlrl.experiment import Experiment, draw_tasks
from mamlrl.messages import say
from mamlrl.sampler import reset_to_tasks
from mamlrl.seeding import Stream
from mamlrl.structs import Metrics


def note_untold(experiment: Experiment, metrics: Metrics) -> None:
    """Say which of `environment.metrics` no info held in an iteration, and which numbers infos hold.

    Those that are asked for by default need not be there.

    Args:
        experiment: of the run. Its environments go through episodes of random actions where something is untold; every
            iteration resets them before it uses them.
        metrics: of the iteration, by name.
    """
    asked = [name for name in experiment.config.environment.metrics if name not in EnvironmentConfig().metrics]
    names = [name.partition(":")[0] for name in asked]
    untold = [name for name in names if not any(key.startswith(f"{name}/step_") for key in metrics)]
    if untold:
        told = ", ".join(_told(experiment)) or "no numbers"
        say(f"note: environment.metrics: no info held {', '.join(map(repr, untold))}; infos hold {told}")


def _told(experiment: Experiment) -> list[str]:
    """Names of the numbers in the infos of episodes, to their ends: some are told there alone."""
    envs, streams = experiment.envs, experiment.streams
    tasks = draw_tasks(envs, 1, streams.numpy(Stream.TASKS, 0))
    reset_to_tasks(envs, tasks, np.arange(envs.num_envs)[None])
    envs.action_space.seed(0)
    names, ended = set[str](), np.zeros(envs.num_envs, bool)
    for _ in range(experiment.config.environment.horizon):
        _, _, terminated, truncated, infos = envs.step(envs.action_space.sample())
        names |= {name for name, values in infos.items() if not name.startswith("_") and _is_number(values)}
        ended |= terminated | truncated
        if ended.all():
            break
    return sorted(names)


def _is_number(values: Any) -> bool:
    array = np.asarray(values)
    return array.ndim == 1 and array.dtype.kind in "fiub"
