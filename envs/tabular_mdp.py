"""Random Markov decision processes with few states and actions.

Source: Duan et al. (2016), "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from .argument_checks import check_count
from .base import Array, Infos, Mask, TaskEnv, TaskSpace
from .row_noise import NoisyVectorEnv, normal_of
from .tabular_pictures import draw_table

TOLERANCE = 1e-6
"""How far from 1 the probabilities of the next states may add up."""


class MDPSpace(TaskSpace):
    """Mean rewards and transition probabilities of Markov decision processes, as task vectors.

    Args:
        states: S.
        actions: A.
    """

    def __init__(self, states: int, actions: int):
        self._shape_of_rewards = states, actions
        pairs = states * actions
        unbounded = np.full(pairs, np.inf)
        super().__init__(
            np.concatenate([-unbounded, np.zeros(pairs * states)]),
            np.concatenate([unbounded, np.ones(pairs * states)]),
        )

    def split(self, tasks: Array) -> tuple[Array, Array]:
        """Mean rewards [..., S, A] and transition probabilities [..., S, A, S] of tasks [..., P]; views of them."""
        states, actions = self._shape_of_rewards
        rewards, transitions = tasks[..., : states * actions], tasks[..., states * actions :]
        leading = tasks.shape[:-1]
        return rewards.reshape(*leading, states, actions), transitions.reshape(*leading, states, actions, states)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n tasks: mean rewards N(1, 1), transition probabilities uniform in the simplex, [n, P]."""
        states, actions = self._shape_of_rewards
        rewards = rng.normal(1.0, 1.0, (n, states * actions))
        waits = rng.standard_exponential((n, states * actions, states))  # which are Dirichlet(1, ..., 1) of their sum
        transitions = waits / (waits @ np.ones(states))[..., None]
        return np.concatenate([rewards, transitions.reshape(n, -1)], axis=1)

    def accepts(self, tasks: Array) -> Mask:
        """Which of the tasks [N, P] are processes, [N]: the probabilities of the next states add up to 1."""
        sums = self.split(tasks)[1] @ np.ones(self._shape_of_rewards[0])
        return super().accepts(tasks) & np.all(np.abs(sums - 1.0) <= TOLERANCE, axis=(1, 2))

    def describe(self, task: ArrayLike) -> str:
        """Between what the mean rewards lie."""
        rewards, _ = self.split(np.ravel(task))
        return f"{len(rewards)} states, mean rewards {rewards.min():.2f} to {rewards.max():.2f}"

    def __repr__(self) -> str:
        states, actions = self._shape_of_rewards
        return f"MDPSpace({states} states, {actions} actions)"


class TabularMDPVectorEnv(NoisyVectorEnv):
    """N Markov decision processes in lock step; see `TabularMDPEnv` for the environment."""

    task_space: MDPSpace

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        num_threads: int = 0,  # of a simulator; numpy needs none
        *,
        states: int = 10,
        actions: int = 5,
    ):
        check_count("states", states, 1)
        check_count("actions", actions, 2)
        super().__init__(
            observation_space=spaces.Box(0.0, 1.0, (states,), np.float64),
            action_space=spaces.Discrete(actions),
            task_space=MDPSpace(states, actions),
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
        )
        self._num_actions = actions
        self._one_hot = np.eye(states)
        self._states = np.zeros(num_envs, np.intp)
        # Of each row, in the pairs (s, a) of all rows, and in all numbers of the tasks.
        self._first_pairs = np.arange(num_envs) * states * actions
        self._first_means = np.arange(num_envs) * self.task_space.shape[0]
        # From which number of [0, 1) on a draw is beyond state s; nothing is beyond the last.
        self._thresholds = np.full((num_envs, states, actions, states), np.inf)
        self._prepared = self.tasks  # the tasks that these are of
        self._visits = np.zeros((num_envs, states, actions))  # in this task; only kept to be drawn

    def _forget(self, rows: NDArray[np.intp]) -> None:
        self._visits[rows] = 0.0

    def _start_rows(self, rows: NDArray[np.intp]) -> None:
        if self._prepared is not self.tasks:  # which are replaced where one of them changes
            self._prepare(rows[(self._prepared[rows] != self.tasks[rows]).any(axis=1)])
        self._states[rows] = 0

    def _prepare(self, rows: NDArray[np.intp]) -> None:
        """Take up the tasks of these rows [R]."""
        self._forget(rows)
        everyone = len(rows) == self.num_envs  # then nothing is copied
        _, transitions = self.task_space.split(self.tasks if everyone else self.tasks[rows])
        sums = np.cumsum(transitions[..., :-1], axis=-1)
        self._thresholds[slice(None) if everyone else rows, ..., :-1] = sums
        self._prepared = self.tasks

    def _advance(self, actions: NDArray[Any], rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        pairs = self._states * self._num_actions + actions
        means = self.tasks.ravel().take(self._first_means + pairs)
        where, *pair = self.uniform(3, rows)
        # The first state that a draw is not beyond.
        thresholds = self._thresholds.reshape(-1, self._thresholds.shape[-1]).take(self._first_pairs + pairs, axis=0)
        reached = (thresholds <= where[:, None]).argmin(axis=1)
        if self.render_mode is not None:
            some = np.arange(self.num_envs) if rows is None else rows
            self._visits[some, self._states[some], actions[some]] += 1.0
        if rows is None:
            self._states = reached
        else:
            self._states[rows] = reached[rows]
        return means + normal_of(*pair), np.zeros(self.num_envs, bool), {"expected_reward": means}

    def _observe(self) -> Array:
        return self._one_hot.take(self._states, axis=0)

    def _draw_row(self, row: int) -> NDArray[np.uint8]:
        rewards, _ = self.task_space.split(self.tasks[row])
        return draw_table(rewards, self._visits[row], int(self._states[row]))


class TabularMDPEnv(TaskEnv):
    """Find a way through states whose rewards and transitions are not known.

    ## Description
    A Markov decision process with few states and actions. Tasks differ in the mean reward of every state and action,
    and in the probabilities of the states that follow.

    In the RL^2 paper a trial has n episodes in one process.

    ## Action Space
    `Discrete(actions)`.

    ## Observation Space
    `Box(0, 1, (states,), float64)`: the state, one-hot.

    | Num | Observation | Min | Max | Unit |
    |---|---|---|---|---|
    | s | whether the state is s | 0 | 1 | none |

    ## Rewards
    Normal around the mean of the state and the action in it, with standard deviation 1.
    `info["expected_reward"]` is that mean.

    ## Starting State
    State 0.

    ## Episode End
    Never terminated. Truncated after 10 time steps by `gymnasium.make`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `states` | int | 10 | number of states (S) |
    | `actions` | int | 5 | number of actions (A) |

    The task is a vector [S A + S A S], given by `reset(options={"task": task})`: the mean rewards [S, A], independent
    and N(1, 1), then the transition probabilities [S, A, S], each row of them Dirichlet(1, ..., 1).

    ## Version History
    * v0: first version.
    """

    vector_class = TabularMDPVectorEnv
