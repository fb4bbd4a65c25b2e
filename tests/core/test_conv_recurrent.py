"""Policies with a memory that see pictures, against torch's own layers; step by step, stacked, and refused settings."""

from __future__ import annotations

import math

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.config import PolicyConfig
from mamlrl.errors import ConfigError
from mamlrl.policies import make_policy
from mamlrl.policies.conv_recurrent import ConvRecurrentNetwork
from mamlrl.policies.recurrent import RecurrentPolicy
from mamlrl.policies.values import WithValues
from mamlrl.structs import MetaParams, flatten, unflatten
from tests.core.problems import ACTIONS, action_space, by_single_steps, central_difference, random_like, random_params

SHAPE = 2, 3, 5
PICTURE = 6, 9, 3
"""Height, width and colours, of which the layers make 2 x 3 places."""
FURTHER = 3
"""Numbers of the environment's own behind its picture."""
OBSERVATION = math.prod(PICTURE) + FURTHER + ACTIONS + 2


def policy_of(kind: str, cell: str) -> RecurrentPolicy:
    config = PolicyConfig(network=f"{kind}_conv_{cell}", hidden_sizes=(6, 4), picture=PICTURE)
    policy = make_policy(config, spaces.Box(-1.0, 1.0, (OBSERVATION,)), action_space(kind))
    assert isinstance(policy, RecurrentPolicy)
    return policy


def random_observations(generator: torch.Generator) -> Tensor:
    return torch.randn(*SHAPE, OBSERVATION, generator=generator)


every_policy = pytest.mark.parametrize(
    "policy", [policy_of(kind, cell) for kind in ("gaussian", "categorical") for cell in ("gru", "lstm")]
)


def by_torch(params: dict[str, Tensor], observations: Tensor, recurrent: torch.nn.RNNBase) -> Tensor:
    """Outputs [B, T, Z] of rollouts [B, T, O], by modules."""
    layers: list[torch.nn.Module] = []
    for number, channels in enumerate((PICTURE[2], 16)):
        layers += [torch.nn.Conv2d(channels, 16, 5, stride=2, padding=2), torch.nn.ReLU()]
        layers[-2].load_state_dict({"weight": params[f"filters_{number}"], "bias": params[f"filter_bias_{number}"]})
    pictures, rest = observations.split([math.prod(PICTURE), FURTHER + ACTIONS + 2], dim=-1)
    channels_first = torch.movedim(pictures.unflatten(-1, PICTURE).flatten(0, 1), -1, 1)
    maps = torch.nn.Sequential(*layers)(channels_first).unflatten(0, observations.shape[:2])
    seen = torch.cat([torch.movedim(maps, 2, -1).flatten(2), rest], dim=-1)  # row by row, filters last
    hidden = (seen @ params["weight_0"] + params["bias_0"]).tanh()
    with torch.no_grad():
        for theirs, ours in {"ih": "input", "hh": "recurrent"}.items():
            getattr(recurrent, f"weight_{theirs}_l0").copy_(params[f"{ours}_weight"].T)
            getattr(recurrent, f"bias_{theirs}_l0").copy_(params[f"{ours}_bias"])
    return recurrent(hidden)[0] @ params["head_weight"] + params["head_bias"]


@pytest.mark.parametrize(("cell", "module"), [("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM)])
def test_it_is_that_of_torchs_layers(cell, module, generator: torch.Generator) -> None:
    """Of shared parameters, and of each task's own."""
    policy, observations = policy_of("categorical", cell), random_observations(generator)
    theirs = module(6, 4, batch_first=True)
    shared, stacked = random_params(policy, generator), random_params(policy, generator, SHAPE[0])
    outputs, outputs_of_own = policy.outputs(shared, observations), policy.outputs(stacked, observations)
    for task, seen in enumerate(observations):
        torch.testing.assert_close(outputs[task], by_torch(shared, seen, theirs))
        own = {name: leaf[task] for name, leaf in stacked.items()}
        torch.testing.assert_close(outputs_of_own[task], by_torch(own, seen, theirs))


@every_policy
def test_time_steps_one_by_one_are_a_rollout(policy: RecurrentPolicy, generator: torch.Generator) -> None:
    for params in (random_params(policy, generator), random_params(policy, generator, SHAPE[0])):
        observations = random_observations(generator)
        outputs = policy.outputs(params, observations)
        torch.testing.assert_close(by_single_steps(policy, params, observations), outputs)


@every_policy
def test_shared_parameters_are_those_of_every_task(policy: RecurrentPolicy, generator: torch.Generator) -> None:
    params, observations = random_params(policy, generator), random_observations(generator)
    stacked = {name: torch.stack([leaf] * SHAPE[0]) for name, leaf in params.items()}
    torch.testing.assert_close(policy.outputs(params, observations), policy.outputs(stacked, observations))


@every_policy
def test_all_time_steps_at_once_have_the_derivative_of_the_loop(
    policy: RecurrentPolicy, generator: torch.Generator
) -> None:
    params = {name: leaf.requires_grad_() for name, leaf in random_params(policy, generator).items()}
    leaves = [leaf for name, leaf in params.items() if not name.startswith(("head", "free"))]
    observations, cotangent = random_observations(generator), torch.randn(*SHAPE, 4, generator=generator)
    by_loop, at_once = policy.features(params, observations), policy.features_once(params, observations)
    torch.testing.assert_close(at_once, by_loop)
    expected, found = (torch.autograd.grad(features, leaves, cotangent) for features in (by_loop, at_once))
    assert all(gradient.any() for gradient in expected)
    torch.testing.assert_close(found, expected)


@every_policy
def test_padding_is_not_looked_at(policy: RecurrentPolicy, generator: torch.Generator) -> None:
    params = {name: leaf.requires_grad_() for name, leaf in random_params(policy, generator).items()}
    leaves = [leaf for name, leaf in params.items() if not name.startswith(("head", "free"))]
    observations, cotangent = random_observations(generator), torch.randn(*SHAPE, 4, generator=generator)
    steps = torch.randint(1, SHAPE[2], SHAPE[:2], generator=generator)
    valid = torch.arange(SHAPE[2]) < steps.unsqueeze(-1)
    beyond = torch.where(valid.unsqueeze(-1), observations, torch.nan)
    whole = policy.features_once(params, observations)
    short = policy.features_once(params, beyond, valid)
    torch.testing.assert_close(short[valid], whole[valid])
    assert short.isfinite().all()
    cotangent = torch.where(valid.unsqueeze(-1), cotangent, 0.0)
    expected, found = (torch.autograd.grad(features, leaves, cotangent) for features in (whole, short))
    torch.testing.assert_close(found, expected)
    nothing = policy.features_once(params, beyond, torch.zeros_like(valid))
    gradients = torch.autograd.grad(nothing.sum() * 0.0, leaves, allow_unused=True)
    assert nothing.isfinite().all() and not any(gradient.any() for gradient in gradients if gradient is not None)


def test_products_with_derivatives_are_those_of_differences(generator: torch.Generator) -> None:
    policy, observations = policy_of("categorical", "gru"), random_observations(generator)
    params = random_params(policy, generator, SHAPE[0])
    linearization, tangent = policy.linearize(params, observations), random_like(params, generator)
    cotangent = torch.randn(*SHAPE, ACTIONS, generator=generator)
    meta = MetaParams(params)

    def value(point: Tensor) -> float:
        return float((policy.outputs(unflatten(point, meta).init, observations) * cotangent).sum())

    expected = central_difference(value, flatten(meta, meta), flatten(MetaParams(tangent), meta))
    assert float((linearization.pushforward(tangent) * cotangent).sum()) == pytest.approx(expected, rel=1e-7)
    pulled = linearization.pullback(cotangent)
    backward = sum(float((pulled[name] * leaf).sum()) for name, leaf in tangent.items())
    assert backward == pytest.approx(expected, rel=1e-7)


def test_a_value_function_of_its_own_has_filters_of_its_own(generator: torch.Generator) -> None:
    policy, observations = policy_of("categorical", "gru"), random_observations(generator)
    with_values = WithValues(policy, "own_value")
    initial = {name: leaf.double() for name, leaf in with_values.init_params(generator).items()}
    outputs, values, _ = with_values.all_outputs(initial, observations)
    torch.testing.assert_close(outputs, policy.outputs(initial, observations))
    assert not values.any()
    params = random_params(with_values, generator)
    values = with_values.all_outputs(params, observations).values
    own = {name.removeprefix("value_"): leaf for name, leaf in params.items() if name.startswith("value_")}
    theirs = torch.nn.GRU(6, 4, batch_first=True)
    for task, seen in enumerate(observations):
        torch.testing.assert_close(values[task], by_torch(own, seen, theirs).squeeze(-1))


def test_the_value_function_on_the_policys_layer_is_linear_in_it(generator: torch.Generator) -> None:
    policy, observations = policy_of("categorical", "lstm"), random_observations(generator)
    with_values = WithValues(policy, "value")
    params = random_params(with_values, generator)
    values = with_values.all_outputs(params, observations).values
    features = policy.features(params, observations)
    torch.testing.assert_close(values, (features @ params["value_weight"] + params["value_bias"]).squeeze(-1))


@pytest.mark.parametrize("picture", [(1, 1, 1), (1, 2, 3), (15, 20, 3)])
def test_pictures_of_any_size_have_features(picture, generator: torch.Generator) -> None:
    """Zeros lie around what is too small for a filter."""
    size = math.prod(picture) + ACTIONS + 2
    config = PolicyConfig(network="categorical_conv_gru", hidden_sizes=(4,), picture=picture)
    policy = make_policy(config, spaces.Box(-1.0, 1.0, (size,)), spaces.Discrete(ACTIONS))
    assert isinstance(policy, RecurrentPolicy) and isinstance(policy.network, ConvRecurrentNetwork)
    assert policy.inputs == size
    outputs = policy.outputs(random_params(policy, generator), torch.randn(1, 1, 2, size, generator=generator))
    assert outputs.shape == (1, 1, 2, ACTIONS) and not torch.equal(outputs[0, 0, 0], outputs[0, 0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"picture": ()}, r"categorical_conv_gru, which sees pictures, and the environment has none"),
        ({"picture": (9, 60, 1)}, r"policy\.picture is \[9, 60, 1\], 540 numbers; .* begins with, which has 165"),
        ({"head": "per_state"}, r"policy\.head is 'per_state', which categorical_conv_gru has not"),
        ({"hidden_sizes": ()}, r"policy\.hidden_sizes is \[\]; of categorical_conv_gru"),
        ({"network": "categorical_gru"}, r"policy\.picture is \[6, 9, 3\], which categorical_gru has not"),
        ({"network": "gaussian_conv_gru"}, r"policy\.network is 'gaussian_conv_gru', but action space Discrete"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        config = PolicyConfig(**{"network": "categorical_conv_gru", "picture": PICTURE, **settings})
        make_policy(config, spaces.Box(-1.0, 1.0, (OBSERVATION,)), spaces.Discrete(ACTIONS))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("picture", [(15, 20), (15, 0, 3)])
def test_a_picture_has_three_numbers(picture) -> None:
    with pytest.raises(ConfigError, match=r"policy\.picture is \[15, .*it must be three numbers"):
        PolicyConfig(picture=picture)
