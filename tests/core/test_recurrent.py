"""Recurrent networks against torch's own, and a memory step by step against whole rollouts."""

from __future__ import annotations

import re

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.config import PolicyConfig
from mamlrl.errors import ConfigError, UserError
from mamlrl.policies import make_policy
from mamlrl.policies.cells import GRU, LSTM
from mamlrl.policies.recurrent import RecurrentNetwork, RecurrentPolicy
from mamlrl.policies.tabular import TabularNetwork
from mamlrl.policies.values import WithValues
from tests.core.problems import OBSERVATION, action_space, by_single_steps, observation_space, random_params

SHAPE = (2, 3, 5)


def policy_of(kind: str, cell: str) -> RecurrentPolicy:
    config = PolicyConfig(network=f"{kind}_{cell}", hidden_sizes=(6, 4), observation_scale=(1.0, 0.5, 2.0, 1.0))
    policy = make_policy(config, observation_space(), action_space(kind))
    assert isinstance(policy, RecurrentPolicy)
    return policy


every_policy = pytest.mark.parametrize(
    "policy", [policy_of(kind, cell) for kind in ("gaussian", "categorical") for cell in ("gru", "lstm")]
)


@pytest.mark.parametrize(("cell", "module"), [(GRU(), torch.nn.GRU), (LSTM(), torch.nn.LSTM)])
def test_a_recurrent_layer_is_that_of_torch(cell, module, generator: torch.Generator) -> None:
    network = RecurrentNetwork((OBSERVATION, 7, 2), cell)
    params = {name: leaf.double() for name, leaf in network.init_params(generator).items()}
    params["recurrent_bias"] = torch.randn(params["recurrent_bias"].shape, generator=generator)
    theirs = module(OBSERVATION, 7, batch_first=True)
    with torch.no_grad():
        for name, leaf in {"ih": "input", "hh": "recurrent"}.items():
            getattr(theirs, f"weight_{name}_l0").copy_(params[f"{leaf}_weight"].T)
            getattr(theirs, f"bias_{name}_l0").copy_(params[f"{leaf}_bias"])
    observations = torch.randn(*SHAPE, OBSERVATION, generator=generator)
    expected = theirs(observations.flatten(0, 1))[0].unflatten(0, SHAPE[:2])
    torch.testing.assert_close(network.features(params, observations), expected)


@every_policy
def test_time_steps_one_by_one_are_a_rollout(policy: RecurrentPolicy, generator: torch.Generator) -> None:
    for params in (random_params(policy, generator), random_params(policy, generator, SHAPE[0])):
        observations = torch.randn(*SHAPE, OBSERVATION, generator=generator)
        outputs = policy.outputs(params, observations)
        torch.testing.assert_close(by_single_steps(policy, params, observations), outputs)


@every_policy
def test_shared_parameters_are_those_of_every_task(policy: RecurrentPolicy, generator: torch.Generator) -> None:
    params, observations = random_params(policy, generator), torch.randn(*SHAPE, OBSERVATION, generator=generator)
    stacked = {name: torch.stack([leaf] * SHAPE[0]) for name, leaf in params.items()}
    torch.testing.assert_close(policy.outputs(params, observations), policy.outputs(stacked, observations))


@every_policy
def test_what_is_yet_to_come_is_not_known(policy: RecurrentPolicy, generator: torch.Generator) -> None:
    params, observations = random_params(policy, generator), torch.randn(*SHAPE, OBSERVATION, generator=generator)
    changed = observations.clone()
    changed[:, :, 3:] += 1.0
    before, after = (policy.outputs(params, each) for each in (observations, changed))
    assert torch.equal(before[:, :, :3], after[:, :, :3]) and not torch.equal(before[:, :, 3], after[:, :, 3])


def test_the_memory_of_another_batch_is_refused(generator: torch.Generator) -> None:
    policy = policy_of("gaussian", "gru")
    params, memory = random_params(policy, generator), policy.initial_state(1, 3)
    with pytest.raises(ValueError, match="the memory is of 1 x 3 rollouts, the observations are of 1 x 4"):
        policy.step(params, torch.zeros(1, 4, OBSERVATION), memory)


@pytest.mark.parametrize("kind", ["value", "own_value", ""])
def test_a_value_function_begins_at_zero_and_changes_no_action(kind, generator: torch.Generator) -> None:
    policy = policy_of("categorical", "gru")
    with_values, observations = WithValues(policy, kind), torch.randn(*SHAPE, OBSERVATION, generator=generator)
    params = {name: leaf.double() for name, leaf in with_values.init_params(generator).items()}
    outputs, values, _ = with_values.all_outputs(params, observations)
    torch.testing.assert_close(outputs, policy.outputs(params, observations))
    assert values.shape == SHAPE and not values.any()


def test_the_value_function_on_the_policys_layer_is_linear_in_it(generator: torch.Generator) -> None:
    policy = policy_of("categorical", "gru")
    with_values, observations = WithValues(policy, "value"), torch.randn(*SHAPE, OBSERVATION, generator=generator)
    params: dict[str, Tensor] = random_params(with_values, generator)
    values = with_values.all_outputs(params, observations).values
    features = policy.features(params, observations)
    expected = (features * params["value_weight"].squeeze(1)).sum(-1) + params["value_bias"]
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("sizes", [(OBSERVATION, 7, 2), (OBSERVATION, 6, 5, 7, 2)])
def test_the_unrolled_gru_and_its_derivative_are_those_of_the_loop(sizes, generator: torch.Generator) -> None:
    network = RecurrentNetwork(sizes, GRU())
    params = {
        name: leaf.double() + 0.1 * torch.randn(leaf.shape, generator=generator)
        for name, leaf in network.init_params(generator).items()
        if not name.startswith("head")
    }
    leaves = {name: leaf.requires_grad_() for name, leaf in params.items()} | {"head_weight": torch.zeros(7, 2)}
    observations = torch.randn(*SHAPE, OBSERVATION, generator=generator)
    cotangent = torch.randn(*SHAPE, 7, generator=generator)
    by_loop, unrolled = network.features(leaves, observations), network.features_once(leaves, observations)
    torch.testing.assert_close(unrolled, by_loop)
    expected, found = (
        torch.autograd.grad(features, list(params.values()), cotangent) for features in (by_loop, unrolled)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_a_head_for_each_state_is_that_of_the_state(kind, generator: torch.Generator) -> None:
    """Three one-hot numbers, then those that tell of actions and rewards."""
    states, actions = 3, 2
    space = spaces.Box(-1.0, 1.0, (actions,)) if kind == "gaussian" else spaces.Discrete(actions)
    seen = spaces.Box(-1.0, 1.0, (states + actions + 2,))
    config = PolicyConfig(hidden_sizes=(4,), head="per_state")
    policy = make_policy(config, seen, space, recurrent=True)
    assert isinstance(policy, RecurrentPolicy)
    params = random_params(policy, generator)
    assert params["head_weight"].shape == (4, states * actions)
    rest = torch.randn(*SHAPE, actions + 2, generator=generator)
    state = torch.randint(states, SHAPE, generator=generator)
    observations = torch.cat([torch.nn.functional.one_hot(state, states).double(), rest], dim=-1)
    features = policy.features(params, observations)
    weights, biases = params["head_weight"].unflatten(1, (states, -1)), params["head_bias"].unflatten(0, (states, -1))
    expected = torch.einsum("mbth,hmbtz->mbtz", features, weights[:, state]) + biases[state]
    torch.testing.assert_close(policy.outputs(params, observations)[..., :actions], expected)
    first, _ = policy.step(params, observations[:, :, 0], policy.initial_state(*SHAPE[:2]))
    torch.testing.assert_close(first[..., :actions], expected[:, :, 0])
    with_values = WithValues(policy, "value")
    own = random_params(with_values, generator)
    values = with_values.all_outputs(own, observations).values
    picked = own["value_weight"][:, state].permute(1, 2, 3, 0)
    features = policy.features(own, observations)
    torch.testing.assert_close(values, (features * picked).sum(-1) + own["value_bias"][state])


@pytest.mark.parametrize("cell", [GRU(), LSTM()])
def test_units_remember_for_as_long_as_is_asked_before_training(cell, generator: torch.Generator) -> None:
    """What a step keeps of the memory where nothing is seen: u / (1 + u), half of the u below the root of the most."""
    units, most = 2000, 100
    params = RecurrentNetwork((OBSERVATION, units, 2), cell, memory_steps=most).init_params(generator)
    inputs = params["input_bias"].double()
    kept = cell.advance(inputs, 0 * inputs, (torch.ones(units),) * cell.num_states)[-1]
    lasting = kept / (1 - kept)
    assert 0.999 < lasting.min() and lasting.max() < 1.001 * most
    assert cell.num_states == 1 or torch.equal(inputs[:units], -inputs[units : 2 * units])  # an LSTM's input gate
    assert [float((lasting < most**share).float().mean()) for share in (0.25, 0.5)] == pytest.approx(
        [0.25, 0.5], abs=0.05
    )


@pytest.mark.parametrize("cell", [GRU(), LSTM()])
def test_a_memory_that_lasts_is_no_other_one_and_in_the_same_order(cell) -> None:
    """Of checkpoints: a flat vector, and what Adam remembers of it, are in the order of the parameters."""
    usual, lasting = (RecurrentNetwork((OBSERVATION, 6, 2), cell, memory_steps=steps) for steps in (0, 50))
    params, others = (one.init_params(torch.Generator().manual_seed(0)) for one in (usual, lasting))
    names = ["input_weight", "input_bias", "recurrent_weight", "recurrent_bias", "head_weight", "head_bias"]
    assert list(params) == list(others) == names
    assert not torch.equal(params["input_bias"], others["input_bias"])
    assert torch.equal(params["input_weight"], others["input_weight"])


def test_what_has_no_recurrent_layer_of_its_own_remembers_as_it_does() -> None:
    for network, space in (("categorical_mlp", observation_space()), ("categorical_tabular", spaces.Box(-1, 1, (7,)))):
        config = PolicyConfig(network=network, hidden_sizes=(4, 4), memory_steps=9)
        with pytest.raises(ConfigError, match=rf"^policy.memory_steps is 9, which {network} has not; it must be 0"):
            make_policy(config, space, spaces.Discrete(2), recurrent=True)


def test_a_feed_forward_network_has_one_head() -> None:
    with pytest.raises(ConfigError, match=r"policy\.head is 'per_state', which categorical_mlp has not"):
        make_policy(PolicyConfig(head="per_state"), observation_space(), action_space("categorical"))


TABULAR = 3, 2
"""States and actions."""


def tabular_policy() -> RecurrentPolicy:
    states, actions = TABULAR
    config = PolicyConfig(network="categorical_tabular", hidden_sizes=(4, 5))
    policy = make_policy(config, spaces.Box(-1.0, 1.0, (states + actions + 2,)), spaces.Discrete(actions))
    assert isinstance(policy, RecurrentPolicy)
    return policy


def a_trial(state: Tensor, action: Tensor, told: Tensor) -> Tensor:
    """What a policy sees of these: the action and what it brought are those before."""
    before = torch.nn.functional.one_hot(action, TABULAR[1]).double().roll(1, dims=2)
    before[:, :, 0] = 0.0
    return torch.cat([torch.nn.functional.one_hot(state, TABULAR[0]).double(), before, told], dim=-1)


def random_trial(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    state, action = (torch.randint(size, SHAPE, generator=generator) for size in TABULAR)
    return state, action, torch.randn(*SHAPE, 2, generator=generator)


def test_a_memory_for_each_state_and_action_is_that_of_a_loop(generator: torch.Generator) -> None:
    """Every rollout by itself, memories in a dictionary, torch's GRU cells."""
    policy = tabular_policy()
    params = random_params(policy, generator)
    state, action, told = random_trial(generator)
    cells = {}
    for name, sizes in {"cell": (2 + 8 + 5, 4), "context": (2 + 12, 5)}.items():
        cells[name] = torch.nn.GRUCell(*sizes).double()
        with torch.no_grad():
            for theirs, ours in {"ih": "input", "hh": "recurrent"}.items():
                getattr(cells[name], f"weight_{theirs}").copy_(params[f"{name}_{ours}_weight"].T)
                getattr(cells[name], f"bias_{theirs}").copy_(params[f"{name}_{ours}_bias"])
    outputs = policy.outputs(params, a_trial(state, action, told))
    for m in range(SHAPE[0]):
        for b in range(SHAPE[1]):
            memory = {(s, a): torch.zeros(4) for s in range(TABULAR[0]) for a in range(TABULAR[1])}
            context = torch.zeros(5)
            for t in range(SHAPE[2]):
                s = int(state[m, b, t])
                there = torch.stack([memory[s, a] for a in range(TABULAR[1])])
                seen = torch.cat([told[m, b, t], there.max(0).values, there.mean(0)])
                written = torch.zeros(4)
                if t:
                    place = int(state[m, b, t - 1]), int(action[m, b, t - 1])
                    written = memory[place] = cells["cell"](torch.cat([seen, context]), memory[place])
                context = cells["context"](torch.cat([seen, written]), context)
                for a in range(TABULAR[1]):
                    hidden = torch.cat([memory[s, a], context]) @ params["hidden_weight"] + params["hidden_bias"]
                    expected = hidden.tanh() @ params["head_weight"] + params["head_bias"]
                    torch.testing.assert_close(outputs[m, b, t, a], expected.squeeze())


@pytest.mark.parametrize("states", [3, 1])
def test_the_unrolled_table_and_its_derivative_are_those_of_the_loop(states, generator: torch.Generator) -> None:
    network = TabularNetwork(states, TABULAR[1], 4, 5)
    params = {
        name: leaf.double() + 0.1 * torch.randn(leaf.shape, generator=generator)
        for name, leaf in network.init_params(generator).items()
    }
    leaves = {name: leaf.requires_grad_() for name, leaf in params.items()}
    state, action, told = random_trial(generator)
    observations = a_trial(state, action, told)
    if states == 1:
        observations = torch.cat([torch.zeros(*SHAPE, 1), observations[..., TABULAR[0] :]], dim=-1)
    cotangent = torch.randn(*SHAPE, 2 + 2 * 5, generator=generator)
    by_loop, unrolled = network.features(leaves, observations), network.features_once(leaves, observations)
    torch.testing.assert_close(unrolled, by_loop)
    expected, found = (
        torch.autograd.grad(features, list(leaves.values()), cotangent) for features in (by_loop, unrolled)
    )
    torch.testing.assert_close(found, expected)


def test_states_and_actions_may_change_their_names(generator: torch.Generator) -> None:
    policy = tabular_policy()
    params = random_params(policy, generator)
    state, action, told = random_trial(generator)
    outputs = policy.outputs(params, a_trial(state, action, told))
    renamed = policy.outputs(params, a_trial((state + 1) % TABULAR[0], (action + 1) % TABULAR[1], told))
    torch.testing.assert_close(renamed.roll(-1, dims=-1), outputs)


def test_a_tabular_network_takes_one_hot_numbers_alone(generator: torch.Generator) -> None:
    policy = tabular_policy()
    params, observations = random_params(policy, generator), a_trial(*random_trial(generator))
    for wrong in ([0.5, 0.5, 0.5], [0.0, 0.0, 0.0]):
        observations[1, 2, 0, :3] = torch.tensor(wrong)
        with pytest.raises(
            UserError, match=rf"the state is {re.escape(str(wrong))} in an observation; it must be one-hot"
        ):
            policy.step(params, observations[:, :, 0], policy.initial_state(*SHAPE[:2]))


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_sizes", (4,)), ("head", "per_state"), ("observation_scale", (1.0,) * 7), ("activation", "relu")],
)
def test_settings_that_a_tabular_network_has_not_are_refused(field, value) -> None:
    config = PolicyConfig(**{"network": "categorical_tabular", "hidden_sizes": (4, 5), field: value})
    with pytest.raises(ConfigError, match=rf"policy\.{field} is "):
        make_policy(config, spaces.Box(-1.0, 1.0, (7,)), spaces.Discrete(2))
