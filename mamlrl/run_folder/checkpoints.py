"""Checkpoints: where a run stands, in one file of plain tensors and numbers.

Random streams are functions of (seed, purpose, iteration, step, task), see `mamlrl.seeding`. So the iteration number
and the seed in the settings say all about randomness: there is no generator whose state would have to be saved.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mamlrl.config.files import Settings
from mamlrl.errors import UserError

FORMAT = "mamlrl checkpoint 2"
FORMAT_1 = "mamlrl checkpoint 1"
"""of version 0.1.0, whose learner state was the initialisation alone"""
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
    nonfinite_steps: int = 0
    """meta-updates in a row, up to the last one, that were refused for a non-finite number"""


def write_checkpoint(path: Path, progress: Progress, settings: Settings) -> None:
    """Write a checkpoint atomically: a reader finds the old file or the whole new one.

    Raises:
        OSError: the file cannot be written. What was there before stays.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **progress._asdict(), "state": _plain(progress.state), "config": settings}, buffer)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_checkpoint(path: Path, state_like: Any) -> tuple[Progress, Settings]:
    """Progress and settings from a checkpoint; it cannot run code (`weights_only`).

    Args:
        path: the file.
        state_like: a learner state whose structure, shapes, precision and device the loaded one takes.

    Raises:
        CheckpointError: the file is truncated, something else, or of another policy or learner.
    """
    content = read_content(path)
    try:
        progress = Progress(**{name: content[name] for name in Progress._fields})
        return progress._replace(state=_restore(content["state"], state_like)), content["config"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this run: {error}") from error


def read_content(path: Path) -> dict[str, Any]:
    """A checkpoint as the dict that was saved.

    Raises:
        CheckpointError: the file is truncated or something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that it cannot read
        raise CheckpointError(f"{path} is damaged or no checkpoint") from error
    if isinstance(content, dict) and content.get("format") == FORMAT_1:
        init = content["state"]["params"]
        content |= {"format": FORMAT, "state": {"meta": {"init": init, "step_sizes": []}, "optimiser": None}}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of mamlrl")
    return content


class CheckpointFolder:
    """The checkpoints of one run: the most recent ones and the best.

    Args:
        folder: where they lie; made when missing.
        settings: the run's settings, stored in each.
        keep: most recent checkpoints kept.
    """

    def __init__(self, folder: Path, settings: Settings, keep: int):
        self._folder, self._settings, self._keep = folder, settings, keep
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, progress: Progress) -> None:
        """Write `iteration-<number>.pt`, then let go of the oldest ones."""
        write_checkpoint(self._folder / f"iteration-{progress.iteration:06d}.pt", progress, self._settings)
        for path in list_checkpoints(self._folder)[self._keep :]:
            path.unlink()

    def save_best(self, progress: Progress) -> None:
        """Write `best.pt`."""
        write_checkpoint(self._folder / BEST, progress, self._settings)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run by iteration, newest first, without the best."""
    return sorted(folder.glob("iteration-*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)


def latest_checkpoint(folder: Path, state_like: Any) -> tuple[Progress, Settings, list[str]]:
    """The newest readable checkpoint of a run; `best.pt` when no other is.

    Returns:
        Progress, settings, and what was wrong with each newer file that had to be passed over.

    Raises:
        CheckpointError: there is none.
    """
    passed_over = []
    best = [folder / BEST] if (folder / BEST).exists() else []
    for path in list_checkpoints(folder) + best:
        try:
            return *read_checkpoint(path, state_like), passed_over
        except CheckpointError as error:
            passed_over.append(str(error))
    raise CheckpointError("; ".join(passed_over) or f"{folder} holds no checkpoint")


def _plain(tree: Any) -> Any:
    """A learner state in containers that `weights_only` reads back."""
    if isinstance(tree, Tensor):
        return tree.detach().cpu().clone()  # a view would save all of its storage
    if isinstance(tree, tuple) and hasattr(tree, "_asdict"):
        return {name: _plain(leaf) for name, leaf in zip(tree._fields, tree, strict=True)}  # type: ignore[attr-defined]
    if isinstance(tree, dict):
        return {name: _plain(leaf) for name, leaf in tree.items()}
    return [_plain(leaf) for leaf in tree] if isinstance(tree, list | tuple) else tree


def _restore(saved: Any, like: Any, name: str = "state") -> Any:
    """The inverse of `_plain` for a state built like `like`; ValueError names what does not fit."""
    if isinstance(like, Tensor):
        if not isinstance(saved, Tensor) or saved.shape != like.shape:
            shape = list(saved.shape) if isinstance(saved, Tensor) else type(saved).__name__
            raise ValueError(f"{name} is {shape}, here it is {list(like.shape)}")
        return saved.to(like.device, like.dtype)
    if isinstance(like, tuple) and hasattr(like, "_asdict"):
        return type(like)(**_restore(saved, like._asdict(), name))  # type: ignore[attr-defined]
    if isinstance(like, dict):
        if not isinstance(saved, dict) or saved.keys() != like.keys():
            found = list(saved) if isinstance(saved, dict) else type(saved).__name__
            raise ValueError(f"{name} has {found}, here it has {list(like)}")
        return {key: _restore(saved[key], leaf, f"{name}.{key}") for key, leaf in like.items()}
    if isinstance(like, list | tuple):
        if len(saved) != len(like):
            raise ValueError(f"{name} has {len(saved)} entries, here it has {len(like)}")
        return type(like)(_restore(one, leaf, name) for one, leaf in zip(saved, like, strict=True))
    return saved
