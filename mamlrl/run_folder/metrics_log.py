"""Metrics of a run: metrics.csv and TensorBoard events."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined] # generated code without types
from torch.utils.tensorboard import SummaryWriter

from mamlrl.config import Config
from mamlrl.run_folder import dashboard
from mamlrl.structs import Metrics

METRICS = {
    "return/step_": "mean over tasks of the mean undiscounted return after so many adaptation steps",
    "return_interval/step_": "half width of its 95% interval over tasks",
    "trust_region/kl": "mean KL divergence of the accepted meta-step, nats; 0 when refused",
    "trust_region/surrogate_improvement": "fall of the surrogate loss in the meta-step; 0 when refused",
    "trust_region/cg_residual": "relative residual |A x - b| / |b| of conjugate gradient",
    "trust_region/cg_iterations": "curvature products that conjugate gradient took",
    "trust_region/backtracks": "step lengths tried beyond the first",
    "trust_region/accepted": "1 when the meta-step was taken",
    "trust_region/nonfinite": "1 when it was refused for a non-finite number or a curvature that is not positive",
    "trust_region/gradient_norm": "Euclidean norm of the meta-gradient",
    "policy/std": "mean standard deviation of the unadapted policy, policy units (Gaussian policies)",
    "policy/entropy": "mean entropy of the unadapted policy, nats",
    "policy/saturated_fraction": "share of the unadapted policy's action components beyond the action bounds",
    "baseline/explained_variance": "share of the variance of the returns that the baseline explains, last round",
    "time/sample": "seconds of collecting rollouts",
    "time/adapt": "seconds of advantages and inner steps",
    "time/update": "seconds of the meta-update",
    "env_steps": "environment steps since the start of the run",
    "eval/return/step_": "return on held-out tasks after so many adaptation steps, by the updated policy",
    "eval/return_interval/step_": "half width of its 95% interval over tasks",
}
"""What each metric is, by name; a name that ends in step_ goes on with the number of adaptation steps."""


class MetricsLog:
    """metrics.csv and TensorBoard events of one run, a row per meta-iteration.

    Rows are numbered from 1, and the columns are the metrics of the first row.

    Args:
        folder: the run folder.
        completed: iterations whose rows stay; later ones belong to a run that was cut off and are removed.

    Raises:
        OSError: a file cannot be written.
    """

    def __init__(self, folder: Path, completed: int = 0):
        self._path = folder / "metrics.csv"
        self._columns = _keep_rows(self._path, completed) if completed else []
        self._file = self._path.open("a" if self._columns else "w", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._tensorboard = SummaryWriter(str(folder), purge_step=completed + 1 if completed else None)

    def describe(self, config: Config, iteration: int) -> None:
        """Tell TensorBoard the run's settings, and at its start how to arrange its charts."""
        dashboard.describe(self._tensorboard, config, iteration)

    def write(self, iteration: int, metrics: Metrics) -> None:
        """Write the row of an iteration, at once visible to others."""
        if not self._columns:
            self._columns = ["iteration", *metrics]
            self._csv.writerow(self._columns)
        row = {"iteration": iteration, **metrics}
        self._csv.writerow(["" if row.get(name) is None else row[name] for name in self._columns])
        try:
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        for name, value in (*metrics.items(), *dashboard.bands(metrics)):
            if value is not None:
                self._tensorboard.add_scalar(name, value, iteration)
        if evaluated := dashboard.adaptation_figure(metrics, iteration):
            self._tensorboard.add_figure("adaptation/return", evaluated, iteration)
        self._tensorboard.flush()

    def write_gif(self, name: str, gif: bytes, size: tuple[int, int], iteration: int) -> None:
        """Write an animated GIF of some width and height as an image, which TensorBoard plays."""
        image = Summary.Image(encoded_image_string=gif, width=size[0], height=size[1], colorspace=3)
        writer = self._tensorboard.file_writer  # add_video needs a package, and add_image encodes anew as a still
        if writer is not None:
            writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), iteration)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._tensorboard.close()


def _keep_rows(path: Path, completed: int) -> list[str]:
    """Remove the rows of later iterations, and a last one that was cut short; return the columns."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    if not lines:
        return []
    rows = [line for line in lines[1:] if line.endswith("\n") and int(line.partition(",")[0]) <= completed]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join([lines[0], *rows]))
    os.replace(temporary, path)
    return lines[0].rstrip("\n").split(",")
