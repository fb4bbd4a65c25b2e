"""Settings as plain data: YAML files and shipped configurations, and the way from there to a checked `Config`."""

from __future__ import annotations

import dataclasses
import difflib
import re
from argparse import ArgumentError
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, get_loader

from mamlrl.config import Config
from mamlrl.errors import ConfigError

CONFIG_FILE = "config.yaml"
"""Name of the complete settings in a run folder."""
FREE_FORM = ("environment.kwargs", "learner_settings")
"""The fields whose keys are the environment's or the learner's own."""
CHANGEABLE = {"iterations", "device", "threads", "video.every", "checkpoint.every", "checkpoint.keep"}
"""Settings that a resumed run may change."""
Settings = dict[str, Any]
"""Settings as plain nested dicts, as in YAML; usually only some of the fields."""


def shipped_names() -> list[str]:
    """Names of the shipped configurations."""
    files = resources.files("mamlrl.configs").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def shipped_settings(name: str) -> Settings:
    """A shipped configuration by its short name.

    Raises:
        ConfigError: there is none of this name.
    """
    names = shipped_names()
    if name not in names:
        raise ConfigError(
            f"--env {name}: unknown name{suggestion(name, names, count=3)}; known names are {', '.join(names)}; "
            "any other environment is given as module:Id-v0"
        )
    text = resources.files("mamlrl.configs").joinpath(f"{name}.yaml").read_text()
    return _parse_yaml(text, f"configs/{name}.yaml")


def load_settings(path: Path) -> Settings:
    """Settings of a YAML file.

    Raises:
        ConfigError: the file cannot be read, is no YAML mapping, or has an unknown key.
    """
    try:
        return _parse_yaml(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _parse_yaml(text: str, source: str) -> Settings:
    try:
        settings = get_loader("yaml")(text)  # unlike YAML 1.1, takes 1e-5 for a number
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{source} holds {settings!r}; it must hold a mapping of settings")
    settings = upgraded(settings)
    _check_keys(settings, Config, source)
    return settings


def _check_keys(settings: Mapping[str, Any], section: Any, source: str, prefix: str = "") -> None:
    """Every key is a field of the section, every section a mapping, and no value is missing."""
    hints = get_type_hints(section)
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if key not in hints:
            candidates = [f"{prefix}{hint}" for hint in hints]
            raise ConfigError(f"{source}: unknown key {name}{suggestion(name, candidates)}")
        if value is None:
            raise ConfigError(f"{source}: {name} has no value; it must be {_describe(hints[key])}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {name} is {value!r}; it must be a mapping of settings")
            _check_keys(value, hints[key], source, f"{name}.")


def all_fields(section: Any = Config, prefix: str = "") -> dict[str, Any]:
    """Dotted name and type of every field."""
    fields: dict[str, Any] = {}
    for key, hint in get_type_hints(section).items():
        nested = dataclasses.is_dataclass(hint)
        fields |= all_fields(hint, f"{prefix}{key}.") if nested else {f"{prefix}{key}": hint}
    return fields


def suggestion(name: str, candidates: Iterable[str], count: int = 1) -> str:
    """The nearest known names as a question at the end of a message; empty where none is near."""
    nearest = difflib.get_close_matches(name, list(candidates), n=count)
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""


def _describe(hint: Any) -> str:
    """A type in words."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        return f"a list such as {'[100,100]' if get_args(hint)[0] is int else '[1,0.1]'}"
    if get_origin(hint) is dict or dataclasses.is_dataclass(hint):
        return "a mapping of settings"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[hint]


def merge(*layers: Mapping[str, Any]) -> Settings:
    """Nested dicts laid over each other, the last one on top."""
    result: Settings = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            both_nested = isinstance(value, dict) and isinstance(below, dict)
            result[key] = merge(below, value) if both_nested else value  # type: ignore[arg-type]
    return result


def make_config(settings: Settings) -> Config:
    """A `Config` from plain settings; fields that they leave out take their defaults.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or is out of range.
    """
    settings = upgraded(settings)
    _check_keys(settings, Config, "settings")
    try:
        return Config(**_typed(settings, Config))
    except ArgumentError as error:
        raise clearer(error) from error


def make_section(section: type, settings: Settings, name: str) -> Any:
    """A settings dataclass that is no part of `Config`, from plain settings whose keys are known to be its fields.

    Args:
        section: the dataclass.
        settings: values of some of its fields.
        name: dotted name of the section, for messages.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """
    try:
        return section(**_typed(settings, section))
    except ArgumentError as error:
        hints = get_type_hints(section)
        wrong = re.match(r'Parser key "(\w+)": .*Got value: ?(.*)', " ".join(str(error).split()))
        if wrong is None or wrong[1] not in hints:
            raise ConfigError(f"{name}: {' '.join(str(error).split())}") from error
        raise ConfigError(f"{name}.{wrong[1]} is {wrong[2]!r}; it must be {_describe(hints[wrong[1]])}") from error


def _typed(settings: Settings, section: type) -> dict[str, Any]:
    """Fields of a settings dataclass with values of the declared types."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(section, as_group=False)
    return dict(vars(parser.instantiate(parser.parse_object(settings))))


def upgraded(settings: Settings) -> Settings:
    """Settings as version 0.1.0 wrote them, in today's form; others as they are."""
    adaptation = settings.get("adaptation")
    if not isinstance(adaptation, dict) or not {"first_order", "context_size"} & adaptation.keys():
        return settings
    adaptation = dict(adaptation)
    first_order, size = adaptation.pop("first_order", False), adaptation.pop("context_size", None)
    learner, own = settings.get("learner", "maml"), dict(settings.get("learner_settings", {}))
    if learner == "context" and size is not None:
        own.setdefault("size", size)
    if learner == "maml" and first_order:
        own.setdefault("first_order", first_order)
    return {**settings, "adaptation": adaptation, **({"learner_settings": own} if own else {})}


def clearer(error: ArgumentError) -> ConfigError:
    """The parser's complaint as one line that names the field, the value and what would be right."""
    message = " ".join(str(error).split())
    wrong = re.match(r'Parser key "([\w.]+)": .*Got value: ?(.*)', message)
    hint = all_fields().get(wrong[1]) if wrong else None
    if wrong is None or hint is None:
        return ConfigError(message)
    return ConfigError(f"{wrong[1]} is {wrong[2]!r}; it must be {_describe(hint)}")


def to_settings(config: Config) -> Settings:
    """All settings of a config as plain nested dicts and lists, the inverse of `make_config`."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(dataclasses.asdict(config))


def flat_settings(config: Config) -> dict[str, Any]:
    """All settings of a config by dotted name."""

    def flat(settings: Settings, prefix: str = "") -> Settings:
        values: Settings = {}
        for name, value in settings.items():
            values |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return values

    return flat(to_settings(config))


def to_yaml(config: Config) -> str:
    """All settings of a config as YAML."""
    return yaml.safe_dump(to_settings(config), sort_keys=False)


def differences(settings: Settings, others: Settings, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted names of the fields in which two complete settings differ, with both values."""
    result: dict[str, tuple[Any, Any]] = {}
    for key in settings.keys() | others.keys():
        ours, theirs = settings.get(key), others.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            result |= differences(ours, theirs, f"{prefix}{key}.")
        elif ours != theirs:
            result[f"{prefix}{key}"] = (ours, theirs)
    return dict(sorted(result.items()))


def check_unchanged(settings: Settings, new_settings: Settings) -> None:
    """A resumed run has the settings that it began with, but for those in CHANGEABLE.

    Raises:
        ConfigError: names every setting that differs.
    """
    changed = differences(settings, new_settings)
    forbidden = {name: values for name, values in changed.items() if name not in CHANGEABLE}
    if forbidden:
        listed = "; ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in forbidden.items())
        raise ConfigError(f"a resumed run keeps its settings, but {listed}")
