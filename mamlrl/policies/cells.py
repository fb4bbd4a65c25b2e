"""Recurrent layers.

The GRU is here in three forms, since each is the fastest for its use: `GRU.advance` in plain operations, which
automatic differentiation may differentiate as often as it likes; `UnrolledGRU`, all time steps of rollouts at once, a
rollout a column; and `gru_forward` with `gru_backward`, one time step of rows, of a memory that has a place for each.
The last two have their derivative by hand, from what the step before kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mamlrl.policies.mlp import tanh_

State = tuple[Tensor, ...]
"""What a recurrent layer remembers: tensors [..., H], the first of them its output."""


class Cell(Protocol):
    """A recurrent layer of H units, of which one time step is an affine map of the input and of its output before."""

    gates: int
    """affine maps to H numbers each"""
    num_states: int

    def advance(self, inputs: Tensor, recurrent: Tensor, state: State) -> State:
        """The state after a time step.

        Args:
            inputs: affine map of the input, [..., gates H].
            recurrent: affine map of the output before, [..., gates H].
            state: before.
        """
        ...

    def bias(self, units: int, steps: Tensor | None = None) -> Tensor:
        """Initial bias of the inputs, [gates H].

        Args:
            units: H.
            steps: u, [H], time steps that each unit remembers for: it keeps u / (1 + u) of its memory in each (Tallec
                and Ollivier 2018); None for what is usual of the cell.
        """
        ...

    @property
    def unroll(self) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        """All time steps at once, differentiable once, see `UnrolledGRU`; None where there is no such function."""
        ...


class LSTM:
    """Long short-term memory (Hochreiter and Schmidhuber 1997; with forget gates, Gers et al. 2000).

        i, f, o = s(x_i + h_i), s(x_f + h_f), s(x_o + h_o)    c' = f c + i tanh(x_g + h_g)    h' = o tanh(c')

    in the order i, f, g, o, as torch has it.
    """

    gates, num_states, unroll = 4, 2, None

    def advance(self, inputs: Tensor, recurrent: Tensor, state: State) -> State:
        """The state after a time step."""
        _, cell = state
        put, forget, new, out = (inputs + recurrent).chunk(4, dim=-1)
        cell = torch.addcmul(forget.sigmoid() * cell, put.sigmoid(), new.tanh())
        return out.sigmoid() * cell.tanh(), cell

    def bias(self, units: int, steps: Tensor | None = None) -> Tensor:
        """Log u for the forget gate and -log u for the input gate; as usual one (Jozefowicz et al. 2015) and zero."""
        forget = torch.ones(units) if steps is None else steps.log()
        put = torch.zeros(units) if steps is None else -forget
        return torch.cat([put, forget, torch.zeros(2 * units)])


class GRU:
    """Gated recurrent unit (Cho et al. 2014), with the reset gate behind the recurrent map, as torch and cuDNN have it.

        r = s(x_r + h_r)    z = s(x_z + h_z)    n = tanh(x_n + r h_n)    h' = n + z (h - n)

    s is the logistic function, x and h with an index are affine maps of input and output.
    """

    gates, num_states = 3, 1

    @property
    def unroll(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """`UnrolledGRU`."""
        return UnrolledGRU.apply  # type: ignore[return-value]

    def advance(self, inputs: Tensor, recurrent: Tensor, state: State) -> State:
        """The state after a time step."""
        (hidden,) = state
        size = hidden.shape[-1]
        opened = (inputs[..., : 2 * size] + recurrent[..., : 2 * size]).sigmoid()
        reset, keep = opened.split(size, dim=-1)
        new = torch.addcmul(inputs[..., 2 * size :], reset, recurrent[..., 2 * size :]).tanh()
        return (torch.lerp(new, hidden, keep),)

    def bias(self, units: int, steps: Tensor | None = None) -> Tensor:
        """Log u for the gate z that keeps what was; as usual zeros."""
        keep = torch.zeros(units) if steps is None else steps.log()
        return torch.cat([torch.zeros(units), keep, torch.zeros(units)])


class UnrolledGRU(torch.autograd.Function):
    """`GRU.advance` over all time steps from a memory of zeros, its derivative by hand.

    Rollouts are the last dimension, so that every part of the gates is one piece of memory: 1.2 (H = 256) to 1.5 times
    (H = 32) as fast as automatic differentiation of the loop, whose derivatives of any order it does not have.

        (inputs [T, 3 H, N], weight [H, 3 H], bias [3 H]) -> outputs of the layer, [T, H, N]
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Outputs [T, H, N]."""
        steps, _, rows = inputs.shape
        units = len(weight)
        hidden, gates = inputs.new_zeros(steps + 1, units, rows), torch.empty_like(inputs)
        new_maps, recurrent = inputs.new_empty(steps, units, rows), inputs.new_empty(3 * units, rows)
        transposed, column = weight.t().contiguous(), bias.unsqueeze(1)
        for t in range(steps):
            torch.addmm(column, transposed, hidden[t], out=recurrent)
            torch.add(inputs[t, : 2 * units], recurrent[: 2 * units], out=gates[t, : 2 * units]).sigmoid_()
            reset, keep, new = gates[t].split(units)
            new_maps[t] = recurrent[2 * units :]
            tanh_(torch.addcmul(inputs[t, 2 * units :], reset, new_maps[t], out=new))
            torch.lerp(new, hidden[t], keep, out=hidden[t + 1])
        ctx.save_for_backward(hidden, gates, new_maps, weight)
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By inputs, weight and bias; from the last time step to the first."""
        hidden, gates, new_maps, weight = ctx.saved_tensors
        steps, units, rows = gradient.shape
        by_inputs, by_recurrent = torch.empty_like(gates), gates.new_empty(3 * units, rows)
        by_weight, by_bias = weight.new_zeros(3 * units, units), weight.new_zeros(3 * units)
        by_hidden, work = gradient.new_zeros(units, rows), gradient.new_empty(units, rows)
        for t in reversed(range(steps)):
            reset, keep, new = gates[t].split(units)
            by_reset, by_keep, by_new = by_inputs[t].split(units)
            opened, by_opened = gates[t, : 2 * units], by_inputs[t, : 2 * units]
            by_hidden += gradient[t]
            torch.sub(hidden[t], new, out=by_keep).mul_(by_hidden)
            torch.mul(by_hidden, keep, out=work)
            torch.sub(by_hidden, work, out=by_new)
            by_hidden, work = work, by_hidden
            by_new.addcmul_(by_new, torch.mul(new, new, out=work), value=-1)
            torch.mul(by_new, new_maps[t], out=by_reset)
            by_opened.mul_(opened).addcmul_(by_opened, opened, value=-1)
            by_recurrent[: 2 * units] = by_opened
            torch.mul(by_new, reset, out=by_recurrent[2 * units :])
            by_weight.addmm_(by_recurrent, hidden[t].t())
            by_bias += by_recurrent.sum(1)
            by_hidden.addmm_(weight, by_recurrent)
        return by_inputs, by_weight.t(), by_bias


class GRULayer(NamedTuple):
    """Parameters of a GRU of U units with I inputs."""

    input_weight: Tensor
    """[I, 3 U]"""
    input_bias: Tensor
    recurrent_weight: Tensor
    """[U, 3 U]"""
    recurrent_bias: Tensor


class Saved(NamedTuple):
    """What the derivative of one time step of a GRU needs."""

    inputs: Tensor
    hidden: Tensor
    gates: Tensor
    """reset, keep and new, [N, 3 U]"""
    new_map: Tensor
    """recurrent map behind the reset gate, [N, U]"""


def gru_forward(layer: GRULayer, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Saved]:
    """`GRU.advance` from inputs [N, I] and a memory [N, U]."""
    units = hidden.shape[1]
    gates = torch.addmm(layer.input_bias, inputs, layer.input_weight)
    recurrent = torch.addmm(layer.recurrent_bias, hidden, layer.recurrent_weight)
    opened, new, new_map = gates[:, : 2 * units], gates[:, 2 * units :], recurrent[:, 2 * units :]
    opened.add_(recurrent[:, : 2 * units]).sigmoid_()
    tanh_(new.addcmul_(opened[:, :units], new_map))
    return torch.lerp(new, hidden, opened[:, units:]), Saved(inputs, hidden, gates, new_map)


def gru_backward(layer: GRULayer, saved: Saved, by_after: Tensor, by_layer: GRULayer) -> tuple[Tensor, Tensor]:
    """Derivatives by inputs and memory from that by the memory after; those by the parameters are added up in place."""
    reset, keep, new = saved.gates.chunk(3, dim=1)
    by_gates, by_recurrent = torch.empty_like(saved.gates), torch.empty_like(saved.gates)
    by_reset, by_keep, by_new = by_gates.chunk(3, dim=1)
    torch.sub(saved.hidden, new, out=by_keep).mul_(by_after).mul_(keep).mul_(1 - keep)
    by_hidden = by_after * keep
    torch.sub(by_after, by_hidden, out=by_new).mul_(1 - new.square())
    torch.mul(by_new, saved.new_map, out=by_reset).mul_(reset).mul_(1 - reset)
    units = by_hidden.shape[1]
    by_recurrent[:, : 2 * units] = by_gates[:, : 2 * units]
    torch.mul(by_new, reset, out=by_recurrent[:, 2 * units :])
    by_layer.input_weight.addmm_(saved.inputs.t(), by_gates)
    by_layer.input_bias.add_(by_gates.sum(0))
    by_layer.recurrent_weight.addmm_(saved.hidden.t(), by_recurrent)
    by_layer.recurrent_bias.add_(by_recurrent.sum(0))
    return by_gates @ layer.input_weight.t(), by_hidden.addmm_(by_recurrent, layer.recurrent_weight.t())


CELLS: dict[str, Callable[[], Cell]] = {"gru": GRU, "lstm": LSTM}
