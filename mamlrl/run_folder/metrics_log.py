"""Metrics of a run: metrics.csv and TensorBoard events."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined] # generated code without types
from torch.utils.tensorboard import SummaryWriter

from mamlrl.config import Config
from mamlrl.messages import say
from mamlrl.run_folder import dashboard, metrics_table
from mamlrl.run_folder.events import naming_events, restore_hook, silence_writer_threads
from mamlrl.run_folder.figures import freed_at_once
from mamlrl.run_folder.files import keep_aside, naming, write_whole
from mamlrl.run_folder.folder import METRICS_FILE
from mamlrl.run_folder.metrics_table import Table, Written
from mamlrl.statistics import Estimate, Estimates
from mamlrl.structs import Metrics


def _state(status: os.stat_result) -> tuple[int, ...]:
    """Which file it is, and how it was when last written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class MetricsLog:
    """metrics.csv and TensorBoard events of one run, a row per meta-iteration; to be used in a `with` block.

    Rows are numbered from 1. A metric that comes later than the first row gets a column then, empty in earlier rows.
    A metrics.csv that somebody changed, while the run was stopped or between two rows, is kept under another name; the
    log goes on with the rows that are as the run wrote them, and a line says so.

    Args:
        folder: the run folder.
        completed: iterations whose rows stay; later ones belong to a run that was cut off and are removed.
        written: what is known of these rows as the run wrote them.

    Raises:
        OSError: a file cannot be written.
    """

    def __init__(self, folder: Path, completed: int = 0, written: Written = Written()):  # noqa: B008 (immutable)
        self._folder, self._path = folder, folder / METRICS_FILE
        self._columns, self._checksums = list(written.columns), list(written.checksums)[:completed]
        with naming(self._path):
            content = self._path.read_bytes() if self._path.is_file() else b""
            self._recover(content, completed)
        self._hooks = silence_writer_threads()
        with self._naming_events():
            self._tensorboard = SummaryWriter(str(folder), purge_step=completed + 1 if completed else None)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        # after an error the files may fail once more, and that is not what is to be told
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            with naming(self._path):
                self._file.close()
            with self._naming_events():
                self._tensorboard.close()
            restore_hook(self._hooks)

    def describe(self, config: Config, iteration: int) -> None:
        """Tell TensorBoard the run's settings, and at its start how to arrange its charts."""
        with self._naming_events():
            dashboard.describe(self._tensorboard, config, iteration)

    def write(
        self,
        iteration: int,
        metrics: Metrics,
        training: Estimates | None = None,
        held_out: Estimates | None = None,
        episodes: Sequence[Estimate] = (),
    ) -> None:
        """Write the row of an iteration, at once visible to others.

        Args:
            iteration: its number, from 1.
            metrics: the row.
            training: metrics of training tasks that TensorBoard shows with their intervals.
            held_out: those of held-out tasks, shown as a figure against inner steps besides.
            episodes: return of each episode of trials on held-out tasks, which takes the place of the first figure.
        """
        cells = {name: "" if value is None else str(value) for name, value in metrics.items()}
        with naming(self._path):
            self._write_row({metrics_table.NUMBER: str(iteration), **cells})
        with self._naming_events():
            bands = (*dashboard.bands(training or {}), *dashboard.bands(held_out or {}, "eval/"))
            for name, value in (*metrics.items(), *bands):
                if value is not None:
                    self._tensorboard.add_scalar(name, value, iteration)
            for quantity, estimates in (held_out or {}).items():
                shown, used = (episodes, range(len(episodes))) if episodes else (estimates, ())
                with freed_at_once():
                    self._draw(quantity, shown, iteration, used)
            self._tensorboard.flush()

    def _draw(self, quantity: str, estimates: Sequence[Estimate], iteration: int, used: Sequence[int]) -> None:
        evaluated = dashboard.adaptation_figure(quantity, estimates, iteration, used)
        self._tensorboard.add_figure(f"adaptation/{quantity}", evaluated, iteration)

    def written(self, completed: int) -> Written:
        """What is known of the rows of the first iterations."""
        return Written(tuple(self._columns), tuple(self._checksums[:completed]))

    def sync(self) -> None:
        """The rows so far are on the disk when this returns, whatever becomes of the machine."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def write_gif(self, name: str, gif: bytes, size: tuple[int, int], iteration: int) -> None:
        """Write an animated GIF of some width and height as an image, which TensorBoard plays."""
        image = Summary.Image(encoded_image_string=gif, width=size[0], height=size[1], colorspace=3)
        writer = self._tensorboard.file_writer  # add_video needs a package, and add_image encodes anew as a still
        if writer is not None:
            with self._naming_events():
                writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), iteration)

    def _write_row(self, cells: dict[str, str]) -> None:
        if not self._is_in_place():
            self._recover(self._own_content(), len(self._checksums))
        columns = [*self._columns, *(name for name in cells if name not in self._columns)]
        if columns != self._columns:
            completed = len(self._checksums)
            table = metrics_table.recover(self._own_content(), completed, self.written(completed)).table
            self._open(table._replace(columns=columns))
        row = [cells.get(name, "") for name in columns]
        line = metrics_table.encode_row(row)
        self._file.write(line)
        self._file.flush()
        self._state = _state(os.fstat(self._file.fileno()))
        self._checksums.append(metrics_table.checksum(columns, row))

    def _is_in_place(self) -> bool:
        """Whether the file under our name is the one that we write, and nobody else has written to it."""
        try:
            return _state(os.stat(self._path)) == self._state
        except FileNotFoundError:
            return False

    def _own_content(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def _recover(self, content: bytes, completed: int) -> None:
        """Go on with the rows in `content` that are as they were written; whatever else is in our place stays aside."""
        found = metrics_table.recover(content, completed, self.written(completed))
        there = os.path.lexists(self._path)
        is_ours = self._path.is_file() and self._path.read_bytes() == content and found.untouched
        if not is_ours and (there or completed):
            found_there = (
                f"is not as this run wrote it, and kept as {keep_aside(self._path).name}" if there else "is gone"
            )
            rows = f"{len(found.table.rows)} of {completed} rows are left"
            say(f"note: {self._path} {found_there}; {rows}")
        self._checksums = found.checksums
        self._open(found.table)

    def _open(self, table: Table) -> None:
        """Open the file with this content and no other."""
        encoded = table.encode()
        if not self._path.is_file() or self._path.read_bytes() != encoded:
            write_whole(self._path, encoded)
        self._columns = list(table.columns)
        self._file: BinaryIO = self._path.open("a+b")
        self._state = _state(os.fstat(self._file.fileno()))

    def _naming_events(self) -> contextlib.AbstractContextManager[None]:
        return naming_events(self._folder)
