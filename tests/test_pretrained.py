"""The initialisations that come with the repository: those of the shipped configurations, and they adapt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

import mamlrl
from mamlrl.config import Config, EnvironmentConfig, EvalConfig
from mamlrl.config.files import FORMER_DEFAULTS, make_config, shipped_settings
from mamlrl.evaluation.comparison import evaluate_config
from mamlrl.learner_settings import completed
from mamlrl.run_folder.checkpoints import FORMAT
from mamlrl.run_folder.pretrained import find_checkpoints, read_trained
from mamlrl.run_folder.spaces import from_plain
from mamlrl.supervised import find_task_set

FOLDER = Path(__file__).parents[1] / "runs" / "pretrained"
CHECKPOINTS = find_checkpoints(FOLDER)


def name_of(checkpoint: Path) -> str:
    """Such as ``navigation-paper/maml/seed-1``."""
    return checkpoint.parent.relative_to(FOLDER).as_posix()


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=name_of)
def test_a_shipped_policy_has_the_settings_of_its_configuration(checkpoint: Path) -> None:
    configuration, learner, *seed = name_of(checkpoint).split("/")
    shipped = make_config({"name": configuration, **shipped_settings(configuration, learner), "learner": learner})
    trained = read_trained(checkpoint).config
    assert seed == [f"seed-{trained.seed}"] or (seed, trained.seed) == ([], 1)

    def of_training(config: Config) -> Config:
        former = config.environment.metrics == tuple(FORMER_DEFAULTS["environment.metrics"])
        environment = EnvironmentConfig() if former else config.environment
        environment = dataclasses.replace(config.environment, metrics=environment.metrics)
        policy = dataclasses.replace(config.policy, picture=())  # a run stores that of its environment
        no_training = {"video": Config().video, "checkpoint": Config().checkpoint, "environment": environment}
        # a configuration that goes on with a policy does not say where that is
        begun = "" if configuration.endswith("-long") else config.start_from
        return dataclasses.replace(config, seed=1, threads=0, start_from=begun, policy=policy, **no_training)

    assert of_training(trained) == of_training(completed(shipped))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=name_of)
def test_a_shipped_policy_holds_its_spaces_so_that_it_needs_no_simulator(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    assert content["format"] == FORMAT
    assert isinstance(from_plain(content["spaces"]["observation"]), spaces.Box)
    given = from_plain(content["spaces"]["action"])
    if find_task_set(read_trained(checkpoint).config.env) is None:
        assert isinstance(given, spaces.Discrete) or (isinstance(given, spaces.Box) and given.is_bounded())


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("navigation-paper", -30.0, -14.0), ("cheetah-dir-paper", 50.0, 250.0)],
)
def test_a_shipped_policy_adapts(name: str, before: float, after: float) -> None:
    """Worse than `before` without a gradient step, better than `after` with one, on tasks that no training saw."""
    trained = read_trained(find_checkpoints(FOLDER / name / "maml")[0])
    settings = EvalConfig(tasks=10, rollouts=20, steps=1)
    _, result = evaluate_config(dataclasses.replace(trained.config, eval=settings), trained, seed=1, tasks=None)
    unadapted, adapted = result.returns.mean(1)
    assert unadapted < before and adapted > after


def test_the_shipped_predictors_are_better_than_the_published_one() -> None:
    """In the mean over seeds, under the paper's protocol; those of seeds 1 and 2 each."""
    found = mamlrl.evaluate(FOLDER / "sinusoid" / "maml", protocol="paper", threads=1)
    for step, published in ((1, 0.67), (5, 0.38), (10, 0.35)):
        means = []
        for seed in (1, 2, 3):
            errors = [row["error"] for row in found.rows if (row["seed"], row["step"]) == (seed, step)]
            assert len(errors) == 600
            means.append(np.mean(errors))
        assert np.mean(means) < published and max(means[:2]) < published


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("sinusoid/cavia", {1: 0.37, 5: 0.05, 10: 0.035}),
        ("sinusoid/recurrent", {1: 0.02}),
        ("sinusoid-frequency/maml", {1: 0.77}),
        ("sinusoid-frequency/metasgd", {1: 0.53}),
    ],
)
def test_a_shipped_predictor_is_as_good_as_it_was_to_be(name: str, bounds: dict[int, float]) -> None:
    """The last two are what Li et al. (2017) published."""
    if name.startswith("sinusoid/"):
        found = mamlrl.evaluate(FOLDER / name, protocol="paper", threads=1)
    else:
        found = mamlrl.evaluate(FOLDER / name, tasks=600, threads=1)
    for step, bound in bounds.items():
        assert np.mean([row["error"] for row in found.rows if row["step"] == step]) < bound
