"""`python -m mamlrl.diagnose`: measures of estimators, tables, files, and what goes wrong."""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mamlrl.config import Config
from mamlrl.config.size import sampling_memory
from mamlrl.diagnose import main, read_subject
from mamlrl.diagnosis import report
from mamlrl.diagnosis.estimators import estimator_config
from mamlrl.diagnosis.measure import QUANTITIES, Row, compare, mean_of

from .conftest import SMALL, TINY, Command, assert_fails, runner

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


def test_a_run_is_diagnosed_with_all_that_it_has_learned(command: Command, diagnose: Command) -> None:
    """Step sizes, and meta-updates done, which put an end to the first order of mamlpp."""
    assert command(*TINY, "--learner metasgd --iterations 3 --outer adam --adam.rate 0.1 --out run").code == 0
    checkpoint = torch.load("run/checkpoints/iteration-000003.pt", weights_only=True)
    (sizes,) = checkpoint["state"]["meta"]["step_sizes"]
    assert all(not torch.equal(leaf, torch.full_like(leaf, 0.5)) for leaf in sizes.values())
    _, state = read_subject("run/checkpoints/iteration-000003.pt")
    assert state and torch.equal(state.meta.step_sizes[0]["bias_0"], sizes["bias_0"])
    assert diagnose(f"run/checkpoints/iteration-000003.pt --estimators metasgd,log_prob --out own {FEW}").code == 0
    for leaf in sizes.values():
        leaf.fill_(0.01)
    torch.save(checkpoint, "other.pt")
    assert diagnose(f"other.pt --estimators metasgd,log_prob --out other {FEW}").code == 0
    own, other = (
        {row["estimator"]: row["variance"] for row in read_csv(name) if row["quantity"] == "meta-gradient"}
        for name in ("own", "other")
    )
    assert own["metasgd"] != other["metasgd"] and own["log_prob"] == other["log_prob"]


def test_a_run_of_mamlpp_is_no_longer_first_order_after_its_first_updates(command: Command, diagnose: Command) -> None:
    flags = "--learner mamlpp --iterations 2 --learner_settings.multi_step_iterations 0 "
    flags += "--adam.rate 1e-30 --learner_settings.final_rate 1e-30"
    for name, first_order in (("now", 1), ("never", 9)):
        flags_of = f"{flags} --learner_settings.first_order_iterations {first_order} --out {name}"
        assert command(*TINY, flags_of).code == 0
        assert diagnose(f"{name}/checkpoints/iteration-000002.pt --estimators mamlpp --out {name}-d {FEW}").code == 0
    assert read_csv("now-d")[0]["variance"] != read_csv("never-d")[0]["variance"]


def test_an_estimator_that_is_the_runs_learner_has_the_settings_of_the_run() -> None:
    config = Config(learner="emaml", learner_settings={"credit": 7.0}, outer="adam")
    own, other = estimator_config("emaml", config), estimator_config("dice", config)
    assert (own.learner_settings, own.outer, own.adaptation.inner_loss) == ({"credit": 7.0}, "adam", "likelihood_ratio")
    assert (other.learner, other.learner_settings, other.outer) == ("maml", {}, "auto")
    elsewhere = estimator_config("emaml", Config())
    assert elsewhere.learner_settings == {} and elsewhere.adaptation.inner_loss == "log_prob"


def test_steps_that_are_no_gradient_steps_of_a_fixed_size_have_no_rows_of_h_v(diagnose: Command) -> None:
    outcome = diagnose("exact --estimators imaml,metasgd,anil --out results")
    assert (outcome.code, outcome.err) == (0, "")
    assert [row["hessian"] != "" for row in read_csv("results", "exact.csv")] == [False, False, True]
    outcome = diagnose(f"tiny.yaml --estimators imaml --out sampled {FEW}")
    assert (outcome.code, outcome.err) == (0, "")
    for row in read_csv("sampled"):
        assert (row["bias"] != "", row["snr"] != "") == (row["quantity"] == "meta-gradient",) * 2


def test_runs_that_the_reference_cannot_stand_at_are_refused(command: Command, diagnose: Command) -> None:
    for learner, words in {"context": ["context"], "oracle": ["weight_0"]}.items():
        assert command(*SMALL, f"--learner {learner} --iterations 1 --out {learner}").code == 0
        for estimators in ("--estimators log_prob", ""):
            assert_fails(diagnose(f"{learner} {estimators} {FEW}"), 2, "the reference, dice,", *words)


def test_learners_of_examples_and_untrained_ones_are_no_estimators(diagnose: Command) -> None:
    assert_fails(diagnose("exact --estimators cnp"), 2, "--estimators has cnp, which does not learn from rollouts")
    assert_fails(diagnose("exact --estimators random"), 2, "--estimators has random, which does not adapt")


def test_nothing_to_gain_gives_dashes_and_a_note(diagnose: Command) -> None:
    """No reward is reached in a few steps: the reference is zero, and so is every draw."""
    Path("nothing.py").write_text(NOTHING_TO_GAIN)
    Path("sparse.yaml").write_text(TINY_CONFIG.replace("navigation", "nothing:NothingRewarded-v0"))
    outcome = diagnose(f"sparse.yaml --estimators dice --out results {FEW}")
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert "the reference of meta-gradient is zero" in outcome.out
    assert {row["bias"] for row in read_csv("results")} == {""}


NOTHING_TO_GAIN = """
import gymnasium
from mamlrl.envs.navigation import Navigation2DEnv
gymnasium.register(id="NothingRewarded-v0", entry_point="nothing:Nothing")
class Nothing(Navigation2DEnv):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 0.0, *rest
"""


@pytest.mark.parametrize("flag", ["--rollouts 5", "--tasks 4", "--repeats 50", "--reference 0", "--threads 1"])
def test_options_of_samples_are_refused_where_none_are_drawn(flag: str, diagnose: Command) -> None:
    assert_fails(diagnose(f"exact {flag}"), 2, f"exact draws no samples, and does not read {flag.split()[0]}")


def test_more_than_there_is_memory_for_is_told_before_anything_is_drawn(
    diagnose: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough for the rollouts, not for the meta-gradient."""
    config, _ = read_subject("tiny.yaml")
    needed = sampling_memory(replace(config, sampling=replace(config.sampling, tasks=4, rollouts=20_000)), 2, 4)
    monkeypatch.setattr("mamlrl.config.size.machine_memory", lambda: int(1.1 * needed))
    monkeypatch.setattr("mamlrl.diagnosis.measure.draw", lambda *arguments: pytest.fail("something was drawn"))
    outcome = diagnose("tiny.yaml --estimators dice --reference 20000 --rollouts 2 --threads 1")
    assert_fails(outcome, 2, "memory")


FAULTY = """
from mamlrl.learners.maml import make_plain
import dataclasses
class Faulty:
    def __init__(self, policy, config, settings):
        self.maml = make_plain(policy, dataclasses.replace(config, outer="sgd"), settings)
        self.policy, self.start, self.adapt = policy, self.maml.start, self.maml.adapt
        self.meta_step = self.maml.meta_step
    def init(self, params):
        return self.maml.init(params)
    def objective(self, *arguments):
        return self.maml.objective(*arguments)
class Init(Faulty):
    def init(self, params):
        raise KeyError("no")
class Objective(Faulty):
    def objective(self, *arguments):
        raise KeyError("no")
class Gradient(Faulty):
    def objective(self, *arguments):
        class Bad:
            def loss_and_gradient(self):
                raise KeyError("no")
        return Bad()
class Shape(Faulty):
    def objective(self, *arguments):
        class Bad:
            def loss_and_gradient(self):
                import torch
                return 0.0, torch.zeros(3)
        return Bad()
"""


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("Init", 2, ["init failed"]),
        ("Objective", 1, ["objective raised KeyError"]),
        ("Gradient", 1, ["loss_and_gradient of objective raised KeyError"]),
        ("Shape", 1, ["must return the loss and a gradient of shape [6]"]),
    ],
)
def test_failures_of_a_users_learner_are_one_line(name: str, code: int, words: list[str], diagnose: Command) -> None:
    Path("faulty.py").write_text(FAULTY)
    assert_fails(diagnose(f"exact --estimators faulty:{name}"), code, f"faulty:{name}", *words)


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
        ("tiny.yaml --estimators context", ["context", "another initialisation"]),
        ("exact --estimators context", ["context", "another initialisation"]),
        ("exact --estimators cavia", ["cavia", "another initialisation"]),
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


def test_draws_of_zero_have_no_direction_and_are_counted() -> None:
    draws, truth = np.array([[0.0, 0.0], [1.0, 0.0]]), mean_of(np.tile([2.0, 0.0], (2, 1)))
    measured = compare(draws, truth)
    assert (measured["cosine"], measured["zeros"]) == (1.0, 1)
    rows = [Row(QUANTITIES[0], "dice", 5, **measured)]  # type: ignore[arg-type]
    assert report.notes(rows, [0.0] * 3) == [
        "meta-gradient, dice with 5 rollouts: draws of zero: 1; the cosine is the mean of the others"
    ]
    same = compare(draws[[1, 1]], truth)
    assert same["snr"] == np.inf and same["bias"] == 0.5 and same["zeros"] == 0


@pytest.mark.filterwarnings("error")
def test_nothing_is_relative_to_a_reference_of_zero() -> None:
    measured = compare(np.eye(2), mean_of(np.zeros((2, 2))))
    assert all(np.isnan(measured[name]) for name in ("bias", "noise_floor", "variance", "cosine"))
    assert measured["snr"] >= 0
    assert report.notes([], [np.nan, 0.0, 0.9])[0].endswith("is zero, and nothing is relative to it")


def test_a_figure_of_measures_that_are_all_zero_can_be_drawn(tmp_path: Path) -> None:
    nothing = Row(QUANTITIES[0], "dice", 5, *[0.0] * (len(Row._fields) - 4), zeros=0)
    report.figure([nothing], "nothing").savefig(tmp_path / "figure.png")


def test_results_are_written_before_they_are_shown(diagnose: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "tables", lambda rows: f"{sorted(path.name for path in Path('results').iterdir())}")
    outcome = diagnose(f"tiny.yaml --estimators dice --out results {FEW}")
    assert "['diagnosis.csv', 'diagnosis.png']" in outcome.out, outcome.err
