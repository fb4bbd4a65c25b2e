"""Checkpoints: where a run stands, in one file of plain tensors and numbers.

Random streams are functions of (seed, purpose, iteration, step, task), see `mamlrl.seeding`. So the iteration number
and the seed in the settings say all about randomness: there is no generator whose state would have to be saved.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mamlrl.config import Config
from mamlrl.config.files import Settings, make_config
from mamlrl.errors import UserError, said
from mamlrl.learner_settings import completed
from mamlrl.run_folder.files import write_whole
from mamlrl.run_folder.metrics_table import Written

FORMAT = "mamlrl checkpoint 2"
FORMAT_1 = "mamlrl checkpoint 1"
"""of version 0.1.0, whose learner state was the initialisation alone"""
ADAPTED = "mamlrl adapted policy 1"
"""of the files of `mamlrl.deploy.AdaptedPolicy.save`, which are no checkpoints"""
BEST = "best.pt"


class CheckpointError(UserError):
    """A file that is not a checkpoint of this run."""


class Progress(NamedTuple):
    """Where a run stands between two meta-iterations."""

    state: Any
    """the learner's state, a NamedTuple of tensors, numbers, dicts and tuples"""
    iteration: int = 0
    """meta-iterations done"""
    env_steps: int = 0
    """environment steps so far, all tasks and rounds of rollouts together"""
    best_return: float = -float("inf")
    """highest return after adaptation so far"""
    best_iteration: int = 0
    """iteration whose row of the metrics has it"""
    nonfinite_steps: int = 0
    """meta-updates in a row, up to the last one, that were refused for a non-finite number"""


class Checkpoint(NamedTuple):
    """What a checkpoint says of a run."""

    progress: Progress
    config: Config
    written: Written
    """the rows of metrics.csv so far"""


def write_checkpoint(
    path: Path,
    progress: Progress,
    settings: Settings,
    written: Written,
    spaces: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically: a reader finds the old file or the whole new one.

    Args:
        path: the file.
        progress: where the run stands.
        settings: of the run.
        written: the rows of metrics.csv so far.
        spaces: of the policy, as plain data (`run_folder.spaces`): with them it is used without its environment.

    Raises:
        OSError: the file cannot be written. What was there before stays.
    """
    content = {"format": FORMAT, **progress._asdict(), "state": plain(progress.state), "config": settings}
    content |= {"columns": list(written.columns), "row_checksums": torch.tensor(written.checksums, dtype=torch.int64)}
    write_archive(path, content | ({"spaces": dict(spaces)} if spaces else {}))


def write_archive(path: Path, content: dict[str, Any]) -> None:
    """Write plain data atomically, so that `read_archive` reads it back.

    Raises:
        OSError: the file cannot be written. What was there before stays.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def read_checkpoint(path: Path, state_like: Any) -> Checkpoint:
    """A checkpoint; it cannot run code (`weights_only`).

    Args:
        path: the file.
        state_like: a learner state whose structure, shapes, precision and device the loaded one takes.

    Raises:
        CheckpointError: the file is damaged, something else, or of another policy or learner.
    """
    content = read_content(path)
    config = config_of(content, path)
    try:
        state = restore(content["state"], state_like)
        counters = {
            name: restore(content.get(name, default), default, name)  # a counter may be newer than the checkpoint
            for name, default in Progress._field_defaults.items()
        }
        if min(counters["iteration"], counters["env_steps"], counters["nonfinite_steps"]) < 0:
            raise ValueError("a counter is negative")
        return Checkpoint(Progress(state, **counters), config, _written(content))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # the last of tensors that are no plain ones
        raise CheckpointError(f"{path} does not fit this run: {said(error)}") from error


def read_content(path: Path) -> dict[str, Any]:
    """A checkpoint as the dict that was saved.

    Raises:
        CheckpointError: the file is damaged or something else.
    """
    content = read_archive(path)
    if content.get("format") == FORMAT_1:
        state = content.get("state")
        init = state.get("params") if isinstance(state, dict) else None
        content |= {"format": FORMAT, "state": {"meta": {"init": init, "step_sizes": []}, "optimiser": None}}
    if content.get("format") == ADAPTED:
        raise CheckpointError(f"{path} is an adapted policy, no checkpoint; mamlrl.load_adapted reads it")
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of mamlrl")
    return content


def read_archive(path: Path) -> dict[str, Any]:
    """The plain data of a file of `write_archive`; it cannot run code (`weights_only`).

    Raises:
        CheckpointError: the file is damaged or something else.
    """
    if not path.is_file():  # to open a pipe would wait for its writer
        raise CheckpointError(f"{path} is no file" if path.exists() else f"{path} does not exist")
    try:
        with path.open("rb") as file:
            _check_archive(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch raises many kinds for a file that it cannot read
        raise CheckpointError(f"{path} is damaged or no checkpoint") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no checkpoint of mamlrl")
    return content


def _check_archive(file: Any) -> None:
    """Every entry has the checksum that it was written with: torch reads on over flipped bits."""
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile("compressed, as no checkpoint is")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} is damaged")


def config_of(content: dict[str, Any], path: Path) -> Config:
    """The settings in a checkpoint's content; fields that are newer than it take their defaults.

    Nothing that they name is imported.

    Raises:
        CheckpointError: they are not settings of this version.
    """
    try:
        return completed(make_config(content["config"]))
    except Exception as error:  # whatever a value of any type leads to
        raise CheckpointError(f"{path}: its settings cannot be read: {said(error)}") from error


class RowLog(Protocol):
    """The metrics of a run, as far as checkpoints count on them (`run_folder.metrics_log.MetricsLog`)."""

    def written(self, completed: int) -> Written:
        """Columns and checksums of the first rows."""
        ...

    def sync(self) -> None:
        """The rows so far are on the disk when this returns."""
        ...


class CheckpointFolder:
    """The checkpoints of one run: the most recent ones and the best.

    Args:
        folder: where they lie; made when missing.
        settings: the run's settings, stored in each.
        keep: most recent checkpoints kept.
        log: metrics of the run, whose rows are on the disk before a checkpoint counts on them.
        spaces: of the policy, as plain data, stored in each.
    """

    def __init__(
        self, folder: Path, settings: Settings, keep: int, log: RowLog, spaces: Mapping[str, Any] | None = None
    ):
        self._folder, self._settings, self._keep, self._log, self._spaces = folder, settings, keep, log, spaces
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(".*.partial.pt"):  # of a run that was killed
            path.unlink()

    def save(self, progress: Progress) -> None:
        """Write `iteration-<number>.pt`, then let go of the oldest ones."""
        self._write(iteration_file(progress.iteration), progress)
        for path in list_checkpoints(self._folder)[self._keep :]:
            if path.is_file():
                path.unlink()

    def save_best(self, progress: Progress) -> None:
        """Write `best.pt`."""
        self._write(BEST, progress)

    def _write(self, name: str, progress: Progress) -> None:
        self._log.sync()
        written = self._log.written(progress.iteration)
        write_checkpoint(self._folder / name, progress, self._settings, written, self._spaces)


def iteration_file(iteration: int) -> str:
    """Name of the checkpoint after an iteration."""
    return f"iteration-{iteration:06d}.pt"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run by iteration, newest first, without the best."""
    found = (path for path in folder.glob("iteration-*.pt") if re.fullmatch(r"iteration-\d{6,}\.pt", path.name))
    return sorted(found, key=lambda path: (len(path.name), path.name), reverse=True)


def latest_checkpoint(folder: Path, state_like: Any) -> tuple[Checkpoint | None, dict[Path, str]]:
    """The newest readable checkpoint of a run; `best.pt` when no other is.

    Returns:
        The checkpoint, None where there is no file that should be one, and what is wrong with each newer file that had
        to be passed over.

    Raises:
        CheckpointError: there are files, and none is readable.
    """
    passed_over: dict[Path, str] = {}
    best = [folder / BEST] if (folder / BEST).exists() else []
    for path in list_checkpoints(folder) + best:
        try:
            return read_checkpoint(path, state_like), passed_over
        except CheckpointError as error:
            passed_over[path] = str(error)
    if passed_over:
        raise CheckpointError("; ".join(passed_over.values()))
    return None, {}


def plain(tree: Any) -> Any:
    """A learner state in containers that `weights_only` reads back."""
    if isinstance(tree, Tensor):
        return tree.detach().cpu().clone()  # a view would save all of its storage
    if isinstance(tree, tuple) and hasattr(tree, "_asdict"):
        return {name: plain(leaf) for name, leaf in zip(tree._fields, tree, strict=True)}  # type: ignore[attr-defined]
    if isinstance(tree, dict):
        return {name: plain(leaf) for name, leaf in tree.items()}
    return [plain(leaf) for leaf in tree] if isinstance(tree, list | tuple) else tree


def restore(saved: Any, like: Any, name: str = "state") -> Any:
    """The inverse of `plain` for a state built like `like`; ValueError names what does not fit."""
    if isinstance(like, Tensor):
        if not isinstance(saved, Tensor) or saved.shape != like.shape:
            shape = list(saved.shape) if isinstance(saved, Tensor) else type(saved).__name__
            raise ValueError(f"{name} is {shape}, here it is {list(like.shape)}")
        if saved.layout is not torch.strided or saved.is_floating_point() != like.is_floating_point():
            raise ValueError(f"{name} is {saved.dtype}, {saved.layout}, here it is {like.dtype}")
        return saved.detach().to(like.device, like.dtype)
    if isinstance(like, tuple) and hasattr(like, "_asdict"):
        return type(like)(**restore(saved, like._asdict(), name))  # type: ignore[attr-defined]
    if isinstance(like, dict):
        if not isinstance(saved, dict) or saved.keys() != like.keys():
            found = list(saved) if isinstance(saved, dict) else type(saved).__name__
            raise ValueError(f"{name} has {found}, here it has {list(like)}")
        return {key: restore(saved[key], leaf, f"{name}.{key}") for key, leaf in like.items()}
    if isinstance(like, list | tuple):
        if not isinstance(saved, list) or len(saved) != len(like):
            found = f"{len(saved)} entries" if isinstance(saved, list) else type(saved).__name__
            raise ValueError(f"{name} has {found}, here it has {len(like)} entries")
        return type(like)(restore(one, leaf, name) for one, leaf in zip(saved, like, strict=True))
    if type(saved) is not type(like):
        raise ValueError(f"{name} is of type {type(saved).__name__}, here it is of type {type(like).__name__}")
    return saved


def check_fits(state: Any, like: Any) -> None:
    """A state can be saved and restored into one built like `like`; ValueError names what does not fit."""
    restore(plain(state), like)


def _written(content: Mapping[str, Any]) -> Written:
    """The rows of metrics.csv; unknown in a checkpoint from before they were stored."""
    columns, checksums = content.get("columns", []), content.get("row_checksums", torch.zeros(0, dtype=torch.int64))
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise ValueError("columns is no list of names")
    if not isinstance(checksums, Tensor) or checksums.dtype != torch.int64 or checksums.dim() != 1:
        raise ValueError("row_checksums is no list of integers")
    return Written(tuple(columns), tuple(checksums.tolist()))
