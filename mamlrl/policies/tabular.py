"""A policy with a memory for each state and action: what was learned in one place serves in all others.

Weights are shared by all states and actions, so that these may change their names: the arms of a bandit, the states of
a tabular decision process. One time step writes to the one memory of what was done where, as tabular Q-learning does;
what is written, and what is made of it, is learned.

Shapes: M tasks, B rollouts, T time steps, S states, A actions, C units of a memory, H units of the context.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mamlrl.config import PolicyConfig
from mamlrl.errors import ConfigError, shown
from mamlrl.policies.cells import GRU, GRULayer, State
from mamlrl.policies.recurrent import RecurrentPolicy, categorical_with, xavier
from mamlrl.policies.unrolled_table import Readout, Trials, UnrolledTable
from mamlrl.structs import Params

PARTS = (
    *(f"{layer}_{part}" for layer in ("cell", "context") for part in GRULayer._fields),
    *Readout._fields,
)
"""Names of the parameters."""

TOLD = 2
"""Numbers behind state and action: the reward before, and whether an episode ended."""


class Memory(NamedTuple):
    """What a trial has brought so far."""

    table: Tensor
    """[M, B, S A, C]"""
    context: Tensor
    """[M, B, H]"""


@dataclass(frozen=True)
class TabularNetwork:
    """A GRU's memory c for each state and action, and one of everything, the context g.

    When action a in state s brought reward r, the end of an episode or not, d, and state s',

        p = [max_b c(s', b), mean_b c(s', b)]
        c(s, a) <- GRU([r, d, p, g], c(s, a))
        g <- GRU([r, d, p, c(s, a)], g)
        z_b = tanh(W [c(s', b), g] + w)
        output_b = v z_b

    with the same weights for all s, a and b, maxima and means of each unit by itself. An observation is one of
    `envs.trials.trial_inputs`: the state, one-hot, or a zero where there is but one; the action, one-hot; r; d.

    Parameters are ``cell_input_weight`` [2 + 2 C + H, 3 C], ``cell_input_bias``, ``cell_recurrent_weight`` [C, 3 C],
    ``cell_recurrent_bias`` of c; ``context_...`` likewise, from 2 + 3 C to 3 H, of g; ``hidden_weight`` [C + H, H],
    ``hidden_bias`` and ``head_weight`` [H, 1], ``head_bias`` [1] of the outputs.

    Args:
        states: S.
        actions: A.
        cell_units: C.
        context_units: H.
        prefix: of the names of the parameters.
        single_output: one output, the mean of those of the actions, in place of one for each.
    """

    states: int
    actions: int
    cell_units: int
    context_units: int
    prefix: str = ""
    single_output: bool = False

    @property
    def inputs(self) -> int:
        """Numbers of an observation."""
        return self.states + self.actions + TOLD

    @property
    def value_shape(self) -> tuple[int, int]:
        """2 H, and 1."""
        return 2 * self.context_units, 1

    def with_one_output(self, prefix: str) -> TabularNetwork:
        """A network like this with one output and parameters of its own."""
        return dataclasses.replace(self, prefix=prefix, single_output=True)

    def init_params(self, generator: torch.Generator) -> Params:
        """Recurrent layers uniform within 1 / sqrt(units), others Xavier-uniform, biases zero, float32."""
        cells, context = self.cell_units, self.context_units
        params: Params = {}
        for name, inputs, units in (
            ("cell", TOLD + 2 * cells + context, cells),
            ("context", TOLD + 3 * cells, context),
        ):
            bound = 1 / math.sqrt(units)
            for part, rows in (("input", inputs), ("recurrent", units)):
                weight = torch.empty(rows, 3 * units).uniform_(-bound, bound, generator=generator)
                params |= {f"{name}_{part}_weight": weight, f"{name}_{part}_bias": torch.zeros(3 * units)}
        params |= {"hidden_weight": xavier((cells + context, context), generator), "hidden_bias": torch.zeros(context)}
        params |= {"head_weight": xavier((context, 1), generator), "head_bias": torch.zeros(1)}
        return {f"{self.prefix}{name}": leaf.float() for name, leaf in params.items()}

    def initial_state(self, num_tasks: int, rollouts: int) -> State:
        """Zeros: all memories [M, B, S A C], the context [M, B, H], the state before [M, B, S]."""
        sizes = self.states * self.actions * self.cell_units, self.context_units, self.states
        return tuple(torch.zeros(num_tasks, rollouts, size) for size in sizes)

    def step(self, params: Params, observations: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs [M, B, Z] for observations [M, B, O], and the new state.

        Raises:
            ConfigError: states or actions are not one-hot.
        """
        self.check_one_hot(observations)
        table, context, before = (leaf.to(observations) for leaf in state)
        memory = Memory(table.unflatten(-1, (-1, self.cell_units)), context)
        seen = self._seen(observations)
        memory = self._advance(params, memory, seen, before.argmax(-1))
        hidden = self._hidden(params, self._at(memory.table, seen.state), memory.context)
        outputs = self._outputs(params, hidden)
        here = torch.nn.functional.one_hot(seen.state, self.states).to(observations)
        return outputs, (memory.table.flatten(-2), memory.context, here)

    def features(self, params: Params, observations: Tensor) -> Tensor:
        """Outputs, then maxima and means of z, on rollouts from their start, [M, B, T, O] -> [M, B, T, Z + 2 H]."""
        tasks, rollouts = observations.shape[:2]
        table, context, _ = (leaf.to(observations) for leaf in self.initial_state(tasks, rollouts))
        memory, tables, contexts = Memory(table.unflatten(-1, (-1, self.cell_units)), context), [], []
        seen = self._seen(observations)
        before = torch.zeros_like(seen.state[:, :, 0])
        for t in range(observations.shape[2]):
            now = Trials(*(leaf[:, :, t] for leaf in seen))
            memory, before = self._advance(params, memory, now, before), now.state
            tables.append(self._at(memory.table, now.state))
            contexts.append(memory.context)
        hidden = self._hidden(params, torch.stack(tables, dim=2), torch.stack(contexts, dim=2))
        pooled = torch.cat([hidden.amax(-2), hidden.mean(-2)], dim=-1)
        return torch.cat([self._outputs(params, hidden), pooled], dim=-1)

    def features_once(self, params: Params, observations: Tensor, valid: Tensor | None = None) -> Tensor:
        """`features` of shared parameters that are differentiated no more than once, faster."""
        del valid
        trials = self._seen(observations.permute(2, 0, 1, 3).flatten(1, 2))
        leaves = [params[f"{self.prefix}{name}"] for name in PARTS]
        outputs, pooled = UnrolledTable.apply(trials, (self.states, self.actions), *leaves)
        features = torch.cat([self._of_actions(outputs), pooled], dim=-1)
        return features.transpose(0, 1).unflatten(0, observations.shape[:2])

    def _outputs(self, params: Params, hidden: Tensor) -> Tensor:
        return self._of_actions(self._affine(params, "head", hidden).squeeze(-1))

    def _of_actions(self, outputs: Tensor) -> Tensor:
        """Outputs [..., A] as they are, or their mean as a single one."""
        return outputs.mean(-1, keepdim=True) if self.single_output else outputs

    def head(self, params: Params, features: Tensor, observations: Tensor) -> Tensor:
        """Outputs [M, B, T, Z], which the features begin with."""
        del params, observations
        return features[..., : -2 * self.context_units]

    def values(self, weight: Tensor, bias: Tensor, features: Tensor, observations: Tensor) -> Tensor:
        """Functions linear in maxima and means of z over the actions, [M, B, T, Z + 2 H] -> [M, B, T, n]."""
        del observations
        return features[..., -2 * self.context_units :] @ weight + bias

    def _seen(self, observations: Tensor) -> Trials:
        """Observations taken apart."""
        state, action, told = observations.split([self.states, self.actions, TOLD], dim=-1)
        return Trials(told, state.argmax(-1), action.argmax(-1), action.sum(-1, keepdim=True))

    def check_one_hot(self, observations: Tensor) -> None:
        """States and actions in observations [..., O] are such.

        Raises:
            ConfigError: a state is not one-hot, or zero where there is but one, or an action is not one-hot or zeros.
        """
        state, action, _ = observations.flatten(0, -2).split([self.states, self.actions, TOLD], dim=-1)
        for name, numbers, least in (("state", state, self.states > 1), ("action before", action, 0)):
            ones = numbers.sum(-1)
            wrong = ((numbers != 0) & (numbers != 1)).any(-1) | (ones > 1) | (ones < least)
            if wrong.any():
                one = [round(number, 3) for number in numbers[wrong][0].tolist()]
                raise ConfigError(
                    f"policy.network is categorical_tabular, and the {name} is {shown(one)} in an observation; it must "
                    "be one-hot"
                )

    def _advance(self, params: Params, memory: Memory, seen: Trials, before: Tensor) -> Memory:
        """Memories after an action in the state `before` [M, B]."""
        table, context = memory
        there = self._at(table, seen.state)
        told = torch.cat([seen.told, there.amax(-2), there.mean(-2)], dim=-1)
        place = before * self.actions + seen.action
        place = place[..., None, None].expand(*place.shape, 1, self.cell_units)
        cell = table.gather(-2, place).squeeze(-2)
        written = torch.lerp(cell, self._gru(params, "cell", torch.cat([told, context], dim=-1), cell), seen.acted)
        table = table.scatter(-2, place, written.unsqueeze(-2))
        context = self._gru(params, "context", torch.cat([told, written * seen.acted], dim=-1), context)
        return Memory(table, context)

    def _gru(self, params: Params, name: str, inputs: Tensor, hidden: Tensor) -> Tensor:
        """The memory after a time step."""
        recurrent = self._affine(params, f"{name}_recurrent", hidden)
        return GRU().advance(self._affine(params, f"{name}_input", inputs), recurrent, (hidden,))[0]

    def _at(self, table: Tensor, state: Tensor) -> Tensor:
        """Memories of all actions in a state [M, B] each, [M, B, S A, C] -> [M, B, A, C]."""
        by_state = table.unflatten(-2, (self.states, -1)).flatten(-2)
        place = state[..., None, None].expand(*state.shape, 1, by_state.shape[-1])
        return by_state.gather(-2, place).squeeze(-2).unflatten(-1, (self.actions, -1))

    def _hidden(self, params: Params, cells: Tensor, context: Tensor) -> Tensor:
        """Z of all actions, [..., A, C] and [..., H] -> [..., A, H]."""
        weight, bias = params[f"{self.prefix}hidden_weight"], params[f"{self.prefix}hidden_bias"]
        of_cells, of_context = weight.split([self.cell_units, self.context_units], dim=-2)
        return linear(cells, of_cells).add_(linear(context, of_context, bias).unsqueeze(-2)).tanh_()

    def _affine(self, params: Params, name: str, inputs: Tensor) -> Tensor:
        return linear(inputs, params[f"{self.prefix}{name}_weight"], params[f"{self.prefix}{name}_bias"])


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Inputs [M, ..., I] by shared parameters [I, J], or by those of each task, [M, I, J]: [M, ..., J]."""
    if weight.dim() == 2:
        outputs = inputs @ weight
    else:
        outputs = (inputs.flatten(1, -2) @ weight).unflatten(1, inputs.shape[1:-1])
    if bias is None:
        return outputs
    return outputs + (bias if bias.dim() == 1 else bias.view(len(bias), *[1] * (outputs.dim() - 2), -1))


def categorical_tabular(config: PolicyConfig, observation_dim: int, num_actions: int) -> RecurrentPolicy:
    """pi(a | o_1 ... o_t) = softmax(network(o_1 ... o_t))_a, with a memory for each state and action.

    Args:
        config: hidden layers: units of a memory, and of the context.
        observation_dim: of a state, one-hot, the action and what it brought.
        num_actions: number of actions.

    Raises:
        ConfigError: other than two hidden layers, a head for each state, or scales of observations.
    """
    sizes = config.hidden_sizes
    if len(sizes) != 2:
        raise ConfigError(
            f"policy.hidden_sizes is {list(sizes)}; of categorical_tabular it must be two numbers, units of each "
            "memory and of their context, such as [16, 32]"
        )
    if config.head != "linear":
        raise ConfigError(f"policy.head is {config.head!r}, which categorical_tabular has not; it must be linear")
    if config.observation_scale:
        raise ConfigError("policy.observation_scale is set, and categorical_tabular takes none; it must be []")
    network = TabularNetwork(observation_dim - num_actions - TOLD, num_actions, *sizes)
    return categorical_with(network, config, num_actions)
