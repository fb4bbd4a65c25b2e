"""Predictors that read examples: a network turns pairs of input and target into a context for the predictor."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mamlrl.policies.base import Policy
from mamlrl.policies.cells import LSTM
from mamlrl.policies.context import CONTEXT, ContextPolicy
from mamlrl.policies.linearization import WithIdle
from mamlrl.policies.mlp import MLP
from mamlrl.policies.recurrent import RecurrentNetwork
from mamlrl.structs import Params, stack

READER = "reader_"
"""First letters of the names of a reader's parameters."""


class Reader(Protocol):
    """From pairs to a context."""

    def init_params(self, generator: torch.Generator) -> Params:
        """Initial parameters, whose names begin with READER."""
        ...

    def read(self, params: Params, pairs: Tensor, weights: Tensor) -> Tensor:
        """The context [M, C] of parameters, stacked or shared, on pairs [M, B, I]; differentiable.

        Args:
            params: those of the predictor may be among them.
            pairs: inputs and targets side by side.
            weights: of the pairs [M, B]; those of a task sum to one.
        """
        ...


class SetReader:
    """The mean of what a multilayer perceptron makes of each pair: their order does not matter (Garnelo et al. 2018).

    Args:
        sizes: I, units of every hidden layer, C.
    """

    def __init__(self, sizes: tuple[int, ...]):
        self._network = MLP(sizes, "relu")

    def init_params(self, generator: torch.Generator) -> Params:
        """Those of the perceptron."""
        return {f"{READER}{name}": leaf for name, leaf in self._network.init_params(generator).items()}

    def read(self, params: Params, pairs: Tensor, weights: Tensor) -> Tensor:
        """The weighted mean."""
        own = {name: params[f"{READER}{name}"] for name in self._network.shapes}
        own = stack(own, len(pairs), self._network.shapes)
        return (weights.unsqueeze(-1) * self._network.outputs(own, pairs.unsqueeze(2))[:, :, 0]).sum(1)


class RecurrentReader:
    """What a recurrent network (LSTM) says after the last pair, of which it has read one after the other.

    Args:
        sizes: I, units of every hidden layer, C; the last hidden layer is the recurrent one.
    """

    def __init__(self, sizes: tuple[int, ...]):
        self._network = RecurrentNetwork(sizes, LSTM(), READER)

    def init_params(self, generator: torch.Generator) -> Params:
        """Those of the network."""
        return self._network.init_params(generator)

    def read(self, params: Params, pairs: Tensor, weights: Tensor) -> Tensor:
        """The last output; all pairs weigh alike."""
        return self._network.outputs(params, pairs.unsqueeze(1))[:, 0, -1]


class ReadingPolicy(ContextPolicy):
    """A policy with a context (`ContextPolicy`), and the parameters of a reader beside it, of which it is no function.

    Args:
        policy: a policy whose first layer has the bias ``bias_0``.
        size: C.
        reader: fills the context.
    """

    def __init__(self, policy: Policy, size: int, reader: Reader):
        super().__init__(policy, size)
        self.reader = reader
        leaves = reader.init_params(torch.Generator()).items()
        self._beside = {name: tuple(leaf.shape) for name, leaf in leaves}

    def init_params(self, generator: torch.Generator) -> Params:
        """Those of the policy, a context of zeros with its weights, and the reader's."""
        return {**super().init_params(generator), **self.reader.init_params(generator)}

    def linearize(self, params: Params, observations: Tensor) -> WithIdle:
        """Distribution parameters with products of their derivatives."""
        return WithIdle(super().linearize(params, observations), stack(params, len(observations), self._beside))

    def context(self, params: Params, pairs: Tensor, weights: Tensor) -> Params:
        """What the reader makes of pairs [M, B, I] of weights [M, B]."""
        return {CONTEXT: self.reader.read(params, pairs, weights)}
