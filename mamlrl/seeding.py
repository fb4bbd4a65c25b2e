"""One run seed, and a named stream of random numbers for every purpose.

A stream is a function of (seed, name, iteration, adaptation step, task): nothing is carried from one draw to the
next. A run is therefore resumed by its iteration number alone, and what a task experiences does not depend on how
tasks are grouped, threaded or spread over processes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """The purposes that randomness serves. Numbers are part of what a seed means: never renumber."""

    INITIALISATION = 0
    TASKS = 1
    ENVIRONMENT = 2
    ACTIONS = 3
    CURVATURE = 4
    EVALUATION = 5
    TEST = 6
    DIAGNOSIS = 7


@dataclass(frozen=True)
class Streams:
    """The random streams of a run.

    Args:
        seed: the run seed, >= 0.
        prefix: leading key of every stream; gives evaluation streams of its own.
    """

    seed: int
    prefix: tuple[int, ...] = ()

    def evaluation(self) -> Streams:
        """The streams of evaluation during training, disjoint from those of training itself."""
        return Streams(self.seed, (*self.prefix, int(Stream.EVALUATION)))

    def test(self) -> Streams:
        """The streams of evaluation after training, disjoint from all that a run saw, whatever its seed."""
        return Streams(self.seed, (*self.prefix, int(Stream.TEST)))

    def diagnosis(self) -> Streams:
        """The streams of `mamlrl.diagnose`, disjoint from all that a run saw, whatever its seed."""
        return Streams(self.seed, (*self.prefix, int(Stream.DIAGNOSIS)))

    def part(self, number: int) -> Streams:
        """Streams of one of several parts, disjoint from those of the others."""
        return Streams(self.seed, (*self.prefix, number))

    def sequence(self, *key: int) -> np.random.SeedSequence:
        """The seed sequence of one stream, such as ``sequence(Stream.ACTIONS, iteration, step, task)``."""
        return np.random.SeedSequence(self.seed, spawn_key=(*self.prefix, *map(int, key)))

    def numpy(self, *key: int) -> np.random.Generator:
        """A NumPy generator on one stream."""
        return np.random.default_rng(self.sequence(*key))

    def torch(self, *key: int) -> torch.Generator:
        """A CPU torch generator on one stream."""
        seed = int(self.sequence(*key).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return torch.Generator().manual_seed(seed)

    def rollouts(self, iteration: int, step: int, first_task: int = 0) -> RolloutStreams:
        """The streams of one round of rollouts: adaptation step `step` of meta-iteration `iteration`."""
        return RolloutStreams(self, iteration, step, first_task)


@dataclass(frozen=True)
class RolloutStreams:
    """Environment seeds and action noise of one round of rollouts, drawn task by task."""

    streams: Streams
    iteration: int
    step: int
    first_task: int = 0
    """number of the first task of the round among those of all ranks"""
    part: int = 0
    """number of the part, where a round is collected in several"""

    def further_parts(self) -> Iterator[RolloutStreams]:
        """The streams of the parts after this one."""
        return (dataclasses.replace(self, part=part) for part in itertools.count(self.part + 1))

    def _key(self, purpose: Stream, task: int) -> tuple[int, ...]:
        key = (purpose, self.iteration, self.step, self.first_task + task)
        return (*key, self.part) if self.part else key

    def reset_seeds(self, num_tasks: int, rollouts: int) -> np.ndarray:
        """Environment reset seeds, uint32 [M, B]."""
        return np.stack(
            [
                self.streams.sequence(*self._key(Stream.ENVIRONMENT, task)).generate_state(rollouts)
                for task in range(num_tasks)
            ]
        )

    def _action_rng(self, task: int) -> np.random.Generator:
        return self.streams.numpy(*self._key(Stream.ACTIONS, task))

    def normal_noise(self, num_tasks: int, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal noise, float32 [M, *shape]."""
        noise = np.empty((num_tasks, *shape), np.float32)
        for task in range(num_tasks):
            self._action_rng(task).standard_normal(out=noise[task], dtype=np.float32)
        return noise

    def uniform_noise(self, num_tasks: int, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform noise in [0, 1), float32 [M, *shape]."""
        noise = np.empty((num_tasks, *shape), np.float32)
        for task in range(num_tasks):
            self._action_rng(task).random(out=noise[task], dtype=np.float32)
        return noise
