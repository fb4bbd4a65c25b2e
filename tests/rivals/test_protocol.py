"""`python -m mamlrl.evaluate --protocol rl2`: trials, cells, tables, files, and what goes wrong."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from mamlrl.config.files import make_config
from mamlrl.errors import ConfigError
from mamlrl.evaluate import main
from mamlrl.evaluation import rival_trials, rl2, trained_trials
from mamlrl.evaluation.cells import FAMILIES, Cell, paper_cells, parse_cell, published
from mamlrl.evaluation.rl2_figures import trial_figures
from mamlrl.rivals.tuned import Setting, read_tuned, tuned_parameter
from mamlrl.run_folder.pretrained import Trained
from mamlrl.seeding import Streams
from mamlrl.train import main as train

STREAMS = Streams(1).test()


def cell(text: str) -> Cell:
    (one,) = parse_cell(text)
    return one


def returns(text: str, method: str, parameter: float = 0.0, instances: int = 40) -> np.ndarray:
    tasks = rival_trials.draw_instances(cell(text), instances, STREAMS)
    return np.concatenate(list(rival_trials.rival_returns(cell(text), method, parameter, tasks, STREAMS)))


def test_cells_of_the_command_line() -> None:
    assert cell("bandit:n=20,k=3") == Cell("bandit", 20, (("arms", 3),), 1)
    assert cell("bandit:n=20") == Cell("bandit", 20, (("arms", 5),), 1)
    assert cell("bandit:n=2,k=3,reward=gaussian").name == "n=2, k=3, reward=gaussian"
    small = cell("tabular-mdp:n=10,states=4,horizon=6")
    assert small == Cell("tabular-mdp", 10, (("states", 4), ("actions", 5)), 6)
    assert small.name == "n=10, states=4, horizon=6" and not published(small)
    assert cell("tabular-mdp:n=10").name == "n=10" and published(cell("tabular-mdp:n=10"))["psrl"] == 138.1
    assert not published(cell("tabular-mdp:n=10,actions=4")) and not published(cell("bandit:n=10,k=5,reward=gaussian"))
    assert len(parse_cell("bandit")) == 9 and len(parse_cell("tabular-mdp")) == 5 and len(paper_cells()) == 14
    assert all(published(one) for one in paper_cells())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "bandits:n=10",
            "--cell 'bandits:n=10': there is no family 'bandits'; it must be one of bandit, tabular-mdp, maze",
        ),
        ("bandit:k=5", "--cell 'bandit:k=5': n, the number of episodes, is missing"),
        ("bandit:n=0", "--cell 'bandit:n=0': n is '0'; it must be a whole number of at least 1"),
        ("bandit:n=10,k=0", "--cell 'bandit:n=10,k=0': k is '0'; it must be a whole number of at least 1"),
        ("bandit:n=10,k=1", "--cell 'bandit:n=10,k=1': arms is 1; it must be a whole number of at least 2"),
        ("bandit:n=10,reward=cash", "reward is 'cash'; it must be one of 'bernoulli', 'gaussian'"),
        (
            "bandit:n=10,arm=5",
            "'arm=5' must be one of n, arms, horizon, k, reward with = and a value; did you mean arms?",
        ),
        ("tabular-mdp:n=10,states", "'states' must be one of n, states, actions, horizon with = and a value"),
    ],
)
def test_cells_that_there_are_not(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_cell(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_parameters_of_the_nearest_cell() -> None:
    settings = [Setting("bandit", "ucb1", n, k, 100 * n + k) for n in (10, 100) for k in (5, 50)]
    for n, k, nearest in ((10, 5, 1005), (20, 10, 1005), (60, 20, 10050), (7, 1000, 1050)):
        assert tuned_parameter(settings, "bandit", "ucb1", n, k) == nearest
    assert tuned_parameter(settings, "bandit", "gittins", 10, 5) is None


def test_every_cell_of_the_paper_is_tuned() -> None:
    tuned = {setting[:4]: setting.parameter for setting in read_tuned()}
    wanted = {
        (one.family, method, one.episodes, one.size): row.grid
        for one in paper_cells()
        for method, row in rival_trials.methods_of(one).items()
        if row.parameter
    }
    assert tuned.keys() == wanted.keys()
    assert all(tuned[place] in grid for place, grid in wanted.items())


@pytest.mark.parametrize(
    "text", ["bandit:n=6,k=3", "bandit:n=6,k=3,reward=gaussian", "tabular-mdp:n=6,states=4,actions=2"]
)
def test_every_algorithm_plays_and_the_first_episodes_do_not_depend_on_the_last(text: str) -> None:
    for method, row in rival_trials.methods_of(cell(text)).items():
        longer, shorter = (returns(one, method, row.grid[0]) for one in (text, text.replace("n=6", "n=4")))
        assert longer.shape == (40, 6)
        np.testing.assert_array_equal(longer[:, :4], shorter)
        np.testing.assert_array_equal(longer, returns(text, method, row.grid[0]))


def test_a_pull_is_an_episode_or_a_step_of_one() -> None:
    many, one = returns("bandit:n=12,k=3", "ucb1", 0.2), returns("bandit:n=3,k=3,horizon=4", "ucb1", 0.2)
    np.testing.assert_array_equal(many.reshape(40, 3, 4).sum(-1), one)


@pytest.mark.parametrize(
    ("text", "method", "parameter"),
    [
        ("bandit:n=10,k=5", "thompson", 0.0),
        ("bandit:n=10,k=10", "ots", 20),
        ("bandit:n=10,k=5", "greedy", 0.0),
        ("bandit:n=100,k=5", "thompson", 0.0),
        ("bandit:n=100,k=10", "greedy", 0.0),
        ("tabular-mdp:n=10", "random", 0.0),
        ("tabular-mdp:n=10", "psrl", 0.0),
        ("tabular-mdp:n=10", "opsrl", 5),
        ("tabular-mdp:n=10", "ucrl2", 0.3),
        ("tabular-mdp:n=10", "greedy", 0.0),
    ],
)
def test_published_means_within_their_sampling_error(text: str, method: str, parameter: float) -> None:
    """Of 1000 instances there and here, and rounding: 3.5 standard errors of the difference."""
    totals = returns(text, method, parameter, 1000).sum(1)
    error = math.sqrt(2) * totals.std() / math.sqrt(1000) + 0.05
    assert abs(totals.mean() - published(cell(text))[method]) < 3.5 * error


def test_nobody_earns_more_than_the_optimum() -> None:
    results = rl2.play_cells([cell("bandit:n=10,k=5"), cell("tabular-mdp:n=2")], 1000, STREAMS)
    by_place = {(result.method, result.cell.family): result for result in results}
    exact = by_place[rl2.BAYES, "bandit"]
    assert exact.mean == pytest.approx(6.65999, abs=1e-5) and math.isnan(exact.error)
    for result in results:
        assert result.returns.sum() == pytest.approx(result.mean) or result.method in (rl2.BAYES, rl2.KNOWN)
        known = by_place[rl2.KNOWN, result.cell.family]
        assert result.mean < known.mean or result is known
        if result.cell.family == "bandit" and result is not known:
            assert result.mean < exact.mean + 4 * 0.07
    assert by_place[rl2.KNOWN, "tabular-mdp"].mean == pytest.approx(2 * 21.72, abs=0.6)
    assert by_place[rl2.KNOWN, "bandit"].mean == pytest.approx(10 * 5 / 6, abs=0.2)


def test_results_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "results")
    cells = ["--cell", "bandit:n=10,k=5", "--cell", "bandit:n=4,k=3", "--cell", "tabular-mdp:n=2"]
    assert main(["--protocol", "rl2", *cells, "--tasks", "20", "--out", out]) == 0
    printed = capsys.readouterr()
    for text in (
        "n=10, k=5",
        "published",
        "6.6",
        "thompson",
        "Bayes optimum",
        "task known",
        "psrl (true prior)",
        "c 0.",
    ):
        assert text in printed.out
    assert not printed.err
    with Path(out, "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["family", "cell", "method", "mean", "standard_error", "published", "detail"]
    with Path(out, "episodes.csv").open() as file:
        episodes = list(csv.DictReader(file))
    some = [row for row in episodes if (row["cell"], row["method"]) == ("n=4, k=3", "ucb1")]
    assert [row["episode"] for row in some] == ["1", "2", "3", "4"]
    mean = next(float(row["mean"]) for row in rows if (row["cell"], row["method"]) == ("n=4, k=3", "ucb1"))
    assert sum(float(row["return"]) for row in some) == pytest.approx(mean)
    for name in ("regret.png", "episodes.png"):
        assert Path(out, name).read_bytes().startswith(b"\x89PNG")
    assert main(["--protocol", "rl2", *cells, "--tasks", "20", "--out", out]) == 2
    assert "holds" in capsys.readouterr().err


def test_tuning_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = ["--cell", "bandit:n=3,k=2", "--cell", "bandit:n=6,k=2"]
    assert main(["--protocol", "rl2", "--tune", *cells, "--tasks", "30", "--out", str(tmp_path / "t")]) == 0
    with (tmp_path / "t" / "tuned.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["episodes"]) for row in rows} == {
        (method, n) for method in ("gittins", "ots", "ucb1", "eps-greedy") for n in ("3", "6")
    }
    assert list(rows[0]) == list(Setting._fields)
    assert "ucb1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocol", "rl2", "--steps", "0"], "--protocol rl2 excludes --steps"),
        (["--protocol", "rl2", "--interval", "bootstrap"], "--protocol rl2 excludes --interval"),
        (["--protocol", "rl2", "--tasks", "1"], "--tasks is 1; it must be at least 2"),
        (["--protocol", "rl2", "--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["--protocol", "rl2", "--cell", "labyrinth:n=1"], "there is no family 'labyrinth'"),
        (["--cell", "bandit", "run"], "--cell is of --protocol rl2"),
        ([], "the following arguments are required: RUN"),
    ],
)
def test_wrong_commands(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(flags)
    except SystemExit as error:
        code = error.code
    assert code == 2 and message in capsys.readouterr().err


RUN = "--env bandit --learner rl2 --iterations 1 --sampling.tasks 4 --sampling.rollouts 1 --threads 1".split()


def test_trained_policies_play_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in ("1", "2"):
        flags = ["--sampling.episodes", "4", "--policy.hidden_sizes", "[4]", "--seed", seed, "--out", f"run-{seed}"]
        assert train([*RUN, *flags]) == 0
    few = ["--protocol", "rl2", "--tasks", "20", "--threads", "1"]
    assert main([*few, "run-1", "run-2", "--out", "own"]) == 0
    printed = capsys.readouterr().out
    assert "n=4, k=5" in printed and "n=4, 2 seeds" in printed and "n=10" not in printed
    assert main([*few, "run-1", "--cell", "bandit:n=6", "--cell", "tabular-mdp:n=1", "--out", "longer"]) == 0
    with Path("longer", "episodes.csv").open() as file:
        learned = [row for row in csv.DictReader(file) if row["method"] == "rl2"]
    assert [(row["cell"], row["episode"]) for row in learned] == [("n=6, k=5", str(n)) for n in range(1, 7)]
    assert main([*few, "run-1", "--cell", "bandit:n=6,k=3", "--out", "other"]) == 2
    told = " was trained for bandit, n=4, k=5; no cell has its arms=5, horizon=1 (n alone may be another)"
    assert told in capsys.readouterr().err and not Path("other").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": "mamlrl/Navigation2D-v0", "learner": "rl2"}, "is of mamlrl/Navigation2D-v0; --protocol rl2 is for"),
        ({"env": "mamlrl/Bandit-v0"}, "learner maml has no memory, which --protocol rl2 is about"),
    ],
)
def test_runs_that_cannot_play_along(settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained(Path("run"), make_config(settings))
    monkeypatch.setattr(trained_trials, "find_checkpoints", lambda path: [path])
    monkeypatch.setattr(trained_trials, "read_trained", lambda path: trained)
    with pytest.raises(ConfigError) as error:
        trained_trials.find_runs([Path("run")])
    assert message in str(error.value)


def test_figures_show_the_longest_cells() -> None:
    cells = [cell("bandit:n=3,k=3"), cell("bandit:n=5,k=3"), cell("bandit:n=5,k=2"), cell("tabular-mdp:n=2,states=3")]
    figures = trial_figures(rl2.play_cells(cells, 10, STREAMS))
    titles = {name: [axes.get_title() for axes in canvas.axes] for name, canvas in figures.items()}
    assert titles == {"regret.png": ["n=5, k=3", "n=5, k=2"], "episodes.png": ["n=2, states=3"]}


def test_families_have_the_sizes_of_their_environments() -> None:
    horizons = {"bandit": 1, "tabular-mdp": 10, "maze": 250}
    for name, family in FAMILIES.items():
        assert family.horizon == horizons[name]
        for size in family.first_sizes:
            kwargs: dict[str, Any] = {**family.sizes, next(iter(family.sizes)): size}
            gymnasium.make_vec(family.env, 1, **kwargs).close()
