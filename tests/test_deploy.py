"""A trained policy in somebody's own program: adapted from episodes, acting, saved, exported. Loading itself and
adaptation in an environment are in tests/cli/test_load.py.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import mamlrl
from mamlrl import deploy
from mamlrl.config import Config, EnvironmentConfig
from mamlrl.config.files import merge
from mamlrl.deploy import Episode, MetaPolicy, PolicyModule
from mamlrl.envs.navigation import Navigation2DEnv
from mamlrl.errors import ConfigError, UserError
from mamlrl.experiment import initial_state, make_experiment
from mamlrl.learners import LEARNERS, LearnerRow, step_scale
from mamlrl.learners.maml import make_plain
from mamlrl.policies.base import Linearization, Policy
from mamlrl.rounds import Round, adaptation_rounds
from mamlrl.run_folder.checkpoints import read_archive, read_content, write_archive
from mamlrl.run_folder.pretrained import find_checkpoints, read_trained
from mamlrl.sampler import collect, to_environment_actions
from mamlrl.seeding import Streams
from mamlrl.structs import Params, Rollouts
from tests.cli.toy_envs import DiscreteLine, Line

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "iterations": 2,
    "threads": 1,
    "sampling": {"tasks": 4, "rollouts": 3},
    "environment": {"horizon": 8, "action_scale": 20.0},  # wide: no action is clipped
    "policy": {"hidden_sizes": [8]},
    "trust_region": {"cg_iterations": 3},
    "eval": {"every": 0},
}
GOAL = [0.3, -0.4]


class FromFive(DiscreteLine):
    """Its two actions are 5 and 6."""

    action_space = spaces.Discrete(2, start=5)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, _, _, info = super().step(int(action) - 5)
        return observation, reward, bool(abs(observation[0]) > 2), False, info


class Summing:
    """A policy with a memory: it acts on the sum of all observations of the episode so far."""

    def __init__(self, policy: Policy):
        self._policy, self.distribution = policy, policy.distribution

    def init_params(self, generator: torch.Generator) -> Params:
        return self._policy.init_params(generator)

    def initial_state(self, num_tasks: int, rollouts: int) -> Tensor:
        return torch.zeros(num_tasks, rollouts, 1)

    def step(self, params: Params, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self._policy.step(params, state + observations, None)[0], state + observations

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        return self._policy.outputs(params, observations.cumsum(2))

    def linearize(self, params: Params, observations: Tensor) -> Linearization:
        return self._policy.linearize(params, observations.cumsum(2))


Remembering = LearnerRow(lambda policy, config, own: make_plain(Summing(policy), config, own))
"""MAML of a policy with a memory."""


class AwkwardNames:
    """A linear network whose parameters are called as methods of a dict, or as none of Python's names can be."""

    def __init__(self, settings: Any, num_observations: int, num_outputs: int):
        self._sizes = num_observations, num_outputs

    def init_params(self, generator: torch.Generator) -> Params:
        return {
            "keys": torch.randn(*self._sizes, generator=generator),
            "half": torch.randn(self._sizes[1], generator=generator),
            "head.0/bias": torch.randn(self._sizes[1], generator=generator),
        }

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        product = torch.einsum("mbto,moz->mbtz", observations, params["keys"])
        return product + (params["half"] + params["head.0/bias"])[:, None, None]


gymnasium.register("deploy/FromFive-v0", entry_point=f"{__name__}:FromFive")
KINDS: dict[str, dict[str, Any]] = {
    "box": {"env": "navigation"},
    "discrete": {"env": f"{__name__}:deploy/FromFive-v0"},
    "context": {"env": "navigation", "learner": "context"},
    "memory": {"env": "navigation", "learner": f"{__name__}:Remembering"},
    "own-network": {"env": "navigation", "policy": {"network": f"{__name__}:AwkwardNames"}},
    "clipped": {"env": "navigation", "environment": {"action_scale": 0.5}},
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a kind, trained once."""
    folders: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in folders:
            out = tmp_path_factory.mktemp("deploy") / kind
            folders[kind] = mamlrl.train(**merge(SMALL, KINDS[kind]), out=out).folder
        return folders[kind]

    return find


@pytest.fixture
def policy_of(folder_of: Callable[[str], Path]) -> Callable[[str], MetaPolicy]:
    return lambda kind: mamlrl.load(folder_of(kind))


class Recorded(gymnasium.Wrapper):
    """Keeps its episodes as a user would collect them."""

    def __init__(self, env: gymnasium.Env, task: Any):
        super().__init__(env)
        self.task, self.episodes = np.asarray(task, float), []

    def reset(self, **_: Any) -> tuple[Any, dict]:
        observation, info = self.env.reset(seed=len(self.episodes), options={"task": self.task})
        self.episodes.append({"observations": [observation], "actions": [], "rewards": [], "terminated": False})
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        result = self.env.step(action)
        for name, value in (("observations", result[0]), ("actions", action), ("rewards", result[1])):
            self.episodes[-1][name].append(copy.copy(value))
        self.episodes[-1]["terminated"] = result[2]
        return result


def environment(kind: str) -> Recorded:
    return Recorded(FromFive(), [0.5]) if kind == "discrete" else Recorded(Navigation2DEnv(goal_radius=0.3), GOAL)


def observations_of(policy: MetaPolicy, count: int) -> np.ndarray:
    shape = policy.observation_space.shape or ()
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def assert_same(params: Params, others: Params, rtol: float = 0.0, atol: float = 0.0) -> None:
    assert params.keys() == others.keys()
    for name, leaf in params.items():
        torch.testing.assert_close(leaf, others[name], rtol=rtol, atol=atol)


def moved(params: Params, start: Params) -> float:
    return max(float((leaf - start[name]).abs().max()) for name, leaf in params.items())


def rounds_of(folder: Path, task: list[float], rollouts: int, steps: int) -> list[Round]:
    """Adaptation to one task as evaluation does it."""
    (path,) = find_checkpoints(folder)
    trained = read_trained(path)
    config = trained.config
    sampling = dataclasses.replace(config.sampling, tasks=1, rollouts=rollouts)
    experiment = make_experiment(dataclasses.replace(config, sampling=sampling))
    streams = Streams(3).test()

    def sample(params: Params, step: int) -> Rollouts:
        tasks = np.array([task])
        return collect(experiment.envs, experiment.policy, params, tasks, streams.rollouts(0, step), config.environment)

    meta = trained.meta(initial_state(experiment))
    rounds = adaptation_rounds(
        experiment.learner, meta, sample, steps, config.sampling, lambda step: step_scale(config, step), query=False
    )
    result = list(rounds)
    experiment.envs.close()
    return result


def episodes_of(rollouts: Rollouts, policy: MetaPolicy) -> list[Episode]:
    """Rollouts of one task in the environment's units, without padding."""
    actions = to_environment_actions(
        rollouts.actions[0].numpy(), policy.action_space, policy.config.environment.action_scale
    )
    lengths = rollouts.mask[0].sum(-1).int().tolist()
    return [
        Episode(
            rollouts.observations[0, row, :length].reshape(length, *(policy.observation_space.shape or ())).numpy(),
            actions[row, :length],
            rollouts.rewards[0, row, :length].tolist(),
            bool(rollouts.terminated[0, row].any()),
        )
        for row, length in enumerate(lengths)
    ]


adapting = pytest.mark.parametrize("kind", ["box", "discrete", "context", "memory", "own-network"])


@adapting
def test_steps_on_collected_episodes_are_those_of_the_toolkit(
    kind: str, folder_of: Callable[[str], Path], policy_of: Callable[[str], MetaPolicy]
) -> None:
    policy = policy_of(kind)
    rounds = rounds_of(folder_of(kind), [0.5] if kind == "discrete" else GOAL, 5, steps=3)
    adapted = policy.unadapted()
    for one in rounds:  # the second and the third step have half the step size
        before, adapted = adapted, adapted.adapt_from(episodes_of(one.rollouts, policy))
        assert one.adapted is not None
        assert moved(one.adapted, before.params) > 1e-4
        # actions go to the environment's units and back in single precision
        assert_same(adapted.params, one.adapted, rtol=1e-4, atol=2e-6)
        assert adapted.returns[-1] == pytest.approx(one.rollouts.rewards.sum(2)[0].numpy())
    assert adapted.steps == 3


@adapting
def test_an_environment_and_the_episodes_in_it_adapt_alike(kind: str, policy_of: Callable[[str], MetaPolicy]) -> None:
    policy, env = policy_of(kind), environment(kind)
    by_env = policy.adapt(env, rollouts=6)
    assert {len(episode["rewards"]) for episode in env.episodes} != {8} or kind != "discrete"  # some end early
    by_episodes = policy.adapt_from(env.episodes)
    assert moved(by_env.params, policy.unadapted().params) > 1e-4
    assert_same(by_episodes.params, by_env.params, rtol=1e-4, atol=2e-6)
    assert by_episodes.returns[0] == pytest.approx(by_env.returns[0], rel=1e-6)


def test_each_adaptation_episode_has_its_return(policy_of: Callable[[str], MetaPolicy]) -> None:
    env = environment("discrete")
    adapted = policy_of("discrete").adapt(env, steps=2, rollouts=3)
    sums = [sum(float(reward) for reward in episode["rewards"]) for episode in env.episodes]
    assert len(adapted.returns) == adapted.steps == 2
    assert np.concatenate(adapted.returns) == pytest.approx(sums)


def test_one_step_twice_is_two_steps(policy_of: Callable[[str], MetaPolicy]) -> None:
    policy = policy_of("box")
    twice = policy.adapt(Navigation2DEnv(), GOAL, rollouts=3).adapt(Navigation2DEnv(), GOAL, rollouts=3)
    once = policy.adapt(Navigation2DEnv(), GOAL, steps=2, rollouts=3)
    assert_same(twice.params, once.params)
    assert np.array_equal(twice.returns, once.returns)


def test_adapting_leaves_the_policy_as_it_is(policy_of: Callable[[str], MetaPolicy]) -> None:
    policy = policy_of("box")
    first = policy.adapt(Navigation2DEnv(), GOAL, rollouts=3)
    kept = [{name: leaf.clone() for name, leaf in params.items()} for params in (policy.meta.init, first.params)]
    first.adapt(Navigation2DEnv(), GOAL, rollouts=3)
    assert_same(policy.meta.init, kept[0])
    assert_same(first.params, kept[1])
    assert first.steps == 1


def test_actions_beyond_the_bounds_are_taken_as_on_them_with_a_warning(
    folder_of: Callable[[str], Path], policy_of: Callable[[str], MetaPolicy]
) -> None:
    policy, scale = policy_of("clipped"), 0.5
    rollouts = rounds_of(folder_of("clipped"), GOAL, 5, steps=1)[0].rollouts
    clipped = rollouts.actions.clamp(-scale, scale)
    share = float((clipped.abs() == scale).float().mean())
    episodes, start = episodes_of(rollouts, policy), policy.unadapted()
    with pytest.warns(UserWarning, match=f"^{share:.0%} of the action components lie on their bounds") as caught:
        adapted, same = policy.adapt_from(episodes), start.adapt_from(episodes)
    assert 0.3 < share < 1
    assert [warning.filename for warning in caught] == [__file__] * 2  # where the user called it
    assert_same(adapted.params, same.params)
    outputs = policy.policy.outputs(start.params, rollouts.observations)
    log_probs = policy.policy.distribution.log_prob(outputs, clipped)
    expected = start._stepped(
        lambda *_: rollouts._replace(actions=clipped, log_probs=log_probs), 1, policy.action_space
    )
    assert_same(adapted.params, expected.params, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("as_mappings", [True, False])
def test_episodes_are_mappings_or_tuples_with_or_without_the_last_observation(
    as_mappings: bool, policy_of: Callable[[str], MetaPolicy]
) -> None:
    policy, env = policy_of("box"), environment("box")
    policy.adapt(env, rollouts=4)
    adapted = policy.adapt_from(env.episodes)
    shorter = [{**episode, "observations": episode["observations"][:-1]} for episode in env.episodes]
    given = shorter if as_mappings else [tuple(episode.values()) for episode in shorter]
    assert_same(policy.adapt_from(given).params, adapted.params)  # type: ignore[arg-type]


WANTED = "an episode is a dict of observations, actions and rewards, a list of each, and may have terminated"
EPISODE: dict[str, Any] = {"observations": [[0.0, 0.0], [0.1, 0.0]], "actions": [[0.05, 0.0]] * 2, "rewards": [1, 2]}


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "there are no episodes"),
        (EPISODE, "episodes are a mapping; they must be a list of episodes"),
        (Episode(**EPISODE), "episodes are one Episode; they must be a list of episodes"),
        ([EPISODE, 3], f"episode 1 is 3; {WANTED}"),
        ([{"observations": [], "reward": []}], f"episode 0 lacks actions, rewards; {WANTED}"),
        ([{**EPISODE, "truncated": True}], f"episode 0 has truncated; {WANTED}"),
        ([(1, 2, 3)], f"episode 0: rewards are 3, not one for each time step: {WANTED}"),
        ([EPISODE, ([], [])], f"episode 1 has 2 values; {WANTED}"),
        ([EPISODE, {**EPISODE, "rewards": [1, 2, 3]}], "episode 1 has 2 observations, 2 actions and 3 rewards"),
        ([{**EPISODE, "actions": EPISODE["actions"][:1]}], "episode 0 has 2 observations, 1 actions and 2 rewards"),
        ([{**EPISODE, "observations": [[0.0, 0.0, 0.0]] * 2}], "episode 0: observations have shape [2, 3]"),
        ([{**EPISODE, "observations": [[0.0], [0.0, 1.0]]}], "episode 0: observations are no array of numbers"),
        ([{**EPISODE, "actions": [0.0, 0.0]}], "episode 0: actions have shape [2]; it must be [T, 2]"),
        ([{**EPISODE, "actions": [[0.05, 0.0], [0.2, 0.0]]}], "episode 0: action 1 is [0.2 0. ]; it is not in"),
        ([{**EPISODE, "rewards": [1, float("nan")]}], "episode 0: rewards hold a number that is not finite"),
        ([{**EPISODE, "rewards": [[1], [2]]}], "episode 0: rewards have shape [2, 1]; it must be [T]"),
        ([{**EPISODE, "rewards": "ab"}], "episode 0: rewards are no array of numbers"),
        ([{**EPISODE, "terminated": [False, True]}], "episode 0: terminated is [False, True]; it must be one truth"),
        ([{**EPISODE, "terminated": np.zeros(2, bool)}], "episode 0: terminated is array([False, False]); it must"),
    ],
)
def test_an_episode_that_does_not_fit_is_named(
    episodes: Any, message: str, policy_of: Callable[[str], MetaPolicy]
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        policy_of("box").adapt_from(episodes)


def test_discrete_actions_of_episodes_count_from_the_start_of_the_space(
    policy_of: Callable[[str], MetaPolicy],
) -> None:
    policy = policy_of("discrete")
    episode = {"observations": [[0.0], [1.0]], "actions": [5, 6], "rewards": [0.0, 1.0]}
    assert policy.adapt_from([episode]).steps == 1
    for wrong in (0, 4, 7, 5.5):
        with pytest.raises(UserError, match=re.escape(f"action 1 is {float(wrong)}; it is not in the action space")):
            policy.adapt_from([{**episode, "actions": [5, wrong]}])


@adapting
def test_a_batch_gets_the_actions_of_its_observations_one_by_one(
    kind: str, policy_of: Callable[[str], MetaPolicy]
) -> None:
    policy = policy_of(kind)
    adapted, observations = policy.adapt(environment(kind), rollouts=3), observations_of(policy, 5)
    together = adapted.act(observations, deterministic=True)
    alone = []
    for observation in observations:
        adapted.start()
        alone.append(adapted.act(observation, deterministic=True))
    assert isinstance(together, np.ndarray) and together.shape == (5, *(policy.action_space.shape or ()))
    assert together == pytest.approx(np.array(alone), rel=1e-5)
    assert all(policy.action_space.contains(action) for action in alone)
    assert all(policy.action_space.contains(action) for action in adapted.act(observations))
    assert isinstance(alone[0], int) == (kind == "discrete")
    assert len(adapted.act(observations[:1])) == 1
    assert adapted.act(observations[:0]).shape == (0, *(policy.action_space.shape or ()))


def test_actions_are_drawn_from_the_policys_distribution_in_the_environments_units(
    policy_of: Callable[[str], MetaPolicy],
) -> None:
    policy = policy_of("box")
    adapted = policy.adapt(Navigation2DEnv(), GOAL, rollouts=3)
    drawn = adapted.act(np.tile([0.2, -0.1], (4000, 1)))
    normal = adapted.module().distribution(torch.tensor([[0.2, -0.1]]))
    std = normal.stddev[0].detach().numpy()
    log_std = policy.policy.outputs(adapted.params, torch.zeros(1, 1, 1, 2))[0, 0, 0, 2:].exp().detach().numpy()
    assert std == pytest.approx(log_std / 20 * 0.1)  # half of the range is 0.1, action_scale 20
    # four standard errors of a mean and of a standard deviation of 4000 draws
    assert np.abs(drawn.mean(0) - normal.mean[0].detach().numpy()).max() < 4 * std.max() / 4000**0.5
    assert drawn.std(0) == pytest.approx(std, rel=4 / 8000**0.5)


def test_discrete_actions_are_drawn_with_their_probabilities(policy_of: Callable[[str], MetaPolicy]) -> None:
    adapted = policy_of("discrete").adapt(environment("discrete"), rollouts=3)
    drawn = adapted.act(np.full((4000, 1), 0.7))
    categorical = adapted.module().distribution(torch.full((1, 1), 0.7))
    assert isinstance(categorical, torch.distributions.Categorical)
    probs = categorical.probs[0].detach().numpy()
    assert set(drawn) == {5, 6}
    assert (drawn == 6).mean() == pytest.approx(probs[1], abs=4 * 0.5 / 4000**0.5)


def test_actions_beyond_the_bounds_are_clipped_to_them(policy_of: Callable[[str], MetaPolicy]) -> None:
    adapted, observations = policy_of("clipped").unadapted(), observations_of(policy_of("clipped"), 200)
    actions = adapted.act(observations)
    space = adapted.action_space
    assert isinstance(space, spaces.Box) and actions.dtype == space.dtype
    assert (np.abs(actions) == 0.1).mean() > 0.3
    assert all(space.contains(action) for action in actions)
    assert (adapted.module()(torch.from_numpy(100 * observations)).abs() <= 0.1 * (1 + 1e-6)).all()


def test_actions_are_in_the_units_of_the_environment_that_it_adapted_in(
    policy_of: Callable[[str], MetaPolicy],
) -> None:
    env = gymnasium.wrappers.RescaleAction(Navigation2DEnv(), np.array([1.0, -3.0]), np.array([2.0, 5.0]))
    policy = policy_of("box")
    adapted = policy.adapt(env, GOAL, rollouts=3)
    low, high = np.array([1.0, -3.0]), np.array([2.0, 5.0])
    means = policy.policy.outputs(adapted.params, torch.tensor([[[[0.2, 0.1]]]]))[0, 0, 0, :2].detach().numpy()
    expected = (low + high) / 2 + (high - low) / 2 * np.clip(means / 20, -1, 1)
    assert adapted.act([0.2, 0.1], deterministic=True) == pytest.approx(expected, rel=1e-5)
    assert adapted.module()(torch.tensor([[0.2, 0.1]]))[0].numpy() == pytest.approx(expected, rel=1e-5)
    assert np.abs(adapted.act(np.zeros((50, 2))) - (low + high) / 2).max() > 0.1


def test_the_same_seed_acts_alike(policy_of: Callable[[str], MetaPolicy]) -> None:
    policy = policy_of("box")
    one, same, other = (policy.unadapted(seed) for seed in (4, 4, 5))
    actions = [[acting.act([0.1, 0.2]) for _ in range(3)] for acting in (one, same, other)]
    assert np.array_equal(actions[0], actions[1]) and not np.array_equal(actions[0], actions[2])
    assert not np.array_equal(actions[0][0], actions[0][1])


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (0.0, "has shape (); the policy was trained on (2,), and takes one or a batch"),
        ([1.0, 2.0, 3.0], "has shape (3,)"),
        ([[1.0], [2.0]], "has shape (2, 1)"),
        ([[[1.0, 2.0]]], "has shape (1, 1, 2)"),
        ([1.0, float("nan")], "not finite"),
        (["left", "right"], "no array of numbers"),
        ([[1.0, 2.0], [1.0]], "no array of numbers"),
        (None, "has shape ()"),
    ],
)
def test_an_observation_that_does_not_fit_is_a_clear_error(
    observation: Any, message: str, policy_of: Callable[[str], MetaPolicy]
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        policy_of("box").unadapted().act(observation)


def test_a_policy_with_a_memory_keeps_it_from_act_to_act_until_start(policy_of: Callable[[str], MetaPolicy]) -> None:
    adapted = policy_of("memory").adapt(environment("memory"), rollouts=3)

    def act(*observations: list[float]) -> list[np.ndarray]:
        return [adapted.act(observation, deterministic=True) for observation in observations]

    first, second = act([0.1, 0.2], [0.3, -0.2])
    adapted.start()
    (again,) = act([0.1, 0.2])
    adapted.start()
    (at_once,) = act([0.4, 0.0])
    assert np.array_equal(first, again)
    assert second == pytest.approx(at_once, rel=1e-5)  # it sees the sum
    assert not np.allclose(first, second)
    adapted.act(np.zeros((3, 2)))  # another number of episodes: they begin
    assert np.array_equal(act([0.1, 0.2])[0], first)
    with pytest.raises(UserError, match="remembers what came before"):
        adapted.module()


@adapting
def test_an_adapted_policy_is_saved_loaded_and_adapts_further(
    kind: str, policy_of: Callable[[str], MetaPolicy], tmp_path: Path
) -> None:
    policy = policy_of(kind)
    adapted = policy.adapt(environment(kind), steps=2, rollouts=3, seed=7)
    adapted.save(tmp_path / "adapted.pt")
    loaded = mamlrl.load_adapted(str(tmp_path / "adapted.pt"))
    assert_same(loaded.params, adapted.params)
    assert repr(loaded) == repr(adapted)
    assert np.array_equal(loaded.returns, adapted.returns)
    fresh = policy.adapt(environment(kind), steps=2, rollouts=3, seed=7)
    observations = observations_of(policy, 3)
    assert all(np.array_equal(loaded.act(observations), fresh.act(observations)) for _ in range(3))
    further = [one.adapt(environment(kind), rollouts=3) for one in (adapted, loaded)]
    assert_same(further[0].params, further[1].params)
    assert further[1].steps == 3


@adapting
def test_a_policy_pickles(kind: str, policy_of: Callable[[str], MetaPolicy]) -> None:
    policy = policy_of(kind)
    adapted = policy.adapt(environment(kind), rollouts=3, seed=7)
    copies = pickle.loads(pickle.dumps((policy, adapted)))
    assert_same(copies[1].params, adapted.params)
    assert repr(copies) == repr((policy, adapted))
    observations = observations_of(policy, 3)
    assert np.array_equal(copies[1].act(observations), adapted.act(observations))
    assert_same(copies[0].adapt(environment(kind), rollouts=3, seed=7).params, adapted.params)
    further = [one.adapt(environment(kind), rollouts=3) for one in (adapted, copies[1])]
    assert_same(further[0].params, further[1].params)


@pytest.mark.parametrize(
    "learner",
    [
        name
        for name, row in LEARNERS.items()
        if row.trained and not (row.observes_task or row.examples_only or row.recurrent)
    ],
)
def test_the_policy_of_every_learner_pickles(learner: str) -> None:
    spaces_ = Navigation2DEnv().observation_space, Navigation2DEnv().action_space
    config = Config(env="navigation", learner=learner, environment=EnvironmentConfig(horizon=5))
    policy, _ = deploy._untrained(config, *spaces_)
    adapted = policy.unadapted().adapt(environment("box"), rollouts=2)
    again = pickle.loads(pickle.dumps(policy)).unadapted().adapt(environment("box"), rollouts=2)
    assert_same(again.params, adapted.params)


def test_a_policy_with_a_memory_pickles() -> None:
    trained = mamlrl.load(Path(__file__).parents[1] / "runs/pretrained/bandit/rl2/seed-1")
    agent, again = trained.start(), pickle.loads(pickle.dumps(trained)).start()
    pulls = [(np.zeros(1), 0.0, False), (np.zeros(1), 1.0, True), (np.zeros(1), 0.0, True)]
    assert [agent.act(*pull) for pull in pulls] == [again.act(*pull) for pull in pulls]


def test_what_was_not_adapted_is_saved_too_and_bounds_of_the_environment_are_kept(
    policy_of: Callable[[str], MetaPolicy], tmp_path: Path
) -> None:
    policy = policy_of("box")
    policy.unadapted().save(tmp_path / "unadapted.pt")
    before = (tmp_path / "unadapted.pt").read_bytes()
    with pytest.raises(UserError, match=r"unadapted.pt is there already; overwrite=True takes its place"):
        policy.adapt(Navigation2DEnv(), GOAL, rollouts=3).save(tmp_path / "unadapted.pt")
    assert (tmp_path / "unadapted.pt").read_bytes() == before
    loaded = mamlrl.load_adapted(tmp_path / "unadapted.pt")
    assert_same(loaded.params, policy.unadapted().params)
    assert loaded.steps == 0
    env = gymnasium.wrappers.RescaleAction(Navigation2DEnv(), np.float64(1.0), np.float64(2.0))
    policy.adapt(env, GOAL, rollouts=3).save(tmp_path / "unadapted.pt", overwrite=True)
    loaded = mamlrl.load_adapted(tmp_path / "unadapted.pt")
    assert loaded.action_space == env.action_space
    assert loaded.origin.action_space == policy.action_space


def test_files_that_hold_no_adapted_policy_are_told_apart(
    folder_of: Callable[[str], Path], policy_of: Callable[[str], MetaPolicy], tmp_path: Path
) -> None:
    saved, checkpoint = tmp_path / "adapted.pt", folder_of("box") / "checkpoints" / "best.pt"
    policy_of("box").unadapted().save(saved)
    with pytest.raises(UserError, match=r"best\.pt is no adapted policy; mamlrl.load reads the checkpoint"):
        mamlrl.load_adapted(checkpoint)
    with pytest.raises(
        UserError, match=r"adapted\.pt is an adapted policy, no checkpoint; mamlrl\.load_adapted reads it"
    ):
        mamlrl.load(saved)
    with pytest.raises(UserError, match=r"box is a folder; mamlrl\.load takes a run"):
        mamlrl.load_adapted(folder_of("box"))
    with pytest.raises(UserError, match=r"nowhere/adapted\.pt: there is no folder .*nowhere"):
        policy_of("box").unadapted().save(tmp_path / "nowhere" / "adapted.pt")
    with pytest.raises(UserError, match=r"nowhere\.pt does not exist"):
        mamlrl.load_adapted(tmp_path / "nowhere.pt")
    content = read_archive(saved)
    damaged: list[dict[str, Any]] = [
        {**content, "params": {}},
        {**content, "params": {name: leaf[..., :1] for name, leaf in content["params"].items()}},
        {**content, "params": {name: 3 for name in content["params"]}},
        {**content, "meta": None},
        {**content, "spaces": {}},
        {**content, "action_space": {"kind": "Dict"}},
        {**content, "returns": 3},
        {**content, "seed": "one"},
        {**content, "config": {"env": 3}},
        {"format": content["format"]},
    ]
    for number, changed in enumerate(damaged):
        write_archive(tmp_path / f"{number}.pt", changed)
        with pytest.raises(UserError, match=rf"/{number}\.pt"):
            mamlrl.load_adapted(tmp_path / f"{number}.pt")
    whole = saved.read_bytes()
    leaf = content["params"]["weight_0"].numpy().tobytes()
    place = whole.index(leaf) + len(leaf) // 2
    saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(UserError, match=r"adapted\.pt is damaged"):
        mamlrl.load_adapted(saved)


@pytest.mark.parametrize("kind", ["box", "discrete", "context", "own-network", "clipped"])
def test_an_exported_module_takes_the_same_actions(
    kind: str, policy_of: Callable[[str], MetaPolicy], tmp_path: Path
) -> None:
    policy = policy_of(kind)
    adapted = policy.unadapted() if kind == "clipped" else policy.adapt(environment(kind), rollouts=3)
    module, observations = adapted.module(), torch.from_numpy(observations_of(policy, 5))
    expected = adapted.act(observations.numpy(), deterministic=True)
    assert module(observations).numpy() == pytest.approx(expected, rel=1e-5)
    shapes = ({0: torch.export.Dim.AUTO},)
    torch.export.save(torch.export.export(module, (observations,), dynamic_shapes=shapes), tmp_path / "policy.pt2")
    exported = torch.export.load(tmp_path / "policy.pt2").module()
    assert exported(observations).numpy() == pytest.approx(expected, rel=1e-5)
    assert exported(observations[:2]).numpy() == pytest.approx(expected[:2], rel=1e-5)


def test_an_exported_module_needs_no_package_but_torch(policy_of: Callable[[str], MetaPolicy], tmp_path: Path) -> None:
    adapted, observations = policy_of("box").unadapted(), torch.zeros(2, 2)
    torch.export.save(torch.export.export(adapted.module(), (observations,)), tmp_path / "policy.pt2")
    program = """
import sys
sys.modules["mamlrl"] = sys.modules["gymnasium"] = None
import torch
print(torch.export.load("policy.pt2").module()(torch.zeros(2, 2)).tolist())
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert np.array(json.loads(ran.stdout)) == pytest.approx(adapted.act(observations.numpy(), deterministic=True))


def test_a_module_can_be_trained_further(policy_of: Callable[[str], MetaPolicy]) -> None:
    adapted = policy_of("own-network").adapt(Navigation2DEnv(), GOAL, rollouts=3)
    module, observations = adapted.module().requires_grad_(), torch.tensor([[0.1, 0.2]])
    before = module(observations).detach()
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    module(observations).sum().backward()
    optimiser.step()
    assert (module(observations) < before).all()
    assert adapted.act(observations[0], deterministic=True) == pytest.approx(before[0].numpy())  # a copy was trained


def test_a_modules_parameters_are_found_by_their_names(policy_of: Callable[[str], MetaPolicy]) -> None:
    policy = policy_of("box")
    module = policy.unadapted().module()
    assert isinstance(module, PolicyModule)
    state = module.state_dict()
    for name, leaf in policy.meta.init.items():
        (found,) = [key for key in state if key.endswith(name)]
        assert torch.equal(state[found], leaf)


@adapting
def test_a_policy_shows_itself_in_a_line(kind: str, policy_of: Callable[[str], MetaPolicy]) -> None:
    policy = policy_of(kind)
    adapted = policy.adapt(environment(kind), rollouts=3)
    for one in (policy, policy.unadapted(), adapted):
        assert "\n" not in repr(one) and len(repr(one)) < 200
    assert policy.config.env in repr(policy) and policy.config.learner in repr(policy)
    assert repr(policy.unadapted()).startswith("AdaptedPolicy(0 gradient steps, from MetaPolicy(")
    shown = f"AdaptedPolicy(1 gradient step, return {adapted.returns[0].mean():.2f} before the last, from "
    assert repr(adapted).startswith(shown)


def test_policies_are_compared_by_identity(policy_of: Callable[[str], MetaPolicy]) -> None:
    one, other = policy_of("box"), policy_of("box")
    assert one == one and one != other and len({one, other}) == 2


USERS_PROGRAM = """
import sys
simulators = ["mujoco", "mujoco.batch", "gymnasium.envs.mujoco", "glfw"]
families = [f"mamlrl.envs.{name}" for name in ("navigation", "half_cheetah", "ant", "mujoco_vector")]
for name in [*simulators, *families, "my_tasks"]:
    sys.modules[name] = None

import gymnasium, mamlrl, numpy, torch

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (1,), numpy.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), numpy.float64)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return numpy.zeros(1), {}
    def step(self, action):
        return numpy.clip(action, -9, 9), float(action[0]), False, False, {}

policy = mamlrl.load(sys.argv[1])
adapted = policy.adapt(Mine(), rollouts=3)
adapted.save("adapted.pt")
adapted = mamlrl.load_adapted("adapted.pt").adapt(Mine(), rollouts=3)
assert adapted.steps == 2 and adapted.action_space.contains(adapted.act([0.5]))
episode = {"observations": [[0.0], [0.1]], "actions": [[0.01], [0.02]], "rewards": [0.0, 1.0]}
assert policy.adapt_from([episode]).steps == 1
print(adapted.module()(torch.zeros(2, 1)).shape)
"""


def test_a_policy_is_used_without_the_module_it_was_trained_in_and_without_a_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = re.search(r"<!-- example environment -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert example
    (tmp_path / "my_tasks.py").write_text(example[1].replace("Thermostat-v0", "DeployedThermostat-v0"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_tasks", raising=False)
    monkeypatch.setattr("gymnasium.envs.registration.registry", dict(gymnasium.registry))
    run = mamlrl.train(**merge(SMALL, {"env": "my_tasks:DeployedThermostat-v0"}), out=tmp_path / "run")
    command = [sys.executable, "-c", USERS_PROGRAM, str(run.folder)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=tmp_path / "run", capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "torch.Size([2, 1])\n"


def test_a_checkpoint_without_spaces_makes_its_environment_for_them_or_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = read_content(ROOT / "runs" / "pretrained" / "navigation" / "maml" / "checkpoint.pt")
    del content["spaces"]
    torch.save(content, tmp_path / "older.pt")
    policy = mamlrl.load(tmp_path / "older.pt")
    assert policy.action_space == Navigation2DEnv().action_space
    assert policy.adapt(Navigation2DEnv(), GOAL, rollouts=2).steps == 1
    monkeypatch.setitem(sys.modules, "mamlrl.envs.navigation", None)
    with pytest.raises(UserError, match=r"older\.pt .* does not hold its spaces, .* environment"):
        mamlrl.load(tmp_path / "older.pt")


def test_a_policy_that_sees_the_task_is_refused(tmp_path: Path) -> None:
    run = mamlrl.train(
        **merge(SMALL, {"env": "navigation", "learner": "oracle", "iterations": 1}), out=tmp_path / "run"
    )
    with pytest.raises(UserError, match="the policy of learner oracle sees the task and never adapts"):
        mamlrl.load(run.folder)


def with_actions(space: spaces.Space) -> gymnasium.Env:
    env = Navigation2DEnv()
    env.action_space = space  # type: ignore[assignment]
    return env


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Line(), "observation_space is"),
        (with_actions(spaces.Box(-1.0, 1.0, (3,))), "action_space is Box(-1.0, 1.0, (3,), float32); the policy was"),
        (with_actions(spaces.Discrete(2)), "action_space is Discrete(2); the policy was trained on Box"),
        (with_actions(spaces.Box(-np.inf, np.inf, (2,))), "has no finite bounds to map actions to"),
        (gymnasium.vector.SyncVectorEnv([Navigation2DEnv]), "SyncVectorEnv is not one environment"),
        ("mamlrl/Navigation2D-v0", "str is not one environment"),
        (None, "NoneType is not one environment"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(
    env: Any, message: str, policy_of: Callable[[str], MetaPolicy]
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        policy_of("box").adapt(env)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 1.5}, "steps is 1.5; it must be an integer"),
        ({"rollouts": "3"}, "rollouts is '3'; it must be an integer"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"seed": None}, "seed is None; it must be an integer"),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: dict[str, Any], message: str, policy_of: Callable[[str], MetaPolicy]
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        policy_of("box").adapt(Navigation2DEnv(), GOAL, **arguments)


@pytest.mark.parametrize("load", [mamlrl.load, mamlrl.load_adapted])
def test_what_is_no_path_is_named(load: Callable[[Any], Any]) -> None:
    for wrong in (None, 3, "", "a\0b"):
        with pytest.raises(ConfigError, match=r"^path: "):
            load(wrong)


def test_integers_of_numpy_are_integers(policy_of: Callable[[str], MetaPolicy], tmp_path: Path) -> None:
    count = np.int64(2)
    adapted = policy_of("box").adapt(Navigation2DEnv(), GOAL, steps=count, rollouts=count, seed=count)  # type: ignore
    adapted.save(tmp_path / "adapted.pt")
    assert mamlrl.load_adapted(tmp_path / "adapted.pt").seed == 2
