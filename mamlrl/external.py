"""Parts that users bring from outside of the package, named as ``module:Name``."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from mamlrl.errors import ConfigError, cut, described, shown, suggestion


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
        raise ConfigError(f"{setting} is {shown(name)}, but {cut(str(error))}") from error
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        failed = f"importing {shown(module)} failed: {cut(described(error))}"
        raise ConfigError(f"{setting} is {shown(name)}, but {failed}") from error


def unknown_name(setting: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error of a name that is in no table."""
    known = list(known)
    wanted = f"one of {', '.join(known)}, or module:Name"
    return ConfigError(f"{setting} is {shown(name)}; it must be {wanted}{suggestion(name, known)}")
