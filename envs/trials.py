"""Trials: several episodes in one task, one after the other, and what a memory needs to see of them (Duan et al. 2016).

Shapes: N rows, O numbers of an observation, A of an action (one for each discrete one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from .base import Array, Infos, Mask
from .wrapping import TaskVectorWrapper


def action_size(space: spaces.Space) -> int:
    """Numbers that stand for an action, A: one for each discrete action, or for each component.

    Raises:
        ValueError: the space is neither Discrete nor a one-dimensional Box.
    """
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return space.shape[0]
    raise ValueError(f"action space {space} is not supported in trials; it must be Discrete or a 1-d Box")


def action_numbers(actions: ArrayLike, space: spaces.Space) -> Array:
    """Actions [N] or [N, A] of an environment as numbers near 1, [N, A].

    Discrete ones are one-hot; the bounds of others are mapped to -1 and 1, and what is beyond them is clipped.
    """
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n))[np.asarray(actions, np.int64) - int(space.start)]
    assert isinstance(space, spaces.Box)
    if not space.is_bounded():
        return np.asarray(actions, np.float64)
    center, half_range = (space.high + space.low) / 2.0, (space.high - space.low) / 2.0
    return np.clip((np.asarray(actions) - center) / half_range, -1.0, 1.0)


def trial_inputs(observations: ArrayLike, actions: Array, rewards: ArrayLike, dones: ArrayLike) -> Array:
    """What a policy with a memory sees, [N, O + A + 2]: observation, previous action, previous reward, previous done.

    Args:
        observations: [N, ...], flattened here.
        actions: of the time step before as `action_numbers`, [N, A]; zeros at the start of a trial.
        rewards: of the time step before, [N]; 0 at the start of a trial.
        dones: whether the time step before was the last of an episode, [N].
    """
    observations = np.asarray(observations)
    rows = observations.reshape(len(observations), -1)
    return np.concatenate([rows, actions, np.stack([rewards, dones], axis=1)], axis=1)


class TrialVector(TaskVectorWrapper):
    """N rows that go through trials: where an episode ends and is not the last of its trial, the next begins at once.

    Observations are those of `trial_inputs`. `infos["episode"]` is the number of the episode that a time step belongs
    to, from 0. A row is terminated or truncated with the last episode of its trial; then it is held until it is reset,
    which begins another trial.

    Attributes:
        reward_info: name of a number of the infos that `step` returns in place of the reward; empty for the reward. The
            observations hold the reward all the same.

    Args:
        envs: a vector environment of `make_task_envs`, which ends its episodes itself.
        episodes: of a trial, at least 1.

    Raises:
        ValueError: its rows cannot be reset one by one with their tasks kept, or it has spaces that do not fit.
    """

    def __init__(self, envs: VectorEnv, episodes: int):
        super().__init__(envs)
        if not getattr(envs, "resets_in_trial", True):
            name = envs.spec.id if envs.spec else type(envs).__name__
            raise ValueError(
                f"environment {name} cannot begin an episode without beginning a trial (its resets_in_trial is False), "
                "which trials of several episodes need"
            )
        space, self._actions = envs.single_observation_space, action_size(envs.single_action_space)
        if not isinstance(space, spaces.Box):
            raise ValueError(f"observation space {space} is not supported; it must be a Box")
        self.single_observation_space = _with_inputs(space, self._actions)
        self.observation_space = batch_space(self.single_observation_space, envs.num_envs)
        self.trial_episodes, self.reward_info = episodes, ""
        self._episode, self._over = np.zeros(envs.num_envs, np.int64), np.ones(envs.num_envs, bool)

    @property
    def episode(self) -> NDArray[np.int64]:
        """Number of the episode that each row is in, from 0, [N]."""
        return self._episode

    @property
    def extra_inputs(self) -> int:
        """Numbers that follow the observation, A + 2."""
        return self._actions + 2

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Height, width and colours of the picture that the environment's own observation is or begins with, if any."""
        shape = self.env.picture_shape or self.env.single_observation_space.shape or ()  # type: ignore[attr-defined]
        return shape if len(shape) == 3 else ()

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, Infos]:
        """Begin new trials, as `TaskVectorEnv.reset` does with episodes.

        Their tasks are in the options: to rows that were never given one most families give another in each episode.
        """
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        rows = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        self._episode, self._over = np.where(rows, 0, self._episode), self._over & ~rows
        nothing = np.zeros(self.num_envs)
        return trial_inputs(observations, np.zeros((self.num_envs, self._actions)), nothing, nothing), infos

    def step(self, actions: ArrayLike) -> tuple[Array, Array, Mask, Mask, Infos]:
        """Advance all rows whose trial is not over; rows whose episode ends in it begin the next one."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        episode, alive = self._episode, ~self._over
        ended = (terminated | truncated) & alive
        again = ended & (episode + 1 < self.trial_episodes)
        if again.any():
            observations, _ = self.env.reset(options={"reset_mask": again})
        self._episode, self._over = episode + again, self._over | (ended & ~again)
        inputs = trial_inputs(observations, action_numbers(actions, self.single_action_space), rewards, again)
        infos = {**infos, "episode": episode, "_episode": alive}
        earned = infos[self.reward_info] if self.reward_info else rewards
        return inputs, earned, terminated & self._over, truncated & self._over, infos


def _with_inputs(space: spaces.Box, actions: int) -> spaces.Box:
    """The space of `trial_inputs`."""
    size = math.prod(space.shape)
    low, high = (np.asarray(bound, np.float64).reshape(size) for bound in (space.low, space.high))
    ones, reward = np.ones(actions), np.full(1, np.inf)
    low, high = np.concatenate([low, -ones, -reward, [0.0]]), np.concatenate([high, ones, reward, [1.0]])
    return spaces.Box(low, high, dtype=np.float64)
