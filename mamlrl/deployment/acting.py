"""How a policy chooses in somebody's own program."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.distributions import Distribution
from mamlrl.sampler import to_environment_actions


def choose(distribution: Distribution, outputs: Tensor, deterministic: bool, rng: np.random.Generator) -> np.ndarray:
    """The actions of one task, [N, ...], in policy units.

    Args:
        distribution: of the actions.
        outputs: its parameters, [1, N, ...].
        deterministic: the likeliest, in place of drawn ones.
        rng: what they are drawn with.
    """
    if deterministic:
        return distribution.mode(outputs)[0].numpy()
    draw = rng.standard_normal if distribution.noise == "normal" else rng.random
    noise = draw((1, outputs.shape[1], *distribution.noise_shape), np.float32)
    return distribution.sample(outputs, torch.from_numpy(noise))[0].numpy()


def in_environment_units(actions: np.ndarray, space: spaces.Space, action_scale: float) -> np.ndarray:
    """Actions [N, ...] in policy units as the environment takes them, within the bounds of a Box."""
    scaled = to_environment_actions(actions, space, action_scale)
    if isinstance(space, spaces.Box):
        return np.clip(scaled, space.low, space.high).astype(space.dtype)  # a bound may be off by a rounding
    return scaled
