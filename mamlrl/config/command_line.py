"""From the command line of a training to a checked `Config`. Imports nothing heavy, so that --help is quick."""

from __future__ import annotations

import dataclasses
import functools
import json
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_origin

import docstring_parser

from mamlrl.config import Config
from mamlrl.config.command import Command
from mamlrl.config.files import (
    CONFIG_FILE,
    Settings,
    all_fields,
    check_unchanged,
    describe_type,
    field_types,
    flat,
    is_written_out,
    learners_named,
    load_settings,
    make_config,
    merge,
    shipped_families,
    shipped_names,
    shipped_settings,
    to_settings,
    to_yaml,
)
from mamlrl.config.yaml_text import parse_yaml
from mamlrl.errors import ConfigError, cut, suggestion
from mamlrl.options import OptionParser, usable_path

RUN_FLAGS = {
    "config": ("FILE", "YAML file of settings; they go over those of a short name, and flags over them."),
    "out": ("DIR", "Run folder in place of runs/<name>/<learner>/seed-<seed>-<time>."),
    "resume": (
        "RUN_DIR|auto",
        "Run folder to go on with; --iterations may extend the run. auto goes on with --out DIR if it holds a run, and "
        "else begins one there.",
    ),
}
"""Flags that are no settings: value and help."""
PRINT = "print_config"
AUTO = Path("auto")
"""In place of a run folder to resume: start anew or resume, whichever fits."""
METAVARS = {int: "N", float: "X", bool: "true|false", str: "TEXT", Literal: "WORD", tuple: "[...]", dict: "{...}"}
"""What stands for a value in the help."""


SettingsOf = Callable[[str], type]
"""From a learner's name to the dataclass of its own settings. It imports the learner, which takes seconds."""


def parse_command(argv: Sequence[str], settings_of: SettingsOf | None = None) -> Command:
    """The command line, checked: every value has its type and range, every key exists.

    Later settings go over earlier ones: the shipped configuration of a short name or of a family's id, --config, flags.
    With --resume the run's own settings take the place of the shipped configuration.

    Args:
        argv: the command line.
        settings_of: with it --help shows the own settings of the learner that is named, and --print_config those of
            the one that is chosen.

    Raises:
        ConfigError: something on the command line or in a file is wrong.
        SystemExit: after --help and --print_config.
    """
    flags = _parse_flags(argv, settings_of)
    print_config = flags.pop(PRINT, False)
    config_file, out, resume = (flags.pop(name, None) for name in RUN_FLAGS)
    command = make_command(_settings(flags), config_file, out, resume)
    if print_config:
        own = _own_settings(command.config, settings_of(command.config.learner) if settings_of else None)
        print(to_yaml(dataclasses.replace(command.config, learner_settings=own)), end="")
        raise SystemExit(0)
    return command


def make_command(given: Settings, config_file: Path | None, out: Path | None, resume: Path | None) -> Command:
    """What to run, checked.

    Args:
        given: settings, as flags give them.
        config_file: settings that they go over.
        out: run folder in place of the default one.
        resume: run folder to go on with, or AUTO.

    Raises:
        ConfigError: a setting or a file is wrong.
    """
    if resume == AUTO:
        if out is None:
            raise ConfigError("--resume auto needs --out, the folder that it begins a run in or goes on with")
        out, resume = (None, out) if (out / CONFIG_FILE).is_file() else (out, None)
    if out is not None and resume is not None:
        raise ConfigError("--out and --resume exclude each other: a resumed run stays in its folder")
    named = "env" in given
    learner = _text(given.get("learner"))
    in_file = load_settings(config_file, learner) if config_file else {}
    by_hand = given if is_written_out(in_file) else merge(in_file, given)
    base, given, notes = _layers(merge(in_file, given), resume, named)
    config = make_config(merge(base, given))
    if resume is not None:
        check_unchanged(to_settings(make_config(base)), to_settings(config))
    learners = learners_named(config_file) if config_file else ()
    return Command(config, out, resume, notes, frozenset(flat(by_hand)), learners)


def _own_settings(config: Config, section: type | None) -> Settings:
    """A learner's own settings: the defaults of their dataclass, and over them what is given."""
    defaults = {}
    for field in dataclasses.fields(section) if section else ():
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    return {**defaults, **config.learner_settings}


def build_parser(env: str = "", own: type | None = None) -> OptionParser:
    """The parser of `python -m mamlrl.train`: a flag for every field of `Config`, and the run's own.

    Args:
        env: short name or id of the family whose defaults the help shows; any other text for the general ones.
        own: dataclass of a learner's own settings, which the help shows too.
    """
    defaults = to_settings(Config()) | {"env": None}  # no family is a default
    env = _without_our_module(env)
    shipped = shipped_families().get(env, env)
    if shipped in shipped_names():
        defaults = to_settings(make_config({"name": shipped, **shipped_settings(shipped)}))
    parser = OptionParser(
        prog="python -m mamlrl.train",
        description="Meta-train a policy on a family of tasks.",
        epilog=f"Short names for --env: {', '.join(shipped_names())}. With one of them --help shows its defaults, "
        "with --learner NAME also that learner's own settings.",
        usage="%(prog)s --env NAME|module:Id [--config FILE] [--out DIR] [--resume RUN_DIR|auto] [--FIELD VALUE ...]",
        allow_abbrev=False,
    )
    run = parser.add_argument_group("The run")
    for flag, (metavar, help_text) in RUN_FLAGS.items():
        run.add_argument(f"--{flag}", type=usable_path, metavar=metavar, default=SUPPRESS, help=help_text)
    run.add_argument(
        f"--{PRINT}", action="store_true", default=SUPPRESS, help="Print all settings as YAML and do nothing else."
    )
    _add_fields(parser, Config, defaults)
    if own and dataclasses.fields(own):
        _add_fields(parser, own, _own_settings(Config(), own), "learner_settings.")
    return parser


def _add_fields(parser: OptionParser, section: type, defaults: Settings, prefix: str = "") -> None:
    """A flag for every field of a section, and a group for every section in it; the help is the docstrings."""
    title, described = _docstrings(section)
    group = parser.add_argument_group(title)
    sections = {}
    for name, hint in field_types(section).items():
        if dataclasses.is_dataclass(hint):
            sections[name] = hint
            continue
        default = "" if defaults.get(name) is None else f"; default: {_in_a_line(defaults[name])}"
        text = f"{described.get(name, '')} ({describe_type(hint)}{default})".replace("%", "%%")
        metavar = METAVARS.get(hint) or METAVARS.get(get_origin(hint), "VALUE")
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


def _parse_flags(argv: Sequence[str], settings_of: SettingsOf | None) -> dict[str, Any]:
    """Only what the flags say, by dotted name: settings as text, the run's own as paths; --help is answered.

    Raises:
        ConfigError: a flag is unknown or has no value.
        SystemExit: after --help.
    """
    words = _flags_with_values(argv)
    names = [word.partition("=")[0] for word in words]
    for name in RUN_FLAGS:
        if names.count(f"--{name}") > 1:
            raise ConfigError(f"--{name} is given twice")
    if {"-h", "--help"} & set(names):
        env, learner = (
            next((word.partition("=")[2] for word in reversed(words) if word.startswith(flag)), "")
            for flag in ("--env=", "--learner=")
        )
        build_parser(env, settings_of(learner) if settings_of and learner else None).parse_args(["--help"])
    parser = build_parser()
    for name in dict.fromkeys(names):
        if name.startswith(_free_form()):
            parser.add_argument(name, default=SUPPRESS)
    return vars(parser.parse_args(words))


def _flags_with_values(argv: Sequence[str]) -> list[str]:
    """Every flag as one word with its value, which may then begin with a minus.

    Raises:
        ConfigError: a flag is unknown.
    """
    known = [f"--{name}" for name in ("help", PRINT, *RUN_FLAGS, *all_fields())]
    without_value = ("--help", f"--{PRINT}")
    words: list[str] = []
    for word in argv:
        name = word.partition("=")[0]
        if words and words[-1] in known and words[-1] not in without_value and not word.startswith("--"):
            words[-1] += f"={word}"
        elif words and words[-1].startswith(_free_form()) and "=" not in words[-1]:
            words[-1] += f"={word}"
        elif name.startswith("--") and name not in known and not name.startswith(_free_form()):
            raise ConfigError(f"unknown flag {cut(name)}{suggestion(name, known)}")
        else:
            words.append(word)
    return words


def _free_form() -> tuple[str, ...]:
    """How flags begin whose further names are those of an environment's arguments or a learner's settings."""
    return tuple(f"--{name}." for name, hint in all_fields().items() if get_origin(hint) is dict)


def _settings(flags: dict[str, str]) -> Settings:
    """Flags as nested settings. Text is taken as it is, any other value is YAML."""
    fields = all_fields()
    settings: Settings = {}
    for name, text in flags.items():
        as_it_is = fields.get(name) is str or get_origin(fields.get(name)) is Literal
        value: Any = text if as_it_is else parse_yaml(text, f"--{name}")
        if value is None and name in fields:
            raise ConfigError(f"--{name} has no value; it must be {describe_type(fields[name])}")
        section, _, field = name.rpartition(".")
        nested: Settings = {field: value}
        for part in filter(None, reversed(section.split("."))):
            nested = {part: nested}
        settings = merge(settings, nested)
    return settings


def _text(value: Any) -> str | None:
    """A value that is text; any other is refused where its type is checked."""
    return value if isinstance(value, str) else None


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
    if isinstance(env, str):
        env = given["env"] = _without_our_module(env)
    base, notes = {}, ()
    if isinstance(env, str) and ":" not in env and "/" not in env:
        base = {"name": env, **shipped_settings(env, _text(given.get("learner")))}
        given = {"name": env, **given, "env": base["env"]}
    elif resume is None and named and isinstance(env, str) and env in shipped_families():
        name = shipped_families()[env]
        base = {"name": name, **shipped_settings(name, _text(given.get("learner")))}
        notes = (f"settings of configs/{name}.yaml, as --env {name}; --config and flags change them",)
    if resume is not None:
        base = load_settings(resume / CONFIG_FILE)
    return base, given, notes


def _without_our_module(env: str) -> str:
    """An id of ours without the module that Gymnasium would import for it: one name for one environment."""
    module, _, name = env.rpartition(":")
    return name if module in ("mamlrl", "mamlrl.envs") and name.startswith("mamlrl/") else env
