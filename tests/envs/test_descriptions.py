"""What environments say of themselves, for captions and stills."""

from typing import Any

import numpy as np
import pytest

from mamlrl.envs import FAMILIES
from mamlrl.envs.making import make_task_envs
from mamlrl.envs.observe_task import ObserveTaskVector
from tests.envs.making import make

SAID = {
    "mamlrl/Navigation2D-v0": ([0.3, -0.1], "goal (0.30, -0.10)", "path", None),
    "mamlrl/HalfCheetahVel-v0": ([1.5], "target 1.50 m/s", "speed", 1.5),
    "mamlrl/HalfCheetahDir-v0": ([1.0], "direction +1", "speed", None),
    "mamlrl/AntVel-v0": ([0.25], "target 0.25 m/s", "speed", 0.25),
    "mamlrl/AntDir-v0": ([-1.0], "direction -1", "speed", None),
    "mamlrl/AntGoal-v0": ([2.0, -1.0], "goal (2.00, -1.00)", "speed", None),
    "mamlrl/Bandit-v0": ([0.1, 0.2, 0.9, 0.4, 0.5], "best of 5 arms: 2, 0.90", None, None),
    "mamlrl/Maze-v0": ([0.0] * 40 + [4, 2, 0, 1, 3], "target (4, 2), start (0, 1)", None, None),
    "mamlrl/TabularMDP-v0": ([-1.25] + [0.5] * 49 + [0.1] * 500, "10 states, mean rewards -1.25 to 0.50", None, None),
    "mamlrl/HalfCheetahDynamics-v0": (
        [0.8] + [1.0] * 5 + [1.2] + [1.1] * 7 + [0.9] * 6 + [0.7],
        "mass x 0.80 to 1.20, inertia x 1.10 to 1.10, damping x 0.90 to 0.90, friction x 0.70",
        "speed",
        None,
    ),
    "mamlrl/HopperDynamics-v0": (
        [1.0] * 11 + [0.9],
        "mass x 1.00 to 1.00, inertia x 1.00 to 1.00, damping x 1.00 to 1.00, friction x 0.90",
        "speed",
        None,
    ),
    "mamlrl/Walker2DDynamics-v0": (
        [1.0] * 20 + [0.9],
        "mass x 1.00 to 1.00, inertia x 1.00 to 1.00, damping x 1.00 to 1.00, friction x 0.90",
        "speed",
        None,
    ),
    "mamlrl/CheetahCrippled-v0": ([1.0], "dead motor back shin", "speed", None),
    "mamlrl/CheetahSlope-v0": ([-7.0], "slope -7 degrees", "speed", None),
    "mamlrl/AntPayload-v0": ([0.3, 0.1, -0.2], "payload 0.30 kg at (+0.10, -0.20)", "speed", None),
    "mamlrl/ArmPayload-v0": ([1.5], "payload 1.50 kg", None, None),
    "mamlrl/AntCrippled-v0": ([3.0], "dead leg back right", "speed", None),
    "mamlrl/HopperVel-v0": ([0.5], "target 0.50 m/s", "speed", 0.5),
    "mamlrl/Walker2DVel-v0": ([0.5], "target 0.50 m/s", "speed", 0.5),
    "mamlrl/SwimmerVel-v0": ([0.25], "target 0.25 m/s", "speed", 0.25),
    "mamlrl/HumanoidDir-v0": ([np.pi / 2], "direction +90 degrees", "speed", None),
    "mamlrl/ReacherGoal-v0": ([0.1, -0.1], "goal (0.10, -0.10)", None, None),
}


def said(envs: Any, task: list[float]) -> tuple[str, str | None, float | None]:
    """All that an environment says of itself."""
    return envs.describe_task(np.array(task)), envs.still, envs.target_speed(np.array(task))


@pytest.mark.parametrize("env_id", [family[0] for family in FAMILIES])
def test_every_family_describes_itself_in_all_its_forms(env_id: str) -> None:
    task, *expected = SAID[env_id]
    vector = make_task_envs(env_id, 1, 5, num_threads=1)
    stepped = make_task_envs(env_id, 1, 5, {}, "sync")
    for envs in (vector, stepped, ObserveTaskVector(vector), make(env_id).unwrapped):
        assert said(envs, task) == tuple(expected)


@pytest.mark.parametrize("kwargs", [{"observe_position": True}, {"observation": "rllab"}])
def test_a_still_shows_the_path_of_an_ant_that_observes_where_it_is(kwargs: dict[str, Any]) -> None:
    envs: Any = make_task_envs("mamlrl/AntGoal-v0", 1, 5, kwargs)
    assert envs.still == "path"


def test_an_environment_of_others_need_not_say_anything() -> None:
    envs = make_task_envs("tests.envs.third_party:Countdown-v0", 1, 5)
    assert said(envs, [0.5, 1.0]) == ("task 0.50, 1.00", None, None)


def test_what_an_environment_of_others_says_is_taken() -> None:
    envs = make_task_envs("tests.envs.third_party:Described-v0", 1, 5)
    for some in (envs, ObserveTaskVector(envs)):
        assert said(some, [3.0]) == ("3 steps", "speed", 6.0)
