"""The learners that MAML is compared with, trained by the command."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import mamlrl
from mamlrl.errors import UserError
from mamlrl.evaluate import main as evaluate
from mamlrl.experiment import make_experiment, policy_config
from mamlrl.run_folder.pretrained import read_trained

from .conftest import SMALL, Command, assert_fails


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


@pytest.mark.parametrize(
    ("scale", "of_task"), [("[0.1,0.2]", [1, 1]), ("[0.1,0.2,3,4]", [3, 4]), ("[0.1,0.2,3]", None)]
)
def test_an_oracle_of_scaled_observations(command: Command, scale: str, of_task: list[float] | None) -> None:
    """Its task is not scaled, unless there are factors for it too."""
    outcome = command(*SMALL, f"--learner oracle --policy.observation_scale {scale} --iterations 1 --out run")
    if of_task is None:
        assert_fails(outcome, 2, "policy.observation_scale has 3 factors; it must have 2", "or 4 with")
        return
    assert outcome.code == 0, outcome.err
    config = read_trained(Path("run/checkpoints/best.pt")).config
    experiment = make_experiment(config)
    assert policy_config(config, experiment.envs).observation_scale == (0.1, 0.2, *of_task)
    experiment.envs.close()


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
