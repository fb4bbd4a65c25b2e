"""From the command line of a training to a checked `Config`. Imports nothing heavy, so that --help is quick."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_origin, get_type_hints

import docstring_parser

from mamlrl.commands import OptionParser
from mamlrl.config import Config
from mamlrl.config.files import (
    CONFIG_FILE,
    Settings,
    all_fields,
    check_unchanged,
    describe_type,
    load_settings,
    make_config,
    merge,
    shipped_families,
    shipped_names,
    shipped_settings,
    suggestion,
    to_settings,
    to_yaml,
)
from mamlrl.config.yaml_text import parse_yaml
from mamlrl.errors import ConfigError, cut, shown

RUN_FLAGS = {
    "config": ("FILE", "YAML file of settings; they go over those of a short name, and flags over them."),
    "out": ("DIR", "Run folder in place of runs/<name>/<learner>/seed-<seed>-<time>."),
    "resume": ("RUN_DIR", "Run folder to go on with; --iterations may extend the run."),
}
"""Flags that are no settings: value and help."""
PRINT = "print_config"
METAVARS = {int: "N", float: "X", bool: "true|false", str: "TEXT", Literal: "WORD", tuple: "[...]", dict: "{...}"}
"""What stands for a value in the help."""


class Command(NamedTuple):
    """What a command line asks for."""

    config: Config
    out: Path | None
    """run folder, None for the default one"""
    resume: Path | None
    """run folder to go on with"""
    notes: tuple[str, ...] = ()
    """what the user should know about how the settings came about"""


def parse_command(argv: Sequence[str]) -> Command:
    """The command line, checked: every value has its type and range, every key exists.

    Later settings go over earlier ones: the shipped configuration of a short name or of a family's id, --config, flags.
    With --resume the run's own settings take the place of the shipped configuration.

    Raises:
        ConfigError: something on the command line or in a file is wrong.
        SystemExit: after --help and --print_config.
    """
    flags = _parse_flags(argv)
    print_config = flags.pop(PRINT, False)
    config_file, out, resume = (take_path(name, flags.pop(name, None)) for name in RUN_FLAGS)
    if out is not None and resume is not None:
        raise ConfigError("--out and --resume exclude each other: a resumed run stays in its folder")
    from_flags = _settings(flags)
    given = merge(load_settings(config_file) if config_file else {}, from_flags)
    base, given, notes = _layers(given, resume, named="env" in from_flags)
    config = make_config(merge(base, given))
    if resume is not None:
        check_unchanged(to_settings(make_config(base)), to_settings(config))
    if print_config:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return Command(config, out, resume, notes)


def build_parser(env: str = "") -> OptionParser:
    """The parser of `python -m mamlrl.train`: a flag for every field of `Config`, and the run's own.

    Args:
        env: short name or id of the family whose defaults the help shows; any other text for the general ones.
    """
    shipped = shipped_families().get(env, env)
    known = shipped in shipped_names()
    defaults = to_settings(make_config(shipped_settings(shipped) | {"name": shipped}) if known else Config())
    parser = OptionParser(
        prog="python -m mamlrl.train",
        description="Meta-train a policy on a family of tasks.",
        epilog=f"Short names for --env: {', '.join(shipped_names())}. With one of them --help shows its defaults.",
        usage="%(prog)s --env NAME|module:Id [--config FILE] [--out DIR] [--resume RUN_DIR] [--FIELD VALUE ...]",
        allow_abbrev=False,
    )
    run = parser.add_argument_group("The run")
    for flag, (metavar, help_text) in RUN_FLAGS.items():
        run.add_argument(f"--{flag}", metavar=metavar, default=SUPPRESS, help=help_text)
    run.add_argument(
        f"--{PRINT}", action="store_true", default=SUPPRESS, help="Print all settings as YAML and do nothing else."
    )
    _add_fields(parser, Config, defaults if known else defaults | {"env": None})  # no family is a default
    return parser


def _add_fields(parser: OptionParser, section: type, defaults: Settings, prefix: str = "") -> None:
    """A flag for every field of a section, and a group for every section in it; the help is the docstrings."""
    title, described = _docstrings(section)
    group = parser.add_argument_group(title)
    sections = {}
    for name, hint in get_type_hints(section).items():
        if dataclasses.is_dataclass(hint):
            sections[name] = hint
            continue
        default = "" if defaults[name] is None else f"; default: {_in_a_line(defaults[name])}"
        text = f"{described[name]} ({describe_type(hint)}{default})".replace("%", "%%")
        metavar = METAVARS.get(hint) or METAVARS[get_origin(hint)]
        group.add_argument(f"--{prefix}{name}", metavar=metavar, default=SUPPRESS, help=text)
    for name, hint in sections.items():
        _add_fields(parser, hint, defaults[name], f"{prefix}{name}.")


@functools.cache
def _docstrings(section: type) -> tuple[str, dict[str, str]]:
    """First line of a class's docstring, and the docstrings beneath its fields."""
    docstring = docstring_parser.parse_from_object(section)
    described = {param.arg_name: " ".join((param.description or "").split()) for param in docstring.params}
    return (docstring.short_description or "").removesuffix("."), described


def _in_a_line(value: Any) -> str:
    """A value as it may be given on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _parse_flags(argv: Sequence[str]) -> dict[str, str]:
    """Only what the flags say, as text by dotted name.

    Raises:
        ConfigError: a flag is unknown, or has no value.
        SystemExit: after --help.
    """
    fields = all_fields()
    free_form = tuple(f"--{name}." for name, hint in fields.items() if get_origin(hint) is dict)
    known = [f"--{name}" for name in ("help", PRINT, *RUN_FLAGS, *fields)]
    words: list[str] = []  # a flag and its value in one, so that a value may begin with a minus
    takes_value = False
    for word in argv:
        name = word.partition("=")[0]
        if takes_value and not word.startswith("--"):
            words[-1] += f"={word}"
            takes_value = False
            continue
        if name.startswith("--") and name not in known and not name.startswith(free_form):
            raise ConfigError(f"unknown flag {cut(name)}{suggestion(name, known)}")
        words.append(word)
        takes_value = name.startswith("--") and name == word and name not in ("--help", f"--{PRINT}")
    names = [word.partition("=")[0] for word in words]
    for name in RUN_FLAGS:
        if names.count(f"--{name}") > 1:
            raise ConfigError(f"--{name} is given twice")
    parser = build_parser(next((word.partition("=")[2] for word in reversed(words) if word.startswith("--env=")), ""))
    for name in dict.fromkeys(names):
        if name.startswith(free_form):
            parser.add_argument(name, default=SUPPRESS)
    return vars(parser.parse_args(words))


def _settings(flags: dict[str, str]) -> Settings:
    """Flags as nested settings. Text is taken as it is, any other value is YAML."""
    fields = all_fields()
    settings: Settings = {}
    for name, text in flags.items():
        as_it_is = fields.get(name) is str or get_origin(fields.get(name)) is Literal
        value: Any = text if as_it_is else parse_yaml(text, f"--{name}")
        if value is None and name in fields:
            raise ConfigError(f"--{name} has no value; it must be {describe_type(fields[name])}")
        for part in reversed(name.split(".")):
            value = {part: value}
        settings = merge(settings, value)
    return settings


def take_path(name: str, text: str | None) -> Path | None:
    """The path that a flag gives.

    Raises:
        ConfigError: no file can have this name.
    """
    if text is None:
        return None
    problem = "" if text and text.isprintable() else "it must name a file or folder"
    try:
        Path(text).lstat()
    except ValueError:  # a zero byte, or text that is none
        problem = "it must name a file or folder"
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            problem = error.strerror
    if problem:
        raise ConfigError(f"--{name} is {shown(text)}; {problem}")
    return Path(text)


def _layers(given: Settings, resume: Path | None, named: bool) -> tuple[Settings, Settings, tuple[str, ...]]:
    """What the given settings lie over, and the given settings with the short name of `env` resolved.

    Args:
        given: settings of --config and flags.
        resume: the run that is resumed, if any.
        named: whether a flag names the environment. A file that has its id holds its settings too.

    Returns:
        Both, and what to tell the user.
    """
    if resume is not None:
        if not (resume / CONFIG_FILE).is_file():
            raise ConfigError(f"--resume {resume}: not a run folder (it has no {CONFIG_FILE})")
    elif "env" not in given:
        raise ConfigError(f"--env is missing; known names are {', '.join(shipped_names())}; or give module:Id-v0")
    env = given.get("env")
    base, notes = {}, ()
    if isinstance(env, str) and ":" not in env and "/" not in env:
        base = {"name": env, **shipped_settings(env)}
        given = {"name": env, **given, "env": base["env"]}
    elif resume is None and named and env in shipped_families():
        name = shipped_families()[env]
        base = {"name": name, **shipped_settings(name)}
        notes = (f"settings of configs/{name}.yaml, as --env {name}; --config and flags change them",)
    if resume is not None:
        base = load_settings(resume / CONFIG_FILE)
    return base, given, notes
