"""The learners that MAML is compared with, trained by the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Command, assert_fails, read_metrics, reproducible


@pytest.mark.parametrize("learner", ["fomaml", "multitask"])
def test_a_baseline_trains_and_resumes(small_run: Command, command: Command, learner: str) -> None:
    evaluated = "--eval.every 2 --eval.tasks 2 --eval.rollouts 2 --eval.steps 2"
    outcome = small_run(f"--learner {learner} --iterations 2 --out run {evaluated}")
    assert outcome.code == 0, outcome.err
    assert command("--resume run --iterations 4").code == 0
    small_run(f"--learner {learner} --iterations 4 --out whole {evaluated}")
    assert reproducible("run") == reproducible("whole")
    rows = read_metrics("run")
    assert any(row["trust_region/accepted"] == "1.0" for row in rows)
    assert ("return/step_1" in rows[0]) == (learner == "fomaml")
    assert rows[1]["eval/return/step_2"]


def test_the_random_baseline_is_not_trained(small_run: Command) -> None:
    assert_fails(small_run("--learner random --out run"), 2, "random", "nothing to train", "mamlrl.evaluate")
    assert not Path("run").exists()
