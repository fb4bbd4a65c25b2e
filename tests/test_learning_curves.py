"""`python -m mamlrl.compare`: what is read, pooled, drawn and refused."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamlrl.compare import main, parse_reference
from mamlrl.config import Config
from mamlrl.errors import UserError
from mamlrl.evaluation import learning_curves as curves
from mamlrl.evaluation import learning_curves_figure
from mamlrl.evaluation.learning_curves import Choice, Reference, make_panels
from mamlrl.learners import LEARNERS
from mamlrl.run_folder.figures import colors_of
from mamlrl.run_folder.folder import results_folder
from mamlrl.run_folder.history import Run, find_runs, read_metrics

from .cli.conftest import Command, assert_fails, runner

HEAD = "iteration,return/step_0,return/step_1,env_steps,time/sample,time/adapt"


def write_run(folder: str, returns: Sequence[float], config: str = "", head: str = HEAD, pace: float = 1.0) -> Path:
    """A run with returns after a gradient step; it takes 100 environment steps and `pace` seconds an iteration."""
    path = Path(folder)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(f"name: navigation\nenv: mamlrl/Navigation2D-v0\n{config}")
    rows = [f"{i},-50,{value},{100 * i},{pace / 2},{pace / 2}" for i, value in enumerate(returns, start=1)]
    (path / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Command:
    return runner(main, capsys)


def read_csv(folder: str) -> list[dict[str, str]]:
    with Path(folder, "curves.csv").open() as file:
        return list(csv.DictReader(file))


def runs_of(*folders: str) -> list[Run]:
    return find_runs([Path(folder) for folder in folders])


def axes_of(canvas: Figure) -> list[Axes]:
    return [axes for axes in canvas.axes if axes.axison]


def test_seeds_are_pooled_and_different_settings_never(compare) -> None:
    for seed, returns in ((1, [-30, -20]), (2, [-28, -16]), (3, [-26, -12])):
        write_run(f"runs/high-{seed}", returns, f"seed: {seed}\nadaptation: {{step_size: 0.1}}\n")
    write_run("runs/low", [-44, -40], "seed: 4\nadaptation: {step_size: 0.05}\n")
    write_run("runs/multitask", [-41, -42], "learner: multitask\n")
    outcome = compare("runs --metric return/step_1 --out results")
    assert (outcome.code, outcome.err) == (0, "")
    rows = {(row["method"], row["iterations"]): row for row in read_csv("results")}
    high, low = "maml (step_size 0.1)", "maml (step_size 0.05)"
    means = {key: float(row["mean"]) for key, row in rows.items()}
    assert means == {
        (high, "1"): -28,
        (high, "2"): -16,
        (low, "1"): -44,
        (low, "2"): -40,
        ("multitask", "1"): -41,
        ("multitask", "2"): -42,
    }
    last = rows[high, "2"]
    assert float(last["upper"]) == pytest.approx(-16 + 4.303 * 4 / 3**0.5, rel=1e-3) and last["runs"] == "3"
    assert rows[low, "2"]["lower"] == "" and rows[low, "2"]["interval"] == ""
    assert f"| {high} " in outcome.out and "3 seeds" in outcome.out and "results: results/curves.png" in outcome.out
    assert Path("results/curves.png").read_bytes().startswith(b"\x89PNG")


def test_one_method_has_its_steps_in_one_panel_and_several_have_a_panel_for_each() -> None:
    write_run("a", [-30, -20])
    (panel,) = make_panels(runs_of("a"), Choice())
    assert [band.label for band in panel.bands] == ["before adaptation", "1 gradient step"]
    assert (panel.title, panel.ylabel) == ("navigation", "return on training tasks")
    write_run("b", [-31, -21], "learner: fomaml\n")
    panels = make_panels(runs_of("a", "b"), Choice())
    assert [panel.title for panel in panels] == ["navigation: before adaptation", "navigation: 1 gradient step"]
    write_run("runs/rl2", [-41, -42], "learner: rl2\n")
    assert make_panels(runs_of("a", "runs/rl2"), Choice())[0].title == "navigation: before adaptation, or whole trials"
    assert make_panels(runs_of("runs/rl2"), Choice("return/step_0"))[0].title == "navigation: whole trials"
    assert [[band.label for band in panel.bands] for panel in panels] == [["maml", "fomaml"]] * 2
    canvas = learning_curves_figure.figure(panels, Choice())
    assert len({axes.get_ylim() for axes in axes_of(canvas)}) == 1  # panels of one environment compare
    assert [text.get_text() for text in canvas.legends[0].texts] == ["maml", "fomaml"]


def test_every_environment_has_a_row_and_a_legend_says_either_methods_or_numbers_of_steps() -> None:
    write_run("a", [-30, -20])
    write_run("b", [-31, -21], "learner: fomaml\n")
    (write_run("c", [3, 4]) / "config.yaml").write_text("name: cheetah-dir\nenv: mamlrl/HalfCheetahDir-v0\n")
    panels = make_panels(runs_of("a", "b", "c"), Choice())
    assert [panel.title for panel in panels[2:]] == ["cheetah-dir: maml"]
    assert [len(row) for row in learning_curves_figure.rows_of_panels(panels)] == [2, 1]
    canvas = learning_curves_figure.figure(panels, Choice())
    assert [text.get_text() for text in canvas.legends[0].texts] == ["maml", "fomaml"]
    own = axes_of(canvas)[2].get_legend()
    assert own is not None and [text.get_text() for text in own.texts] == ["before adaptation", "1 gradient step"]
    assert [len(axes_of(canvas)), axes_of(canvas)[0].get_legend()] == [3, None]


def test_a_learner_has_the_same_colour_whatever_stands_beside_it() -> None:
    known, *others = colors_of(["multitask", "maml", "maml", "my_learner:Mine"])
    assert [known, others[0]] == [*colors_of(["multitask"]), *colors_of(["maml"])]
    assert len({known, *others}) == 4
    assert len(set(colors_of(list(LEARNERS)))) == len(LEARNERS)


def test_a_folder_of_results_is_named_by_all_environments() -> None:
    configs = [Config(name=name) for name in ("a", "b", "a", "c", "d")]
    assert results_folder("comparisons", *configs[:3]).name.startswith("a-b-2")
    assert results_folder("comparisons", *configs).name.startswith("4-environments-2")


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_a_run_of_one_iteration_is_a_dot_over_whole_iterations(seeds: int) -> None:
    for seed in range(seeds):
        write_run(f"run-{seed}", [-30 - seed], f"seed: {seed}\n")
    panels = make_panels(runs_of(*(f"run-{seed}" for seed in range(seeds))), Choice())
    (axes,) = axes_of(learning_curves_figure.figure(panels, Choice()))
    assert {str(line.get_marker()) for line in axes.lines} == {"o"}
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks == [0, 1, 2]


def test_iterations_have_whole_numbers_at_their_axis() -> None:
    write_run("run", [-30, -20])
    (axes,) = axes_of(learning_curves_figure.figure(make_panels(runs_of("run"), Choice()), Choice()))
    assert {str(line.get_marker()) for line in axes.lines} == {""}
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_other_environments_have_panels_of_their_own() -> None:
    write_run("a", [-30, -20], "environment: {horizon: 100}\n")
    write_run("b", [-30, -20], "environment: {horizon: 50}\n")
    write_run("c", [-30, -20], "seed: 2\nenvironment: {horizon: 100, vectorization: sync}\n")  # the same rewards
    cheetah = write_run("d", [3, 4])
    (cheetah / "config.yaml").write_text("name: cheetah-dir\nenv: mamlrl/HalfCheetahDir-v0\n")
    panels = make_panels(runs_of("a", "b", "c", "d"), Choice("return/step_1"))
    titles = ["Navigation2D-v0 (horizon 100)", "Navigation2D-v0 (horizon 50)", "cheetah-dir"]
    assert [panel.environment for panel in panels] == titles
    assert [len(panel.bands[0].runs) for panel in panels] == [2, 1, 1]


def test_any_metric_is_drawn_also_one_whose_name_looks_like_a_number_of_steps() -> None:
    head = "iteration,success/step_0,success/step_1,x/step_last"
    (write_run("a", []) / "metrics.csv").write_text(f"{head}\n1,0,0.5,7\n")
    (panel,) = make_panels(runs_of("a"), Choice("success"))
    assert panel.ylabel == "success" and len(panel.bands) == 2
    (panel,) = make_panels(runs_of("a"), Choice("x/step_last"))
    assert (panel.title, panel.ylabel, panel.bands[0].label) == ("navigation", "x/step_last", "maml")


def test_ids_of_several_packages() -> None:
    for name in ("a", "b"):
        (write_run(name, [-3, -2]) / "config.yaml").write_text(f"env: package_{name}:Tasks-v0\n")
    panels = make_panels(runs_of("a", "b"), Choice("return/step_1"))
    assert [panel.environment for panel in panels] == ["package_a:Tasks-v0", "package_b:Tasks-v0"]


def test_against_environment_steps_and_seconds() -> None:
    write_run("slow", [0, 10, 20], pace=2.0)
    write_run("fast", [0, 10, 20, 30], "seed: 2\n", pace=1.0)
    (panel,) = make_panels(runs_of("slow", "fast"), Choice("return/step_1", "env_steps"))
    assert panel.bands[0].x.tolist() == [100, 200, 300]  # as far as both go
    assert panel.bands[0].mean.tolist() == [0, 10, 20]
    (panel,) = make_panels(runs_of("slow", "fast"), Choice("return/step_1", "seconds"))
    (band,) = panel.bands
    assert band.x.tolist() == [2, 3, 4]  # from where both have begun
    assert band.mean.tolist() == [5, 12.5, 20]  # slow: 0, 5, 10 at that time; fast: 10, 20, 30


def test_evaluations_are_drawn_where_they_were_made() -> None:
    rows = "1,0,\n2,0,-4\n3,0,\n4,0,-2\n"
    for seed in (1, 2):
        path = write_run(f"run-{seed}", [], f"seed: {seed}\n")
        (path / "metrics.csv").write_text(f"iteration,return/step_0,eval/return/step_0\n{rows}")
    (panel,) = make_panels(runs_of("run-1", "run-2"), Choice("eval/return"))
    (band,) = panel.bands
    assert band.x.tolist() == [2, 4] and band.mean.tolist() == [-4, -2] and panel.ylabel == "return on held-out tasks"


def test_what_is_not_drawn_is_said(compare) -> None:
    write_run("long", [-30, -20, -10])
    write_run("short", [-30, -20], "seed: 2\n")
    multitask = write_run("multitask", [-30], "learner: multitask\n")
    (multitask / "metrics.csv").write_text("iteration,return/step_0\n1,-50\n")
    outcome = compare("long short multitask --out results")
    assert "note: navigation: multitask has no return/step_1 to draw\n" in outcome.out
    assert "note: navigation: runs of maml end at 2 to 3 iterations; their mean goes as far as all do" in outcome.out


def test_smoothing_is_a_centred_mean() -> None:
    assert curves.smooth(np.array([0.0, 3.0, 6.0, 0.0]), 3).tolist() == [1.5, 3.0, 3.0, 3.0]
    assert curves.smooth(np.array([1.0, 2.0]), 1).tolist() == [1.0, 2.0]
    write_run("a", [0, 3, 6, 0])
    panels = make_panels(runs_of("a"), Choice("return/step_1", smooth=3))
    assert panels[0].bands[0].mean.tolist() == [1.5, 3, 3, 3]
    assert "mean of 3 measurements" in learning_curves_figure.figure(panels, Choice(smooth=3)).get_suptitle()


def test_references_are_drawn_where_they_belong() -> None:
    assert parse_reference("cheetah-dir-paper:1=293.19") == ("cheetah-dir-paper", 1, 293.19)
    write_run("a", [-30, -20])
    write_run("b", [-30, -20], "learner: fomaml\n")
    references = [Reference("navigation", 1, -11.68), Reference("Navigation2D-v0", 0, -40.41)]
    panels = make_panels(runs_of("a", "b"), Choice(), references)
    assert [panel.references for panel in panels] == [references[1:], references[:1]]
    (panel,) = make_panels(runs_of("a"), Choice(), references)
    canvas = learning_curves_figure.figure([panel], Choice())
    (axes,) = axes_of(canvas)
    dashed = {np.asarray(line.get_ydata())[0] for line in axes.get_lines() if line.get_linestyle() == "--"}
    assert dashed == {-11.68, -40.41}
    lower, upper = axes.get_ylim()
    assert lower < -50 and -11.68 < upper
    assert [text.get_text() for text in canvas.legends[0].texts][-1] == "published"


def test_two_runs_are_thin_lines_without_a_band() -> None:
    for seed, last in ((1, -20.0), (2, -19.0)):
        write_run(f"run-{seed}", [-30, last], f"seed: {seed}\n")
    panels = make_panels(runs_of("run-1", "run-2"), Choice("return/step_1"))
    (axes,) = axes_of(learning_curves_figure.figure(panels, Choice()))
    assert len(axes.get_lines()) == 3 and not axes.collections
    assert axes.get_ylim()[0] > -32


def test_a_folder_of_runs_and_what_is_named_twice(compare) -> None:
    write_run("runs/a", [-30, -20])
    write_run("runs/deep/b", [-30, -20], "seed: 2\n")
    write_run("runs/deep/again", [-30, -20], "seed: 2\n")  # a second run of a seed is no second sample
    assert [run.path.as_posix() for run in runs_of("runs/a", "runs", "runs/../runs/a")] == [
        "runs/a",
        "runs/deep/again",
        "runs/deep/b",
    ]
    outcome = compare("runs --metric return/step_1 --out results --format svg")
    assert outcome.code == 0, outcome.err
    assert {(row["method"], row["runs"]) for row in read_csv("results")} == {("maml (a)", "2"), ("maml (b)", "1")}
    assert b"<svg" in Path("results/curves.svg").read_bytes()


def test_a_last_line_that_is_being_written_is_left_out() -> None:
    path = write_run("run", [-30, -20]) / "metrics.csv"
    path.write_text(path.read_text() + "3,-50,-1")
    assert read_metrics(path)["iteration"].tolist() == [1, 2]


DAMAGE = {
    "": "no iteration is done yet",
    "\n": "first line must name iteration",
    f"{HEAD}\n": "no iteration is done yet",
    f"{HEAD}\n1,-5": "no iteration is done yet",
    "it,return/step_1\n1,2\n": "first line must name iteration",
    "iteration,return/step_1\n1,high\n": "line 2: return/step_1 is 'high'; it must be a number",
    "iteration,return/step_1\n1,-3\n1,-3\n": "iterations are not in order",
    "iteration,return/step_1\n2,-3\n1,-3\n": "iterations are not in order",
    "iteration,return/step_1\n,-3\n": "iterations are not in order",
    "iteration,return/step_1\n1,-3,4\n": "line 2: 3 cells; it must be 2",
    "iteration,return/step_1\n1\n": "line 2: 1 cells; it must be 2",
    "iteration,return/step_1\n1,\0\n": "line 2: return/step_1",
    "iteration,return/step_1,return/step_1\n1,-3,-3\n": "every column once",
    "\udcff\udcfe": "not a table of metrics",
}


@pytest.mark.parametrize(("content", "words"), DAMAGE.items(), ids=range(len(DAMAGE)))
def test_damaged_metrics_are_one_clear_line(compare, content: str, words: str) -> None:
    path = write_run("run", [-30]) / "metrics.csv"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert_fails(compare("run --out results"), 1, "run/metrics.csv", words)
    assert not Path("results").exists()


WHOLE = "iteration,return/step_0,return/step_1\n1,-5,-3\n2,-5.5,-2e-1\n3,,\n"


@given(
    at=st.integers(0, len(WHOLE)),
    cut=st.integers(0, 12),
    new=st.text('0123456789.-eE,\n\r\0"\t naif/_Ω\udc80', max_size=6),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_edited_metrics_are_read_or_refused(at: int, cut: int, new: str) -> None:
    Path("metrics.csv").write_bytes((WHOLE[:at] + new + WHOLE[at + cut :]).encode(errors="surrogateescape"))
    try:
        metrics = read_metrics(Path("metrics.csv"))
    except UserError as error:
        assert str(error).startswith("metrics.csv") and len(str(error)) < 300
    else:
        assert len({len(values) for values in metrics.values()}) == 1
        assert (np.diff(metrics["iteration"]) > 0).all()


def test_a_metric_that_was_not_measured_yet(compare) -> None:
    path = write_run("run", [])
    (path / "metrics.csv").write_text("iteration,eval/return/step_0\n1,\n")
    assert_fails(compare("run --metric eval/return --out results"), 1, "--metric eval/return", "not measured yet")
    for seed, rows in ((2, "1,-3\n2,\n"), (3, "1,\n2,-3\n")):
        path = write_run(f"run-{seed}", [], f"seed: {seed}\n")
        (path / "metrics.csv").write_text(f"iteration,eval/return/step_0\n{rows}")
    assert_fails(compare("run-2 run-3 --metric eval/return --out results"), 1, "no point that the runs have in common")
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ["RUN"]),
        ("nowhere", ["nowhere", "no such folder"]),
        ("empty", ["empty", "no run is there", "config.yaml and metrics.csv"]),
        ("run/metrics.csv", ["run/metrics.csv", "is a file", "run folder"]),
        ("run empty", ["empty", "no run is there"]),
        ("foreign", ["foreign/config.yaml", "unknown key colour"]),
        (
            "run --metric retrun",
            ["--metric retrun", "did you mean return?", "return (/step_0 to /step_1)", "env_steps"],
        ),
        ("run --metric eval/return", ["--metric eval/return", "there are"]),
        ("run --metric return/step_7", ["return/step_7", "did you mean return/step_1?"]),
        ("run --against time", ["--against", "time", "env_steps"]),
        ("run --interval wide", ["--interval", "wide", "bootstrap"]),
        ("run --smooth 0", ["--smooth", "0", "in [1, "]),
        ("run --smooth 4", ["--smooth", "4", "odd"]),
        ("run --smooth much", ["--smooth", "much"]),
        ("run --format bmp", ["--format", "bmp", "svg"]),
        ("run --reference navigation=-11", ["navigation=-11", "NAME:STEPS=RETURN"]),
        ("run --reference navigation:1=nan", ["navigation:1=nan", "NAME:STEPS=RETURN"]),
        ("run --reference :1=3", [":1=3", "NAME:STEPS=RETURN"]),
        ("run --reference navigatoin:1=-3", ["navigatoin", "did you mean navigation?"]),
        ("run --reference navigation:4=-3", ["navigation:4", "4 gradient steps"]),
        ("run --metrics return", ["--metrics"]),
        ("run --out run/config.yaml", ["run/config.yaml", "not a folder"]),
        ("run --out done", ["done", "holds curves.csv already"]),
        ("run --out drawn", ["drawn", "holds curves.png already"]),
    ],
)
def test_a_wrong_command_is_one_clear_line(compare, command: str, words: list[str]) -> None:
    write_run("run", [-30, -20])
    write_run("foreign", [-30, -20], "colour: red\n")
    for earlier in map(Path, ("done/curves.csv", "drawn/curves.png")):
        earlier.parent.mkdir()
        earlier.touch()
    Path("empty").mkdir()
    before = sorted(Path().rglob("*"))
    assert_fails(compare(command), 2, *words)
    assert sorted(Path().rglob("*")) == before


def test_runs_without_a_row_yet_are_left_out_with_a_note(compare) -> None:
    write_run("runs/done", [-30, -20])
    (write_run("runs/begun", []) / "metrics.csv").write_bytes(b"")  # as a training leaves it at first
    outcome = compare("runs --metric return/step_1 --out results")
    assert (outcome.code, outcome.err) == (0, "")
    assert "note: runs/begun/metrics.csv: no iteration is done yet; it is left out" in outcome.out
    assert [row["runs"] for row in read_csv("results")] == ["1", "1"]
    assert_fails(compare("runs/done runs/begun --out named"), 1, "runs/begun/metrics.csv", "no iteration is done yet")
    shutil.rmtree("runs/done")
    outcome = compare("runs --out none")
    assert outcome.code == 1 and "error: runs: no run there has done an iteration yet" in outcome.err


@pytest.mark.parametrize(("against", "column"), [("env_steps", "env_steps"), ("seconds", "time/")])
def test_runs_that_lack_what_to_draw_against(compare, against: str, column: str) -> None:
    write_run("run", [-30], head=HEAD.replace(column, "x"))
    assert_fails(compare(f"run --against {against} --out results"), 1, "run", column, f"--against {against}")


def test_default_folder_is_named_after_the_environment(compare) -> None:
    write_run("run", [-30, -20])
    assert compare("run").code == 0
    (folder,) = Path("runs/comparisons").iterdir()
    assert folder.name.startswith("navigation-") and {path.name for path in folder.iterdir()} == {
        "curves.csv",
        "curves.png",
    }
    shutil.rmtree("runs")
