"""Few-shot classification of images: n-way k-shot tasks from an array of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from mamlrl.config.schema import require
from mamlrl.errors import ConfigError, shown
from mamlrl.supervised.base import ALL, Drawn, unbounded


@dataclass(frozen=True)
class ImageTasks:
    """Tasks of `ways` classes each, told by some images of every class.

    A rotated class is a class of its own (Santoro et al. 2016; Finn et al. 2017, section 5.2), and so is a mirrored
    one. A task holds the numbers of its classes: c * views + v, of which view v is v % rotations quarter turns, after
    mirroring where v >= rotations. Which class is which target is drawn with the task.

    Args:
        images: uint8 [C, N, side, side], or [C, N, side, side, 3]; may be mapped from a file.
        classes: indices of the classes of this split.
        ways: classes of a task.
        rotations: 4 for all quarter turns, 1 for none.
        mirrored: whether mirror images are classes too.
        dark_ink: turn pixels round, so that paper is 0 and ink is 1.
        split: name of the split, for messages.
    """

    images: np.ndarray
    classes: np.ndarray
    ways: int
    rotations: int = 1
    mirrored: bool = False
    dark_ink: bool = False
    split: str = "this"

    def __post_init__(self) -> None:
        ways = self.ways
        require(isinstance(ways, int) and not isinstance(ways, bool), "environment.kwargs.ways", ways, "an integer")
        most = self.views * len(self.classes)
        require(
            2 <= ways <= most, "environment.kwargs.ways", ways, f"in [2, {most}], the classes of the {self.split} split"
        )

    @property
    def views(self) -> int:
        """Classes that a class is seen as."""
        return 2 * self.rotations if self.mirrored else self.rotations

    @property
    def input_space(self) -> spaces.Box:
        """Pixels in [0, 1], channels first."""
        return unbounded(int(np.prod(self.images.shape[2:])))

    @property
    def target_space(self) -> spaces.Discrete:
        """The classes of a task."""
        return spaces.Discrete(self.ways)

    @property
    def most_examples(self) -> int:
        """Images of a class."""
        return self.images.shape[1]

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Different classes for each task, [n, ways]."""
        keys = rng.random((n, self.views * len(self.classes)))
        return keys.argpartition(self.ways - 1, axis=1)[:, : self.ways].astype(np.float64)

    def draw(
        self, tasks: np.ndarray, shots: int, queries: int, rng: np.random.Generator, rows: slice = ALL
    ) -> tuple[Drawn, Drawn]:
        """Different images of each class, class by class: [M, ways * shots, O] and [M, ways * queries, O].

        Raises:
            ValueError: a class has fewer images.
        """
        count, there = shots + queries, self.most_examples
        if count > there:
            raise ValueError(f"{count} images of a class are asked for; there are {there}")
        which = rng.random((*tasks.shape, there))[rows].argsort(-1)[..., :count]
        tasks = tasks[rows]
        numbers, views = np.divmod(tasks.astype(np.int64), self.views)
        pictures = self.images[self.classes[numbers][..., None], which].astype(np.float32)
        pictures /= 255
        if self.dark_ink:
            np.subtract(1, pictures, out=pictures)
        for view in range(1, self.views):
            chosen = views == view
            upright = pictures[chosen] if view < self.rotations else np.flip(pictures[chosen], 3)
            pictures[chosen] = np.rot90(upright, view % self.rotations, axes=(2, 3))
        if pictures.ndim == 6:
            pictures = np.moveaxis(pictures, -1, 3)
        pictures = pictures.reshape(*pictures.shape[:3], -1)
        targets = np.broadcast_to(np.arange(self.ways)[:, None], (*tasks.shape, count))

        def drawn(part: slice) -> Drawn:
            inputs = np.ascontiguousarray(pictures[:, :, part])
            return Drawn(
                inputs.reshape(len(tasks), -1, inputs.shape[-1]),
                np.array(targets[..., part]).reshape(len(tasks), -1),
            )

        return drawn(slice(shots)), drawn(slice(shots, None))


def flag(name: str, value: object) -> bool:
    """Raises ConfigError where an argument is neither true nor false."""
    if not isinstance(value, bool):
        raise ConfigError(f"environment.kwargs.{name} is {shown(value)}; it must be true or false")
    return value
