"""Rivals at play: trials of several episodes in the registered environments, thousands of instances in lock step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from mamlrl.envs.making import make_task_envs
from mamlrl.evaluation.cells import FAMILIES, Cell
from mamlrl.rivals.bandits import BANDITS, BanditPlayer, BanditRow
from mamlrl.rivals.mdps import MDPS, MDPPlayer, MDPRow
from mamlrl.seeding import Stream, Streams

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

BLOCKS = {"bandit": 2000, "tabular-mdp": 500}
"""Instances that are played together: their beliefs stay in a processor's cache."""


class Player(Protocol):
    """An algorithm that plays N instances, and remembers them as long as it lives."""

    def start_episode(self) -> None:
        """All instances start an episode: time to plan."""
        ...

    def act(self, states: Indices, step: int) -> Indices:
        """Actions [N] in states [N], in time step `step` of the episode."""
        ...

    def learn(self, states: Indices, actions: Indices, rewards: Array, next_states: Indices) -> None:
        """What the actions led to."""
        ...


def methods_of(cell: Cell) -> dict[str, BanditRow] | dict[str, MDPRow]:
    """The algorithms for a cell, by name."""
    if cell.family == "tabular-mdp":
        return MDPS
    reward = dict(cell.kwargs).get("reward", "bernoulli")
    return {name: row for name, row in BANDITS.items() if reward in row.rewards}


def make_player(cell: Cell, method: str, parameter: float, instances: int, rng: np.random.Generator) -> Player:
    """An algorithm that knows nothing yet."""
    sizes = dict(cell.kwargs)
    if cell.family == "tabular-mdp":
        shape = (instances, sizes["states"], sizes["actions"])
        return MDPPlayer(MDPS[method], parameter, shape, cell.horizon, rng)
    pulls = cell.episodes * cell.horizon
    shape = (instances, sizes["arms"])
    return BanditPlayer(BANDITS[method], parameter, sizes.get("reward", "bernoulli"), shape, pulls, rng)


def play(
    envs: VectorEnv, player: Player, tasks: Array, seeds: NDArray[np.integer], episodes: int, horizon: int
) -> Array:
    """Play a trial in each of N instances.

    Args:
        envs: a vector environment of N rows.
        player: the algorithm.
        tasks: [N, P].
        seeds: of the rows, [N].
        episodes: n.
        horizon: time steps of an episode.

    Returns:
        The return of each episode, [N, n].
    """
    returns, everyone = np.zeros((len(tasks), episodes)), np.ones(len(tasks), bool)
    observations, _ = envs.reset(seed=seeds.tolist(), options={"task": tasks})
    for episode in range(episodes):
        player.start_episode()
        states = observations.argmax(axis=1)
        for step in range(horizon):
            actions = player.act(states, step)
            observations, rewards, *_ = envs.step(actions)
            reached = observations.argmax(axis=1)
            player.learn(states, actions, rewards, reached)
            returns[:, episode] += rewards
            states = reached
        observations, _ = envs.reset(options={"reset_mask": everyone})
    return returns


def draw_instances(cell: Cell, instances: int, streams: Streams) -> Array:
    """Tasks [N, P] of a cell, the same for all cells that differ in n alone."""
    envs: Any = make_task_envs(FAMILIES[cell.family].env, 1, cell.horizon, dict(cell.kwargs))
    return envs.sample_tasks(instances, streams.numpy(Stream.TASKS, 0))


def rival_returns(cell: Cell, method: str, parameter: float, tasks: Array, streams: Streams) -> Iterator[Array]:
    """The returns of an algorithm in each episode, block of instances by block: arrays [block, n].

    Every algorithm plays an instance with the same random numbers of the environment.

    Args:
        cell: what is played.
        method: the algorithm's name.
        parameter: its number.
        tasks: the instances [N, P].
        streams: of all noise.
    """
    for number, start in enumerate(range(0, len(tasks), BLOCKS[cell.family])):
        block = tasks[start : start + BLOCKS[cell.family]]
        envs = make_task_envs(FAMILIES[cell.family].env, len(block), cell.horizon, dict(cell.kwargs))
        seeds = streams.numpy(Stream.ENVIRONMENT, number).integers(2**63, size=len(block))
        player = make_player(cell, method, parameter, len(block), streams.numpy(Stream.ACTIONS, number))
        yield play(envs, player, block, seeds, cell.episodes, cell.horizon)
