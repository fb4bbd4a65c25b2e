"""Trained policies, read back from run folders and checkpoints."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mamlrl.config import Config
from mamlrl.errors import ConfigError, cut, said
from mamlrl.learners.base import LearnerState
from mamlrl.messages import say
from mamlrl.policies.values import with_own_predictor
from mamlrl.run_folder.checkpoints import (
    BEST,
    CheckpointError,
    config_of,
    list_checkpoints,
    read_checkpoint,
    read_content,
    restore,
)
from mamlrl.run_folder.folder import CHECKPOINTS
from mamlrl.structs import MetaParams

SHIPPED = "checkpoint.pt"
"""Name of a checkpoint that lies in a folder of its own, without a run."""


class Trained(NamedTuple):
    """One checkpoint and the settings in it."""

    path: Path
    config: Config
    spaces: Mapping[str, Any] | None = None
    """of the policy, as plain data (`run_folder.spaces`); None in a checkpoint of an early version"""

    def meta(self, state_like: LearnerState) -> MetaParams:
        """What was meta-learned.

        Args:
            state_like: state of the learner as this version makes it.

        Raises:
            CheckpointError: the parameters do not fit it.
        """
        return self.state(state_like).meta

    def state(self, state_like: LearnerState) -> LearnerState:
        """All that the learner carries from one meta-iteration to the next; see `meta`."""
        return read_checkpoint(self.path, state_like).progress.state


def read_trained(path: Path) -> Trained:
    """A checkpoint file with its settings, on the CPU.

    Raises:
        CheckpointError: it cannot be read, or its settings are not of this version.
    """
    content = read_content(path)
    return Trained(path, dataclasses.replace(config_of(content, path), device="cpu"), content.get("spaces"))


def started_from(path: Path, config: Config, state: LearnerState) -> LearnerState:
    """The first state of a learner, with what another run has meta-learned in place of random parameters.

    The initialisation is taken from any learner; step sizes from one that learns as many sets of them. Predictions of
    other numbers, which acting does not need, begin at zero.

    Args:
        path: run folder or checkpoint.
        config: of the new run.
        state: of its learner before it is trained.

    Raises:
        ConfigError: there is no checkpoint, or there are several.
        CheckpointError: it cannot be read, or has other parameters.
    """
    found = find_checkpoints(path)
    if len(found) > 1:
        policies = f"{len(found)} policies"
        raise ConfigError(f"start_from is {cut(str(path))}, which holds {policies}; it must be one, such as {found[0]}")
    content, (init, sizes) = read_content(found[0]), state.meta
    try:
        saved = content["state"]["meta"]
        same = config_of(content, found[0]).sampling.predicted_infos == config.sampling.predicted_infos
        init = restore(saved["init"] if same else with_own_predictor(saved["init"], init), init, "init")
        if len(saved["step_sizes"]) == len(sizes):
            sizes = restore(saved["step_sizes"], sizes, "step_sizes")
    # RuntimeError is that of tensors that are no plain ones
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"start_from: {found[0]} has no policy of this run: {said(error)}") from error
    return state._replace(meta=MetaParams(init, sizes))


def find_checkpoints(path: Path) -> list[Path]:
    """The checkpoint to use of a run, or of every run below a folder.

    Args:
        path: a checkpoint, a run folder, or a folder that holds such; of a run its best checkpoint is taken.

    Raises:
        ConfigError: there is none, or the file is something else.
    """
    if path.is_file():
        if path.suffix != ".pt" and not zipfile.is_zipfile(path):
            raise ConfigError(f"{cut(str(path))}: no checkpoint; it must be a run folder or a checkpoint file")
        return [path]
    if not path.exists():
        raise ConfigError(f"{cut(str(path))}: no such file or folder")
    found = [_of_run(folder) for folder in sorted(path.rglob(CHECKPOINTS)) if folder.is_dir()]
    checkpoints = [checkpoint for checkpoint in found if checkpoint] + sorted(path.rglob(SHIPPED))
    if path.name == CHECKPOINTS and (checkpoint := _of_run(path)):
        checkpoints.append(checkpoint)
    if not checkpoints:
        raise ConfigError(f"{cut(str(path))}: holds no checkpoint; it must be a run folder or a checkpoint file")
    return checkpoints


def _of_run(folder: Path) -> Path | None:
    """The best checkpoint in a run's folder of checkpoints, or the last one where none was the best yet.

    In place of one that cannot be read the next one is taken, and a line says so.
    """
    best = folder / BEST
    candidates = ([best] if best.exists() else []) + list_checkpoints(folder)
    problems = []
    for path in candidates:
        try:
            read_trained(path)
        except CheckpointError as error:
            problems.append(error)
            continue
        for problem in problems:
            say(f"note: {problem}; {path.name} is taken in its place")
        return path
    return next(iter(candidates), None)  # whoever reads it is told what is wrong
