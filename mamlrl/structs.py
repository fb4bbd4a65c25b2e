"""The nouns that the modules exchange, and the legend of their shapes.

M tasks in the meta-batch, B rollouts per task, T time steps, O observation, A action, P task parameters, Z numbers that
a policy outputs per time step (the parameters of its action distribution), K adaptation steps, D numbers that are
meta-learned. A parameter dict is *stacked* when every leaf leads with M: one network per task.

In supervised learning B are the examples of a task, T is 1 and O the numbers of an input: an example is a rollout of
one time step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Params = dict[str, Tensor]

StepSizes = Mapping[str, "float | Tensor"]
"""Step sizes of an inner step by leaf: a number, a tensor without dimensions, or one of the leaf's own shape. A leaf
that is absent does not adapt."""

Metrics = Mapping[str, float | None]
"""Numbers of one meta-iteration by name; None where one was not measured in it."""


class MetaParams(NamedTuple):
    """Everything that is meta-learned."""

    init: Params
    """theta, the initialisation that adaptation starts from"""
    step_sizes: tuple[Params, ...] = ()
    """learned step sizes by inner step, the last entry for all later steps too; empty where none are learned"""

    def step_sizes_of(self, step: int) -> Params:
        """The learned step sizes of inner step `step`, from 0."""
        return self.step_sizes[self.entry_of(step)]

    def entry_of(self, step: int) -> int:
        """Which entry of `step_sizes` serves inner step `step`."""
        return min(step, len(self.step_sizes) - 1)


class Rollouts(NamedTuple):
    """What `sampler.collect` returns: B rollouts for each of M tasks, padded to T steps."""

    observations: Tensor
    """[M, B, T, O], the observation that each action was chosen on."""
    actions: Tensor
    """[M, B, T, A] in policy units, before clipping ([M, B, T] for discrete actions)."""
    log_probs: Tensor
    """[M, B, T], log-probability of each action under the policy that sampled it."""
    rewards: Tensor
    """[M, B, T], 0 after the end of the rollout."""
    terminated: Tensor
    """[M, B, T], 1 where the task itself ended the episode (not the time limit)."""
    mask: Tensor
    """[M, B, T], 1 while the rollout is alive."""
    final_observations: Tensor
    """[M, B, O], the observation after the last step of each rollout."""
    measures: dict[str, Tensor] = {}  # noqa: RUF012 (never written to)
    """[M, B] each: numbers that the environment tells of whole rollouts, such as "success"."""
    episodes: Tensor | None = None
    """[M, B, T], where rollouts are trials of several episodes: number of the episode, from 0; an episode starts at the
    first time step, and where the number grows"""
    infos: Tensor | None = None
    """[M, B, T, n], numbers of the environment's info after each time step, where some are to be predicted; NaN where
    it has none"""


class Batch(NamedTuple):
    """What a policy-gradient loss needs of one round of rollouts; rollouts and time are kept apart."""

    observations: Tensor
    """[M, B, T, O]"""
    actions: Tensor
    """[M, B, T, A], or [M, B, T] for discrete actions"""
    log_probs: Tensor
    """[M, B, T], under the policy that sampled the batch"""
    advantages: Tensor
    """[M, B, T], normalised per task over valid time steps"""
    weights: Tensor
    """[M, B, T], 1 / (number of valid time steps of the task) on valid ones, 0 on padding: a weighted sum is a mean."""
    returns: Tensor
    """[M, B, T], discounted return from each time step on, in the environment's units; 0 on padding"""
    advantage_std: Tensor
    """[M, B, T], standard deviation of the task's advantages before they were normalised, in the environment's units;
    the same at all time steps of a task"""


class Examples(NamedTuple):
    """What a supervised loss needs: inputs, and what they belong to."""

    observations: Tensor
    """[M, B, T, O], the inputs"""
    targets: Tensor
    """[M, B, T, A], or [M, B, T] for classes"""
    weights: Tensor
    """[M, B, T], a sum of one for each task; 0 on padding"""


Data = Any
"""A `Batch` or `Examples`: all but a loss reads `observations` and `weights` alone. It is Any so that a learner that is
written for rollouts may say that it takes a `Batch`."""
AnyData = TypeVar("AnyData", Batch, Examples)


class MetaBatch(NamedTuple):
    """Everything that one meta-update sees."""

    support: tuple[Data, ...]
    """K batches, one per adaptation step. Rollouts are each sampled by the policy adapted so far; examples are the same
    for all steps."""
    query: Data
    """sampled by the adapted policies, or further examples"""
    along: tuple[Data, ...] = ()
    """K batches for losses on the parameters before each inner step, where these are not taken on what is adapted on"""
    first_task: int = 0
    """number of the first of these tasks among those of all ranks (`mamlrl.distributed`)"""
    infos: Tensor | None = None
    """`Rollouts.infos` of the query rollouts"""

    def measured(self, number: int) -> Data:
        """What a loss on the parameters before inner step `number` is taken on, or after the last one."""
        return (*(self.along or self.support), self.query)[number]


def check_shapes(*tensors: tuple[str, Tensor, str], **known: int) -> None:
    """Ranks and dimensions agree: the same letter of the legend stands for the same size everywhere.

    Args:
        *tensors: name, tensor, and a letter for every dimension, such as ``("weights", batch.weights, "MBT")``.
        **known: sizes of letters that are known beforehand, such as ``A=3``.

    Raises:
        ValueError: a tensor has another number of dimensions, or another size than one before it; names it.
    """
    for name, tensor, letters in tensors:
        shape = list(tensor.shape)
        sizes = dict(zip(letters, shape, strict=False))
        if len(shape) != len(letters) or known | sizes != sizes | known:
            fixed = ", ".join(f"{letter} = {known[letter]}" for letter in letters if letter in known)
            wanted = f"[{', '.join(letters)}]{' with ' * bool(fixed)}{fixed}"
            raise ValueError(f"{name} has shape {shape}; it must be {wanted}")
        known |= sizes


def stack(params: Params, num_tasks: int, shapes: Mapping[str, tuple[int, ...]]) -> Params:
    """Give every leaf the leading dimension M (a view where it lacks it).

    Args:
        params: shared or stacked; a leaf may be either.
        num_tasks: M.
        shapes: of every leaf, without the leading M.
    """
    return {
        name: params[name] if params[name].dim() > len(shape) else params[name].expand(num_tasks, *shape)
        for name, shape in shapes.items()
    }


def on_device(meta: MetaParams, device: str) -> MetaParams:
    """The same on another device, without gradients."""

    def moved(params: Params) -> Params:
        return {name: leaf.detach().to(device) for name, leaf in params.items()}

    return MetaParams(moved(meta.init), tuple(moved(sizes) for sizes in meta.step_sizes))


def cloned(meta: MetaParams) -> MetaParams:
    """The same, every leaf in memory of its own."""

    def copied(params: Params) -> Params:
        return {name: leaf.clone() for name, leaf in params.items()}

    return MetaParams(copied(meta.init), tuple(copied(sizes) for sizes in meta.step_sizes))


def flatten(meta: MetaParams, like: MetaParams) -> Tensor:
    """One vector [D] of all leaves, whatever their order, in the order of `like`.

    Raises:
        ValueError: the leaves have other names or shapes than those of `like`.
    """
    return torch.cat([leaf.reshape(-1) for leaf in _leaves(meta, like)])


def unflatten(vector: Tensor, like: MetaParams) -> MetaParams:
    """The inverse of `flatten`: views of the vector in the shapes and the order of `like`."""
    pieces = iter(vector.split([leaf.numel() for leaf in _leaves(like, like)]))

    def shaped(params: Params) -> Params:
        return {name: next(pieces).view_as(leaf) for name, leaf in params.items()}

    return MetaParams(shaped(like.init), tuple(shaped(sizes) for sizes in like.step_sizes))


def flatten_stacked(stacked: Params) -> Tensor:
    """A row of all leaves for each task, in their order, [M, D]."""
    return torch.cat([leaf.reshape(len(leaf), -1) for leaf in stacked.values()], dim=1)


def unflatten_stacked(rows: Tensor, like: Params) -> Params:
    """The inverse of `flatten_stacked`, for as many tasks as there are rows, in the shapes of `like` otherwise."""
    pieces = rows.split([leaf[0].numel() for leaf in like.values()], dim=1)
    return {
        name: piece.reshape(len(rows), *leaf.shape[1:])
        for (name, leaf), piece in zip(like.items(), pieces, strict=True)
    }


def _leaves(meta: MetaParams, like: MetaParams) -> list[Tensor]:
    if len(meta.step_sizes) != len(like.step_sizes):
        raise ValueError(
            f"there are {len(meta.step_sizes)} entries of step sizes; there must be {len(like.step_sizes)}"
        )
    leaves: list[Tensor] = []
    for params, pattern in zip((meta.init, *meta.step_sizes), (like.init, *like.step_sizes), strict=True):
        found, wanted = ({name: list(leaf.shape) for name, leaf in one.items()} for one in (params, pattern))
        if found != wanted:
            raise ValueError(f"the parameters have shapes {found}; they must be {wanted}")
        leaves += [params[name] for name in pattern]
    return leaves
