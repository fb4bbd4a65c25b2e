"""Adapted policies and predictors as files of plain tensors and numbers."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import Any

from gymnasium import spaces

from mamlrl.config import Config
from mamlrl.config.files import to_settings
from mamlrl.errors import UserError, said
from mamlrl.run_folder.checkpoints import ADAPTED, CheckpointError, plain, write_archive
from mamlrl.run_folder.spaces import from_plain, of_policy
from mamlrl.structs import MetaParams, Params


def write_adapted(
    path: str | PathLike[str],
    overwrite: bool,
    config: Config,
    seen_and_given: tuple[spaces.Space, spaces.Space],
    learned: tuple[MetaParams, Params],
    **rest: Any,
) -> None:
    """Write what `mamlrl.load_adapted` reads.

    Args:
        path: the file.
        overwrite: whether it may take the place of a file that is there.
        config: settings of the training.
        seen_and_given: spaces of observations and actions, or of inputs and targets.
        learned: what was meta-learned, and the adapted parameters.
        **rest: what else there is to be kept, plain.

    Raises:
        UserError: there is a file already, or not the folder that it is to be in.
        OSError: the file cannot be written.
    """
    if not Path(path).parent.is_dir():
        raise UserError(f"{os.fspath(path)}: there is no folder {Path(path).parent}")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{os.fspath(path)} is there already; overwrite=True takes its place")
    meta, params = learned
    content = {
        "format": ADAPTED,
        "config": to_settings(config),
        "spaces": of_policy(*seen_and_given),
        "meta": plain(meta),
        "params": plain(params),
    }
    write_archive(Path(path), {**content, **rest})


def adapted_params(saved: Params, start: Params, meta: MetaParams) -> Params:
    """Parameters that fit those before adaptation, stacked for one task or shared.

    Those that are not meta-learned may be of any size but in the last dimension: such as examples that are remembered.

    Raises:
        ValueError: one has another shape.
    """
    params = {name: saved[name].to(leaf.dtype) for name, leaf in start.items()}
    for name, leaf in params.items():
        wanted = start[name].shape
        alike = leaf.shape in (wanted, (1, *wanted))
        if name not in meta.init:
            alike = leaf.dim() - len(wanted) in (0, 1) and leaf.shape[-1:] == wanted[-1:]
        if not alike:
            raise ValueError(f"{name} is {list(leaf.shape)}, here it is {list(wanted)}")
    return params


def read_spaces(saved: Any, path: Path) -> tuple[spaces.Space, spaces.Space]:
    """The spaces in a checkpoint or file.

    Raises:
        CheckpointError: they cannot be read.
    """
    try:
        by_name = dict(saved)
        return from_plain(by_name["observation"]), from_plain(by_name["action"])
    except Exception as error:  # whatever content of another kind leads to
        raise CheckpointError(f"{path} is damaged: {said(error)}") from error
