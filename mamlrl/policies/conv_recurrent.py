"""Policies with a memory that see pictures: layers of convolution before those of a recurrent network.

Source: Duan et al. (2016), "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.3.

Shapes: M tasks, B rollouts, T time steps; a picture has H rows, W columns and C colours; F filters, E features of a
picture, R numbers behind it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mamlrl.config import PolicyConfig
from mamlrl.errors import ConfigError
from mamlrl.policies.cells import CELLS, Cell, State
from mamlrl.policies.recurrent import RecurrentNetwork, RecurrentPolicy, categorical_with, gaussian_with
from mamlrl.structs import Params

FILTERS = 16, 16
"""F of each layer, as in the paper."""
SIDE, STRIDE = 5, 2
"""Pixels across a filter, and from one place to the next, as in the paper."""


@dataclass(frozen=True)
class ConvRecurrentNetwork:
    """Convolution of the picture that an observation begins with, then a recurrent network.

        c = relu(K_1 * relu(K_0 * picture + k_0) + k_1)
        output = recurrent([c, rest])

    Filters are 5 x 5 pixels with a border of zeros, at every second pixel, so that each layer halves the picture. What
    is behind the picture, the action before and what it brought, joins its features. Parameters are those of the
    recurrent network, ``filters_0`` [F, C, 5, 5], ``filters_1`` [F, F, 5, 5] and ``filter_bias_0``, ``filter_bias_1``
    [F].

    Args:
        picture: H, W and C; an observation has it row by row, colours last.
        recurrent: sees E + R numbers.
    """

    picture: tuple[int, int, int]
    recurrent: RecurrentNetwork

    @property
    def inputs(self) -> int:
        """Numbers of an observation, H W C + R."""
        return math.prod(self.picture) + self.recurrent.inputs - features_size(self.picture)

    @property
    def value_shape(self) -> tuple[int, int]:
        """That of the recurrent network."""
        return self.recurrent.value_shape

    def with_one_output(self, prefix: str) -> ConvRecurrentNetwork:
        """A network like this with one output and parameters of its own."""
        return dataclasses.replace(self, recurrent=self.recurrent.with_one_output(prefix))

    def init_params(self, generator: torch.Generator) -> Params:
        """Filters for ReLU (He et al. 2015), biases zero, float32; the others as the recurrent network has them."""
        params: Params = {}
        channels = self.picture[2]
        for layer, filters in enumerate(FILTERS):
            weights = torch.empty(filters, channels, SIDE, SIDE, dtype=torch.float32)
            torch.nn.init.kaiming_uniform_(weights, nonlinearity="relu", generator=generator)
            params |= {f"filters_{layer}": weights, f"filter_bias_{layer}": torch.zeros(filters, dtype=torch.float32)}
            channels = filters
        named = {f"{self.recurrent.prefix}{name}": leaf for name, leaf in params.items()}
        return named | self.recurrent.init_params(generator)

    def initial_state(self, num_tasks: int, rollouts: int) -> State:
        """That of the recurrent network."""
        return self.recurrent.initial_state(num_tasks, rollouts)

    def step(self, params: Params, observations: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs [M, B, Z] for observations [M, B, O], and the new state."""
        return self.recurrent.step(params, self._seen(params, observations), state)

    def features(self, params: Params, observations: Tensor) -> Tensor:
        """Outputs of the recurrent layer on rollouts from their start, [M, B, T, O] -> [M, B, T, H]; differentiable."""
        return self.recurrent.features(params, self._seen(params, observations))

    def features_once(self, params: Params, observations: Tensor, valid: Tensor | None = None) -> Tensor:
        """`features` of shared parameters that are differentiated no more than once; padding is not looked at."""
        if valid is None:
            return self.recurrent.features_once(params, self._seen(params, observations))
        some = self._seen(params, observations[valid].unsqueeze(0)).squeeze(0)
        seen = some.new_zeros(*valid.shape, some.shape[-1]).index_put(valid.nonzero(as_tuple=True), some)
        return self.recurrent.features_once(params, seen)

    def head(self, params: Params, features: Tensor, observations: Tensor) -> Tensor:
        """Outputs of the last layer, [M, B, T, H] -> [M, B, T, Z]."""
        return self.recurrent.head(params, features, observations)

    def values(self, weight: Tensor, bias: Tensor, features: Tensor, observations: Tensor) -> Tensor:
        """That of the recurrent network."""
        return self.recurrent.values(weight, bias, features, observations)

    def _seen(self, params: Params, observations: Tensor) -> Tensor:
        """What the recurrent network sees, [M, ..., O] -> [M, ..., E + R]: all pictures in one convolution a layer."""
        size = math.prod(self.picture)
        pictures, rest = observations[..., :size], observations[..., size:]
        stacked = params[f"{self.recurrent.prefix}filter_bias_0"].dim() == 2
        # Of shared parameters all tasks are one group; of stacked ones each is a group with filters of its own.
        groups = len(observations) if stacked else 1
        maps = pictures.reshape(groups, -1, *self.picture).permute(1, 0, 4, 2, 3).flatten(1, 2)
        for layer in range(len(FILTERS)):
            weights, bias = (params[f"{self.recurrent.prefix}{name}_{layer}"] for name in ("filters", "filter_bias"))
            weights = weights.flatten(0, 1) if stacked else weights
            maps = torch.conv2d(maps, weights, bias.flatten(), STRIDE, SIDE // 2, groups=groups).relu()
        # [N, groups F, H', W'] with filters last, as they are in memory where there is one group
        features = maps.unflatten(1, (groups, -1)).permute(1, 0, 3, 4, 2)
        return torch.cat([features.reshape(*rest.shape[:-1], features_size(self.picture)), rest], dim=-1)


def features_size(picture: tuple[int, int, int]) -> int:
    """E, features of a picture."""
    height, width, _ = picture
    for _ in FILTERS:
        height, width = ((side - 1) // STRIDE + 1 for side in (height, width))
    return FILTERS[-1] * height * width


def gaussian_conv(config: PolicyConfig, observation_dim: int, action_dim: int, cell: str) -> RecurrentPolicy:
    """pi(a | o_1 ... o_t) = N(network(o_1 ... o_t), diag(sigma^2)), sigma a parameter; o_t begin with pictures.

    Args:
        config: shape of a picture, hidden layers behind the convolutions, the last one recurrent, scale of
            observations, initial and minimum standard deviation.
        observation_dim: O.
        action_dim: A.
        cell: a name in CELLS.

    Raises:
        ConfigError: as `categorical_conv`.
    """
    return gaussian_with(_network(config, observation_dim, action_dim, CELLS[cell]()), config, action_dim)


def categorical_conv(config: PolicyConfig, observation_dim: int, num_actions: int, cell: str) -> RecurrentPolicy:
    """pi(a | o_1 ... o_t) = softmax(network(o_1 ... o_t))_a; o_t begin with pictures.

    Args:
        config: shape of a picture, hidden layers behind the convolutions, the last one recurrent, scale of
            observations.
        observation_dim: O.
        num_actions: number of actions.
        cell: a name in CELLS.

    Raises:
        ConfigError: there are no pictures, ones of another size, or a head for each state.
    """
    return categorical_with(_network(config, observation_dim, num_actions, CELLS[cell]()), config, num_actions)


def _network(config: PolicyConfig, observation_dim: int, actions: int, cell: Cell) -> ConvRecurrentNetwork:
    """The network of a policy; what follows the picture are numbers of the environment, `actions` and two more."""
    if config.head != "linear":
        raise ConfigError(f"policy.head is {config.head!r}, which {config.network} has not; it must be linear")
    if len(config.picture) != 3:
        raise ConfigError(
            f"policy.network is {config.network}, which sees pictures, and the environment has none; if an observation "
            "is one all the same, policy.picture must be its height, width and colours, such as [15, 20, 3]"
        )
    height, width, colors = picture = config.picture
    observed, shape = observation_dim - actions - 2, (height, width, colors)
    if math.prod(picture) > observed:
        raise ConfigError(
            f"policy.picture is {list(picture)}, {math.prod(picture)} numbers; it must be what an observation begins "
            f"with, which has {max(observed, 0)}"
        )
    rest = observation_dim - math.prod(picture)
    sizes = features_size(shape) + rest, *config.hidden_sizes, actions
    return ConvRecurrentNetwork(shape, RecurrentNetwork(sizes, cell, memory_steps=config.memory_steps))
