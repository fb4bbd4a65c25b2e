"""Parts that users bring from outside of the package, named as ``module:Name``."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from mamlrl.errors import ConfigError, described, suggestion


def load_external(setting: str, name: str) -> Any:
    """What ``module:Name`` names, for a setting that takes such a name.

    Args:
        setting: dotted name of the setting, for messages.
        name: such as ``my_package.my_module:MyLearner``.

    Raises:
        ConfigError: there is no such module or name, or the module's own import fails.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError as error:
        raise ConfigError(f"{setting} is {name!r}, but {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        raise ConfigError(f"{setting} is {name!r}, but importing {module!r} failed: {described(error)}") from error


def unknown_name(setting: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error of a name that is in no table."""
    known = list(known)
    names = ", ".join(known)
    return ConfigError(f"{setting} is {name!r}; it must be one of {names}, or module:Name{suggestion(name, known)}")
