"""Predictors: networks that give numbers or classes, in the form of policies, so that learners take them too."""

from __future__ import annotations

import math
from collections.abc import Callable

from gymnasium import spaces

from mamlrl.config import PolicyConfig
from mamlrl.distributions import Categorical, UnitGaussian
from mamlrl.errors import ConfigError, described
from mamlrl.external import load_external, unknown_name
from mamlrl.policies import try_out
from mamlrl.policies.base import Network
from mamlrl.policies.convolutional import conv, conv_stride, mlp_norm
from mamlrl.policies.mlp import MLP
from mamlrl.policies.network_policy import NetworkPolicy


def mlp(config: PolicyConfig, inputs: int, outputs: int) -> MLP:
    """A multilayer perceptron with the configured hidden layers."""
    return MLP((inputs, *config.hidden_sizes, outputs), config.activation)


NETWORKS: dict[str, Callable[[PolicyConfig, int, int], Network]] = {
    "mlp": mlp,
    "conv": conv,
    "conv_stride": conv_stride,
    "mlp_norm": mlp_norm,
}
"""(settings, O, Z) -> network."""


def make_predictor(config: PolicyConfig, input_space: spaces.Space, target_space: spaces.Space) -> NetworkPolicy:
    """The configured network, with the distribution that the targets have around its outputs.

    Args:
        config: `network: auto` takes the first of NETWORKS; `module:Name` one from outside, called with the settings,
            the number of inputs and the number of outputs.
        input_space: [O].
        target_space: a Box [A] for numbers, whose means are the outputs; Discrete for classes, whose logits they are.

    Raises:
        ConfigError: there is no such network, or it does not work.
    """
    inputs = math.prod(input_space.shape or ())
    if config.observation_scale and len(config.observation_scale) != inputs:
        raise ConfigError(
            f"policy.observation_scale has {len(config.observation_scale)} factors; it must have {inputs}, one for each"
            " input, or be empty"
        )
    if isinstance(target_space, spaces.Discrete):
        distribution = Categorical(int(target_space.n))
    else:
        distribution = UnitGaussian(math.prod(target_space.shape or ()))
    name = next(iter(NETWORKS)) if config.network == "auto" else config.network
    if ":" in name:
        network = _from_outside(config, inputs, distribution.num_outputs)
    elif name in NETWORKS:
        network = NETWORKS[name](config, inputs, distribution.num_outputs)
    else:
        raise unknown_name("policy.network", name, ("auto", *NETWORKS))
    return NetworkPolicy(network, distribution, config.observation_scale)


def _from_outside(config: PolicyConfig, inputs: int, outputs: int) -> Network:
    make = load_external("policy.network", config.network)
    try:
        network = make(config, inputs, outputs)
        try_out(network, inputs, outputs)
    except Exception as error:  # whatever a user's class raises
        raise ConfigError(
            f"policy.network {config.network}, made with (settings, {inputs}, {outputs}), failed: {described(error)}"
        ) from error
    return network
