"""`TabularNetwork`'s memories over all time steps, their derivative by hand: memories are written in place."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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


class Layer(NamedTuple):
    """Parameters of a GRU of U units with I inputs."""

    input_weight: Tensor
    """[I, 3 U]"""
    input_bias: Tensor
    recurrent_weight: Tensor
    """[U, 3 U]"""
    recurrent_bias: Tensor


class Kept(NamedTuple):
    """What the derivative of one time step of a GRU needs."""

    inputs: Tensor
    hidden: Tensor
    gates: Tensor
    """reset, keep and new, [N, 3 U]"""
    new_map: Tensor
    """recurrent map behind the reset gate, [N, U]"""


def advance(layer: Layer, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Kept]:
    """`recurrent.GRU.advance` from inputs [N, I] and a memory [N, U]."""
    units = hidden.shape[1]
    gates = torch.addmm(layer.input_bias, inputs, layer.input_weight)
    recurrent = torch.addmm(layer.recurrent_bias, hidden, layer.recurrent_weight)
    opened, new, new_map = gates[:, : 2 * units], gates[:, 2 * units :], recurrent[:, 2 * units :]
    opened.add_(recurrent[:, : 2 * units]).sigmoid_()
    new.addcmul_(opened[:, :units], new_map).tanh_()
    return torch.lerp(new, hidden, opened[:, units:]), Kept(inputs, hidden, gates, new_map)


def pull_back(layer: Layer, kept: Kept, by_after: Tensor, by_layer: Layer) -> tuple[Tensor, Tensor]:
    """Derivatives by inputs and memory from that by the memory after; those by the parameters are added up in place."""
    reset, keep, new = kept.gates.chunk(3, dim=1)
    by_gates, by_recurrent = torch.empty_like(kept.gates), torch.empty_like(kept.gates)
    by_reset, by_keep, by_new = by_gates.chunk(3, dim=1)
    torch.sub(kept.hidden, new, out=by_keep).mul_(by_after).mul_(keep).mul_(1 - keep)
    by_hidden = by_after * keep
    torch.sub(by_after, by_hidden, out=by_new).mul_(1 - new.square())
    torch.mul(by_new, kept.new_map, out=by_reset).mul_(reset).mul_(1 - reset)
    units = by_hidden.shape[1]
    by_recurrent[:, : 2 * units] = by_gates[:, : 2 * units]
    torch.mul(by_new, reset, out=by_recurrent[:, 2 * units :])
    by_layer.input_weight.addmm_(kept.inputs.t(), by_gates)
    by_layer.input_bias.add_(by_gates.sum(0))
    by_layer.recurrent_weight.addmm_(kept.hidden.t(), by_recurrent)
    by_layer.recurrent_bias.add_(by_recurrent.sum(0))
    return by_gates @ layer.input_weight.t(), by_hidden.addmm_(by_recurrent, layer.recurrent_weight.t())


class Places(NamedTuple):
    """Rows of the table [N S A, C] at a time step."""

    here: Tensor
    """of the state that is there now, among N S, [N]"""
    written: Tensor
    """of the state and the action before, among N S A, [N]"""
    stayed: Tensor
    """whether the two states are one, [N]"""


def places(trials: Trials, t: int, states: int, actions: int) -> Places:
    """Where is read and written; before the first time step all are in state 0."""
    first = torch.arange(trials.state.shape[1], device=trials.state.device) * states
    before = trials.state[t - 1] if t else torch.zeros_like(trials.state[0])
    return Places(first + trials.state[t], (first + before) * actions + trials.action[t], before == trials.state[t])


class UnrolledTable(torch.autograd.Function):
    """All memories over time, from zeros; differentiable once, by the parameters of the two GRUs.

    (trials, (states, actions), 4 parameters of the cells, 4 of the context)
    -> memories of all actions in the state that is there, [N, T, A, C], and contexts [N, T, H]
    """

    @staticmethod
    def forward(ctx: Any, trials: Trials, sizes: tuple[int, int], *params: Tensor) -> tuple[Tensor, Tensor]:
        """Memories and contexts."""
        (states, actions), cell, context = sizes, Layer(*params[:4]), Layer(*params[4:])
        steps, rows = trials.state.shape
        units = len(cell.recurrent_weight)
        table = params[0].new_zeros(rows * states, actions * units)
        by_action, everything = table.view(-1, units), params[0].new_zeros(rows, len(context.recurrent_weight))
        cells, contexts = table.new_empty(rows, steps, actions, units), []
        ctx.kept = []
        for t in range(steps):
            where = places(trials, t, states, actions)
            there = table[where.here].view(rows, actions, units)
            seen = torch.cat([trials.told[t], there.amax(1), there.mean(1)], dim=1)
            before = by_action[where.written]
            after, of_cell = advance(cell, torch.cat([seen, everything], dim=1), before)
            written = torch.lerp(before, after, trials.acted[t])
            by_action[where.written] = written
            inputs = torch.cat([seen, written * trials.acted[t]], dim=1)
            everything, of_context = advance(context, inputs, everything)
            cells[:, t] = table[where.here].view(rows, actions, units)
            contexts.append(everything)
            ctx.kept.append((of_cell, of_context))
        ctx.save_for_backward(cells, *params)
        ctx.trials, ctx.sizes = trials, sizes
        return cells, torch.stack(contexts, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_cells: Tensor, by_contexts: Tensor) -> tuple[Tensor | None, ...]:
        """By the parameters; from the last time step to the first."""
        cells, *params = ctx.saved_tensors
        (states, actions), trials = ctx.sizes, ctx.trials
        cell, context = Layer(*params[:4]), Layer(*params[4:])
        by_cell, by_context = (Layer(*(torch.zeros_like(leaf) for leaf in layer)) for layer in (cell, context))
        rows, steps, _, units = cells.shape
        by_table = cells.new_zeros(rows * states, actions * units)
        by_action, by_everything = by_table.view(-1, units), torch.zeros_like(by_contexts[:, 0])
        told = trials.told.shape[2]
        for t in reversed(range(steps)):
            where, (of_cell, of_context) = places(trials, t, states, actions), ctx.kept[t]
            by_table.index_add_(0, where.here, by_cells[:, t].flatten(1))
            by_inputs, by_everything = pull_back(context, of_context, by_everything + by_contexts[:, t], by_context)
            _, by_seen, by_written = by_inputs.split([told, 2 * units, units], dim=1)
            by_written = (by_written + by_action[where.written]) * trials.acted[t]
            by_kept = by_action[where.written] * (1 - trials.acted[t])
            by_inputs, by_before = pull_back(cell, of_cell, by_written, by_cell)
            by_action[where.written] = by_before + by_kept
            by_everything += by_inputs[:, told + 2 * units :]
            by_seen = by_seen + by_inputs[:, told : told + 2 * units]
            seen = of_cell.inputs[:, told : told + units]
            there = _before(cells[:, t], where, of_cell.hidden, trials.action[t])
            by_table.index_add_(0, where.here, _by_there(there, seen, by_seen).flatten(1))
        return None, None, *by_cell, *by_context


def _before(cells: Tensor, where: Places, hidden: Tensor, action: Tensor) -> Tensor:
    """Memories [N, A, C] in the state that is there now, before one of them was written."""
    there, rows = cells.clone(), torch.arange(len(cells), device=cells.device)
    there[rows, action] = torch.where(where.stayed.unsqueeze(1), hidden, there[rows, action])
    return there


def _by_there(there: Tensor, largest: Tensor, by_seen: Tensor) -> Tensor:
    """Derivative by memories [N, A, C] from that by their maxima and means over actions, [N, 2 C]."""
    by_largest, by_mean = by_seen.chunk(2, dim=1)
    is_largest = (there == largest.unsqueeze(1)).to(there)
    share = by_largest / is_largest.sum(1)
    return is_largest.mul_(share.unsqueeze(1)).add_(by_mean.unsqueeze(1), alpha=1 / there.shape[1])
