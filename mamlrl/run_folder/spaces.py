"""Spaces as plain data in a checkpoint: a policy is used where its environment is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces


def of_policy(observation_space: spaces.Space, action_space: spaces.Space) -> dict[str, Any]:
    """What a checkpoint says of the spaces that its policy was trained on."""
    return {"observation": to_plain(observation_space), "action": to_plain(action_space)}


def to_plain(space: spaces.Space) -> dict[str, Any]:
    """A Box or Discrete space as tensors, numbers and text, as `torch.load(weights_only=True)` reads them back."""
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    assert isinstance(space, spaces.Box), space  # no policy fits another
    bounds = {name: torch.from_numpy(np.array(getattr(space, name), np.float64)) for name in ("low", "high")}
    return {"kind": "Box", **bounds, "dtype": str(space.dtype)}


def from_plain(plain: Any) -> spaces.Space:
    """The inverse of `to_plain`.

    Raises:
        ValueError: it is no such data.
    """
    try:
        if plain["kind"] == "Discrete":
            return spaces.Discrete(plain["n"], start=plain["start"])
        if plain["kind"] != "Box":
            raise ValueError(f"it is of kind {plain['kind']}")
        dtype = np.dtype(plain["dtype"])
        low, high = (plain[name].numpy().astype(dtype) for name in ("low", "high"))
        return spaces.Box(low, high, dtype=dtype.type)
    except Exception as error:  # whatever data of another kind leads to
        raise ValueError(f"a space cannot be read: {error}") from error
