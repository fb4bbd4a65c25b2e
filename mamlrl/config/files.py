"""Settings as plain data: YAML files and shipped configurations, and the way from there to a checked `Config`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import stat
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mamlrl.config import Config
from mamlrl.config.yaml_text import dump_yaml, parse_yaml
from mamlrl.errors import ConfigError, cut, shown, suggestion

CONFIG_FILE = "config.yaml"
"""Name of the complete settings in a run folder."""
MAX_BYTES = 2**20
"""Size of a file of settings."""
LEARNERS_KEY = "learners"
"""Key of a file of settings under which a learner's name has the settings that are others for it."""
Settings = dict[str, Any]
"""Settings as plain nested dicts, as in YAML; usually only some of the fields."""
MOST_TOLD = 8
"""Settings that a message lists."""
EXAMPLES = {int: "[100,100]", float: "[1,0.1]", str: "[success]"}
"""A list of each type."""


field_types = functools.cache(get_type_hints)
"""Name and type of every field of a section, a dataclass."""


def shipped_names() -> list[str]:
    """Names of the shipped configurations."""
    files = resources.files("mamlrl.configs").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def shipped_settings(name: str, learner: str | None = None) -> Settings:
    """A shipped configuration by its short name, as it is for a learner.

    Raises:
        ConfigError: there is none of this name.
    """
    names = shipped_names()
    if name not in names:
        families = importlib.import_module("mamlrl.envs").FAMILIES  # only now: --help does not wait for Gymnasium
        ids = {_spelled(env): env for env, *_ in families}
        if env := ids.get(_spelled(name)):
            raise ConfigError(f"--env {cut(name)}: unknown name; did you mean {env}?")
        if hint := suggestion(name, names, count=3):
            raise ConfigError(f"--env {cut(name)}: unknown name{hint}")
        simple = [each for each in names if not any(each.startswith(f"{other}-") for other in names)]
        raise ConfigError(
            f"--env {cut(name)}: unknown name. Known names are {', '.join(simple)}, and variants of these such as "
            "cheetah-vel-paper; families without a configuration go by their ids, such as mamlrl/HopperVel-v0, and any "
            "other environment is given as module:Id-v0"
        )
    text = resources.files("mamlrl.configs").joinpath(f"{name}.yaml").read_text()
    return _parse(text, f"configs/{name}.yaml", learner)


def _spelled(name: str) -> str:
    """A name or an id of ours, however it is spelled."""
    return name.lower().removeprefix("mamlrl/").removesuffix("-v0").replace("-", "").replace("_", "")


@functools.cache
def shipped_families() -> dict[str, str]:
    """Name of the shipped configuration that an environment's id stands for: the simplest one of that family."""
    names = sorted(shipped_names(), key=len, reverse=True)
    return {shipped_settings(name)["env"]: name for name in names}  # the shortest name, without -paper, is the last


def load_settings(path: Path, learner: str | None = None) -> Settings:
    """Settings of a YAML file, as they are for a learner, or else for the one that it names.

    Raises:
        ConfigError: the file cannot be read, is no YAML mapping, or has an unknown key.
    """
    return _parse(_text_of(path), cut(str(path)), learner)


def learners_named(path: Path) -> tuple[str, ...]:
    """For which learners a file that `load_settings` can read has settings of their own."""
    return tuple(map(str, parse_yaml(_text_of(path), cut(str(path))).get(LEARNERS_KEY, ())))


def _text_of(path: Path) -> str:
    """The text of a file of settings.

    Raises:
        ConfigError: it cannot be read.
    """
    name = cut(str(path))
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{name}: not a file")  # a pipe or a device might never end
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{name}: larger than {MAX_BYTES} bytes; it must be a YAML file of settings")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not text in UTF-8; it must be a YAML file of settings") from error
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror}") from error


def _parse(text: str, source: str, learner: str | None) -> Settings:
    """Settings in a text; those under `learners`, by name of a learner, go over the others for that one."""
    settings = parse_yaml(text, source)
    if not isinstance(settings, dict):
        raise ConfigError(f"{source} holds {shown(settings)}; it must hold a mapping of settings")
    of_learners = settings.pop(LEARNERS_KEY, {})
    if not isinstance(of_learners, dict):
        raise ConfigError(f"{source}: {LEARNERS_KEY} is {shown(of_learners)}; it must map learners to their settings")
    for name, theirs in of_learners.items():
        if not isinstance(theirs, dict):
            raise ConfigError(f"{source}: {LEARNERS_KEY}.{name} is {shown(theirs)}; it must be a mapping of settings")
        _check_keys(theirs, Config, source, f"{LEARNERS_KEY}.{name}.")
    settings = upgraded(settings)
    _check_keys(settings, Config, source)
    return merge(settings, of_learners.get(learner or settings.get("learner", "maml"), {}))


def _check_keys(settings: Mapping[str, Any], section: Any, source: str, prefix: str = "") -> None:
    """Every key is a field of the section, every section a mapping, and no value is missing."""
    hints = field_types(section)
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if key not in hints:
            candidates = [f"{prefix}{hint}" for hint in hints]
            raise ConfigError(f"{source}: unknown key {cut(name)}{suggestion(name, candidates)}")
        if value is None:
            raise ConfigError(f"{source}: {name} has no value; it must be {describe_type(hints[key])}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {name} is {shown(value)}; it must be a mapping of settings")
            _check_keys(value, hints[key], source, f"{name}.")


def all_fields(section: Any = Config, prefix: str = "") -> dict[str, Any]:
    """Dotted name and type of every field."""
    fields: dict[str, Any] = {}
    for key, hint in field_types(section).items():
        nested = dataclasses.is_dataclass(hint)
        fields |= all_fields(hint, f"{prefix}{key}.") if nested else {f"{prefix}{key}": hint}
    return fields


@functools.cache
def fields_marked(mark: str, value: object, section: Any = Config, prefix: str = "") -> frozenset[str]:
    """Dotted names of the fields that carry a mark of `config.schema` with this value, or whose section does."""
    marked: set[str] = set()
    for entry in dataclasses.fields(section):
        hint, name = field_types(section)[entry.name], f"{prefix}{entry.name}"
        if entry.metadata.get(mark) is value:
            marked |= all_fields(hint, f"{name}.").keys() if dataclasses.is_dataclass(hint) else {name}
        elif dataclasses.is_dataclass(hint):
            marked |= fields_marked(mark, value, hint, f"{name}.")
    return frozenset(marked)


def describe_type(hint: Any) -> str:
    """A type in words."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        first, last = get_args(hint)[0], get_args(hint)[-1]
        if last is not Ellipsis:
            kinds = ", ".join(describe_type(one) for one in get_args(hint))
            return f"a list of {len(get_args(hint))}: {kinds}"
        return f"a list such as {EXAMPLES.get(first, '[...]')}{', or one name' * (first is str)}"
    if get_origin(hint) is dict or dataclasses.is_dataclass(hint):
        return "a mapping of settings"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
    return words.get(hint) or " or ".join(map(describe_type, get_args(hint))) or f"of type {hint}"


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
    return typed(settings, Config)


def make_section(section: type, settings: Settings, name: str) -> Any:
    """A settings dataclass that is no part of `Config`, from plain settings whose keys are known to be its fields.

    Args:
        section: the dataclass.
        settings: values of some of its fields.
        name: dotted name of the section, for messages.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """
    return typed(settings, section, name)


def typed(value: Any, hint: Any, name: str = "") -> Any:
    """A plain value as the type that a field declares: integers become numbers, lists tuples, mappings dataclasses.

    Fields have the types of `mamlrl.config.schema`; a learner's own settings may also have Any and unions.

    Raises:
        ConfigError: it is of another type.
    """
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        hints = field_types(hint)
        prefix = f"{name}." if name else ""
        return hint(**{key: typed(item, hints[key], f"{prefix}{key}") for key, item in value.items()})  # type: ignore
    if hint == tuple[str, ...] and isinstance(value, str):  # one alone needs no brackets
        return (value,)
    if get_origin(hint) is tuple and isinstance(value, list | tuple) and _has_length(hint, len(value)):
        hints = get_args(hint)
        each = [hints[0]] * len(value) if hints[-1] is Ellipsis else hints
        pairs = enumerate(zip(value, each, strict=True))
        return tuple(typed(item, one, f"{name}[{index}]") for index, (item, one) in pairs)
    if get_origin(hint) is dict and isinstance(value, Mapping):
        return dict(value)
    if get_origin(hint) is Literal and any(value is choice or value == choice for choice in get_args(hint)):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return float(value)
    for member in get_args(hint) if isinstance(hint, UnionType) else ():
        with contextlib.suppress(ConfigError):
            return typed(value, member, name)
    if hint is Any or (hint in (int, float, bool, str, NoneType) and type(value) is hint):
        return value
    raise ConfigError(f"{name} is {shown(value)}; it must be {describe_type(hint)}")


def _has_length(hint: Any, length: int) -> bool:
    """Whether a tuple of this type can have so many entries."""
    return get_args(hint)[-1] is Ellipsis or len(get_args(hint)) == length


def upgraded(settings: Settings) -> Settings:
    """Settings as version 0.1.0 wrote them, in today's form; others as they are."""
    adaptation, own = settings.get("adaptation"), settings.get("learner_settings", {})
    if not isinstance(adaptation, dict) or not isinstance(own, dict):
        return settings  # which will be refused
    if not {"first_order", "context_size"} & adaptation.keys():
        return settings
    adaptation = dict(adaptation)
    first_order, size = adaptation.pop("first_order", False), adaptation.pop("context_size", None)
    learner, own = settings.get("learner", "maml"), dict(own)
    if learner == "context" and size is not None:
        own.setdefault("size", size)
    if learner == "maml" and first_order:
        own.setdefault("first_order", first_order)
    return {**settings, "adaptation": adaptation, **({"learner_settings": own} if own else {})}


def to_settings(config: Config) -> Settings:
    """All settings of a config as plain nested dicts and lists, the inverse of `make_config`."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(dataclasses.asdict(config))


def flat(settings: Settings, prefix: str = "") -> Settings:
    """Nested settings by dotted name."""
    values: Settings = {}
    for name, value in settings.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


def flat_settings(config: Config) -> dict[str, Any]:
    """All settings of a config by dotted name."""
    return flat(to_settings(config))


def is_written_out(settings: Settings) -> bool:
    """Whether a file holds the settings of every outer step, taken or not, as the config.yaml of a run does."""
    outers = [name for name in get_args(field_types(Config)["outer"]) if name in field_types(Config)]
    return {"outer", *outers} <= settings.keys()


def to_yaml(config: Config) -> str:
    """All settings of a config as YAML."""
    return dump_yaml(to_settings(config))


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


FORMER_DEFAULTS: dict[str, Any] = {"environment.metrics": ["success:max"]}
"""Of settings whose defaults have changed: runs from before hold them, though nobody gave them."""


def check_read(config: Config, data: str) -> None:
    """No setting has a value of its own that the kind of data of a run does not read.

    Args:
        config: the settings.
        data: "rollouts" or "examples".

    Raises:
        ConfigError: names one that has.
    """
    others = {"rollouts": "examples", "examples": "rollouts"}[data]
    flat, defaults = flat_settings(config), flat_settings(Config())
    for name in sorted(fields_marked("data", others)):
        if flat[name] not in (defaults[name], FORMER_DEFAULTS.get(name, defaults[name])):
            kind = "is an environment" if data == "rollouts" else "has examples in place of an environment"
            raise ConfigError(f"{name} is {shown(flat[name])}, but {cut(config.env)} {kind} and does not read it")


def check_unchanged(settings: Settings, new_settings: Settings) -> None:
    """A resumed run has the settings that it began with, but for those that say how it runs.

    Raises:
        ConfigError: names the settings that differ, the first of many.
    """
    changed = differences(settings, new_settings)
    changeable = fields_marked("may change", True)
    forbidden = {name: values for name, values in changed.items() if name not in changeable}
    if forbidden:
        told = [f"{name} was {shown(old)} and is now {shown(new)}" for name, (old, new) in forbidden.items()]
        more = [f"{len(told) - MOST_TOLD} more differ"] if len(told) > MOST_TOLD else []
        raise ConfigError(f"a resumed run keeps its settings, but {'; '.join(told[:MOST_TOLD] + more)}")
