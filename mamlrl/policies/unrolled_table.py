"""`TabularNetwork`'s memories over all time steps, their derivative by hand: memories are written in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mamlrl.policies.cells import GRULayer, gru_backward, gru_forward
from mamlrl.policies.mlp import tanh_


class Trials(NamedTuple):
    """What N trials of T time steps have seen."""

    told: Tensor
    """[T, N, 2]"""
    state: Tensor
    """[T, N]"""
    action: Tensor
    """the one before, [T, N]"""
    acted: Tensor
    """1, or 0 where there was none before, [T, N, 1]"""


class Places(NamedTuple):
    """Rows of the table [N S A, C] at all time steps."""

    here: Tensor
    """of the state that is there now, among N S, [T, N]"""
    written: Tensor
    """of the state and the action before, among N S A, [T, N]"""
    stayed: Tensor
    """whether the two states are one, [T, N]"""


def places(trials: Trials, states: int, actions: int) -> Places:
    """Where is read and written; before the first time step all are in state 0."""
    first = torch.arange(trials.state.shape[1], device=trials.state.device) * states
    before = torch.cat([torch.zeros_like(trials.state[:1]), trials.state[:-1]])
    return Places(first + trials.state, (first + before) * actions + trials.action, before == trials.state)


class Readout(NamedTuple):
    """Parameters of what is made of a memory [C] and the context [H]: z = tanh(W [c, g] + w), v z + b."""

    hidden_weight: Tensor
    """[C + H, H]"""
    hidden_bias: Tensor
    head_weight: Tensor
    """[H, 1]"""
    head_bias: Tensor


class Parts(NamedTuple):
    """All parameters, or derivatives by them."""

    cell: GRULayer
    context: GRULayer
    readout: Readout

    @classmethod
    def of(cls, leaves: Sequence[Tensor]) -> Parts:
        """From all of them in this order."""
        return cls(GRULayer(*leaves[:4]), GRULayer(*leaves[4:8]), Readout(*leaves[8:]))


class UnrolledTable(torch.autograd.Function):
    """`TabularNetwork.features` from memories of zeros, time step by time step: what it works on stays small.

    Differentiable once, by the parameters.

        (trials, (states, actions), the 12 parameters of `Parts`)
        -> v z + b of all actions in the state that is there, [T, N, A]; maxima and means of z over them, [T, N, 2 H]
    """

    @staticmethod
    def forward(ctx: Any, trials: Trials, sizes: tuple[int, int], *params: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and what a value function is linear in."""
        (states, actions), parts = sizes, Parts.of(params)
        steps, rows = trials.state.shape
        units, context_units = len(parts.cell.recurrent_weight), len(parts.context.recurrent_weight)
        table = params[0].new_zeros(rows * states, actions * units)
        by_action, context = table.view(-1, units), params[0].new_zeros(rows, context_units)
        slots = range(steps) if any(ctx.needs_input_grad) else [0] * steps  # without a derivative nothing is kept
        cells, hidden = (table.new_empty(len({*slots}), rows, actions, size) for size in (units, context_units))
        outputs, pooled = table.new_empty(steps, rows, actions), table.new_empty(steps, rows, 2 * context_units)
        ctx.kept, ctx.places = {}, places(trials, states, actions)
        for t, slot in enumerate(slots):
            here, place = ctx.places.here[t], ctx.places.written[t]
            there = table[here].view(rows, actions, units)
            seen = torch.cat([trials.told[t], there.amax(1), there.mean(1)], dim=1)
            before = by_action[place]
            after, of_cell = gru_forward(parts.cell, torch.cat([seen, context], dim=1), before)
            written = torch.lerp(before, after, trials.acted[t])
            by_action[place] = written
            inputs = torch.cat([seen, written * trials.acted[t]], dim=1)
            context, of_context = gru_forward(parts.context, inputs, context)
            ctx.kept[slot] = of_cell, of_context
            cells[slot] = table[here].view(rows, actions, units)
            _readout(parts.readout, cells[slot], context, hidden[slot])
            outputs[t] = (hidden[slot] @ parts.readout.head_weight).squeeze(-1)
            torch.cat([hidden[slot].amax(1), hidden[slot].mean(1)], dim=1, out=pooled[t])
        ctx.last_context = context
        ctx.save_for_backward(cells, hidden, pooled, *params)
        ctx.trials, ctx.sizes = trials, sizes
        return outputs.add_(parts.readout.head_bias), pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_outputs: Tensor, by_pooled: Tensor) -> tuple[Tensor | None, ...]:
        """By the parameters; from the last time step to the first."""
        cells, hidden, pooled, *params = ctx.saved_tensors
        (states, actions), trials, parts = ctx.sizes, ctx.trials, Parts.of(params)
        gradients = [torch.zeros_like(leaf) for leaf in params]
        by_parts = Parts.of(gradients)
        steps, rows, _, units = cells.shape
        by_table = cells.new_zeros(rows * states, actions * units)
        by_action, by_context = by_table.view(-1, units), torch.zeros_like(ctx.last_context)
        told, context = trials.told.shape[2], ctx.last_context
        for t in reversed(range(steps)):
            here, place, stayed = (leaf[t] for leaf in ctx.places)
            of_cell, of_context = ctx.kept[t]
            # what was made of the memories
            by_parts.readout.head_weight.addmm_(hidden[t].flatten(0, 1).t(), by_outputs[t].reshape(-1, 1))
            by_hidden = by_outputs[t].unsqueeze(2) * parts.readout.head_weight.squeeze(1)
            by_hidden += _by_pooled(hidden[t], pooled[t, :, : context.shape[1]], by_pooled[t])
            by_hidden.mul_(1 - hidden[t].square())
            by_cells, by_now = _readout_backward(parts.readout, by_hidden, cells[t], context, by_parts.readout)
            by_table.index_add_(0, here, by_cells.flatten(1))
            # the context's step
            by_inputs, by_context = gru_backward(parts.context, of_context, by_context + by_now, by_parts.context)
            _, by_seen, by_written = by_inputs.split([told, 2 * units, units], dim=1)
            # the memory that was written: from here on the derivative there is one by what stood there before
            by_place = by_action[place]
            by_after = (by_written + by_place) * trials.acted[t]
            by_inputs, by_before = gru_backward(parts.cell, of_cell, by_after, by_parts.cell)
            by_action[place] = by_before + by_place * (1 - trials.acted[t])
            _, by_seen_too, by_context_too = by_inputs.split([told, 2 * units, context.shape[1]], dim=1)
            by_context += by_context_too
            # the memories that were read before it was
            there = _unwritten(cells[t], stayed, of_cell.hidden, trials.action[t])
            largest = of_cell.inputs[:, told : told + units]
            by_there = _by_pooled(there, largest, by_seen + by_seen_too)
            by_table.index_add_(0, here, by_there.flatten(1))
            context = of_context.hidden
        by_parts.readout.head_bias.add_(by_outputs.sum())
        return None, None, *gradients


def _readout(readout: Readout, cells: Tensor, context: Tensor, out: Tensor) -> None:
    """Z of memories [N, A, C] and contexts [N, H], written to [N, A, H]."""
    units = cells.shape[-1]
    of_context = torch.addmm(readout.hidden_bias, context, readout.hidden_weight[units:])
    tanh_(torch.matmul(cells, readout.hidden_weight[:units], out=out).add_(of_context.unsqueeze(1)))


def _readout_backward(
    readout: Readout, by_linear: Tensor, cells: Tensor, context: Tensor, by_readout: Readout
) -> tuple[Tensor, Tensor]:
    """Derivatives by memories and contexts from that by W [c, g] + w, [N, A, H]; those by W and w are added up."""
    units, by_all = cells.shape[-1], by_linear.sum(1)
    by_readout.hidden_weight[:units].addmm_(cells.flatten(0, 1).t(), by_linear.flatten(0, 1))
    by_readout.hidden_weight[units:].addmm_(context.t(), by_all)
    by_readout.hidden_bias.add_(by_all.sum(0))
    return by_linear @ readout.hidden_weight[:units].t(), by_all @ readout.hidden_weight[units:].t()


def _unwritten(cells: Tensor, stayed: Tensor, hidden: Tensor, action: Tensor) -> Tensor:
    """Memories [N, A, C] in the state that is there now, before one of them was written."""
    there, rows = cells.clone(), torch.arange(len(cells), device=cells.device)
    there[rows, action] = torch.where(stayed.unsqueeze(1), hidden, there[rows, action])
    return there


def _by_pooled(numbers: Tensor, largest: Tensor, by_pooled: Tensor) -> Tensor:
    """Derivative by numbers [N, A, U] from that by their maxima, which are given, and means over actions, [N, 2 U]."""
    by_largest, by_mean = by_pooled.chunk(2, dim=1)
    is_largest = (numbers == largest.unsqueeze(1)).to(numbers)
    share = by_largest / is_largest.sum(1)
    return is_largest.mul_(share.unsqueeze(1)).add_(by_mean.unsqueeze(1), alpha=1 / numbers.shape[1])
