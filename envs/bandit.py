"""Multi-armed bandits: arms that pay at random, of which one pays most.

Source: Duan et al. (2016), "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.1.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from .argument_checks import check_choice, check_count
from .base import Array, Infos, Mask, TaskEnv, TaskSpace
from .row_noise import NoisyVectorEnv, normal_of
from .tabular_pictures import draw_arms

Reward = Literal["bernoulli", "gaussian"]


class ArmSpace(TaskSpace):
    """Mean rewards of arms, as task vectors: uniform in [0, 1] or, with Gaussian rewards, standard normal."""

    def __init__(self, arms: int, reward: Reward):
        low, high = (0.0, 1.0) if reward == "bernoulli" else (-np.inf, np.inf)
        super().__init__(np.full(arms, low), np.full(arms, high))

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw the arms' means, [n, arms]."""
        return rng.random((n, *self.shape)) if self.is_bounded() else rng.standard_normal((n, *self.shape))

    def describe(self, task: ArrayLike) -> str:
        """Which arm is the best."""
        means = np.ravel(task)
        return f"best of {means.size} arms: {means.argmax()}, {means.max():.2f}"


class BanditVectorEnv(NoisyVectorEnv):
    """N bandits in lock step; see `BanditEnv` for the environment."""

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        num_threads: int = 0,  # of a simulator; numpy needs none
        *,
        arms: int = 5,
        reward: Reward = "bernoulli",
    ):
        check_count("arms", arms, 2)
        check_choice("reward", reward, get_args(Reward))
        super().__init__(
            observation_space=spaces.Box(0.0, 1.0, (1,), np.float64),
            action_space=spaces.Discrete(arms),
            task_space=ArmSpace(arms, reward),
            num_envs=num_envs,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
        )
        self._reward = reward
        self._first_arms = np.arange(num_envs) * arms  # of each row, in all arms of all rows
        self._best, self._means_of = np.zeros(num_envs), self.tasks
        self._pulls, self._paid = np.zeros((2, num_envs, arms))  # of this task; only kept to be drawn

    def _forget(self, rows: NDArray[np.intp]) -> None:
        self._pulls[rows] = self._paid[rows] = 0.0

    def _start_rows(self, rows: NDArray[np.intp]) -> None:
        if self._means_of is not self.tasks:  # which are replaced where one of them changes
            self._forget(rows[(self._means_of[rows] != self.tasks[rows]).any(axis=1)])
            self._best[rows], self._means_of = self.tasks[rows].max(axis=1), self.tasks

    def _advance(self, actions: NDArray[Any], rows: NDArray[np.intp] | None) -> tuple[Array, Mask, Infos]:
        means = self.tasks.ravel().take(self._first_arms + actions)
        if self._reward == "bernoulli":
            rewards = (self.uniform(1, rows)[0] < means).astype(np.float64)
        else:
            rewards = means + normal_of(*self.uniform(2, rows))
        if self.render_mode is not None:
            pulled = (np.arange(self.num_envs), actions) if rows is None else (rows, actions[rows])
            self._pulls[pulled] += 1.0
            self._paid[pulled] += rewards[pulled[0]]
        infos = {"expected_reward": means, "regret": self._best - means}
        return rewards, np.zeros(self.num_envs, bool), infos

    def _observe(self) -> Array:
        return np.zeros((self.num_envs, 1))

    def _draw_row(self, row: int) -> NDArray[np.uint8]:
        return draw_arms(self.tasks[row], self._pulls[row], self._paid[row])


class BanditEnv(TaskEnv):
    """Pull one of several arms; what each pays on average is not known.

    ## Description
    Every pull of an arm pays at random, with a mean of the arm's own. Tasks differ in the means. To earn much, one has
    to find out which arm pays most and to use what one knows, and each costs the other.

    In the RL^2 paper a pull is an episode, and a trial has n of them: `environment.horizon` 1, as in the configuration
    `bandit`.

    ## Action Space
    `Discrete(arms)`: the arm to pull.

    ## Observation Space
    `Box(0, 1, (1,), float64)`

    | Num | Observation | Min | Max | Unit |
    |---|---|---|---|---|
    | 0 | nothing: always 0 | 0 | 1 | none |

    ## Rewards
    With `reward="bernoulli"` 1 with the arm's probability, else 0; with `reward="gaussian"` normal around the arm's
    mean with standard deviation 1. `info["expected_reward"]` is the mean of the arm that was pulled,
    `info["regret"]` how much less this is than that of the best.

    ## Starting State
    There is one state.

    ## Episode End
    Never terminated. Truncated after 100 pulls by `gymnasium.make`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `arms` | int | 5 | number of arms |
    | `reward` | str | `"bernoulli"` | `"bernoulli"` or `"gaussian"` |

    The task is the arms' means [arms], given by `reset(options={"task": means})`: independent, uniform in [0, 1] with
    Bernoulli rewards, standard normal with Gaussian ones.

    ## Version History
    * v0: first version.
    """

    vector_class = BanditVectorEnv
