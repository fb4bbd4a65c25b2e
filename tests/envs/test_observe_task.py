"""The task as part of the observation: every family and foreign environments."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import mamlrl  # noqa: F401 (registers the environments)
from mamlrl.envs import FAMILIES
from mamlrl.envs.making import make_task_envs
from mamlrl.envs.observe_task import ObserveTaskVector


@pytest.mark.parametrize("env_id", [family[0] for family in FAMILIES])
def test_observations_are_followed_by_the_task(env_id: str) -> None:
    envs = ObserveTaskVector(make_task_envs(env_id, 3, 20, num_threads=1))
    plain = make_task_envs(env_id, 3, 20, num_threads=1)
    tasks = envs.sample_tasks(3, np.random.default_rng(0))
    observations, _ = envs.reset(seed=5, options={"task": tasks})
    expected, _ = plain.reset(seed=5, options={"task": tasks})
    assert np.array_equal(observations, np.concatenate([expected, tasks], axis=1))
    assert envs.observation_space.contains(observations)
    rng = np.random.default_rng(1)
    for _ in range(3):
        actions = rng.uniform(-1, 1, envs.action_space.shape)
        if isinstance(envs.single_action_space, spaces.Discrete):
            actions = (actions > 0).astype(int)
        observations, expected = envs.step(actions)[0], plain.step(actions)[0]
        assert np.array_equal(observations, np.concatenate([expected, tasks], axis=1))
    envs.close()
    plain.close()


def test_a_task_that_was_drawn_or_given_before_is_observed() -> None:
    envs = ObserveTaskVector(make_task_envs("mamlrl/Navigation2D-v0", 1, 5, num_threads=1))
    observations, infos = envs.reset(seed=1)
    assert np.array_equal(observations[:, 2:], infos["task"])
    envs.reset(options={"task": np.array([[0.1, 0.2]])})
    assert envs.reset()[0].tolist() == [[0, 0, 0.1, 0.2]]


def test_only_rows_that_are_reset_take_their_task() -> None:
    envs = ObserveTaskVector(make_task_envs("mamlrl/Navigation2D-v0", 2, 5, num_threads=1))
    envs.reset(seed=1, options={"task": np.zeros((2, 2))})
    mask = np.array([False, True])
    observations, _ = envs.reset(options={"task": np.full((2, 2), 0.5), "reset_mask": mask})
    assert observations[:, 2:].tolist() == [[0, 0], [0.5, 0.5]]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_foreign_environments(vectorization: str) -> None:
    env_id = "tests.envs.third_party:Countdown-v0"
    envs = ObserveTaskVector(make_task_envs(env_id, 2, 9, vectorization=vectorization))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the task is not known"):
        envs.reset(seed=1)
    observations, _ = envs.reset(seed=1, options={"task": np.array([[2.0], [4.0]])})
    assert observations.shape == (2, 3) and observations[:, 2].tolist() == [2, 4]
    assert envs.step(np.zeros((2, 1)))[0][:, 2].tolist() == [2, 4]
    envs.close()


def test_observations_that_are_no_vectors() -> None:
    class Pictures(gymnasium.vector.VectorEnv):
        single_observation_space = gymnasium.spaces.Box(0, 1, (4, 4))

        def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
            return rng.random((n, 1))

    with pytest.raises(ValueError, match="cannot hold the task"):
        ObserveTaskVector(Pictures())
