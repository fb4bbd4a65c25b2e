"""Best policies of finite Markov decision processes by backward induction, for many processes at once.

Shapes: N processes, S states, A actions, H time steps of an episode.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of floats, in either precision
Policy = NDArray[np.intp]
"""Actions [N, H, S]."""


def qualities(rewards: Array, transitions: Array, horizon: int, slack: Array | None = None) -> Array:
    """Q_h(s, a) = r(s, a) + sum_s' P(s' | s, a) max_a' Q_{h+1}(s', a'), [N, H, S, A].

    With a slack P is the most favourable within this L1 distance of the one given, another in every time step (Jaksch,
    Ortner, Auer 2010, "Near-optimal regret bounds for reinforcement learning", figure 2).

    Args:
        rewards: mean rewards [N, S, A].
        transitions: probabilities of the next states [N, S, A, S].
        horizon: H.
        slack: the distance [N, S, A].
    """
    n, states, actions = rewards.shape
    flat = transitions.reshape(n, states * actions, states)
    found = np.empty((n, horizon, states, actions), rewards.dtype)
    values = np.zeros((n, states), rewards.dtype)
    for step in reversed(range(horizon)):
        found[:, step] = rewards + np.matmul(flat, values[..., None]).reshape(rewards.shape)
        if slack is not None:
            found[:, step] += _gain(transitions, values, slack)
        values = found[:, step].max(-1)
    return found


def _gain(transitions: Array, values: Array, slack: Array) -> Array:
    """What moving probability from the worst next states to the best one adds, [N, S, A]."""
    order = values.argsort(-1)
    ascending = np.take_along_axis(values, order, -1)[:, None, None]
    chances = np.take_along_axis(transitions, order[:, None, None], -1)
    moved = np.minimum(slack / 2, 1.0 - chances[..., -1])
    before = chances.cumsum(-1) - chances
    taken = np.clip(moved[..., None] - before, 0.0, chances)
    return moved * ascending[..., -1] - (taken * ascending).sum(-1)


def best_actions(quality: Array, rng: np.random.Generator | None = None) -> Policy:
    """The actions of the highest quality [N, H, S, A]; of equally good ones any, or the first without a generator."""
    if rng is None:
        return quality.argmax(-1)
    ties = quality == quality.max(-1, keepdims=True)
    return np.where(ties, rng.random(quality.shape, np.float32), -1.0).argmax(-1)
