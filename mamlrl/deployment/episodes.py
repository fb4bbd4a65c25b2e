"""Episodes that somebody collected with a policy, as the rollouts that it adapts on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike

from mamlrl.errors import UserError, cut, shown
from mamlrl.policies.base import Policy
from mamlrl.structs import Params, Rollouts


class Episode(NamedTuple):
    """One episode of T time steps, in the environment's units."""

    observations: ArrayLike
    """[T, ...], those that the actions were chosen on; or [T + 1, ...], with the last one"""
    actions: ArrayLike
    """[T, A], or [T] discrete ones"""
    rewards: ArrayLike
    """[T]"""
    terminated: bool = False
    """whether the task itself ended it, not a time limit"""


FORM = (
    "an episode is a dict of observations, actions and rewards, a list of each, and may have terminated, True or False"
)
Episodes = Sequence["Episode | Mapping[str, Any]"]
"""Episodes, or mappings with their fields."""


def to_policy_actions(actions: np.ndarray, space: spaces.Space, action_scale: float) -> np.ndarray:
    """The inverse of `sampler.to_environment_actions`, but for what that clipped."""
    if isinstance(space, spaces.Discrete):
        return actions - space.start
    assert isinstance(space, spaces.Box)
    center, half_range = (space.high + space.low) / 2, (space.high - space.low) / 2
    return (actions - center) / np.where(half_range > 0, half_range, 1.0) * action_scale


def to_rollouts(
    episodes: Episodes,
    policy: Policy,
    params: Params,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    action_scale: float,
) -> Rollouts:
    """Rollouts of one task, M = 1; log-probabilities are those of the given parameters.

    Warns where actions lie on their bounds: the policy's own, beyond them, are not known, and the bounds stand in.

    Args:
        episodes: at least one.
        policy: the policy.
        params: those that the episodes were collected with.
        observation_space: of the policy.
        action_space: of the environment.
        action_scale: policy units that span half of the action range.

    Raises:
        UserError: an episode does not fit the spaces, or holds a number that is not finite; names it.
    """
    if isinstance(episodes, Mapping | Episode):
        kind = "a mapping" if isinstance(episodes, Mapping) else "one Episode"
        raise UserError(f"episodes are {kind}; they must be a list of episodes")
    checked = [_checked(number, one, observation_space, action_space) for number, one in enumerate(episodes)]
    if not checked:
        raise UserError("there are no episodes; at least one is needed to adapt on")
    _warn_of_clipped([one.actions for one in checked], action_space)
    horizon = max(len(one.rewards) for one in checked)

    def padded(rows: Sequence[np.ndarray]) -> torch.Tensor:
        """[1, B, T, ...]."""
        whole = np.zeros((1, len(rows), horizon, *rows[0].shape[1:]), rows[0].dtype)
        for number, row in enumerate(rows):
            whole[0, number, : len(row)] = row
        return torch.from_numpy(whole)

    lengths = [len(one.rewards) for one in checked]
    observations = padded([one.observations[:length] for one, length in zip(checked, lengths, strict=True)])
    actions = padded([to_policy_actions(one.actions, action_space, action_scale) for one in checked])
    if not isinstance(action_space, spaces.Discrete):
        actions = actions.to(observations.dtype)
    with torch.no_grad():
        log_probs = policy.distribution.log_prob(policy.outputs(params, observations), actions)
    ends = [
        np.arange(length) == (length - 1 if one.terminated else -1)
        for one, length in zip(checked, lengths, strict=True)
    ]
    return Rollouts(
        observations=observations,
        actions=actions,
        log_probs=log_probs,
        rewards=padded([one.rewards for one in checked]),
        terminated=padded([end.astype(np.float32) for end in ends]),
        mask=padded([np.ones(length, np.float32) for length in lengths]),
        final_observations=torch.from_numpy(np.stack([one.observations[-1] for one in checked]))[None],
    )


class _Arrays(NamedTuple):
    """An episode, checked."""

    observations: np.ndarray
    """[T, O] or [T + 1, O], float32"""
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool


def _checked(number: int, episode: Any, observation_space: spaces.Space, action_space: spaces.Space) -> _Arrays:
    name = f"episode {number}"
    one = _as_episode(name, episode)
    rewards = _numbers(f"{name}: rewards", one.rewards, (), np.float32)
    actions = _numbers(f"{name}: actions", one.actions, action_space.shape or (), np.float64)
    observations = _numbers(f"{name}: observations", one.observations, observation_space.shape or (), np.float32)
    steps = len(rewards)
    if not steps or len(actions) != steps or len(observations) not in (steps, steps + 1):
        raise UserError(
            f"{name} has {len(observations)} observations, {len(actions)} actions and {steps} rewards; there must be "
            "as many of each, at least one, or one observation more"
        )
    if np.shape(one.terminated) or one.terminated not in (0, 1):
        raise UserError(f"{name}: terminated is {shown(one.terminated)}; it must be one truth value, not one a step")
    _check_inside(name, actions, action_space)
    if isinstance(action_space, spaces.Discrete):
        actions = actions.astype(np.int64)
    return _Arrays(observations.reshape(len(observations), -1), actions, rewards, bool(one.terminated))


def _as_episode(name: str, episode: Any) -> Episode:
    """A mapping, or values in order, as an Episode."""
    required = [field for field in Episode._fields if field not in Episode._field_defaults]
    if isinstance(episode, Mapping):
        missing = [field for field in required if field not in episode]
        unknown = [cut(str(field)) for field in episode if field not in Episode._fields]
        if missing or unknown:
            what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
            raise UserError(f"{name} {what}; {FORM}")
        return Episode(**episode)
    if not isinstance(episode, tuple | list):
        raise UserError(f"{name} is {shown(episode)}; {FORM}")
    if not len(required) <= len(episode) <= len(Episode._fields):
        raise UserError(f"{name} has {len(episode)} values; {FORM}")
    return Episode(*episode)


def _numbers(name: str, values: ArrayLike, shape: tuple[int, ...], dtype: type[np.floating]) -> np.ndarray:
    """Values as an array [T, *shape] of finite numbers."""
    try:
        array = np.asarray(values, dtype)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} are no array of numbers: {error}") from error
    if array.ndim == 0:
        raise UserError(f"{name} are {shown(values)}, not one for each time step: {FORM}")
    if array.shape[1:] != shape:
        wanted = ", ".join(map(str, ("T", *shape)))
        raise UserError(f"{name} have shape {list(array.shape)}; it must be [{wanted}]")
    if not np.isfinite(array).all():
        raise UserError(f"{name} hold a number that is not finite (NaN or infinite)")
    return array


def _check_inside(name: str, actions: np.ndarray, space: spaces.Space) -> None:
    if isinstance(space, spaces.Discrete):
        inside = (actions == np.round(actions)) & (actions >= space.start) & (actions < space.start + space.n)
    else:
        assert isinstance(space, spaces.Box)
        margin = _rounding(space)
        inside = ((actions >= space.low - margin) & (actions <= space.high + margin)).all(1)
    if not inside.all():
        step = int(np.argmin(inside))
        raise UserError(f"{name}: action {step} is {actions[step]}; it is not in the action space {space}")


def _warn_of_clipped(actions: Sequence[np.ndarray], space: spaces.Space) -> None:
    if not isinstance(space, spaces.Box):
        return
    every, margin = np.concatenate(actions), _rounding(space)
    clipped = (every <= space.low + margin) | (every >= space.high - margin)
    if clipped.any():
        warnings.warn(
            f"{clipped.mean():.0%} of the action components lie on their bounds; what the policy chose beyond them is "
            "not known, and the bounds stand in for it (adapt(env), which acts itself, knows it)",
            stacklevel=5,
        )


def _rounding(space: spaces.Box) -> np.ndarray:
    return 1e-6 * (space.high - space.low)
