"""Supervised tasks by the commands: the same that train, resume and evaluate policies in environments."""

from __future__ import annotations

import csv
import math
import pickle
from itertools import pairwise
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

import mamlrl
from mamlrl.diagnose import main as diagnose
from mamlrl.errors import UserError
from mamlrl.evaluate import main as evaluate
from mamlrl.learners import LEARNERS
from mamlrl.record import main as record

from .conftest import SMALL, Command, assert_fails, read_metrics, reproducible, runner
from .test_learners import assert_same, last_state

FEW = (
    "--env sinusoid --sampling.tasks 3 --data.shots 4 --data.queries 5 --data.updates 3 --policy.hidden_sizes [6] "
    "--threads 1 --eval.every 2 --eval.tasks 4 --eval.queries 6 --eval.steps 3 --checkpoint.every 1"
).split()
"""A run whose iterations take milliseconds."""
OF_CLASSES = ("protonet", "matching")
LEARNERS_HERE = [
    name for name, row in LEARNERS.items() if row.trained and not row.rollouts_only and name not in OF_CLASSES
]


@pytest.fixture
def few(command: Command) -> Command:
    """`command` with the settings of FEW first."""
    return lambda *flags: command(*FEW, *flags)


@pytest.fixture
def evaluated(capsys: pytest.CaptureFixture[str]) -> Command:
    return runner(evaluate, capsys)


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("learner", LEARNERS_HERE)
def test_a_learner_trains_resumes_to_the_last_bit_and_is_evaluated(
    few: Command, command: Command, evaluated: Command, learner: str
) -> None:
    flags, row = f"--learner {learner} --adaptation.steps 2", LEARNERS[learner]
    outcome = few(f"--iterations 1 --out run {flags}")
    assert outcome.code == 0, outcome.err
    assert command("--resume run --iterations 2").code == 0
    few(f"--iterations 2 --out whole {flags}")
    assert reproducible("run") == reproducible("whole")
    assert_same(last_state("run"), last_state("whole"))
    first, second = read_metrics("run")
    assert first["refused_updates"] == second["refused_updates"] == "0.0" and second["updates"] == "6.0"
    assert ("error/step_2" in first) == row.adapts_in_training and "env_steps" not in first
    last = 0 if row.observes_task else 3
    assert first[f"eval/error/step_{last}"] == "" and float(second[f"eval/error/step_{last}"]) > 0
    assert f"eval/error/step_{last + 1}" not in second

    outcome = evaluated("run --steps 2 --tasks 5 --threads 1 --out results")
    assert outcome.code == 0, outcome.err
    rows = rows_of("results/evaluation.csv")
    assert len(rows) == 5 * (1 if row.observes_task else 3)
    assert list(rows[0]) == ["method", "seed", "task", "task_0", "task_1", "step", "error", "diverged"]
    assert {path.name for path in Path("results").iterdir()} >= {"evaluation.png", "summary.csv", "tensorboard"}
    assert Path("results/fits.png").exists() == (not row.observes_task)


@pytest.mark.parametrize("learner", ["emaml", "dice", "promp"])
def test_a_learner_that_needs_rewards_is_refused_with_the_reason(few: Command, learner: str) -> None:
    assert_fails(few(f"--learner {learner} --out run"), 2, learner, "rollouts alone", "mamlrl/Sinusoid-v0")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--sampling.rollouts 5", ["sampling.rollouts is 5", "does not read it"]),
        ("--sampling.discount 0.9", ["sampling.discount is 0.9"]),
        ("--environment.horizon 10", ["environment.horizon is 10"]),
        ("--environment.vectorization sync", ["environment.vectorization is 'sync'"]),
        ("--policy.min_std 0.1", ["policy.min_std is 0.1"]),
        ("--policy.head per_state", ["policy.head is 'per_state'"]),
        ("--eval.rollouts 3", ["eval.rollouts is 3"]),
        ("--video.every 2", ["video.every is 2"]),
        ("--adaptation.inner_loss log_prob", ["adaptation.inner_loss", "'log_prob'", "'squared_error'"]),
        ("--adaptation.inner_loss cross_entropy", ["adaptation.inner_loss", "'squared_error'"]),
        ("--policy.network gaussian_mlp", ["policy.network", "gaussian_mlp", "mlp"]),
        ("--policy.observation_scale [1,2]", ["policy.observation_scale", "2", "1"]),
        ("--data.shots 0", ["data.shots is 0", "at least 1"]),
        ("--data.queries -1", ["data.queries is -1", "at least 1"]),
        ("--data.updates 0", ["data.updates is 0", "at least 1"]),
        ("--adam.longest_gradient -1", ["adam.longest_gradient is -1", "at least 0"]),
        ("--environment.kwargs.amplitud [1,2]", ["environment.kwargs.amplitud", "did you mean amplitude?"]),
        ("--environment.kwargs.phase [2,1]", ["environment.kwargs.phase is [2, 1]", "the smaller one first"]),
        ("--data.shots 100000000 --sampling.tasks 1000", ["sampling.tasks 1000", "examples", "GiB", "data.chunk"]),
        ("--data.chunk -1", ["data.chunk is -1", "at least 0"]),
        ("--data.chunk 1 --learner imaml", ["data.chunk is 1; with learner imaml"]),
        ("--data.chunk 1 --outer trust_region", ["data.chunk is 1; with outer trust_region"]),
    ],
)
def test_what_supervised_tasks_do_not_read_or_cannot_use_is_one_line(
    few: Command, flags: str, words: list[str]
) -> None:
    assert_fails(few(f"{flags} --out run"), 2, *words)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data.chunk 5", ["data.chunk is 5"]),
        ("--data.shots 5", ["data.shots is 5", "is an environment and does not read it"]),
        ("--eval.queries 5", ["eval.queries is 5"]),
        ("--adaptation.inner_loss squared_error", ["adaptation.inner_loss", "'squared_error'", "environment"]),
    ],
)
def test_what_environments_do_not_read_is_one_line(command: Command, flags: str, words: list[str]) -> None:
    assert_fails(command(*SMALL, f"{flags} --out run"), 2, *words)
    assert not Path("run").exists()


def test_commands_that_need_an_environment_say_so(
    few: Command, command: Command, evaluated: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert few("--iterations 1 --out run").code == 0
    command(*SMALL, "--iterations 1 --out policy")
    assert_fails(runner(diagnose, capsys)("run --out films"), 2, "mamlrl/Sinusoid-v0", "supervised tasks")
    assert_fails(evaluated("run --rollouts 2 --out results"), 2, "eval.rollouts is 2")
    assert_fails(evaluated("policy --shots 2 --out results"), 2, "eval.shots is 2")
    assert_fails(evaluated("run policy --out results"), 2, "another environment", "Sinusoid")
    assert not Path("films").exists() and not Path("results").exists()


def test_a_film_shows_every_gradient_step_of_a_fit(few: Command, capsys: pytest.CaptureFixture[str]) -> None:
    few("--iterations 1 --out run")
    recorded = runner(record, capsys)
    outcome = recorded("run --tasks 2 --steps 0,2 --speed 4 --format gif --out films --threads 1")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in Path("films").iterdir()} == {"task-1.gif", "task-2.gif", "still.png"}
    assert "error (steps)" in outcome.out and "(2)" in outcome.out
    pictures = imageio.imread("films/task-1.gif")
    assert pictures.shape[1:] == (220, 320, 3) and len(pictures) == 3  # one after the other, at half the size
    assert all((one != other).any() for one, other in pairwise(pictures))
    assert "adapting to 2 tasks and filming" in outcome.out
    outcome = recorded("run --task 2.0 0.5 --speed 20 --out one --threads 1")
    assert outcome.code == 0 and "task 2.00 0.50" in outcome.out, outcome.err
    assert len(imageio.imread("one/task-1.mp4", plugin="FFMPEG")) >= 11  # 10 steps by default
    few("--iterations 1 --learner oracle --out oracle")
    for flags, words in (
        ("run --rollouts 2", ["--rollouts is 2", "learned from examples"]),
        ("run --task 2.0", ["--task has 1 number; a task here has 2"]),
        ("oracle --steps 1", ["--steps is 1", "oracle does not adapt"]),
        ("oracle --steps 0", ["films of functions of one number"]),
    ):
        assert_fails(recorded(f"{flags} --out none"), 2, *words)
    assert not Path("none").exists()


def test_a_run_is_repeated_by_its_own_settings_and_differs_by_seed(few: Command, command: Command) -> None:
    few("--iterations 2 --out run")
    command("--config run/config.yaml --out again")
    few("--iterations 2 --out other --seed 2")
    assert reproducible("run") == reproducible("again") != reproducible("other")


def test_more_updates_in_an_iteration_are_those_of_more_iterations(few: Command) -> None:
    """Data are a function of the number of the update."""
    few("--iterations 2 --data.updates 3 --eval.every 0 --out two")
    few("--iterations 6 --data.updates 1 --eval.every 0 --out six")
    two, six = (torch.load(path, weights_only=True)["state"] for path in last_checkpoints("two", "six"))
    assert_same(two, six)


def last_checkpoints(*folders: str) -> list[Path]:
    return [sorted(Path(folder, "checkpoints").glob("iteration-*.pt"))[-1] for folder in folders]


def test_the_table_has_medians_divergence_and_published_values_beside(few: Command, evaluated: Command) -> None:
    few("--iterations 1 --out run")
    out = evaluated("run --protocol paper --random --threads 1 --out results").out
    assert "600 held-out tasks, adapted to on 5 examples" in out
    assert "median error" in out and "diverged" in out and "random" in out
    published = next(line for line in out.splitlines() if "published" in line)
    assert [cell.strip() for cell in published.split("|")[2:-1]] == ["", "0.67", "0.38", "0.35"]
    summary = rows_of("results/summary.csv")
    assert {row["quantity"] for row in summary} == {"error", "median error", "diverged"}
    errors = [float(row["error"]) for row in rows_of("results/evaluation.csv") if row["method"] == "maml"]
    of_summary = [float(row["mean"]) for row in summary if (row["quantity"], row["method"]) == ("error", "maml")]
    np.testing.assert_allclose(np.reshape(errors, (11, 600)).mean(1), of_summary)


def test_an_evaluation_takes_the_settings_of_the_run_and_is_the_same_again(few: Command, evaluated: Command) -> None:
    few("--iterations 1 --eval.shots 3 --out run")
    out = evaluated("run --threads 1 --out one").out
    assert "4 held-out tasks, adapted to on 3 examples, measured on 6 others" in out
    evaluated("run --threads 1 --out two")
    evaluated("run --threads 1 --seed 2 --out three")
    one, two, three = (rows_of(f"{name}/evaluation.csv") for name in ("one", "two", "three"))
    assert one == two != three and {row["step"] for row in one} == set("0123")


def test_a_large_step_diverges_and_is_told_as_what_it_is(few: Command, evaluated: Command) -> None:
    few("--iterations 1 --eval.every 0 --out run --adaptation.step_size 1e6 --eval.steps 10")
    out = evaluated("run --threads 1 --out results").out
    rows = [row for row in rows_of("results/evaluation.csv") if row["step"] == "10"]
    assert [float(row["diverged"]) for row in rows] == [1.0] * 4
    assert all(math.isinf(float(row["error"])) or float(row["error"]) > 1e6 for row in rows)
    assert "1.000" in out


def test_a_loaded_predictor_adapts_to_points_as_the_evaluation_does(few: Command, command: Command) -> None:
    few("--iterations 2 --out run")
    predictor = mamlrl.load("run")
    x = np.linspace(-3, 3, 8)
    y = 2 * np.sin(x)
    adapted = predictor.adapt(x, y, steps=3)
    assert adapted.steps == 3 and adapted.predict(x).shape == (8,) and adapted.predict(x[:, None]).shape == (8, 1)
    errors = [np.square(predictor.adapt(x, y, steps=steps).predict(x) - y).mean() for steps in (0, 1, 3)]
    assert errors[0] > errors[1] > errors[2]
    again = predictor.adapt(x, y).adapt(x, y, steps=2)  # one step, as in training, and two more
    np.testing.assert_array_equal(again.predict(x), adapted.predict(x))
    by_hand = one_step_by_hand(predictor, x, y)
    np.testing.assert_allclose(predictor.adapt(x, y, steps=1).predict(x), by_hand, rtol=1e-4, atol=1e-5)
    adapted.save("adapted.pt")
    loaded = mamlrl.load_adapted("adapted.pt")
    assert repr(loaded) == repr(adapted)
    for one, other in ((adapted, loaded), (adapted.adapt(x, y), loaded.adapt(x, y))):
        np.testing.assert_array_equal(one.predict(x), other.predict(x))
    with pytest.raises(UserError, match=r"adapted\.pt is there already"):
        adapted.save("adapted.pt")
    module = torch.export.export(adapted.module(), (torch.zeros(8, 1),)).module()
    np.testing.assert_allclose(module(torch.tensor(x[:, None]).float())[:, 0].detach(), adapted.predict(x), rtol=1e-5)


def one_step_by_hand(predictor, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Predictions of a ReLU network with one hidden layer after a gradient step of length 0.01."""
    params = {name: leaf.clone().requires_grad_() for name, leaf in predictor.meta.init.items()}
    inputs, targets = torch.tensor(x).float()[:, None], torch.tensor(y).float()[:, None]

    def outputs(leaves: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = (inputs @ leaves["weight_0"] + leaves["bias_0"]).relu()
        return hidden @ leaves["weight_1"] + leaves["bias_1"]

    gradients = torch.autograd.grad((outputs(params) - targets).square().mean(), list(params.values()))
    stepped = {name: leaf - 0.01 * gradient for (name, leaf), gradient in zip(params.items(), gradients, strict=True)}
    return outputs(stepped)[:, 0].detach().numpy()


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([0.0, 1.0], [0.0], ["y has 1 rows", "x has 2"]),
        ([0.0, math.nan], [0.0, 1.0], ["x holds", "not finite"]),
        ([0.0, 1.0], [0.0, math.nan], ["y holds", "not finite"]),
        ([[0.0, 1.0]], [0.0], ["x has shape [1, 2]", "[N, 1]"]),
        ([], [], ["x has shape [0]"]),
        (["a"], [0.0], ["x is no array of numbers"]),
    ],
)
def test_examples_that_do_not_fit_are_one_line(few: Command, x: list, y: list, words: list[str]) -> None:
    few("--iterations 1 --eval.every 0 --out run")
    with pytest.raises(UserError) as caught:
        mamlrl.load("run").adapt(x, y)
    for word in words:
        assert word in str(caught.value)


def test_from_python_a_run_tells_its_best_error(command: Command) -> None:
    run = mamlrl.train(
        "sinusoid",
        iterations=2,
        out="run",
        threads=1,
        policy={"hidden_sizes": [6]},
        data={"updates": 2},
        eval={"every": 1},
    )
    assert run.best is not None and run.best > 0
    assert run.best == pytest.approx(
        min(np.mean([row[f"eval/error/step_{k}"] for k in range(1, 11)]) for row in run.metrics)
    )
    assert "best error" in repr(run)
    table = mamlrl.evaluate("run", tasks=5, queries=4, steps=2, threads=1)
    assert len(table.rows) == 15 and table.summary[0]["quantity"] == "error"


GLYPHS = (
    "--env glyphs --sampling.tasks 2 --data.queries 2 --data.updates 2 --policy.hidden_sizes [4,3] --threads 1 "
    "--eval.every 2 --eval.tasks 3 --eval.queries 2 --eval.steps 2 --checkpoint.every 1 --adam.final_rate 0 "
    "--adam.anneal_updates 0"
).split()


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--learner protonet",
        "--learner matching",
        "--policy.network mlp_norm",
        "--learner anil --policy.network conv",
        "--learner recurrent --policy.network mlp --learner_settings.hidden_sizes [5,4]",
    ],
)
def test_glyphs_are_learned_resumed_and_evaluated_beside_the_nearest_neighbour(
    command: Command, evaluated: Command, flags: str
) -> None:
    outcome = command(*GLYPHS, f"--iterations 1 --out run {flags}")
    assert outcome.code == 0, outcome.err
    assert command("--resume run --iterations 2").code == 0
    command(*GLYPHS, f"--iterations 2 --out whole {flags}")
    assert reproducible("run") == reproducible("whole")
    row = read_metrics("run")[-1]
    assert 0 <= float(row["accuracy/step_1"]) <= 100 and row["eval/accuracy/step_2"] and row["eval/loss/step_2"]
    outcome = evaluated("run --tasks 4 --threads 1 --out results")
    assert outcome.code == 0, outcome.err
    assert "nearest neighbour" in outcome.out and "diverged" not in outcome.out
    rows = rows_of("results/evaluation.csv")
    assert len(rows) == 4 * 3 + 4 and {"accuracy", "loss", "task_4"} <= rows[0].keys()
    with Image.open("results/fits.png") as figure:
        assert min(figure.size) > 100
    predictor = mamlrl.load("run")
    images = np.random.default_rng(0).random((5, 784))
    adapted = predictor.adapt(images, np.arange(5), steps=1)
    assert adapted.predict(images).dtype.kind == "i"
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(adapted)).predict(images), adapted.predict(images))
    adapted.save("adapted.pt")
    np.testing.assert_array_equal(mamlrl.load_adapted("adapted.pt").predict(images), adapted.predict(images))
    np.testing.assert_allclose(adapted.probabilities(images).sum(1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="y holds what is no class; classes are 0 to 4"):
        predictor.adapt(images, np.arange(5) + 1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--environment.kwargs.ways 1", ["environment.kwargs.ways is 1", "in [2, "]),
        ("--environment.kwargs.ways 10000", ["environment.kwargs.ways is 10000"]),
        ("--environment.kwargs.rotations 3", ["environment.kwargs.rotations is 3", "true or false"]),
        ("--environment.kwargs.mirrored 1", ["environment.kwargs.mirrored is 1", "true or false"]),
        ("--environment.kwargs.fonts nowhere", ["environment.kwargs.fonts is 'nowhere'"]),
        (
            "--data.shots 19 --data.queries 2",
            ["data.shots 19 and data.queries 2 are 21 images of a class, of which there are 20"],
        ),
        ("--eval.queries 20", ["eval.shots 1 and eval.queries 20 are 21 images of a class, of which there are 20"]),
        ("--learner oracle", ["learner oracle sees the task as numbers"]),
        ("--learner protonet --policy.network mlp", ["protonet", "such as conv"]),
        ("--learner cnp", ["learner cnp needs a network whose first layer is linear", "such as mlp"]),
        (
            "--learner cnp --policy.network mlp --learner_settings.hidden_sizes []",
            ["learner_settings.hidden_sizes is []"],
        ),
        ("--policy.hidden_sizes []", ["policy.hidden_sizes is []", "from 1 to 4 layers"]),
        ("--adam.final_rate 1e-4", ["adam.anneal_updates is 0", "positive where adam.final_rate is"]),
    ],
)
def test_what_images_cannot_use_is_one_line(command: Command, flags: str, words: list[str]) -> None:
    assert_fails(command(*GLYPHS, f"{flags} --out run"), 2, *words)
    assert not Path("run").exists()


def test_a_learner_that_needs_examples_is_refused_in_an_environment(command: Command) -> None:
    assert_fails(
        command("--env navigation --learner protonet --out run"), 2, "learns from examples alone", "Navigation2D"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("env", "bound"), [("sinusoid", 1.6), ("sinusoid-frequency", 1.8)])
def test_the_shipped_configuration_learns(command: Command, env: str, bound: float) -> None:
    """1200 updates. What does not adapt cannot be below 3.0 (sinusoid), whatever it does."""
    assert command(f"--env {env} --iterations 12 --eval.every 12 --threads 1 --out run").code == 0
    row = read_metrics("run")[-1]
    assert float(row["eval/error/step_1"]) < bound
    assert float(row["eval/error/step_10"]) < float(row["eval/error/step_0"]) / 2
