"""`python -m mamlrl.diagnose`: measures of estimators, tables, files, and what goes wrong."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from mamlrl.diagnose import main
from mamlrl.diagnosis import report
from mamlrl.diagnosis.measure import QUANTITIES, Row, compare, mean_of

from .conftest import SMALL, Command, assert_fails, runner

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "diagnose.md").read_text()
TINY_CONFIG = "env: navigation\nenvironment: {horizon: 5}\npolicy: {hidden_sizes: [4]}\n"
FEW = "--rollouts 3,2 --repeats 3 --tasks 2 --reference 4 --threads 1"


@pytest.fixture
def diagnose(command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the diagnosis in the folder of `command`, which holds the files that the documentation has."""
    Path("tiny.yaml").write_text(TINY_CONFIG)
    example = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert example
    Path("my_estimator.py").write_text(example[1])
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "my_estimator", raising=False)
    return runner(main, capsys)


def read_csv(folder: str, name: str = "diagnosis.csv") -> list[dict[str, str]]:
    with Path(folder, name).open() as file:
        return list(csv.DictReader(file))


def test_a_diagnosis_leaves_tables_csv_and_a_figure(diagnose: Command) -> None:
    outcome = diagnose(f"tiny.yaml --estimators dice,first_order --out results {FEW}")
    assert (outcome.code, outcome.err) == (0, "")
    for word in (
        *QUANTITIES,
        "| dice ",
        "| first_order ",
        "noise floor",
        "reference: mean of dice",
        "results: results",
    ):
        assert word in outcome.out
    rows = read_csv("results")
    assert [(row["quantity"], row["estimator"], row["rollouts"]) for row in rows] == [
        (quantity, name, count) for quantity in QUANTITIES for name in ("dice", "first_order") for count in ("2", "3")
    ]
    assert Path("results/diagnosis.png").read_bytes().startswith(b"\x89PNG")
    no_curvature = [row for row in rows if row["estimator"] == "first_order" and row["quantity"] != "meta-gradient"]
    assert {(float(row["bias"]), float(row["variance"]), row["snr"]) for row in no_curvature} == {(1.0, 0.0, "")}
    assert_fails(diagnose(f"tiny.yaml --out results {FEW}"), 2, "--out results", "diagnosis.csv")


def test_the_same_seed_gives_the_same_numbers_whatever_else_is_diagnosed(diagnose: Command) -> None:
    assert diagnose(f"tiny.yaml --estimators dice --out one {FEW}").code == 0
    assert diagnose(f"tiny.yaml --estimators log_prob,dice --out two {FEW}").code == 0
    assert diagnose(f"tiny.yaml --estimators dice --seed 2 --out three {FEW}").code == 0
    assert read_csv("one") == [row for row in read_csv("two") if row["estimator"] == "dice"]
    assert read_csv("one") != read_csv("three")


def test_a_trained_policy_is_diagnosed_where_it_stands(command: Command, diagnose: Command) -> None:
    assert command(*SMALL, "--iterations 1 --out run").code == 0
    assert diagnose(f"run/checkpoints/iteration-000001.pt --estimators dice --out trained {FEW}").code == 0
    assert diagnose(f"run/config.yaml --estimators dice --out untrained {FEW}").code == 0
    assert read_csv("trained") != read_csv("untrained")


def test_a_learner_from_outside_is_held_against_them(diagnose: Command) -> None:
    """The example of the documentation: its Hessian lies between those of dice and of the likelihood ratio."""
    outcome = diagnose("exact --estimators likelihood_ratio,my_estimator:DECAYED,dice --out results")
    assert (outcome.code, outcome.err) == (0, "")
    biases = [float(row["hessian"]) for row in read_csv("results", "exact.csv")]
    assert biases[0] > biases[1] > 0.01 and biases[2] < 1e-10
    assert diagnose(f"tiny.yaml --estimators my_estimator:DECAYED --out sampled {FEW}").code == 0
    assert {row["estimator"] for row in read_csv("sampled")} == {"my_estimator:DECAYED"}
    assert_fails(diagnose("exact --out results"), 2, "exact.csv")


def test_the_example_without_decay_is_dice(diagnose: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import my_estimator  # type: ignore[import-not-found]

    monkeypatch.setattr(my_estimator, "DECAY", 1.0)
    assert diagnose("exact --estimators my_estimator:DECAYED --out results").code == 0
    (row,) = read_csv("results", "exact.csv")
    assert float(row["hessian"]) < 1e-10 and float(row["formulation_1"]) < 1e-10


NO_OBJECTIVE = """
from mamlrl.learners.maml import make_plain
class Bare:
    def __init__(self, policy, config, settings):
        import dataclasses
        maml = make_plain(policy, dataclasses.replace(config, outer="sgd"), settings)
        self.policy, self.init, self.start, self.adapt = policy, maml.init, maml.start, maml.adapt
        self.meta_step = maml.meta_step
"""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("nowhere", ["nowhere", "navigation", "exact"]),
        ("navigaton", ["did you mean navigation?"]),
        (
            "tiny.yaml --estimators dyce",
            ["first_order, maml, fomaml, promp", "reptile, or module", "did you mean dice"],
        ),
        ("tiny.yaml --estimators oracle", ["oracle", "does not adapt in training"]),
        ("tiny.yaml --estimators cavia", ["cavia", "another initialisation", "context"]),
        ("tiny.yaml --estimators bare:Bare", ["bare:Bare", "no method objective"]),
        ("tiny.yaml --estimators bare:Nothing", ["bare:Nothing", "Nothing"]),
        ("tiny.yaml --rollouts 5,x", ["--rollouts", "'5,x'", "5,10,20,40"]),
        ("tiny.yaml --repeats 1", ["--repeats is 1", "[2,"]),
        ("tiny.yaml --tasks 0", ["--tasks is 0"]),
        ("runs", ["runs", "2 runs"]),
    ],
)
def test_mistakes_are_one_line(flags: str, words: list[str], diagnose: Command) -> None:
    Path("bare.py").write_text(NO_OBJECTIVE)
    for number in (1, 2):
        folder = Path("runs", str(number))
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").write_bytes(b"")
    assert_fails(diagnose(flags), 2, *words)
    assert not Path("runs/diagnoses").exists()


def test_bias_beyond_its_noise_floor_is_bias() -> None:
    """An unbiased estimator has its noise floor as the root mean square of its bias, a biased one has more."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=6)

    def measured(shift: float) -> list[dict[str, float]]:
        draws = truth + shift + rng.normal(size=(400, 20, 6))
        many = truth + 0.5 * rng.normal(size=(400, 30, 6))
        return [compare(one, mean_of(other)) for one, other in zip(draws, many, strict=True)]

    unbiased, biased = measured(0.0), measured(1.0)
    squares = [np.mean([one[name] ** 2 for one in unbiased]) for name in ("bias", "noise_floor")]
    assert squares[0] == pytest.approx(squares[1], rel=0.1)
    assert np.mean([one["bias"] > 2 * one["noise_floor"] for one in biased]) > 0.95


def test_variance_signal_and_cosine_are_those_of_one_draw() -> None:
    rng = np.random.default_rng(0)
    truth, spread = np.array([3.0, 4.0]), 0.5
    measured = compare(truth + spread * rng.normal(size=(20000, 2)), mean_of(np.tile(truth, (2, 1))))
    assert measured["variance"] == pytest.approx(2 * spread**2 / 25, rel=0.03)
    assert measured["snr"] == pytest.approx(25 / (2 * spread**2), rel=0.03)
    assert measured["cosine"] == pytest.approx(1 - spread**2 / 25 / 2, abs=1e-3)
    assert measured["noise_floor"] == pytest.approx(spread * (2 / 20000) ** 0.5 / 5, rel=0.03)


def test_a_figure_of_measures_that_are_all_zero_can_be_drawn(tmp_path: Path) -> None:
    nothing = Row(QUANTITIES[0], "dice", 5, *[0.0] * (len(Row._fields) - 3))
    report.figure([nothing], "nothing").savefig(tmp_path / "figure.png")


def test_results_are_written_before_they_are_shown(diagnose: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "tables", lambda rows: f"{sorted(path.name for path in Path('results').iterdir())}")
    outcome = diagnose(f"tiny.yaml --estimators dice --out results {FEW}")
    assert "['diagnosis.csv', 'diagnosis.png']" in outcome.out, outcome.err
