"""Policies with a memory: a recurrent layer between feed-forward ones and the action distribution.

One memory lasts through a rollout; of a learner with trials that is a whole trial, over the ends of its episodes.
Derivatives are those of automatic differentiation through all time steps: nothing is truncated.

Parameters may be stacked or shared. Shared ones see all M B rollouts as rows of one matrix product.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from mamlrl.config import PolicyConfig
from mamlrl.distributions import Categorical, DiagonalGaussian, Distribution
from mamlrl.policies.base import constant
from mamlrl.policies.cells import CELLS, Cell, State
from mamlrl.policies.linearization import AutogradLinearization
from mamlrl.policies.mlp import tanh_
from mamlrl.structs import Params, check_shapes, stack


def affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Rows [R, I] by shared parameters, or rows [M, R, I] by stacked ones: inputs weight + bias."""
    if weight.dim() == 2:
        return torch.addmm(bias, inputs, weight)
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight)


@dataclass(frozen=True)
class RecurrentNetwork:
    """Tanh layers, a recurrent layer, a linear layer; or a linear layer for each state.

    Parameters are ``weight_0`` [O, H_0], ``bias_0``, ... of the layers before the recurrent one; ``input_weight``
    [I, G H], ``input_bias`` [G H], ``recurrent_weight`` [H, G H], ``recurrent_bias`` [G H] of that, for its G gates;
    ``head_weight`` [H, Z] and ``head_bias`` [Z], of S states [H, S Z] and [S Z].

    Args:
        sizes: numbers of an observation, units of every hidden layer, numbers of an output; the last hidden layer is
            the recurrent one.
        cell: the recurrent layer.
        prefix: of the names of the parameters.
        states: S, numbers at the beginning of an observation that weigh linear layers of their own; 0 for one layer.
        memory_steps: time steps that units remember for at first, log-uniform from 1 to this; 0 for what is usual.
    """

    sizes: tuple[int, ...]
    cell: Cell
    prefix: str = ""
    states: int = 0
    memory_steps: int = 0

    @property
    def inputs(self) -> int:
        """O."""
        return self.sizes[0]

    @property
    def units(self) -> int:
        """H."""
        return self.sizes[-2]

    @property
    def value_shape(self) -> tuple[int, int]:
        """H, and 1 or S."""
        return self.units, max(self.states, 1)

    def with_one_output(self, prefix: str) -> RecurrentNetwork:
        """A network like this with one output and parameters of its own."""
        return dataclasses.replace(self, sizes=(*self.sizes[:-1], 1), prefix=prefix)

    def init_params(self, generator: torch.Generator) -> Params:
        """Xavier-uniform feed-forward weights, recurrent ones uniform within 1 / sqrt(H), float32."""
        inputs, units, outputs = self.sizes[-3:]
        gates = self.cell.gates * units
        params: Params = {}
        for layer, shape in enumerate(pairwise(self.sizes[:-2])):
            params |= {f"weight_{layer}": xavier(shape, generator), f"bias_{layer}": torch.zeros(shape[1])}
        bound = 1 / math.sqrt(units)
        params["input_weight"] = torch.empty(inputs, gates).uniform_(-bound, bound, generator=generator)
        steps = self.memory_steps ** torch.rand(units, generator=generator) if self.memory_steps else None
        params["input_bias"] = self.cell.bias(units, steps)
        params["recurrent_weight"] = torch.empty(units, gates).uniform_(-bound, bound, generator=generator)
        params["recurrent_bias"] = torch.zeros(gates)
        weights = torch.cat([xavier((units, outputs), generator) for _ in range(max(self.states, 1))], dim=1)
        params |= {"head_weight": weights, "head_bias": torch.zeros(weights.shape[1])}
        return {f"{self.prefix}{name}": leaf.float() for name, leaf in params.items()}

    def initial_state(self, num_tasks: int, rollouts: int) -> State:
        """Zeros, [M, B, H] each."""
        return (torch.zeros(num_tasks, rollouts, self.units),) * self.cell.num_states

    def step(self, params: Params, observations: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs [M, B, Z] for observations [M, B, O], and the new state."""
        shape = observations.shape[:2]
        shared = self._leaf(params, "head_weight").dim() == 2
        rows, *before = (leaf.flatten(0, 1) if shared else leaf for leaf in (observations, *state))
        after = self._advance(params, self._embedded(params, rows), tuple(before))
        outputs = self._of_state(self._affine(params, "head", after[0]), rows)
        if not shared:
            return outputs, after
        return outputs.unflatten(0, shape), tuple(leaf.unflatten(0, shape) for leaf in after)

    def features(self, params: Params, observations: Tensor) -> Tensor:
        """Outputs of the recurrent layer on rollouts from their start, [M, B, T, O] -> [M, B, T, H]; differentiable."""
        tasks, rollouts, steps, _ = observations.shape
        if self._leaf(params, "head_weight").dim() == 2:
            by_time = observations.permute(2, 0, 1, 3).reshape(steps * tasks * rollouts, -1)
            unrolled = self._unrolled(params, by_time, (steps, tasks * rollouts), 0)
            return unrolled.view(steps, tasks, rollouts, -1).permute(1, 2, 0, 3)
        by_time = observations.transpose(1, 2).flatten(1, 2)
        return self._unrolled(params, by_time, (steps, rollouts), 1).transpose(1, 2)

    def features_once(self, params: Params, observations: Tensor, valid: Tensor | None = None) -> Tensor:
        """`features` of shared parameters that are differentiated no more than once, faster where that can be."""
        del valid
        unroll = self.cell.unroll
        if unroll is None:
            return self.features(params, observations)
        inputs = observations.permute(2, 3, 0, 1).flatten(2)
        layers = [f"weight_{n}" for n in range(len(self.sizes) - 3)]
        for name in layers:
            inputs = tanh_(self._column_affine(params, name, name.replace("weight", "bias"), inputs))
        inputs = self._column_affine(params, "input_weight", "input_bias", inputs)
        hidden = unroll(inputs, self._leaf(params, "recurrent_weight"), self._leaf(params, "recurrent_bias"))
        return hidden.permute(2, 0, 1).contiguous().unflatten(0, observations.shape[:2])

    def _column_affine(self, params: Params, weight: str, bias: str, columns: Tensor) -> Tensor:
        """Columns [T, I, N] by shared parameters, [T, H, N]."""
        return self._leaf(params, weight).t() @ columns + self._leaf(params, bias).unsqueeze(1)

    def head(self, params: Params, features: Tensor, observations: Tensor) -> Tensor:
        """Outputs of the linear layer, [M, B, T, H] -> [M, B, T, Z], or of those of the states in the observations."""
        shape = features.shape[:3]
        if self._leaf(params, "head_weight").dim() == 2:
            outputs = self._affine(params, "head", features.reshape(shape.numel(), -1)).unflatten(0, shape)
        else:
            outputs = self._affine(params, "head", features.flatten(1, 2)).unflatten(1, shape[1:])
        return self._of_state(outputs, observations)

    def values(self, weight: Tensor, bias: Tensor, features: Tensor, observations: Tensor) -> Tensor:
        """Functions linear in the outputs of the recurrent layer, [M, B, T, H] -> [M, B, T, n]."""
        return self._of_state(features @ weight + bias, observations)

    def _of_state(self, outputs: Tensor, observations: Tensor) -> Tensor:
        """Outputs [..., S Z] of all states, added up with the weights that the observations [..., O] begin with."""
        if not self.states:
            return outputs
        weights = observations[..., : self.states].unsqueeze(-1)
        return (outputs.unflatten(-1, (self.states, -1)) * weights).sum(-2)

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Outputs on rollouts from their start, [M, B, T, O] -> [M, B, T, Z]; differentiable."""
        return self.head(params, self.features(params, observations), observations)

    def _unrolled(self, params: Params, rows: Tensor, shape: tuple[int, int], time: int) -> Tensor:
        """Outputs of the recurrent layer by time step, of rows that are those of all time steps, one after the other.

        Args:
            params: the parameters.
            rows: observations, [T R, O] or [M, T R, O].
            shape: T and R.
            time: the dimension of T.
        """
        inputs = self._affine(params, "input", self._embedded(params, rows)).unflatten(time, shape).unbind(time)
        state: State = (inputs[0].new_zeros(*inputs[0].shape[:-1], self.units),) * self.cell.num_states
        outputs = []
        for one in inputs:
            state = self.cell.advance(one, self._affine(params, "recurrent", state[0]), state)
            outputs.append(state[0])
        return torch.stack(outputs, dim=time)

    def _advance(self, params: Params, rows: Tensor, state: State) -> State:
        state = tuple(leaf.to(rows) for leaf in state)
        inputs, recurrent = self._affine(params, "input", rows), self._affine(params, "recurrent", state[0])
        return self.cell.advance(inputs, recurrent, state)

    def _embedded(self, params: Params, rows: Tensor) -> Tensor:
        """What the recurrent layer sees of rows of observations."""
        for layer in range(len(self.sizes) - 3):
            rows = tanh_(affine(rows, self._leaf(params, f"weight_{layer}"), self._leaf(params, f"bias_{layer}")))
        return rows

    def _affine(self, params: Params, part: str, rows: Tensor) -> Tensor:
        return affine(rows, self._leaf(params, f"{part}_weight"), self._leaf(params, f"{part}_bias"))

    def _leaf(self, params: Params, name: str) -> Tensor:
        return params[f"{self.prefix}{name}"]


def xavier(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Initial weights of a layer (Glorot and Bengio 2010), float32."""
    weight = torch.empty(shape, dtype=torch.float32)
    return torch.nn.init.xavier_uniform_(weight, generator=generator)


class MemoryNetwork(Protocol):
    """What a `RecurrentPolicy` consists of, apart from its distribution: `RecurrentNetwork` or another.

    Shapes: M tasks, B rollouts, T time steps, O numbers of an observation, Z of an output, F of the features.
    """

    @property
    def inputs(self) -> int:
        """O."""
        ...

    @property
    def value_shape(self) -> tuple[int, int]:
        """V and S of the weights of a linear value function: numbers that it is linear in, and 1, or states."""
        ...

    def with_one_output(self, prefix: str) -> MemoryNetwork:
        """A network like this with one output, and this prefix before the names of its parameters."""
        ...

    def init_params(self, generator: torch.Generator) -> Params:
        """Parameters of one task."""
        ...

    def initial_state(self, num_tasks: int, rollouts: int) -> State:
        """The memory at the start of a rollout, [M, B, ...] each."""
        ...

    def step(self, params: Params, observations: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs [M, B, Z] for observations [M, B, O], and the new memory."""
        ...

    def features(self, params: Params, observations: Tensor) -> Tensor:
        """What the last layer sees of rollouts from their start, [M, B, T, O] -> [M, B, T, F]; differentiable."""
        ...

    def features_once(self, params: Params, observations: Tensor, valid: Tensor | None = None) -> Tensor:
        """`features` of shared parameters that are differentiated no more than once.

        Where `valid` [M, B, T] is not true, behind the end of a rollout, they may be anything finite.
        """
        ...

    def head(self, params: Params, features: Tensor, observations: Tensor) -> Tensor:
        """Outputs of the last layer, [M, B, T, F] -> [M, B, T, Z]."""
        ...

    def values(self, weight: Tensor, bias: Tensor, features: Tensor, observations: Tensor) -> Tensor:
        """Functions such as a linear value function, [M, B, T, n], by weights [V, S n] and biases [S n]."""
        ...


class RecurrentPolicy:
    """pi(a | o_1 ... o_t) = distribution(network(scale * o_1 ... o_t)).

    A Gaussian one has free log standard deviations besides, the parameter ``free`` [A].

    Args:
        network: from observations to distribution parameters, or to the means alone.
        distribution: of the actions.
        observation_scale: constant factor on each observation; empty for none.
        initial_log_std: of a Gaussian policy; None of others.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        distribution: Distribution,
        observation_scale: tuple[float, ...] = (),
        initial_log_std: float | None = None,
    ):
        self.network = network
        self.distribution: Distribution = distribution
        self._scale, self._log_std = observation_scale, initial_log_std
        self._shapes = {name: tuple(leaf.shape) for name, leaf in self.init_params(torch.Generator()).items()}

    @property
    def inputs(self) -> int:
        """Numbers of an observation, O."""
        return self.network.inputs

    def init_params(self, generator: torch.Generator) -> Params:
        """Those of the network, and the log standard deviations of a Gaussian policy."""
        params = self.network.init_params(generator)
        if self._log_std is None:
            return params
        free = torch.full((self.distribution.noise_shape[0],), self._log_std, dtype=torch.float32)
        return {**params, "free": free}

    def initial_state(self, num_tasks: int, rollouts: int) -> State:
        """The memory at the start of a rollout: zeros."""
        return self.network.initial_state(num_tasks, rollouts)

    def step(self, params: Params, observations: Tensor, state: State) -> tuple[Tensor, State]:
        """Distribution parameters [M, B, Z] for observations [M, B, O], and the new memory.

        Raises:
            ValueError: the memory is of another number of rollouts.
        """
        if state[0].shape[:2] != observations.shape[:2]:
            theirs, ours = (" x ".join(map(str, leaf.shape[:2])) for leaf in (state[0], observations))
            raise ValueError(f"the memory is of {theirs} rollouts, the observations are of {ours}")
        state = tuple(leaf.to(observations.device) for leaf in state)  # that of the start is made on the CPU
        means, state = self.network.step(params, self.scaled(observations), state)
        return self._with_log_std(params, means), state

    def features(self, params: Params, observations: Tensor) -> Tensor:
        """Outputs of the recurrent layer, [M, B, T, O] -> [M, B, T, H]; differentiable."""
        check_shapes(("observations", observations, "MBTO"))
        return self.network.features(params, self.scaled(observations))

    def features_once(self, params: Params, observations: Tensor, valid: Tensor | None = None) -> Tensor:
        """`features` of shared parameters that are differentiated no more than once, faster where that can be.

        Where `valid` [M, B, T] is not true, behind the end of a rollout, they may be anything finite.
        """
        check_shapes(("observations", observations, "MBTO"))
        return self.network.features_once(params, self.scaled(observations), valid)

    def head(self, params: Params, features: Tensor, observations: Tensor) -> Tensor:
        """Distribution parameters from these, [M, B, T, H] -> [M, B, T, Z]."""
        return self._with_log_std(params, self.network.head(params, features, self.scaled(observations)))

    def outputs(self, params: Params, observations: Tensor) -> Tensor:
        """Distribution parameters [M, B, T, Z] on rollouts [M, B, T, O] from their start; differentiable."""
        return self.head(params, self.features(params, observations), observations)

    def linearize(self, params: Params, observations: Tensor) -> AutogradLinearization:
        """Distribution parameters with products of their derivatives, through all time steps."""
        return AutogradLinearization(self.outputs, stack(params, len(observations), self._shapes), observations)

    def scaled(self, observations: Tensor) -> Tensor:
        """Observations as the network sees them."""
        if not self._scale:
            return observations
        return observations * constant(tuple(self._scale), observations.dtype, observations.device)

    def _with_log_std(self, params: Params, means: Tensor) -> Tensor:
        if self._log_std is None:
            return means
        free = params["free"]
        if free.dim() == 2:  # stacked
            free = free.reshape(len(free), *[1] * (means.dim() - 2), -1)
        return torch.cat([means, free.expand(*means.shape[:-1], -1)], dim=-1)


def gaussian_with(network: MemoryNetwork, config: PolicyConfig, action_dim: int) -> RecurrentPolicy:
    """The Gaussian policy whose means are the outputs of a network, with free log standard deviations."""
    distribution = DiagonalGaussian(action_dim, config.min_std)
    return RecurrentPolicy(network, distribution, config.observation_scale, math.log(config.initial_std))


def categorical_with(network: MemoryNetwork, config: PolicyConfig, num_actions: int) -> RecurrentPolicy:
    """The categorical policy whose logits are the outputs of a network."""
    return RecurrentPolicy(network, Categorical(num_actions), config.observation_scale)


def gaussian_recurrent(config: PolicyConfig, observation_dim: int, action_dim: int, cell: str) -> RecurrentPolicy:
    """pi(a | o_1 ... o_t) = N(network(o_1 ... o_t), diag(sigma^2)), sigma a parameter.

    Args:
        config: hidden layers, the last one recurrent, scale of observations, initial and minimum standard deviation.
        observation_dim: O.
        action_dim: A.
        cell: a name in CELLS.
    """
    return gaussian_with(_network(config, observation_dim, action_dim, cell), config, action_dim)


def categorical_recurrent(config: PolicyConfig, observation_dim: int, num_actions: int, cell: str) -> RecurrentPolicy:
    """pi(a | o_1 ... o_t) = softmax(network(o_1 ... o_t))_a.

    Args:
        config: hidden layers, the last one recurrent, scale of observations.
        observation_dim: O.
        num_actions: number of actions.
        cell: a name in CELLS.
    """
    return categorical_with(_network(config, observation_dim, num_actions, cell), config, num_actions)


def _network(config: PolicyConfig, observation_dim: int, actions: int, cell: str) -> RecurrentNetwork:
    """The network of a policy; what follows the environment's own observation are `actions` numbers and two more."""
    states = observation_dim - actions - 2 if config.head == "per_state" else 0
    sizes = observation_dim, *config.hidden_sizes, actions
    return RecurrentNetwork(sizes, CELLS[cell](), states=max(states, 0), memory_steps=config.memory_steps)
