"""Runs that were written before the settings were what they are now: they go on, and are methods like new ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mamlrl.evaluation.comparison import find_entries
from mamlrl.run_folder.history import find_runs

from .conftest import Command, assert_fails, reproducible

Settings = dict[str, Any]
REPTILE = "--learner tests.cli.toy_learners:Reptile"


def rewrite(folder: str, older: Callable[[Settings], Settings], format_1: bool = False) -> None:
    """Put a run's settings, in config.yaml and in its checkpoints, into an older form."""
    config = Path(folder, "config.yaml")
    config.write_text(yaml.safe_dump(older(yaml.safe_load(config.read_text())), sort_keys=False))
    for path in Path(folder, "checkpoints").glob("*.pt"):
        content = torch.load(path, weights_only=True)
        content["config"] = older(content["config"])
        if format_1:
            params = content["state"]["meta"]["init"]
            content |= {"format": "mamlrl checkpoint 1", "state": {"params": params}}
            for newer in ("columns", "row_checksums", "spaces"):
                del content[newer]
        torch.save(content, path)


def as_version_0_1_0(settings: Settings) -> Settings:
    adaptation = settings["adaptation"] | {"first_order": False, "context_size": 10}
    return {name: value for name, value in settings.items() if name != "learner_settings"} | {"adaptation": adaptation}


def without_the_added_setting(settings: Settings) -> Settings:
    own = {name: value for name, value in settings["learner_settings"].items() if name != "added"}
    return settings | {"learner_settings": own}


def with_the_outer_step_left_open(settings: Settings) -> Settings:
    return settings | {"outer": "auto"}


older_runs = pytest.mark.parametrize(
    ("flags", "older", "format_1"),
    [
        ("--learner maml", as_version_0_1_0, True),
        (REPTILE, without_the_added_setting, False),
        ("--learner promp", with_the_outer_step_left_open, False),
        ("--learner tests.core.outside:HeadOnly", with_the_outer_step_left_open, False),
    ],
)


@older_runs
def test_a_run_from_before_a_setting_of_the_learner_goes_on(
    small_run: Command, command: Command, flags: str, older: Callable[[Settings], Settings], format_1: bool
) -> None:
    small_run("--iterations 1 --out run", flags)
    rewrite("run", older, format_1)
    outcome = command("--resume run --iterations 2")
    assert (outcome.code, outcome.err) == (0, "")
    small_run("--iterations 2 --out whole", flags)
    assert reproducible("run") == reproducible("whole")
    assert Path("run/config.yaml").read_text() == Path("whole/config.yaml").read_text()


def test_a_setting_of_the_learner_that_changed_is_still_refused(small_run: Command, command: Command) -> None:
    small_run("--iterations 1 --out run", REPTILE)
    rewrite("run", without_the_added_setting)
    outcome = command("--resume run --iterations 2 --learner_settings.added 4")
    assert_fails(outcome, 2, "learner_settings.added")


@older_runs
def test_runs_from_before_and_after_a_setting_of_the_learner_are_seeds_of_one_method(
    small_run: Command, flags: str, older: Callable[[Settings], Settings], format_1: bool
) -> None:
    small_run("--iterations 1 --out runs/first --seed 1", flags)
    rewrite("runs/first", older, format_1)
    small_run("--iterations 1 --out runs/second --seed 2", flags)
    entries = find_entries([Path("runs")])
    assert len(entries) == 2 and entries[0].method == entries[1].method == entries[0].config.learner
    first, second = find_runs([Path("runs")])
    assert first.config.learner_settings == second.config.learner_settings
    assert first.config.outer == second.config.outer


def test_a_run_of_a_learner_that_is_no_longer_there_keeps_its_settings(small_run: Command) -> None:
    small_run("--iterations 1 --out run", REPTILE)
    rewrite("run", lambda settings: settings | {"learner": "no_such_module:Learner"})
    (run,) = find_runs([Path("run")])
    assert run.config.learner_settings == {"rate": 0.5, "added": 3}
