"""`python -m mamlrl.evaluate --protocol rl2` in mazes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from mamlrl.config import Config, EnvironmentConfig, PolicyConfig, SamplingConfig
from mamlrl.evaluate import main
from mamlrl.evaluation.cells import Cell, parse_cell
from mamlrl.evaluation.maze_trials import PUBLISHED, Mazes, measured, pooled, tables
from mamlrl.evaluation.trials import Acting, Played, play_tasks
from mamlrl.experiment import draw_tasks, initial_state, make_experiment
from mamlrl.train import main as train

RUN = "--env maze --iterations 1 --sampling.tasks 3 --policy.hidden_sizes [4] --threads 1".split()
SMALL = ["--environment.kwargs.size", "3", "--environment.horizon", "12", "--environment.kwargs.split", "all"]


def test_cells_of_mazes() -> None:
    small, large = parse_cell("maze")
    assert (small.name, small.horizon, large.name, large.horizon) == ("5 x 5", 250, "9 x 9", 1000)
    assert [known.cell for known in PUBLISHED] == [small, large]
    (other,) = parse_cell("maze:n=3,size=4,horizon=60")
    assert other == Cell("maze", 3, (("size", 4),), 60) and other.name == "n=3, 4 x 4, horizon=60"


def test_lengths_and_successes_are_those_that_the_returns_are_made_of() -> None:
    """A time step costs .04, one that hits a wall another .001, and the target brings 1."""
    environment = EnvironmentConfig(horizon=12, kwargs={"size": 2, "split": "all"})
    sampling = SamplingConfig(tasks=30, rollouts=1, episodes=3)
    policy = PolicyConfig(network="categorical_conv_gru", hidden_sizes=(4,), picture=(15, 20, 3))
    config = Config(
        env="mamlrl/Maze-v0",
        learner="rl2",
        environment=environment,
        policy=policy,
        sampling=sampling,
        threads=1,
    )
    experiment = make_experiment(config)
    params = experiment.learner.start(initial_state(experiment).meta)
    tasks = draw_tasks(experiment.envs, 30, np.random.default_rng(0))
    played = play_tasks(config, Acting(experiment.policy, params, greedy=False), tasks, 3, 1)
    experiment.envs.close()
    assert all(numbers.shape == (30, 1, 3) for numbers in played)
    assert set(played.successes.ravel()) == {0.0, 1.0}
    assert (played.lengths[played.successes == 0] == 12).all() and (played.lengths >= 1).all()
    walls = (played.successes - 0.04 * played.lengths - played.returns) / 0.001
    np.testing.assert_allclose(walls, walls.round(), atol=1e-9)
    assert (walls > -0.5).all() and (walls <= played.lengths + 0.5).all()


def test_numbers_of_a_cell_by_hand() -> None:
    lengths = np.array([[10.0, 4.0], [20.0, 30.0], [250.0, 8.0], [6.0, 6.0]])
    found = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    (small, _) = parse_cell("maze")
    result = measured("rl2", small, Played(-0.04 * lengths, lengths, found))
    assert result.found == (0.75, 0.75) and result.steps == (12.0, 14.0) and result.sooner == 0.5
    np.testing.assert_allclose(
        result.errors, np.array([np.std([10, 20, 6], ddof=1), np.std([4, 30, 8], ddof=1)]) / 3**0.5
    )
    never = measured("rl2", small, Played(lengths, lengths, 0 * found))
    assert never.found == (0.0, 0.0) and np.isnan(never.steps).all() and np.isnan(never.errors).all()
    once = measured("rl2", small, Played(-0.04 * lengths, lengths, found * [[1, 0]] * [[1], [0], [0], [0]]))
    assert once.steps[0] == 10.0 and np.isnan(once.errors[0])
    printed = tables([result, never, once])
    assert printed.count("published") == 1 and "75.0 %" in printed and "12.0 ± 4.2" in printed and "52.4" in printed
    assert "nan" not in printed and "± 0.0" not in printed
    (alone,) = parse_cell("maze:n=1")
    assert "sooner" not in tables([measured("rl2", alone, Played(*(one[:, :1] for one in (lengths, lengths, found))))])


def test_the_error_of_several_seeds_is_one_over_seeds() -> None:
    """The same trials three times tell no more than once; policies that differ do."""
    (small, _) = parse_cell("maze")
    one = Mazes("rl2", small, (0.8, 1.0), (50.0, 40.0), 0.7, (3.0, 3.0))
    assert pooled([one]) == one
    same = pooled([one] * 3)
    assert same.method == "rl2 (3 seeds)" and same.found == pytest.approx(one.found) and same.errors == (0.0, 0.0)
    both = pooled([one, one._replace(found=(0.6, 1.0), steps=(54.0, 40.0))])
    assert both.found == (0.7, 1.0) and both.steps == (52.0, 40.0) and both.errors == pytest.approx((2.0, 0.0))


def test_trained_policies_play_in_mazes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in ("1", "2"):
        assert train([*RUN, *SMALL, "--seed", seed, "--out", f"run-{seed}"]) == 0
    few = ["--protocol", "rl2", "--tasks", "20", "--threads", "1"]
    assert main([*few, "run-1", "run-2", "--cell", "maze:size=3,horizon=15", "--out", "other"]) == 0
    printed = capsys.readouterr().out
    assert "3 x 3, horizon=15" in printed and "published" not in printed and printed.count("| rl2 (2 seeds)") == 1
    assert printed.count("was trained on layouts of split 'all'") == 2
    with Path("other", "mazes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["cell"], row["method"], row["episode"]) for row in rows] == [
        ("3 x 3, horizon=15", "rl2 (2 seeds)", "1"),
        ("3 x 3, horizon=15", "rl2 (2 seeds)", "2"),
    ]
    assert all(0 <= float(row["found"]) <= 1 for row in rows)
    for flags, message in (
        (["run-1", "--cell", "bandit:n=4"], "was trained in mazes; the cells are of other families"),
        (["--cell", "maze"], "nothing was designed for mazes; name runs that were trained in them"),
        (["--cell", "maze", "--cell", "bandit:n=3", "--tune"], "mazes have no algorithms"),
        (["--cell", "maze:size=1"], "size is 1; it must be a whole number of at least 2"),
    ):
        assert main([*few, *flags, "--out", "none"]) == 2
        assert message in capsys.readouterr().err and not Path("none").exists()
