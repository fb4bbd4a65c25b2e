"""Bandits and tabular MDPs: their priors, their noise, what a trial needs, and pictures."""

from __future__ import annotations

import numpy as np
import pytest

from mamlrl.envs.row_noise import normal_of
from mamlrl.envs.tabular_mdp import MDPSpace
from mamlrl.envs.tabular_pictures import draw_arms, draw_table
from tests.envs.making import make, make_vec

KINDS = [
    ("mamlrl/Bandit-v0", {"arms": 3}),
    ("mamlrl/Bandit-v0", {"arms": 3, "reward": "gaussian"}),
    ("mamlrl/TabularMDP-v0", {"states": 3, "actions": 2}),
]


def mean_is(values: np.ndarray, expected: float, deviation: float) -> bool:
    """Whether a mean is within four and a half standard errors, 7e-6 of the time it is not."""
    return abs(values.mean() - expected) < 4.5 * deviation / np.sqrt(values.size)


def test_prior_of_bandits():
    rng = np.random.default_rng(0)
    bernoulli = make("mamlrl/Bandit-v0", arms=4).unwrapped.sample_tasks(5000, rng)
    assert mean_is(bernoulli, 0.5, np.sqrt(1 / 12)) and mean_is((bernoulli - 0.5) ** 2, 1 / 12, 0.075)
    gaussian = make("mamlrl/Bandit-v0", arms=4, reward="gaussian").unwrapped.sample_tasks(5000, rng)
    assert mean_is(gaussian, 0.0, 1.0) and mean_is(gaussian**2, 1.0, np.sqrt(2))


def test_prior_of_mdps():
    space = MDPSpace(10, 5)
    rewards, transitions = space.split(space.draw(500, np.random.default_rng(0)))
    assert rewards.shape == (500, 10, 5) and transitions.shape == (500, 10, 5, 10)
    np.testing.assert_allclose(transitions.sum(-1), 1.0, rtol=1e-12)
    assert mean_is(rewards, 1.0, 1.0) and mean_is((rewards - 1) ** 2, 1.0, np.sqrt(2))
    # Dirichlet(1, ..., 1) of 10: each is Beta(1, 9), of second moment 2 / 110
    assert mean_is(transitions**2, 2 / 110, 0.045)


@pytest.mark.parametrize("reward", ["bernoulli", "gaussian"])
def test_arms_pay_what_their_means_say(reward):
    n = 20000
    envs = make_vec("mamlrl/Bandit-v0", num_envs=n, arms=2, reward=reward)
    envs.reset(seed=0, options={"task": [0.2, 0.7]})
    for arm, mean in ((0, 0.2), (1, 0.7)):
        paid = np.stack([envs.step(np.full(n, arm))[1] for _ in range(3)])
        deviation = np.sqrt(mean * (1 - mean)) if reward == "bernoulli" else 1.0
        assert mean_is(paid, mean, deviation) and mean_is((paid - mean) ** 2, deviation**2, np.sqrt(2))
        assert abs(np.corrcoef(paid)[0, 1]) < 4.5 / np.sqrt(n)  # one pull says nothing of the next
        assert abs(np.corrcoef(paid[0][:-1], paid[0][1:])[0, 1]) < 4.5 / np.sqrt(n)  # nor a row of its neighbour
    infos = envs.step(np.zeros(n, int))[4]
    np.testing.assert_array_equal(infos["expected_reward"], 0.2)
    np.testing.assert_allclose(infos["regret"], 0.5)


def test_transitions_and_rewards_of_an_mdp():
    n, space = 20000, MDPSpace(3, 2)
    task = space.draw(1, np.random.default_rng(1))[0]
    rewards, transitions = space.split(task)
    envs = make_vec("mamlrl/TabularMDP-v0", num_envs=n, states=3, actions=2)
    observations, _ = envs.reset(seed=0, options={"task": task})
    np.testing.assert_array_equal(observations, np.tile([1.0, 0.0, 0.0], (n, 1)))
    actions = np.arange(n) % 2
    states = np.zeros(n, int)
    for _ in range(3):
        observations, paid, _, _, infos = envs.step(actions)
        np.testing.assert_array_equal(infos["expected_reward"], rewards[states, actions])
        assert mean_is(paid - rewards[states, actions], 0.0, 1.0)
        reached = observations.argmax(1)
        np.testing.assert_array_equal(observations, np.eye(3)[reached])
        for state in range(3):
            for action in range(2):
                chosen = reached[(states == state) & (actions == action)]
                for following, chance in enumerate(transitions[state, action] if chosen.size else ()):
                    assert mean_is(chosen == following, chance, np.sqrt(chance * (1 - chance)))
        states = reached


def test_the_last_state_is_reached_however_probabilities_round():
    """A draw beyond all sums is of the last state; one state alone has no sums at all."""
    for states, others in ((3, np.zeros(3)), (1, np.zeros(0))):
        task = np.concatenate([np.zeros(2 * states), np.tile(np.append(np.zeros(states - 1), 1.0), 2 * states)])
        env = make("mamlrl/TabularMDP-v0", states=states, actions=2)
        env.reset(seed=0, options={"task": task})
        assert env.step(1)[0].argmax() == states - 1, others


@pytest.mark.parametrize(("env_id", "kwargs"), KINDS)
def test_a_row_goes_on_in_a_trial_with_its_task_and_new_numbers(env_id, kwargs):
    """Reset without a seed, as between the episodes of a trial: the other rows do not notice."""
    envs, reference = (make_vec(env_id, num_envs=4, max_episode_steps=2, **kwargs) for _ in range(2))
    single = make(env_id, **kwargs)
    tasks = envs.unwrapped.sample_tasks(4, np.random.default_rng(0))
    for some in (envs, reference):
        some.reset(seed=3, options={"task": tasks})
    single.reset(seed=4, options={"task": tasks[1]})
    actions = np.array([0, 1, 1, 0])
    seen = []
    for episode in range(6):
        for _ in range(2):
            observations, rewards, *_ = envs.step(actions)
            observation, reward, *_ = single.step(1)
            np.testing.assert_array_equal(observations[1], observation)
            assert rewards[1] == reward
            seen.append((*observation, *rewards))
        mask = np.array([True, True, False, True])
        observations, infos = envs.reset(options={"reset_mask": mask})
        np.testing.assert_array_equal(infos["task"], tasks)
        np.testing.assert_array_equal(observations[1], single.reset()[0])
        if episode == 0:
            held = [reference.step(actions)[:4] for _ in range(2)][-1]
    assert len(set(seen)) > 1  # the episodes are not the same one again
    observations, rewards, *_ = envs.step(actions)
    np.testing.assert_array_equal(observations[2], held[0][2])
    assert rewards[2] == 0


@pytest.mark.parametrize(("env_id", "kwargs"), KINDS)
def test_rows_that_are_held_use_no_numbers(env_id, kwargs):
    together, late = (make_vec(env_id, num_envs=2, max_episode_steps=1, **kwargs) for _ in range(2))
    task = together.unwrapped.sample_tasks(1, np.random.default_rng(0))[0]
    for envs in (together, late):
        envs.reset(seed=0, options={"task": task})
        envs.step(np.zeros(2, int))
    late.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(3):
        late.step(np.zeros(2, int))  # the second row is held, and so is the first from its second step on
    late.reset(options={"reset_mask": np.array([False, True])})
    together.reset()
    one, other = late.step(np.zeros(2, int)), together.step(np.zeros(2, int))
    np.testing.assert_array_equal(one[0][1], other[0][1])
    assert one[1][1] == other[1][1]


def test_what_was_handed_out_stays():
    envs = make_vec("mamlrl/Bandit-v0", num_envs=2, arms=3)
    tasks = envs.reset(seed=0)[1]["task"]
    copy = tasks.copy()
    envs.reset(seed=1)
    envs.reset(seed=1, options={"task": np.zeros(3)})
    np.testing.assert_array_equal(tasks, copy)


def test_seeds_of_any_size_and_none_below_zero():
    envs, seed = make_vec("mamlrl/Bandit-v0", num_envs=1), 2**64 + 5
    with pytest.raises(ValueError, match="seed is -1; it must be at least 0"):
        envs.reset(seed=-1)
    envs.reset(seed=seed, options={"task": np.full(5, 0.5)})
    single = make("mamlrl/Bandit-v0")
    single.reset(seed=seed, options={"task": np.full(5, 0.5)})
    assert [envs.step(np.array([0]))[1][0] for _ in range(20)] == [single.step(0)[1] for _ in range(20)]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 3], "action 3 of row 1 is not in Discrete(3)"),
        ([-1, 0], "action -1 of row 0 is not in Discrete(3)"),
        ([0.0, 1.0], "actions are float64; those of Discrete(3) must be integers"),
        ([[0], [1]], "actions have shape (2, 1); they must have (2,)"),
    ],
)
def test_wrong_actions_are_named(actions, message):
    envs = make_vec("mamlrl/Bandit-v0", num_envs=2, arms=3)
    envs.reset(seed=0)
    with pytest.raises(ValueError) as error:
        envs.step(np.array(actions))
    assert message in str(error.value)


def test_normal_numbers_of_the_extremes_are_finite():
    ends = np.array([0.0, 1.0 - 2.0**-53])
    assert np.isfinite(normal_of(*np.meshgrid(ends, ends))).all()


def test_a_picture_shows_pulls_of_the_whole_trial():
    envs = make_vec("mamlrl/Bandit-v0", num_envs=1, arms=2, render_mode="rgb_array")
    envs.reset(seed=0, options={"task": [0.2, 0.9]})
    envs.step(np.array([1]))
    after_one = envs.render()[0]
    envs.reset()
    np.testing.assert_array_equal(envs.render()[0], after_one)
    envs.reset(seed=0)
    assert not np.array_equal(envs.render()[0], after_one)


def test_pictures_of_any_numbers():
    for means in (np.array([0.0, 1.0]), np.array([-3.0, 5.0, 2.0])):
        assert draw_arms(means, np.arange(means.size, dtype=float), -means).shape == (480, 480, 3)
    assert draw_table(np.zeros((1, 2)), np.ones((1, 2)), 0).shape == (480, 480, 3)
