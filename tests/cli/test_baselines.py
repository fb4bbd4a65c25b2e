"""The learners that MAML is compared with, trained by the command."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

import mamlrl
from mamlrl.errors import UserError
from mamlrl.evaluate import main as evaluate

from .conftest import Command, assert_fails


def test_the_random_baseline_is_not_trained(small_run: Command) -> None:
    assert_fails(small_run("--learner random --out run"), 2, "random", "nothing to train", "mamlrl.evaluate")
    assert not Path("run").exists()


@pytest.mark.parametrize(("learner", "numbers"), [("oracle", 1), ("multitask", 1), ("maml", 2)])
def test_what_does_not_adapt_in_training_has_one_return_an_iteration(
    small_run: Command, learner: str, numbers: int
) -> None:
    out = small_run(f"--learner {learner} --iterations 1 --out run").out
    assert re.search(r"iteration 1/1: return (-[\d.]+)( -> -[\d.]+)?, ", out)
    assert out.count(" -> ") == numbers - 1


def test_an_oracle_of_scaled_observations(command: Command) -> None:
    tiny = "--env cheetah-vel --learner oracle --sampling.tasks 2 --sampling.rollouts 2 --environment.horizon 5"
    outcome = command(f"{tiny} --policy.hidden_sizes [8] --iterations 1 --eval.every 0 --out run")
    assert outcome.code == 0, outcome.err
    params = torch.load("run/checkpoints/best.pt", weights_only=True)["state"]["meta"]["init"]
    assert params["weight_0"].shape == (17 + 1, 8)


def test_an_oracle_is_evaluated_without_adaptation(small_run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for learner in ("maml", "oracle"):
        assert small_run(f"--learner {learner} --iterations 1 --out {learner}").code == 0
    assert evaluate("oracle maml --tasks 2 --rollouts 2 --steps 2 --out results".split()) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| oracle")]
    assert lines[0].count("±") == 1
    with Path("results/evaluation.csv").open() as file:
        steps = {(row["method"], row["step"]) for row in csv.DictReader(file)}
    assert steps == {("oracle", "0"), ("maml", "0"), ("maml", "1"), ("maml", "2")}
    with pytest.raises(UserError, match="sees the task and never adapts"):
        mamlrl.load("oracle")
