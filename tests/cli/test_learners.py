"""Every learner by the command: it trains, resumes, is evaluated and filmed."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mamlrl
from mamlrl.config import TrustRegionConfig
from mamlrl.diagnose import read_subject
from mamlrl.errors import ConfigError
from mamlrl.evaluate import main as evaluate
from mamlrl.evaluation.comparison import find_entries
from mamlrl.learners import LEARNERS
from mamlrl.record import main as record

from .conftest import Command, assert_fails, read_metrics, reproducible

EVALUATED = "--eval.every 2 --eval.tasks 2 --eval.rollouts 2 --eval.steps 2"
TRAINED = [name for name, row in LEARNERS.items() if row.trained and not row.examples_only]


def last_state(folder: str) -> Any:
    """What the last checkpoint holds of the learner."""
    return torch.load(Path(folder, "checkpoints/iteration-000002.pt"), weights_only=True)["state"]


def assert_same(one: Any, other: Any) -> None:
    """To the last bit, moments and learned step sizes included."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name, leaf in one.items():
            assert_same(leaf, other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == other


@pytest.mark.parametrize("learner", TRAINED)
def test_a_learner_trains_resumes_is_evaluated_and_filmed(tiny_run: Command, command: Command, learner: str) -> None:
    flags, row = f"--learner {learner} {EVALUATED}", LEARNERS[learner]
    flags += " --adaptation.steps 2" * (not row.recurrent)
    flags += " --trust_region.cg_iterations 3" * (row.outers[0] == "trust_region")
    flags += " --adaptation.step_size 0.005" * (learner == "imaml")  # so that its inner problems are solved
    outcome = tiny_run(f"--iterations 1 --out run {flags}")
    assert outcome.code == 0, outcome.err
    assert command("--resume run --iterations 2").code == 0
    tiny_run(f"--iterations 2 --out whole {flags}")
    assert reproducible("run") == reproducible("whole")
    assert_same(last_state("run"), last_state("whole"))
    first, second = read_metrics("run")
    outer = row.outers[0]
    assert first[f"{outer}/nonfinite"] == second[f"{outer}/nonfinite"] == "0.0"
    assert first.get("trust_region/accepted", "1.0") == "1.0"
    assert ("return/step_2" in first) == row.adapts_in_training
    adapts = not (row.observes_task or row.recurrent)  # by gradient steps
    assert second["eval/return/step_0"] and ("eval/return/step_2" in second) == adapts

    assert evaluate("run --tasks 2 --rollouts 2 --steps 1 --threads 1 --out results".split()) == 0
    with Path("results/evaluation.csv").open() as file:
        used = 1 if row.observes_task else 3 if row.recurrent else 2  # before adaptation, and after it; or episodes
        assert {line["step"] for line in csv.DictReader(file)} == {str(step) for step in range(used)}
    step = int(adapts)
    assert record(f"run --tasks 1 --steps {step} --rollouts 2 --out films".split()) == 0
    assert Path("films/task-1.mp4").exists()


def test_a_longer_run_of_mamlpp_keeps_to_the_cosine_that_it_began_with(tiny_run: Command, command: Command) -> None:
    flags = "--learner mamlpp --adam.rate 0.01 --learner_settings.final_rate 0.001"
    assert tiny_run(f"{flags} --iterations 3 --out run").code == 0
    stored = yaml.safe_load(Path("run/config.yaml").read_text())["learner_settings"]
    assert stored["anneal_iterations"] == 3
    assert command("--resume run --iterations 5").code == 0
    rates = [float(row["adam/rate"]) for row in read_metrics("run")]
    assert rates == pytest.approx([0.01, 0.0055, 0.001, 0.001, 0.001])
    assert tiny_run(f"{flags} --iterations 5 --learner_settings.anneal_iterations 3 --out whole").code == 0
    assert reproducible("whole") == reproducible("run")


def test_an_outer_step_of_another_kind_is_taken_where_it_has_a_meaning(tiny_run: Command, command: Command) -> None:
    outcome = tiny_run("--learner anil --outer adam --adam.rate 0.01 --iterations 1 --out run")
    assert outcome.code == 0, outcome.err
    (row,) = read_metrics("run")
    assert row["adam/rate"] == "0.01" and "trust_region/accepted" not in row
    assert command("--resume run --iterations 2").code == 0
    assert int(last_state("run")["optimiser"]["done"]) == 2


UNREAD = [
    ("--learner promp", "trust_region: {max_kl: 0.1}", ["promp, adam; --outer trust_region", "not with learner promp"]),
    ("", "adam: {rate: 0.01}", ["adam.rate is not read by the outer step of learner maml, trust_region; --outer adam"]),
    ("--outer sgd", "adam: {rate: 0.01, clip: 0.2}", ["adam.clip is not read", "maml, sgd; --outer adam reads it"]),
    ("--learner reptile", "sgd: {rate: 0.5}\nadam: {updates: 2}", ["adam.updates", "reptile, sgd; --outer adam"]),
]
"""Flags, settings of which one is read by another outer step than the one that is taken, and words of the message."""


@pytest.mark.parametrize(("flags", "settings", "words"), UNREAD)
def test_settings_of_an_outer_step_that_is_not_taken_are_refused(
    tiny_run: Command, flags: str, settings: str, words: list[str]
) -> None:
    """By flags, in a file, and from Python."""
    sections = yaml.safe_load(settings)
    given = [f"--{section}.{name} {value}" for section, own in sections.items() for name, value in own.items()]
    assert_fails(tiny_run(f"{flags} --out run", *given), 2, *words)
    Path("mine.yaml").write_text(settings)
    assert_fails(tiny_run(f"{flags} --out run --config mine.yaml"), 2, *words)
    named = dict(zip(*[iter(flags.replace("--", "").split())] * 2, strict=True))
    with pytest.raises(ConfigError, match=re.escape(words[0].replace("--", ""))):
        mamlrl.train("navigation", out="run", **named, **sections)  # type: ignore[arg-type]
    assert not Path("run").exists()


def test_an_update_that_is_refused_is_told_in_the_line_of_progress(tiny_run: Command) -> None:
    own = "--learner_settings.iterations 1 --learner_settings.max_residual 0.001"
    outcome = tiny_run(f"--learner imaml {own} --iterations 1 --out run")
    assert outcome.code == 0, outcome.err
    assert "update refused: inner problems not solved (residual " in outcome.out + outcome.err
    assert read_metrics("run")[0]["imaml/accepted"] == "0.0"


def test_settings_that_nobody_chose_serve_all_learners(tiny_run: Command, command: Command) -> None:
    """Those of a shipped configuration, and a run's config.yaml, which holds all of them."""
    assert tiny_run("--learner promp --iterations 1 --out run").code == 0
    assert command("--resume run --iterations 2").code == 0
    stored = yaml.safe_load(Path("run/config.yaml").read_text())
    assert stored["trust_region"]["max_kl"] == 0.02 != TrustRegionConfig().max_kl
    repeated = command("--config run/config.yaml --out again")
    assert repeated.code == 0, repeated.err
    assert reproducible("again") == reproducible("run")
    assert_fails(command("--config run/config.yaml --trust_region.max_kl 0.02 --out more"), 2, "trust_region.max_kl")


def test_what_a_learner_with_an_outer_step_of_its_own_reads_is_its_own_affair(tiny_run: Command) -> None:
    flags = "--learner tests.cli.toy_learners:Reptile --adam.rate 0.1 --trust_region.max_kl 0.3"
    assert tiny_run(f"{flags} --iterations 1 --out run").code == 0


@pytest.mark.parametrize(
    ("learner", "outer"),
    [("promp", "adam"), ("tests.core.outside:HeadOnly", "trust_region"), ("tests.cli.toy_learners:Reptile", "auto")],
)
def test_a_run_stores_the_outer_step_that_it_takes(tiny_run: Command, learner: str, outer: str) -> None:
    """So that it stays what it is when the default changes; one with an outer step of its own leaves it open."""
    assert tiny_run(f"--learner {learner} --iterations 1 --out run").code == 0
    content = torch.load(Path("run/checkpoints/iteration-000001.pt"), weights_only=True)
    stored = yaml.safe_load(Path("run/config.yaml").read_text())
    assert stored["outer"] == content["config"]["outer"] == outer


def test_a_run_of_dice_stores_its_inner_loss_whatever_a_shipped_configuration_has(command: Command) -> None:
    small = "--sampling.tasks 2 --sampling.rollouts 2 --environment.horizon 4 --eval.every 0 --threads 1"
    flags = f"--env navigation-paper-original --learner dice {small} --iterations 1"
    assert command(f"{flags} --out run").code == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["adaptation"]["inner_loss"] == "dice"
    assert command(f"{flags} --adaptation.inner_loss dice --out again").code == 0
    assert reproducible("again") == reproducible("run")


def test_runs_that_name_their_outer_step_and_those_that_do_not_are_one_method(tiny_run: Command) -> None:
    tiny_run("--iterations 1 --out runs/first --seed 1 --outer trust_region")
    tiny_run("--iterations 1 --out runs/second --seed 2")
    assert [entry.method for entry in find_entries([Path("runs")])] == ["maml", "maml"]


def test_settings_of_a_learner_that_does_not_exist_are_refused_with_the_nearest_name(tiny_run: Command) -> None:
    """Those of one from outside are no mistake, and are not imported."""
    Path("mine.yaml").write_text("learners: {cavai: {iterations: 1}}")
    words = ["a key of learners in --config", "'cavai'", "module:Name", "did you mean cavia?"]
    assert_fails(tiny_run("--out run --config mine.yaml"), 2, *words)
    assert not Path("run").exists()
    Path("mine.yaml").write_text("env: mamlrl/Navigation2D-v0\nlearners: {promb: {}}")
    with pytest.raises(ConfigError, match=r"a key of learners in mine\.yaml is 'promb'.*; did you mean promp\?$"):
        read_subject("mine.yaml")
    Path("mine.yaml").write_text("learners: {'no_such_module:Learner': {seed: 3}, cavia: {seed: 4}}")
    assert tiny_run("--iterations 1 --out run --config mine.yaml").code == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--learner reptile --outer trust_region", ["outer", "'trust_region'", "reptile", "curvature", "sgd or adam"]),
        ("--learner promp --outer trust_region", ["promp", "clipping and a penalty", "adam or sgd"]),
        ("--learner mamlpp --outer trust_region", ["mamlpp", "earlier inner steps", "adam or sgd"]),
        ("--learner dice --adaptation.inner_loss log_prob", ["adaptation.inner_loss", "'log_prob'", "dice", "'dice'"]),
        ("--learner dice --adaptation.inner_loss likelihood_ratio", ["'likelihood_ratio'", "dice"]),
        ("--outer newton", ["outer", "newton", "trust_region", "adam", "sgd"]),
        ("--learner imaml --learner_settings.tolerance 2", ["learner_settings.tolerance", "2", "[0, 1)"]),
    ],
)
def test_a_combination_without_meaning_is_refused_with_the_reason(
    tiny_run: Command, flags: str, words: list[str]
) -> None:
    assert_fails(tiny_run(f"{flags} --out run"), 2, *words)
    assert not Path("run").exists()
