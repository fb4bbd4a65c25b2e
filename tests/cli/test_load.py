"""`mamlrl.load`: a meta-trained policy in somebody's own environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import mamlrl
from mamlrl.deploy import MetaPolicy
from mamlrl.envs.navigation import Navigation2DEnv
from mamlrl.errors import UserError

from .conftest import SMALL, Command
from .toy_envs import DiscreteLine, Line, NaNRewardLine

GOAL = [0.3, -0.4]


def make_run(command: Command, *flags: str) -> MetaPolicy:
    outcome = command(*SMALL, "--iterations 2 --out run", *flags)
    assert outcome.code == 0, outcome.err
    return mamlrl.load("run")


def test_load_adapt_act(command: Command) -> None:
    policy = make_run(command)
    env = gymnasium.make("mamlrl/Navigation2D-v0")
    adapted = policy.adapt(env, GOAL, steps=2, rollouts=5)
    observation, info = env.reset(seed=0, options={"task": np.array(GOAL)})
    for _ in range(3):
        action = adapted.act(observation)
        assert env.action_space.contains(action)
        observation, *_ = env.step(action)
    assert np.array_equal(info["task"], GOAL)
    again = policy.adapt(env, GOAL, steps=2, rollouts=5)
    assert all(torch.equal(leaf, again.params[name]) for name, leaf in adapted.params.items())
    other = policy.adapt(env, GOAL, steps=2, rollouts=5, seed=1)
    assert not torch.equal(other.params["weight_0"], adapted.params["weight_0"])


def test_no_steps_is_the_policy_as_trained(command: Command) -> None:
    policy = make_run(command)
    unadapted = policy.adapt(Navigation2DEnv(), steps=0)
    content = torch.load("run/checkpoints/best.pt", weights_only=True)
    assert all(torch.equal(leaf, content["state"]["meta"]["init"][name]) for name, leaf in unadapted.params.items())
    outputs = policy.policy.outputs(unadapted.params, torch.tensor([[[[0.1, 0.2]]]]))
    mean = np.clip(outputs[0, 0, 0, :2].numpy(), -1, 1) * 0.1
    assert unadapted.act([0.1, 0.2], deterministic=True) == pytest.approx(mean, rel=1e-6)


class EndsBySideEnv(Navigation2DEnv):
    """Not registered, no task given: the environment is the task. Episodes end at different times."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or observation[0] > 0.05, truncated, info


def test_an_environment_of_ones_own_whose_episodes_end_at_different_times(command: Command) -> None:
    policy, env = make_run(command), EndsBySideEnv()
    env.reset(seed=1, options={"task": np.array(GOAL)})
    adapted = policy.adapt(env, rollouts=8)
    assert np.array_equal(env.task, GOAL)
    assert all(leaf.isfinite().all() for leaf in adapted.params.values())


def test_discrete_actions(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "--env tests.cli.toy_envs:toy/DiscreteLine-v0"
    assert command(flags, *SMALL[2:], "--iterations 1 --out run").code == 0
    adapted = mamlrl.load("run").adapt(DiscreteLine(), [0.5], rollouts=4)
    assert {adapted.act([0.0]) for _ in range(60)} == {0, 1}
    assert len({adapted.act([0.0], deterministic=True) for _ in range(20)}) == 1


def test_wrong_use_is_one_clear_error(command: Command) -> None:
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        mamlrl.load("nowhere")
    policy = make_run(command)
    env = Navigation2DEnv()
    make_other = command(*SMALL, "--iterations 1 --out both/a"), command(*SMALL, "--iterations 1 --out both/b")
    assert not any(outcome.code for outcome in make_other)
    with pytest.raises(UserError, match="both holds 2 policies"):
        mamlrl.load("both")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"steps": -1}, "steps is -1; it must be at least 0"),
        ({"rollouts": 0}, "rollouts is 0; it must be at least 1"),
        ({"task": [3.0, 0.0]}, "not in the environment's task space"),
    ]
    for arguments, words in wrong:
        with pytest.raises(UserError, match=re.escape(words)):
            policy.adapt(env, **arguments)
    with pytest.raises(UserError, match=r"observation_space is .*; the policy was trained on"):
        policy.adapt(Line())
    with pytest.raises(UserError, match=r"the observation has shape \(3,\); the policy was trained on \(2,\)"):
        policy.adapt(env, GOAL, steps=0).act([1.0, 2.0, 3.0])


def test_an_environment_that_returns_nan(command: Command) -> None:
    assert command("--env tests.cli.toy_envs:toy/Line-v0", *SMALL[2:], "--iterations 1 --out run").code == 0
    with pytest.raises(UserError, match="rewards that are not finite"):
        mamlrl.load(Path("run")).adapt(NaNRewardLine(), [0.5])
