"""From the command line and YAML files to a checked `Config`. Imports nothing heavy, so that --help is quick."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, get_loader, set_parsing_settings

from mamlrl.config import Config
from mamlrl.errors import ConfigError, UserError

CONFIG_FILE = "config.yaml"
"""Name of the complete settings in a run folder."""
FREE_FORM = "environment.kwargs"
"""The field whose keys are the environment's own."""

CHANGEABLE = {"iterations", "device", "threads", "video.every", "checkpoint.every", "checkpoint.keep"}
"""Settings that a resumed run may change."""
RUN_FLAGS = {
    "config": ("FILE", "YAML file of settings; they go over those of a short name, and flags over them."),
    "out": ("DIR", "Run folder in place of runs/<name>/<learner>/seed-<seed>-<time>."),
    "resume": ("RUN_DIR", "Run folder to go on with; --iterations may extend the run."),
}
"""Flags that are no settings: value and help."""

Settings = dict[str, Any]
"""Settings as plain nested dicts, as in YAML; usually only some of the fields."""


class Command(NamedTuple):
    """What a command line asks for."""

    config: Config
    out: Path | None
    """run folder, None for the default one"""
    resume: Path | None
    """run folder to go on with"""


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
            f"--env {name}: unknown name{_suggestion(name, names, count=3)}; known names are {', '.join(names)}; "
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
    _check_keys(settings, Config, source)
    return settings


def _check_keys(settings: Mapping[str, Any], section: Any, source: str, prefix: str = "") -> None:
    """Every key is a field of the section, every section a mapping, and no value is missing."""
    hints = get_type_hints(section)
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if key not in hints:
            candidates = [f"{prefix}{hint}" for hint in hints]
            raise ConfigError(f"{source}: unknown key {name}{_suggestion(name, candidates)}")
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


def _suggestion(name: str, candidates: Iterable[str], count: int = 1) -> str:
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


def build_parser() -> ArgumentParser:
    """The parser of `python -m mamlrl.train`: a flag for every field of `Config`, and the run's own."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="python -m mamlrl.train",
        description="Meta-train a policy on a family of tasks.",
        epilog=f"Short names for --env: {', '.join(shipped_names())}.",
        usage="%(prog)s --env NAME|module:Id [--config FILE] [--out DIR] [--resume RUN_DIR] [--FIELD VALUE ...]",
        exit_on_error=False,
        allow_abbrev=False,
    )
    run = parser.add_argument_group("The run")
    for flag, (metavar, help_text) in RUN_FLAGS.items():
        run.add_argument(f"--{flag}", type=str, metavar=metavar, help=help_text)
    parser.add_class_arguments(Config, as_group=False)
    parser.set_defaults({"env": None})  # there is no default family: --env, --config or --resume names it
    return parser


def parse_command(argv: Sequence[str]) -> Command:
    """The command line, checked: every value has its type and range, every key exists.

    Later settings go over earlier ones: the shipped configuration of a short name, --config, flags. With --resume
    the run's own settings take the place of the shipped configuration.

    Raises:
        ConfigError: something on the command line or in a file is wrong.
        SystemExit: after --help.
    """
    parser = build_parser()
    flags = _parse_flags(parser, argv)
    config_file, out, resume = (_take_path(flags, name) for name in RUN_FLAGS)
    if out is not None and resume is not None:
        raise ConfigError("--out and --resume exclude each other: a resumed run stays in its folder")
    given = merge(load_settings(config_file) if config_file else {}, flags)
    base, given = _layers(given, resume)
    config = make_config(merge(base, given))
    if resume is not None:
        check_unchanged(to_settings(make_config(base)), to_settings(config))
    return Command(config, out, resume)


def _parse_flags(parser: ArgumentParser, argv: Sequence[str]) -> Settings:
    """Only what the flags say, without defaults."""
    known = [f"--{name}" for name in ("help", *RUN_FLAGS, *get_type_hints(Config), *all_fields())]
    for argument in argv:
        name = argument.partition("=")[0]
        if name.startswith("--") and name not in known and not name.startswith(f"--{FREE_FORM}."):
            raise ConfigError(f"unknown flag {name}{_suggestion(name, known)}")
    try:
        return parser.parse_args(list(argv), defaults=False).clone(with_meta=False).as_dict()
    except ArgumentError as error:
        raise _clearer(error) from error


def _take_path(flags: Settings, name: str) -> Path | None:
    value = flags.pop(name, None)
    return None if value is None else Path(value)


def _layers(given: Settings, resume: Path | None) -> tuple[Settings, Settings]:
    """What the given settings lie over, and the given settings with the short name of `env` resolved."""
    base: Settings = {}
    if resume is not None:
        if not (resume / CONFIG_FILE).is_file():
            raise ConfigError(f"--resume {resume}: not a run folder (it has no {CONFIG_FILE})")
        base = load_settings(resume / CONFIG_FILE)
    elif "env" not in given:
        raise ConfigError(f"--env is missing; known names are {', '.join(shipped_names())}; or give module:Id-v0")
    env = given.get("env")
    if isinstance(env, str) and ":" not in env and "/" not in env:
        shipped = {"name": env, **shipped_settings(env)}
        given = {"name": env, **given, "env": shipped["env"]}
        base = shipped if resume is None else base
    return base, given


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
    _check_keys(settings, Config, "settings")
    try:
        return Config(**_typed(settings))
    except ArgumentError as error:
        raise _clearer(error) from error


def _typed(settings: Settings) -> dict[str, Any]:
    """Fields of `Config` with values of the declared types."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config, as_group=False)
    return dict(vars(parser.instantiate(parser.parse_object(settings))))


def _clearer(error: ArgumentError) -> ConfigError:
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


class OptionParser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong."""
        raise ConfigError(message)


def run_command(action: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Run a command on its arguments (None: the process's); what a user can put right becomes one line on stderr.

    Returns:
        The exit code: what the action returns, 2 when the command or a setting is wrong, 1 when something failed,
        128 + the signal's number after Ctrl-C and when nobody reads the output any more, as of other programs.
    """
    if os.getcwd() not in sys.path:  # my_module:... environments are found from a console script too
        sys.path.insert(0, os.getcwd())
    # Torch's threads spin while they wait for each other, on Linux for milliseconds. Where other programs have the
    # cores that costs many times the work itself. It must be said before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        try:
            return action(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        return 130


def _fail(message: str, exit_code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return exit_code
