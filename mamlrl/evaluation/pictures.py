"""Figure of images told apart: what is adapted on, and what is made of others before adaptation and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamlrl.evaluation.examples import held_out_examples
from mamlrl.experiment import SupervisedExperiment
from mamlrl.learners import evaluation_steps, step_scale
from mamlrl.policies.convolutional import image_shape
from mamlrl.rounds import adapted_on
from mamlrl.run_folder.figures import literal, steps_name
from mamlrl.seeding import Streams
from mamlrl.structs import MetaParams

MOST_IMAGES = 10
RIGHT, WRONG = "#1b7f5c", "#d1495b"


class Told(NamedTuple):
    """One method on one task."""

    support: np.ndarray
    """images adapted on, [N, side, side, channels]"""
    of_support: np.ndarray
    """their classes, [N]"""
    query: np.ndarray
    """other images, [Q, side, side, channels]"""
    of_query: np.ndarray
    """their classes, [Q]"""
    likeliest: dict[int, np.ndarray]
    """of the query images by number of gradient steps, [Q]"""
    probability: dict[int, np.ndarray]
    """that it has, [Q]"""


@torch.no_grad()
def told_of(experiment: SupervisedExperiment, meta: MetaParams, task: np.ndarray, streams: Streams) -> Told | None:
    """A method before adaptation, after one gradient step and after all; None where inputs are no images of classes.

    Args:
        experiment: of a split.
        meta: what is meta-learned.
        task: [1, P].
        streams: of the evaluation.
    """
    if not isinstance(experiment.tasks.target_space, spaces.Discrete):
        return None
    support, query = held_out_examples(experiment, task, streams)
    config, last = experiment.config, evaluation_steps(experiment.config)
    likeliest, probability = {}, {}
    path = adapted_on(experiment.learner, meta, [support] * last, lambda step: step_scale(config, step))
    shown = _spread(len(query.targets[0]))
    for number, params in enumerate(path):
        if number in (0, 1, last):
            # of all query images at once: batch normalisation takes their statistics
            chances = experiment.policy.outputs(params, query.observations)[0, :, 0].softmax(-1)
            best = chances.max(-1)
            likeliest[number], probability[number] = best.indices[shown].numpy(), best.values[shown].numpy()
    chosen = _spread(len(support.targets[0]))
    return Told(
        _images(support.observations[0, chosen, 0].numpy()),
        support.targets[0, chosen, 0].numpy(),
        _images(query.observations[0, shown, 0].numpy()),
        query.targets[0, shown, 0].numpy(),
        likeliest,
        probability,
    )


def _spread(count: int) -> np.ndarray:
    """Indices of at most MOST_IMAGES of so many images, which come class by class."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(int))


def _images(rows: np.ndarray) -> np.ndarray:
    channels, side = image_shape(rows.shape[1])
    return rows.reshape(-1, channels, side, side).transpose(0, 2, 3, 1)


def picture_figure(methods: Sequence[tuple[str, Told]]) -> Figure:
    """The images adapted on with their classes; then the others, a row for each method and number of gradient steps.

    Above each image stands the class that it is taken for and with which probability, green where it is right.
    """
    first = methods[0][1]
    rows = [(method, told, steps) for method, told in methods for steps in told.likeliest]
    columns = max(len(first.support), len(first.query))
    canvas = Figure(figsize=(0.95 * columns + 1.6, 1.15 * (len(rows) + 1)), layout="constrained")
    grid = canvas.subplots(len(rows) + 1, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, number in zip(grid[0], first.support, first.of_support, strict=False):
        _draw(axes, image, f"class {number}", "black")
    _name(grid[0, 0], "adapted on")
    for row, (method, told, steps) in zip(grid[1:], rows, strict=True):
        taken = zip(told.query, told.of_query, told.likeliest[steps], told.probability[steps], strict=True)
        for axes, (image, true, found, chance) in zip(row, taken, strict=False):
            _draw(axes, image, f"{found} ({100 * chance:.0f} %)", RIGHT if found == true else WRONG)
        _name(row[0], f"{literal(method)}\n{steps_name(steps)}")
    return canvas


def _draw(axes: Axes, image: np.ndarray, title: str, color: str) -> None:
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, color=color, fontsize=8, pad=2)


def _name(axes: Axes, text: str) -> None:
    """A row's name, left of its first image."""
    axes.text(-0.15, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=8)
