"""Films of a function that is fitted to a few points, gradient step by gradient step."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mamlrl.evaluation.fits import Fit, draw_points
from mamlrl.progress import progress_bar
from mamlrl.recording.panels import color_of_steps
from mamlrl.recording.writers import FRAMES_PER_SECOND, Write
from mamlrl.run_folder.figures import limits_around, literal, steps_name

SECONDS, FIRST_AND_LAST = 0.4, 1.2
"""For which a fit is shown."""


def film_of_fit(fit: Fit, description: str, write: Write, speed: float = 1.0) -> None:
    """Show the fit after every number of gradient steps that it holds.

    Args:
        fit: of one task.
        description: the task in words.
        write: takes the pictures, `FRAMES_PER_SECOND` of them.
        speed: 0.5 is slow motion.
    """
    figure = Figure(figsize=(6.4, 4.4), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    draw_points(axes, fit)
    (curve,) = axes.plot(fit.true[:, 0], fit.predicted[0], linewidth=2, label="fit")
    low, high = limits_around(fit.true[:, 1])
    reach = 1.2 * max(abs(low), abs(high), 1.0)
    axes.set(xlabel="x", ylabel="y", ylim=(-reach, reach))  # what diverges leaves the picture
    axes.legend(loc="upper right")
    axes.set_title(literal(description), loc="left", fontsize=10)
    for steps, values in progress_bar(fit.predicted.items(), "filming"):
        curve.set(ydata=values, color=color_of_steps(steps))
        axes.set_title(f"{steps_name(steps)}, error {fit.error(steps):.3f}", loc="right", fontsize=10)
        canvas.draw()
        picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        seconds = FIRST_AND_LAST if steps in (0, max(fit.predicted)) else SECONDS
        for _ in range(max(1, round(seconds / speed * FRAMES_PER_SECOND))):
            write(picture)
