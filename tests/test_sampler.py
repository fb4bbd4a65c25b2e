from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mamlrl.advantages import make_batch
from mamlrl.config import EnvironmentConfig, PolicyConfig, SamplingConfig
from mamlrl.envs.errors import EnvironmentFailure
from mamlrl.envs.making import make_task_envs
from mamlrl.errors import ConfigError, NonFiniteError, UserError
from mamlrl.policies import make_policy
from mamlrl.sampler import (
    TimeStep,
    collect,
    collect_steps,
    join,
    mean_measures,
    mean_returns,
    measure,
    to_environment_actions,
)
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import Params, Rollouts

HORIZON = 30
CONFIG = EnvironmentConfig(horizon=HORIZON)


def setup(num_tasks: int, rollouts: int, env: str = "mamlrl/Navigation2D-v0", **kwargs):
    envs = make_task_envs(env, num_tasks * rollouts, HORIZON, kwargs, num_threads=1)
    policy = make_policy(PolicyConfig(), envs.single_observation_space, envs.single_action_space)
    params = {
        name: leaf + 0.1 * torch.randn(leaf.shape, generator=torch.Generator().manual_seed(3))
        for name, leaf in policy.init_params(torch.Generator().manual_seed(0)).items()
    }
    return envs, policy, params


def some_tasks(num_tasks: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(-0.5, 0.5, (num_tasks, 2))


def stacked(params: Params, num_tasks: int) -> Params:
    return {name: leaf.expand(num_tasks, *leaf.shape).clone() for name, leaf in params.items()}


def test_shapes_masks_and_log_probs():
    envs, policy, params = setup(3, 4, goal_radius=0.1)
    rollouts = collect(envs, policy, params, some_tasks(3), Streams(1).rollouts(0, 0), CONFIG)
    steps = rollouts.mask.shape[2]
    assert rollouts.observations.shape == (3, 4, steps, 2) and rollouts.actions.shape == (3, 4, steps, 2)
    assert rollouts.final_observations.shape == (3, 4, 2) and steps <= HORIZON
    mask = rollouts.mask
    assert 0 < mask.sum() < mask.numel(), "some rollouts must end early for this test to mean something"
    assert (mask[..., 1:] <= mask[..., :-1]).all() and (mask[..., 0] == 1).all()
    assert (rollouts.rewards[mask == 0] == 0).all() and (rollouts.terminated[mask == 0] == 0).all()
    ends = rollouts.terminated.sum(-1)
    lengths = mask.sum(-1)
    assert torch.equal(ends == 1, lengths < steps) or (ends[lengths == steps] <= 1).all()
    outputs = policy.outputs(params, rollouts.observations)
    expected = policy.distribution.log_prob(outputs, rollouts.actions).detach()
    torch.testing.assert_close(rollouts.log_probs, expected, atol=2e-5, rtol=1e-5)


def test_rewards_and_observations_equal_a_loop_over_single_environments():
    import gymnasium

    envs, policy, params = setup(2, 3, goal_radius=0.1)
    tasks, streams = some_tasks(2), Streams(1).rollouts(4, 1)
    rollouts = collect(envs, policy, params, tasks, streams, CONFIG)
    seeds = streams.reset_seeds(2, 3)
    env = gymnasium.make("mamlrl/Navigation2D-v0", goal_radius=0.1, max_episode_steps=HORIZON)
    for task in range(2):
        for rollout in range(3):
            observation, _ = env.reset(seed=int(seeds[task, rollout]), options={"task": tasks[task]})
            for t in range(int(rollouts.mask[task, rollout].sum())):
                recorded = rollouts.observations[task, rollout, t].numpy()
                np.testing.assert_array_equal(observation.astype(np.float32), recorded)
                action = rollouts.actions[task, rollout, t].numpy()
                assert isinstance(env.action_space, spaces.Box)
                observation, reward, terminated, truncated, _ = env.step(
                    to_environment_actions(action, env.action_space, 1.0)
                )
                assert np.float32(reward) == rollouts.rewards[task, rollout, t].numpy()
            assert terminated or truncated
            assert bool(rollouts.terminated[task, rollout].sum()) == terminated


def test_what_a_task_experiences_does_not_depend_on_its_company():
    tasks = some_tasks(4)
    envs, policy, params = setup(4, 3)
    together = collect(envs, policy, params, tasks, Streams(1).rollouts(0, 0), CONFIG)
    envs, _, _ = setup(2, 3)
    fewer = collect(envs, policy, params, tasks[:2], Streams(1).rollouts(0, 0), CONFIG)
    for all_tasks, first_tasks in zip(together[:7], fewer[:7], strict=True):
        torch.testing.assert_close(all_tasks[:2], first_tasks, atol=1e-5, rtol=1e-5)


def test_shared_and_stacked_parameters_sample_the_same():
    envs, policy, params = setup(3, 2)
    tasks, streams = some_tasks(3), Streams(1).rollouts(0, 0)
    shared = collect(envs, policy, params, tasks, streams, CONFIG)
    separate = collect(envs, policy, stacked(params, 3), tasks, streams, CONFIG)
    for a, b in zip(shared, separate, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_same_stream_same_bits_other_stream_other_noise():
    envs, policy, params = setup(2, 2)
    tasks = some_tasks(2)
    first, again, other = (
        collect(envs, policy, params, tasks, Streams(seed).rollouts(0, 0), CONFIG) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first[:7], again[:7], strict=True))
    assert not torch.equal(first.actions, other.actions)


def test_policy_actions_map_onto_the_bounds():
    space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32))
    actions = np.array([[0.0, 0.0], [10.0, 5.0], [-20.0, -10.0]])
    expected = [[0.0, 2.0], [1.0, 3.0], [-1.0, 0.0]]
    np.testing.assert_allclose(to_environment_actions(actions, space, 10.0), expected)
    assert to_environment_actions(np.array([1, 2]), spaces.Discrete(3), 1.0).tolist() == [1, 2]


class Poisoned:
    """A vector environment whose rewards become NaN."""

    def __init__(self, envs):
        self._envs = envs

    def __getattr__(self, name):
        return getattr(self._envs, name)

    def step(self, actions):
        observations, rewards, *rest = self._envs.step(actions)
        return observations, rewards * math.nan, *rest


def test_non_finite_rewards_name_the_environment():
    envs, policy, params = setup(2, 2)
    with pytest.raises(EnvironmentFailure, match=r"Navigation2D-v0: step returned rewards .* \(task \[0\.3"):
        collect(Poisoned(envs), policy, params, some_tasks(2), Streams(1).rollouts(0, 0), CONFIG)  # type: ignore[arg-type]


def test_non_finite_parameters_are_the_policys_fault():
    envs, policy, params = setup(2, 2)
    broken = {name: leaf * math.nan for name, leaf in params.items()}
    with pytest.raises(NonFiniteError, match="policy's actions"):
        collect(envs, policy, broken, some_tasks(2), Streams(1).rollouts(0, 0), CONFIG)


def test_mean_returns_of_a_policy_that_stays():
    envs, policy, params = setup(2, 2)
    still = {name: torch.zeros_like(leaf) for name, leaf in params.items()}
    still["free"] -= 20.0
    tasks = some_tasks(2)
    rollouts = collect(envs, policy, still, tasks, Streams(1).rollouts(0, 0), CONFIG)
    expected = torch.from_numpy(-HORIZON * np.linalg.norm(tasks, axis=1)).float()
    torch.testing.assert_close(mean_returns(rollouts), expected, atol=1e-3, rtol=1e-4)


def test_discrete_policies_take_discrete_spaces():
    policy = make_policy(PolicyConfig(), spaces.Box(-1, 1, (3,)), spaces.Discrete(5))
    assert policy.distribution.num_outputs == 5
    with pytest.raises(Exception, match=r"policy\.network is 'gaussian_mlp'.*'categorical_mlp'"):
        make_policy(PolicyConfig(network="gaussian_mlp"), spaces.Box(-1, 1, (3,)), spaces.Discrete(5))
    with pytest.raises(Exception, match="must be a Box"):
        make_policy(PolicyConfig(), spaces.Discrete(3), spaces.Discrete(5))


def test_sampling_config_is_checked():
    with pytest.raises(ConfigError, match=r"sampling\.rollouts is 0; it must be at least 1"):
        SamplingConfig(rollouts=0)


@pytest.mark.parametrize(
    "name", ["return", "return_interval:max", "eval/return", "time", "seed", "task", "task_0", "step"]
)
def test_an_info_may_not_have_the_name_of_another_metric(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"environment\.metrics is '{name.partition(':')[0]}'; .* not in use"):
        EnvironmentConfig(metrics=("success", name))


def test_an_info_cannot_become_two_metrics_of_one_name() -> None:
    with pytest.raises(ConfigError, match=r"environment\.metrics is .*once each"):
        EnvironmentConfig(metrics=("speed:max", "speed:last"))


def test_join_pads_with_rows_that_count_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)

    def rollouts(count: int, steps: int) -> Rollouts:
        shape = (1, count, steps)
        values = torch.randn(*shape, 4, generator=generator)
        ones = torch.ones(shape)
        return Rollouts(
            values[..., :2], values[..., :1], values[..., 2], values[..., 3], 0 * ones, ones, values[:, :, -1]
        )

    long, short = rollouts(2, 6), rollouts(1, 4)
    both = join([long, short])
    assert both.observations.shape == (1, 3, 6, 2) and both.final_observations.shape == (1, 3, 4)
    assert both.mask.sum() == 16 and torch.equal(both.mask[0, 2], torch.tensor([1.0, 1, 1, 1, 0, 0]))
    batch, _ = make_batch(both, SamplingConfig())
    assert batch.weights.sum() == pytest.approx(1) and (batch.weights > 0).sum() == 16


def test_rollouts_are_added_until_every_task_has_its_steps() -> None:
    envs, policy, params = setup(2, 3, goal_radius=0.1)
    tasks, streams = np.array([[0.1, 0.05], [-0.5, -0.5]]), Streams(1).rollouts(0, 0)  # the second ends late
    rollouts = collect_steps(envs, policy, params, tasks, streams, CONFIG, min_steps=100)
    lengths, per_task = rollouts.mask.sum(-1), rollouts.mask.sum((1, 2))
    for task in range(2):
        used = lengths[task][lengths[task] > 0]
        assert torch.equal(used, lengths[task][: len(used)]), "the rollouts used are the first ones"
        assert per_task[task] >= 100 > per_task[task] - used[-1], "and none of them could be spared"
        returns = rollouts.rewards[task, : len(used)].sum(-1)
        torch.testing.assert_close(mean_returns(rollouts)[task], returns.mean())
    assert (lengths[1] == 0).any() and not (lengths[0] == 0).all()

    first = collect(envs, policy, params, tasks, streams, CONFIG)
    steps = first.mask.shape[2]
    torch.testing.assert_close(rollouts.actions[0, :3, :steps], first.actions[0])
    assert not torch.equal(rollouts.actions[0, 3:6, 0], first.actions[0, :, 0]), "later parts have noise of their own"
    batch, _ = make_batch(rollouts, SamplingConfig())
    torch.testing.assert_close(batch.weights.sum((1, 2)), torch.ones(2))


def test_streams_of_training_evaluation_and_test_differ() -> None:
    streams = Streams(1)
    draws = [one.numpy(Stream.TASKS, 0).random() for one in (streams, streams.evaluation(), streams.test())]
    assert len(set(draws)) == 3


def test_discrete_actions_count_from_the_start_of_their_space() -> None:
    assert to_environment_actions(np.array([0, 2]), spaces.Discrete(3, start=5), 1.0).tolist() == [5, 7]


def time_step(alive: list[bool], **infos: object) -> TimeStep:
    nothing = torch.zeros(0)
    return TimeStep(nothing, nothing, nothing, np.zeros(2), np.zeros(2, bool), np.array(alive), infos, np.zeros((2, 1)))


def test_measures_of_the_info_by_mean_largest_and_last() -> None:
    """Two rollouts; the second one ends after the first time step, and what its row says later does not count."""
    steps = [
        time_step([True, True], success=np.array([False, True]), distance=np.array([4.0, 3.0])),
        time_step([True, False], success=np.array([True, False]), distance=np.array([1.0, 9.0])),
    ]
    measures = measure(steps, ["success:max", "distance:last", "absent"])
    assert measures.keys() == {"success", "distance"}
    assert measures["success"].tolist() == [1.0, 1.0] and measures["distance"].tolist() == [1.0, 3.0]
    assert measure(steps, ["distance"])["distance"].tolist() == [2.5, 3.0]


def test_an_info_that_is_told_only_at_the_end_counts() -> None:
    steps = [time_step([True, True]), time_step([True, True], success=np.array([1.0, 0.0]))]
    for reduction in ("", ":max", ":mean", ":last"):
        assert measure(steps, [f"success{reduction}"])["success"].tolist() == [1.0, 0.0]


def test_rows_that_tell_nothing_of_an_info_are_no_zeros() -> None:
    """By Gymnasium's masks: the first row tells 3 and then nothing, the second one never tells."""
    steps = [
        time_step([True, True], speed=np.array([3.0, 0.0]), _speed=np.array([True, False])),
        time_step([True, True], speed=np.zeros(2), _speed=np.zeros(2, bool)),
        time_step([False, False], speed=np.full(2, 7.0)),
    ]
    for reduction in ("", ":max", ":last"):
        np.testing.assert_array_equal(measure(steps, [f"speed{reduction}"])["speed"], [3.0, math.nan])
    assert measure(steps[1:], ["speed"]) == {}


def test_an_info_may_be_an_array_of_one_number() -> None:
    steps = [time_step([True, True], speed=np.array([[3.0], [4.0]]))]
    assert measure(steps, ["speed"])["speed"].tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (np.zeros((2, 3)), "an array of shape [2, 3]"),
        (np.zeros(3), "an array of shape [3]"),
        (np.array(["near", "far"]), "no array of numbers"),
        ({"left": np.zeros(2)}, "no array of numbers"),
        ([10**400, 0], "no array of numbers"),
    ],
)
def test_an_info_that_is_not_a_number_for_each_row_is_refused_by_name(info: object, words: str) -> None:
    with pytest.raises(UserError, match=r"environment\.metrics has speed") as raised:
        measure([time_step([True, True], speed=info)], ["speed"])
    assert words in str(raised.value)


class TellsAtFirst:
    """A vector environment that tells the number of each rollout until it is reset for the second time."""

    def __init__(self, envs):
        self._envs, self._calls = envs, 0

    def __getattr__(self, name):
        return getattr(self._envs, name)

    def reset(self, **kwargs):
        self._calls += 1
        return self._envs.reset(**kwargs)

    def step(self, actions):
        *values, infos = self._envs.step(actions)
        return *values, {**infos, "number": np.array([0.0, 1, 2, 0, 1, 2])} if self._calls == 1 else infos


def test_measures_are_means_over_the_rollouts_that_returns_are_of() -> None:
    envs, policy, params = setup(2, 3, goal_radius=0.1)
    tasks, streams = np.array([[0.1, 0.05], [-0.5, -0.5]]), Streams(1).rollouts(0, 0)
    config = EnvironmentConfig(horizon=HORIZON, metrics=("distance:last",))
    rollouts = collect_steps(envs, policy, params, tasks, streams, config, min_steps=100)
    used = rollouts.mask[..., 0] > 0
    assert not used.all(), "some rollouts must be masked out for this test to mean something"
    distances = [rollouts.measures["distance"][task][used[task]].mean() for task in range(2)]
    torch.testing.assert_close(mean_measures(rollouts)["distance"], torch.stack(distances))


def test_parts_that_tell_nothing_of_a_measure_join_those_that_do() -> None:
    envs, policy, params = setup(2, 3)
    config = EnvironmentConfig(horizon=HORIZON, metrics=("number",))
    streams = Streams(1).rollouts(0, 0)
    rollouts = collect_steps(
        TellsAtFirst(envs),  # type: ignore[arg-type]
        policy,
        params,
        some_tasks(2),
        streams,
        config,
        min_steps=4 * HORIZON,
    )
    assert rollouts.measures["number"].isnan().sum() == 6
    assert mean_measures(rollouts)["number"].tolist() == [1.0, 1.0]
