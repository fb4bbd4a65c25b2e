"""What a training is asked to do, by a command line or from Python."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mamlrl.config.schema import Config


class Command(NamedTuple):
    """A run to start or to resume."""

    config: Config
    out: Path | None
    """run folder, None for the default one"""
    resume: Path | None
    """run folder to go on with"""
    notes: tuple[str, ...] = ()
    """what the user should know about how the settings came about"""
    chosen: frozenset[str] = frozenset()
    """dotted names of the settings that the user gave, by flags or in a file that does not hold them all"""
    learners: tuple[str, ...] = ()
    """for which the file of settings holds others, known or not"""
