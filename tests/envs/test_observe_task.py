"""The task as part of the observation: single and vector, every family and foreign environments."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import mamlrl  # noqa: F401 (registers the environments)
from mamlrl.envs import FAMILIES
from mamlrl.envs.making import make_task_envs
from mamlrl.envs.observe_task import ObserveTask, ObserveTaskVector


@pytest.mark.parametrize("env_id", [family[0] for family in FAMILIES])
def test_single_and_vector_observe_the_same(env_id: str) -> None:
    envs = ObserveTaskVector(make_task_envs(env_id, 3, 20, num_threads=1))
    plain = make_task_envs(env_id, 3, 20, num_threads=1)
    tasks = envs.sample_tasks(3, np.random.default_rng(0))
    observations, _ = envs.reset(seed=5, options={"task": tasks})
    expected, _ = plain.reset(seed=5, options={"task": tasks})
    assert np.array_equal(observations, np.concatenate([expected, tasks], axis=1))
    assert envs.observation_space.contains(observations)
    singles = [ObserveTask(gymnasium.make(env_id)) for _ in range(3)]
    for row, env in enumerate(singles):
        observation, _ = env.reset(seed=5 + row, options={"task": tasks[row]})
        assert np.array_equal(observation, observations[row])
    rng = np.random.default_rng(1)
    for _ in range(3):
        actions = rng.uniform(-1, 1, envs.action_space.shape)
        observations = envs.step(actions)[0]
        for row, env in enumerate(singles):
            assert np.array_equal(env.step(actions[row].astype(env.action_space.dtype))[0], observations[row])
    envs.close()
    plain.close()


def test_a_task_that_was_drawn_or_given_before_is_observed() -> None:
    env = ObserveTask(gymnasium.make("mamlrl/Navigation2D-v0"))
    observation, info = env.reset(seed=1)
    assert np.array_equal(observation[2:], info["task"])
    env.reset(options={"task": np.array([0.1, 0.2])})
    assert env.reset()[0].tolist() == [0, 0, 0.1, 0.2]
    check_env(env, skip_render_check=True)


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


def test_a_family_that_is_a_wrapper() -> None:
    from tests.envs.third_party import PoleTasks

    env = ObserveTask(gymnasium.wrappers.TimeLimit(PoleTasks(), 5))
    assert env.reset(seed=0, options={"task": np.array([1.0, 2.0])})[0][4:].tolist() == [1, 2]


def test_observations_that_are_no_vectors() -> None:
    class Picture(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (4, 4))
        action_space = gymnasium.spaces.Discrete(2)

        def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
            return rng.random((n, 1))

    with pytest.raises(ValueError, match="cannot hold the task"):
        ObserveTask(Picture())
