"""YAML from a user, read so that no text can do harm: its size is known before anything is built from it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from mamlrl.errors import ConfigError, cut

MAX_DEPTH = 40
"""Mappings and lists within each other."""
MAX_VALUES = 100_000
"""Values of a text, aliases written out."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # the C one where there is one
    """YAML's own types but for dates; numbers as in YAML 1.2: 1e-5 is one, and 010 and 1:30 are none."""


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that the loader would take for a number."""


NUMBERS = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9_]*)$"),
    "float": re.compile(r"([-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern in NUMBERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, list("-+.0123456789"))
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, list("-+.0123456789"))


def dump_yaml(value: Any) -> str:
    """The text that `parse_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text.

    Args:
        text: one document.
        source: where it comes from, for messages.

    Raises:
        ConfigError: it is no YAML, has a key twice, or would grow beyond all measure.
    """
    try:
        _check(text, source)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{_at(source, mark)}: not valid YAML ({cut(' '.join(str(problem).split()))})") from error
    except (ValueError, TypeError, RecursionError) as error:  # such as an integer of thousands of digits
        raise ConfigError(f"{source}: not valid YAML ({cut(str(error))})") from error


class _Open:
    """A mapping or list that has begun and not yet ended."""

    def __init__(self, name: str, anchor: str | None, is_mapping: bool):
        self.name, self.anchor, self.is_mapping = name, anchor, is_mapping
        self.children = 0
        self.values = 1
        self.keys: set[str] = set()
        self.key = ""

    @property
    def expects_key(self) -> bool:
        return self.is_mapping and self.children % 2 == 0


def _check(text: str, source: str) -> None:
    """Go through the text without building anything: nesting, aliases written out, keys.

    Raises:
        ConfigError: a limit is passed, a mapping has a key twice, or an alias lies within what it stands for.
    """
    open_nodes = [_Open("", None, is_mapping=False)]
    sizes: dict[str, int | None] = {}  # values behind an anchor; None while it has not ended

    def add(values: int, mark: yaml.Mark) -> None:
        parent = open_nodes[-1]
        parent.children += 1
        parent.values += values
        if parent.values > MAX_VALUES:
            raise ConfigError(f"{_at(source, mark)}: more than {MAX_VALUES} values, aliases written out")

    for event in yaml.parse(text, _Loader):
        mark, parent = event.start_mark, open_nodes[-1]
        if isinstance(event, yaml.CollectionStartEvent):
            if len(open_nodes) > MAX_DEPTH:
                raise ConfigError(f"{_at(source, mark)}: nested more than {MAX_DEPTH} deep")
            if event.anchor:
                sizes[event.anchor] = None
            name = f"{parent.name}.{parent.key}" if parent.name else parent.key
            open_nodes.append(_Open(name, event.anchor, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = open_nodes.pop()
            if ended.anchor:
                sizes[ended.anchor] = ended.values
            add(ended.values, mark)
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)  # of an unknown one the parser complains
            if size is None:
                raise ConfigError(f"{_at(source, mark)}: *{event.anchor} lies within what it stands for")
            add(size, mark)
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                sizes[event.anchor] = 1
            if parent.expects_key:
                _add_key(parent, event, source)
            add(1, mark)


def _add_key(mapping: _Open, event: yaml.ScalarEvent, source: str) -> None:
    if event.value in mapping.keys and event.value != "<<":
        name = f"{mapping.name}.{event.value}" if mapping.name else event.value
        raise ConfigError(f"{_at(source, event.start_mark)}: the key {cut(name)} stands here for the second time")
    mapping.keys.add(event.value)
    mapping.key = event.value


def _at(source: str, mark: yaml.Mark | None) -> str:
    return f"{source}, line {mark.line + 1}" if mark else source
