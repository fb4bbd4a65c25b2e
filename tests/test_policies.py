"""Policies with networks from outside of the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.config import PolicyConfig
from mamlrl.policies import make_policy
from mamlrl.policies.linearization import AutogradLinearization
from mamlrl.structs import Params

OBSERVATIONS = spaces.Box(-1.0, 1.0, (3,), np.float64)
ACTIONS = {"continuous": spaces.Box(-1.0, 1.0, (2,), np.float64), "discrete": spaces.Discrete(2)}


class Linear:
    """A network with a linearization of its own, which counts how often it is made."""

    made = 0

    def __init__(self, config: PolicyConfig, observation_dim: int, num_outputs: int):
        self._shape = observation_dim, num_outputs

    def init_params(self, generator: torch.Generator) -> Params:
        return {"weight": torch.randn(self._shape, generator=generator)}

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        return observations @ params["weight"].unsqueeze(1)

    def linearize(self, params: Params, observations: Tensor) -> Any:
        Linear.made += 1
        return AutogradLinearization(self.outputs, params, observations)


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_linearization_of_a_users_network_is_used(kind: str) -> None:
    Linear.made = 0
    policy = make_policy(PolicyConfig(network=f"{__name__}:Linear"), OBSERVATIONS, ACTIONS[kind])
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.stack([leaf, 2 * leaf]) for name, leaf in policy.init_params(generator).items()}
    observations = torch.randn(2, 3, 4, 3, generator=generator)
    linearized = policy.linearize(params, observations)
    assert Linear.made == 1
    torch.testing.assert_close(linearized.outputs, policy.outputs(params, observations))
