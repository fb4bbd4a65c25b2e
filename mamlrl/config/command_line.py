"""From the command line of a training to a checked `Config`. Imports nothing heavy, so that --help is quick."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_type_hints

from jsonargparse import ArgumentParser, set_parsing_settings

from mamlrl.config import Config
from mamlrl.config.files import (
    CONFIG_FILE,
    FREE_FORM,
    Settings,
    all_fields,
    check_unchanged,
    clearer,
    load_settings,
    make_config,
    merge,
    shipped_names,
    shipped_settings,
    suggestion,
    to_settings,
)
from mamlrl.errors import ConfigError

RUN_FLAGS = {
    "config": ("FILE", "YAML file of settings; they go over those of a short name, and flags over them."),
    "out": ("DIR", "Run folder in place of runs/<name>/<learner>/seed-<seed>-<time>."),
    "resume": ("RUN_DIR", "Run folder to go on with; --iterations may extend the run."),
}
"""Flags that are no settings: value and help."""


class Command(NamedTuple):
    """What a command line asks for."""

    config: Config
    out: Path | None
    """run folder, None for the default one"""
    resume: Path | None
    """run folder to go on with"""


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
        if (
            name.startswith("--")
            and name not in known
            and not name.startswith(tuple(f"--{section}." for section in FREE_FORM))
        ):
            raise ConfigError(f"unknown flag {name}{suggestion(name, known)}")
    try:
        return parser.parse_args(list(argv), defaults=False).clone(with_meta=False).as_dict()
    except ArgumentError as error:
        raise clearer(error) from error


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
