"""Trials of several episodes in one task, for our own families and for others."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mamlrl.config import Config, EnvironmentConfig, PolicyConfig, SamplingConfig
from mamlrl.envs.making import make_task_envs
from mamlrl.envs.trials import TrialVector, action_numbers
from mamlrl.errors import ConfigError
from mamlrl.experiment import make_envs
from mamlrl.policies import make_policy
from mamlrl.sampler import collect, join
from mamlrl.seeding import Streams
from tests.golden.walk import Walk

HORIZON, EPISODES = 4, 3


def trials(env: str, rows: int, episodes: int = EPISODES) -> TrialVector:
    return TrialVector(make_task_envs(env, rows, HORIZON), episodes)


def test_episodes_follow_each_other_in_one_task_with_what_came_before_in_the_observation() -> None:
    envs = trials("mamlrl/Navigation2D-v0", 2)
    task = np.array([[0.3, 0.1], [-0.2, 0.4]])
    observations, _ = envs.reset(seed=0, options={"task": task})
    assert np.array_equal(observations, np.zeros((2, 6)))
    for t in range(HORIZON * EPISODES):
        actions = np.array([[0.05, 0.0], [0.0, -0.2]])
        position = observations[:, :2]
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        last, end = (t + 1) % HORIZON == 0, t + 1 == HORIZON * EPISODES
        moved = position + np.clip(actions, -0.1, 0.1)
        np.testing.assert_allclose(observations[:, :2], 0 * moved if last and not end else moved)
        np.testing.assert_allclose(observations[:, 2:4], [[0.5, 0.0], [0.0, -1.0]])  # of the bounds
        np.testing.assert_allclose(observations[:, 4], -np.linalg.norm(moved - task, axis=1))
        np.testing.assert_array_equal(observations[:, 4], rewards)
        assert (observations[:, 5] == (last and not end)).all()
        assert (infos["episode"] == t // HORIZON).all()
        assert not terminated.any() and (truncated == end).all()
    assert envs.single_observation_space.contains(observations[0])


@pytest.mark.parametrize("vectorization", ["auto", "sync"])
@pytest.mark.parametrize(
    ("env", "kwargs", "shape"),
    [
        ("mamlrl/Maze-v0", {"height": 6, "width": 8}, (6, 8, 3)),  # which says so of its flat observations
        ("tests.envs.third_party:Camera-v0", {}, (4, 5, 3)),  # whose observations have this shape
        ("tests.envs.third_party:FlatCamera-v0", {}, (4, 5, 3)),
        ("mamlrl/Navigation2D-v0", {}, ()),
    ],
)
def test_the_shape_of_pictures_is_that_of_the_environment(
    env: str, kwargs: dict, shape: tuple[int, ...], vectorization: Literal["auto", "sync"]
) -> None:
    envs = TrialVector(make_task_envs(env, 2, HORIZON, kwargs, vectorization), EPISODES)
    assert envs.picture_shape == shape
    envs.close()


def test_trials_are_learned_from_what_is_expected_while_the_memory_sees_the_reward() -> None:
    envs = TrialVector(make_task_envs("mamlrl/Bandit-v0", 200, 1, {"arms": 2}), 3)
    envs.reset(seed=0, options={"task": np.tile([0.25, 0.75], (200, 1))})
    envs.reward_info = "expected_reward"
    for _ in range(3):
        observations, earned, *_ = envs.step(np.arange(200) % 2)
        np.testing.assert_array_equal(earned, np.tile([0.25, 0.75], 100))
        seen = observations[:, -2]
        assert set(seen) == {0.0, 1.0} and 0.2 < seen[::2].mean() < 0.35 and 0.65 < seen[1::2].mean() < 0.85


def test_rollouts_keep_what_is_to_be_predicted() -> None:
    envs = TrialVector(make_task_envs("mamlrl/Maze-v0", 6, HORIZON, {"size": 2}), 2)
    policy = make_policy(PolicyConfig(hidden_sizes=(4,)), envs.single_observation_space, envs.single_action_space, True)
    tasks, streams = envs.sample_tasks(3, np.random.default_rng(0)), Streams(0).rollouts(0, 0)
    config, params = EnvironmentConfig(horizon=HORIZON), policy.init_params(torch.Generator().manual_seed(0))
    rollouts = collect(envs, policy, params, tasks, streams, config, ("target_ahead", "target_aside"))
    assert rollouts.infos is not None and rollouts.infos.shape == (*rollouts.mask.shape, 2)
    envs.reset(seed=streams.reset_seeds(3, 2).reshape(-1).tolist(), options={"task": np.repeat(tasks, 2, axis=0)})
    for t in range(rollouts.mask.shape[2]):
        infos = envs.step(rollouts.actions[:, :, t].flatten().int().numpy())[-1]
        told = np.stack([infos["target_ahead"], infos["target_aside"]], axis=1)
        alive = rollouts.mask[:, :, t].flatten() > 0
        np.testing.assert_allclose(rollouts.infos[:, :, t].flatten(0, 1)[alive], told[alive], rtol=1e-6, atol=1e-7)
    again = join([rollouts, rollouts])
    assert again.infos is not None and torch.equal(again.infos[:, 2:].nan_to_num(), rollouts.infos.nan_to_num())


def test_rows_end_their_episodes_by_themselves_and_a_trial_is_over_once() -> None:
    """A Gymnasium environment of others; walked to the right, it ends where the row began, early or late."""
    envs = trials("tests.golden.walk:golden/Walk-v0", 5)
    envs.reset(seed=3, options={"task": np.linspace(-2, 2, 5)[:, None]})
    episodes, alive = [], np.ones(5, bool)
    for _ in range(HORIZON * EPISODES):
        _, reward, terminated, truncated, infos = envs.step(np.array([2, 2, 2, 2, 0]))
        assert (infos["_episode"] == alive).all()
        assert not reward[~alive].any()
        episodes.append(infos["episode"])
        over = terminated | truncated
        assert (over >= ~alive).all()
        alive = alive & ~over
    assert not alive.any()
    assert np.array(episodes).max() == EPISODES - 1 and (np.diff(episodes, axis=0) >= 0).all()


def test_the_task_stays_and_the_start_is_another_in_every_episode() -> None:
    """Against the environment by itself, whose generator goes on from episode to episode."""
    envs, alone = trials("tests.golden.walk:golden/Walk-v0", 2), Walk()
    tasks, seeds = np.array([[1.5], [-0.5]]), [4, 9]
    observations, _ = envs.reset(seed=seeds, options={"task": tasks})
    observation, _ = alone.reset(seed=seeds[1], options={"task": tasks[1]})
    steps, episode = 0, 0
    while episode < EPISODES:
        np.testing.assert_allclose(observations[1, :2], observation)
        action = steps % 3
        observations, rewards, _, _, infos = envs.step(np.array([1, action]))
        observation, reward, terminated, _, _ = alone.step(action)
        steps += 1
        assert rewards[1] == reward and infos["episode"][1] == episode
        np.testing.assert_array_equal(observations[1, 2:5], np.eye(3)[action])
        if terminated or steps == HORIZON:
            episode, steps = episode + 1, 0
            if episode < EPISODES:
                observation, _ = alone.reset(options={"task": tasks[1]})


def test_rows_begin_trials_alone() -> None:
    envs = trials("mamlrl/Navigation2D-v0", 2)
    envs.reset(seed=0)
    for _ in range(HORIZON + 1):
        envs.step(np.full((2, 2), 0.1))
    observations, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert not observations[0].any()
    _, _, _, _, infos = envs.step(np.full((2, 2), 0.1))
    assert infos["episode"].tolist() == [0, 1]


def test_actions_are_told_one_hot_from_where_they_count_or_by_their_bounds() -> None:
    discrete, box = spaces.Discrete(3, start=5), spaces.Box(np.array([0.0, -1.0]), np.array([4.0, 1.0]))
    assert action_numbers(np.array([5, 7]), discrete).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert action_numbers(np.array([[1.0, 9.0]]), box).tolist() == [[-0.5, 1.0]]


def test_what_cannot_begin_an_episode_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walk, "resets_in_trial", False, raising=False)
    config = Config(env="tests.golden.walk:golden/Walk-v0", learner="rl2")
    with pytest.raises(ConfigError, match=r"golden/Walk-v0 cannot begin an episode without beginning a trial"):
        make_envs(config, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 0}, "sampling.episodes is 0; it must be at least 1"),
        ({"episodes": 5, "curriculum": (5,), "curriculum_iterations": (1,)}, "below sampling.episodes"),
        ({"episodes": 5, "curriculum": (2, 3), "curriculum_iterations": (1,)}, "2 numbers, one for each"),
    ],
)
def test_trials_without_meaning_are_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**settings)


def test_a_curriculum_goes_from_length_to_length() -> None:
    sampling = SamplingConfig(episodes=100, curriculum=(10, 30), curriculum_iterations=(2, 3))
    assert [sampling.episodes_at(i) for i in range(7)] == [10, 10, 30, 30, 30, 100, 100]
    assert dataclasses.replace(sampling, curriculum=(), curriculum_iterations=()).episodes_at(0) == 100
