"""Runs that were written before the settings were what they are now: they go on, and are methods like new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mamlrl.compare import main as compare
from mamlrl.evaluate import main as evaluate
from mamlrl.evaluation.comparison import find_entries
from mamlrl.run_folder.checkpoints import config_of, read_content
from mamlrl.run_folder.history import find_runs
from mamlrl.run_folder.pretrained import find_checkpoints, read_trained

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


def with_another_inner_loss(settings: Settings) -> Settings:
    return settings | {"adaptation": settings["adaptation"] | {"inner_loss": "likelihood_ratio"}}


older_runs = pytest.mark.parametrize(
    ("flags", "older", "format_1"),
    [
        ("--learner maml", as_version_0_1_0, True),
        (REPTILE, without_the_added_setting, False),
        ("--learner promp", with_the_outer_step_left_open, False),
        ("--learner dice", with_another_inner_loss, False),
        ("--learner tests.core.outside:HeadOnly", with_the_outer_step_left_open, False),
    ],
)


@older_runs
def test_a_run_from_before_a_setting_of_the_learner_goes_on(
    tiny_run: Command, command: Command, flags: str, older: Callable[[Settings], Settings], format_1: bool
) -> None:
    tiny_run("--iterations 1 --out run", flags)
    rewrite("run", older, format_1)
    outcome = command("--resume run --iterations 2")
    assert (outcome.code, outcome.err) == (0, "")
    tiny_run("--iterations 2 --out whole", flags)
    assert reproducible("run") == reproducible("whole")
    assert Path("run/config.yaml").read_text() == Path("whole/config.yaml").read_text()


def test_a_setting_of_the_learner_that_changed_is_still_refused(tiny_run: Command, command: Command) -> None:
    tiny_run("--iterations 1 --out run", REPTILE)
    rewrite("run", without_the_added_setting)
    outcome = command("--resume run --iterations 2 --learner_settings.added 4")
    assert_fails(outcome, 2, "learner_settings.added")


@older_runs
def test_runs_from_before_and_after_a_setting_of_the_learner_are_seeds_of_one_method(
    tiny_run: Command, flags: str, older: Callable[[Settings], Settings], format_1: bool
) -> None:
    tiny_run("--iterations 1 --out runs/first --seed 1", flags)
    rewrite("runs/first", older, format_1)
    tiny_run("--iterations 1 --out runs/second --seed 2", flags)
    entries = find_entries([Path("runs")])
    assert len(entries) == 2 and entries[0].method == entries[1].method == entries[0].config.learner
    ours = [run.config for run in find_runs([Path("runs")]) if ":" not in run.config.learner]  # see below
    assert not ours or ours[0] == dataclasses.replace(ours[1], seed=1)


def test_reading_a_run_imports_no_module_that_it_names(
    tiny_run: Command, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what goes on to use its learner does."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text("open('imported', 'w')\nfrom tests.cli.toy_learners import Reptile\n")
    tiny_run("--iterations 1 --out run", REPTILE)
    rewrite("run", lambda settings: settings | {"learner": "stranger:Reptile"})
    (checkpoint,) = find_checkpoints(Path("run"))
    assert read_trained(checkpoint).config.learner == "stranger:Reptile"
    assert config_of(read_content(checkpoint), checkpoint).learner_settings == {"rate": 0.5, "added": 3}
    assert compare(["run", "--out", "curves"]) == 0
    assert not Path("imported").exists()
    rewrite("run", lambda settings: settings | {"learner": "maml", "learner_settings": {}})
    content = torch.load(checkpoint, weights_only=True)
    for path in Path("run/checkpoints").iterdir():
        torch.save(content | {"config": content["config"] | {"learner": "stranger:Reptile"}}, path)
    assert_fails(command("--resume run --iterations 2"), 2, "learner was 'stranger:Reptile' and is now 'maml'")
    assert not Path("imported").exists()  # the command is one of maml
    assert evaluate("run --tasks 2 --rollouts 2 --steps 1 --threads 1 --out results".split()) == 0
    assert Path("imported").exists()


def test_a_run_of_a_learner_that_is_no_longer_there_keeps_its_settings(tiny_run: Command) -> None:
    tiny_run("--iterations 1 --out run", REPTILE)
    rewrite("run", lambda settings: settings | {"learner": "no_such_module:Learner"})
    (run,) = find_runs([Path("run")])
    assert run.config.learner_settings == {"rate": 0.5, "added": 3}
