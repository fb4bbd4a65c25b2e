"""Returns by number of the episode within a trial."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mamlrl import sampler
from mamlrl.config import Config, EnvironmentConfig, PolicyConfig, SamplingConfig
from mamlrl.errors import ConfigError
from mamlrl.evaluation import trials
from mamlrl.evaluation.trials import trial_returns
from mamlrl.experiment import Experiment, initial_state, make_experiment
from mamlrl.sampler import collect, collect_steps, episode_returns, mean_episode_returns, mean_returns, shown_episodes
from mamlrl.seeding import Streams


def made(env: str = "mamlrl/Bandit-v0", **settings) -> Experiment:
    sampling = SamplingConfig(tasks=3, rollouts=2, episodes=4)
    policy = PolicyConfig(hidden_sizes=(6,))
    return make_experiment(Config(env=env, learner="rl2", policy=policy, sampling=sampling, threads=1, **settings))


def params_of(experiment: Experiment) -> dict[str, torch.Tensor]:
    return experiment.learner.start(initial_state(experiment).meta)


def test_the_returns_of_episodes_add_up_to_that_of_the_trial() -> None:
    experiment = made("tests.golden.walk:golden/Walk-v0", environment=EnvironmentConfig(horizon=6))
    tasks, streams = np.array([[1.0], [-1.0], [0.5]]), Streams(3).rollouts(0, 0)
    rollouts = collect(
        experiment.envs, experiment.policy, params_of(experiment), tasks, streams, experiment.config.environment
    )
    assert rollouts.episodes is not None and rollouts.episodes.max() == 3
    returns = episode_returns(rollouts, 4)
    torch.testing.assert_close(returns.sum(2).mean(1), mean_returns(rollouts))
    of_second = (rollouts.rewards * rollouts.mask * (rollouts.episodes == 1)).sum(2)
    torch.testing.assert_close(returns[..., 1], of_second)
    experiment.envs.close()


def test_trials_of_any_length_on_given_tasks_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An arm that always pays and one that never does: what is told of the mean is the reward itself."""
    experiment = made(environment=EnvironmentConfig(horizon=1, kwargs={"arms": 2}))
    monkeypatch.setattr(trials, "MOST_ROWS", 4)  # several parts
    params, tasks = params_of(experiment), np.tile([[1.0, 0.0]], (5, 1))
    common = experiment.config, experiment.policy, params, tasks, 7, 1
    returns = trial_returns(*common, rollouts=2, greedy=False)
    assert returns.shape == (5, 2, 7) and set(returns.ravel()) == {0.0, 1.0}
    again = trial_returns(*common, rollouts=2, greedy=False, told="expected_reward")
    np.testing.assert_array_equal(returns, again)
    greedy = trial_returns(*common)
    assert greedy.shape == (5, 1, 7) and (greedy == greedy[:1]).all()  # there is no noise in it
    experiment.envs.close()


def test_tasks_that_are_over_leave_the_forward_passes_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = made("tests.golden.walk:golden/Walk-v0", environment=EnvironmentConfig(horizon=6))
    params, tasks, found, seen = params_of(experiment), np.linspace(-2, 2, 6)[:, None], [], []

    def step(params, rows, state, step=experiment.policy.step):
        seen.append(len(rows))
        return step(params, rows, state)

    monkeypatch.setattr(experiment.policy, "step", step)
    for share in (0.0, 0.99):
        monkeypatch.setattr(sampler, "MOST_LEFT", share)
        seen.clear()
        streams = Streams(3).rollouts(0, 0)
        found.append(collect(experiment.envs, experiment.policy, params, tasks, streams, experiment.config.environment))
        assert (min(seen) < 6) == (share > 0)
    for one, other in zip(found[0][:6], found[1][:6], strict=True):
        mask = found[0].mask.reshape(*found[0].mask.shape, *[1] * (one.dim() - 3))
        torch.testing.assert_close(one * mask, other * mask)
    experiment.envs.close()


def test_trials_that_are_masked_out_are_no_part_of_the_mean_of_episodes() -> None:
    experiment = made("tests.golden.walk:golden/Walk-v0", environment=EnvironmentConfig(horizon=6))
    tasks, streams = np.array([[1.0], [-1.0], [0.5]]), Streams(3).rollouts(0, 0)
    args = experiment.envs, experiment.policy, params_of(experiment), tasks, streams, experiment.config.environment
    rollouts = collect_steps(*args, min_steps=5)
    assert (rollouts.mask[..., 0] == 0).any(), "some trials must be masked out for this test to mean something"
    torch.testing.assert_close(mean_episode_returns(rollouts, 4).sum(1), mean_returns(rollouts))
    experiment.envs.close()


def test_sampled_actions_on_a_task_do_not_depend_on_the_other_tasks() -> None:
    experiment = made(environment=EnvironmentConfig(horizon=1))
    params, tasks = params_of(experiment), np.full((6, 5), 0.5)
    few, many = (
        trial_returns(experiment.config, experiment.policy, params, tasks[:n], 9, 1, rollouts=2, greedy=False)
        for n in (3, 6)
    )
    np.testing.assert_array_equal(few, many[:3])
    experiment.envs.close()


def test_a_number_that_is_not_told_is_named() -> None:
    experiment = made(environment=EnvironmentConfig(horizon=1))
    with pytest.raises(ConfigError, match=r"^told: .* no number 'expectd_reward'; .*; did you mean expected_reward\?"):
        trial_returns(
            experiment.config,
            experiment.policy,
            params_of(experiment),
            np.full((1, 5), 0.5),
            4,
            1,
            told="expectd_reward",
        )
    experiment.envs.close()


def test_no_episodes_are_refused() -> None:
    experiment = made(environment=EnvironmentConfig(horizon=1))
    with pytest.raises(ConfigError, match="episodes is 0; it must be at least 1"):
        trial_returns(experiment.config, experiment.policy, params_of(experiment), np.full((1, 5), 0.5), 0, 1)
    experiment.envs.close()


def test_another_number_of_arms_is_refused() -> None:
    experiment = made(environment=EnvironmentConfig(horizon=1))
    other = EnvironmentConfig(horizon=1, kwargs={"arms": 3})
    config = dataclasses.replace(experiment.config, environment=other)
    with pytest.raises(ConfigError, match=r"trained on observations of 8 numbers .* there are 6"):
        trial_returns(config, experiment.policy, params_of(experiment), np.full((1, 3), 0.5), 4, 1)
    experiment.envs.close()


def test_of_many_episodes_some_are_shown() -> None:
    assert shown_episodes(3) == [0, 1, 2]
    assert shown_episodes(100) == [0, 1, 2, 4, 9, 19, 29, 49, 99]
    assert shown_episodes(75) == [0, 1, 2, 4, 9, 19, 29, 49, 74]
