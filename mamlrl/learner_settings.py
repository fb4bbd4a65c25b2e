"""A learner's own settings, from the plain values in `learner_settings` to the dataclass that the learner declares."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from mamlrl.config import Config
from mamlrl.config.files import make_section
from mamlrl.errors import ConfigError, UserError, described, suggestion
from mamlrl.learners import LEARNERS, LearnerRow, find_learner


def own_settings(config: Config, row: LearnerRow) -> Any:
    """The learner's own settings, an instance of `row.settings`; fields that are left out take their defaults.

    Raises:
        ConfigError: the learner does not read one of the settings given, a value is wrong, or a user's class of
            settings cannot be made.
    """
    try:
        fields = {field.name: field for field in dataclasses.fields(row.settings)}
        for name in config.learner_settings:
            if name not in fields:
                raise _unread(name, config.learner, list(fields))
        for name, field in fields.items():
            if name not in config.learner_settings and _has_no_default(field):
                raise ConfigError(f"learner_settings.{name} is missing; learner {config.learner} has no default for it")
        return row.complete(make_section(row.settings, config.learner_settings, "learner_settings"), config)
    except UserError:
        raise
    except Exception as error:  # whatever a user's class raises
        raise ConfigError(f"learner_settings of {config.learner} cannot be made: {described(error)}") from error


def resolved(config: Config, row: LearnerRow, own: Any) -> Config:
    """The settings as a run stores them: nothing in them is left for its learner to choose.

    A later version, whose learner chooses otherwise, goes on with what the run began with.

    Args:
        config: the settings.
        row: of the learner.
        own: its own settings.

    Raises:
        ConfigError: the learner cannot take the outer step that is configured.
    """
    return dataclasses.replace(row.resolved(config), learner_settings=dataclasses.asdict(own))


def completed(config: Config, outside: bool = False) -> Config:
    """The settings of a run, `resolved`, also where a setting of its learner is newer than the run.

    Where there is no such learner here, or it refuses them, they stay as they are: whoever makes it will say so.

    Args:
        config: settings as they were stored.
        outside: whether a learner from outside the package, which they name, may be imported for it. To read a run is
            not to run its code: only who goes on to use the learner says so.
    """
    if ":" in config.learner and not outside:
        return config
    with contextlib.suppress(ConfigError):
        row = find_learner(config.learner)
        return resolved(config, row, own_settings(config, row))
    return config


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _unread(name: str, learner: str, fields: list[str]) -> ConfigError:
    """The error of a setting that a learner does not read: it says which learners do."""
    readers = [
        other for other, row in LEARNERS.items() if name in (field.name for field in dataclasses.fields(row.settings))
    ]
    theirs = f"; learner {', '.join(readers)} reads it" if readers else ""
    ours = f"; it reads {', '.join(fields)}" if fields else ""
    hint = suggestion(name, fields) or ours
    return ConfigError(f"learner_settings.{name} is not read by learner {learner}{theirs}{hint}")
