"""What is handed to a deployed policy is checked before anything is done with it, or with the environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

import mamlrl
from mamlrl.deploy import MetaPolicy
from mamlrl.errors import UserError


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> MetaPolicy:
    run = mamlrl.train(
        "navigation",
        iterations=1,
        sampling={"tasks": 2, "rollouts": 2},
        environment={"horizon": 5},
        policy={"hidden_sizes": [4]},
        eval={"every": 0},
        threads=1,
        out=tmp_path_factory.mktemp("deployed") / "run",
    )
    return mamlrl.load(run.folder)


@pytest.fixture(scope="module")
def env() -> gymnasium.Env:
    return gymnasium.make("mamlrl/Navigation2D-v0")  # with the wrappers of Gymnasium


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"task": "x"}, "task is 'x'; it must be a list of finite numbers"),
    ({"task": 3}, "task is 3; it must be a list of finite numbers"),
    ({"task": [float("nan"), 0.0]}, r"task is \[nan, 0.0\]; it must be a list of finite numbers"),
    ({"task": [9, 9]}, r"task is \[9, 9\]; it is not in the environment's task space Box"),
    ({"task": [0.1]}, r"task is \[0.1\]; it is not in the environment's task space Box"),
    ({"rollouts": "3"}, "rollouts is '3'; it must be an integer"),
    ({"rollouts": 0}, "rollouts is 0; it must be at least 1"),
    ({"steps": 1.5}, "steps is 1.5; it must be an integer"),
    ({"steps": True}, "steps is True; it must be an integer"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_argument_is_named_and_the_environment_stays_usable(
    policy: MetaPolicy, env: gymnasium.Env, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        policy.adapt(env, **{"task": [0.1, 0.1], "rollouts": 2, **arguments})
    assert policy.adapt(env, task=[0.1, 0.1], rollouts=2).steps == 1
