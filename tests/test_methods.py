"""What methods are called, and what figures show of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mamlrl.config import AdaptationConfig, Config, EnvironmentConfig, PolicyConfig, TrustRegionConfig
from mamlrl.config.files import make_config, shipped_settings
from mamlrl.evaluation.methods import group_methods, short_name
from mamlrl.run_folder.figures import Comparison, Curve, figure


class Run(NamedTuple):
    path: Path
    config: Config


def run(name: str = "run", **changes: object) -> Run:
    return Run(Path("runs", name), dataclasses.replace(Config(name="navigation"), **changes))


def step_size(value: float) -> AdaptationConfig:
    return AdaptationConfig(step_size=value)


def test_methods_are_named_by_the_settings_in_which_they_differ() -> None:
    runs = [
        run(seed=1, adaptation=step_size(0.1)),
        run(seed=2, adaptation=step_size(0.05), iterations=7, threads=2, name="other"),
        run(seed=1, learner="multitask"),
        run(seed=1, adaptation=step_size(0.05)),
    ]
    methods = group_methods(runs)
    assert list(methods) == ["maml (step_size 0.1)", "maml (step_size 0.05)", "multitask"]
    assert [member.config.seed for member in methods["maml (step_size 0.05)"]] == [2, 1]


def test_every_differing_setting_is_named_for_every_method() -> None:
    runs = [
        run(),
        run(adaptation=AdaptationConfig(steps=2)),
        run(policy=PolicyConfig(hidden_sizes=(32,)), trust_region=TrustRegionConfig(max_kl=0.02)),
    ]
    assert list(group_methods(runs)) == [
        "maml (policy.hidden_sizes [100,100], adaptation.steps 1, trust_region.max_kl 0.01)",
        "maml (policy.hidden_sizes [100,100], adaptation.steps 2, trust_region.max_kl 0.01)",
        "maml (policy.hidden_sizes [32], adaptation.steps 1, trust_region.max_kl 0.02)",
    ]


def test_settings_that_say_how_a_run_goes_make_no_method() -> None:
    sections = {"eval.": "every", "video.": "every", "checkpoint.": "keep"}
    made, other = run(), {"vectorization": "async", "workers": 2, "timeout": 5.0, "metrics": ("speed",)}
    runs = [made, run(seed=2, environment=dataclasses.replace(made.config.environment, **other))]
    for seed, (section, name) in enumerate(sections.items(), start=3):
        settings = dataclasses.replace(getattr(made.config, section[:-1]), **{name: 7})
        runs.append(run(seed=seed, **{section[:-1]: settings}))
    assert [len(members) for members in group_methods(runs).values()] == [5]
    assert len(group_methods([made, run(seed=2, environment=EnvironmentConfig(horizon=7))])) == 2


def test_methods_that_differ_in_much_have_the_names_of_their_configurations() -> None:
    names = ("cheetah-dir-paper", "cheetah-dir-paper-original")
    configs = [make_config({"name": name, **shipped_settings(name)}) for name in names]
    methods = group_methods([Run(Path(config.name), config) for config in configs])
    assert list(methods) == [f"maml ({name})" for name in names]


def test_the_same_seed_twice_is_no_second_sample() -> None:
    paths = ["a/maml/checkpoints/best.pt", "b/maml/checkpoints/best.pt", "b/maml/checkpoints/iteration-000007.pt"]
    methods = group_methods([Run(Path(path), Config()) for path in paths])
    assert list(methods) == ["maml (a/maml/best)", "maml (b/maml/best)", "maml (iteration-000007)"]
    folders = group_methods([Run(Path("runs/nav.1"), Config()), Run(Path("runs/nav.2"), Config())])
    assert list(folders) == ["maml (nav.1)", "maml (nav.2)"]


def test_a_setting_is_short_where_no_other_ends_alike() -> None:
    assert short_name("adaptation.step_size") == "step_size"
    assert short_name("adaptation.steps") == "adaptation.steps"  # there is eval.steps


LONG = "maml (" + "a_folder_with_a_name_that_goes_on_and_on_" * 4 + "W" * 90 + ")"


@pytest.mark.parametrize("names", [["maml"], ["maml", LONG], [f"maml (step_size 0.{n:02d}, $x$)" for n in range(25)]])
def test_the_legend_is_never_cut_and_takes_nothing_from_the_axes(names: list[str]) -> None:
    curves = [Curve(name, "maml", [0.0, 1.0], [(-1.0, 1.0), (0.0, 2.0)], "40 tasks") for name in names]
    canvas = figure(Comparison("a title " * 30, "standard error", curves, {"maml": (0.5, 1.5)}))
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    legend = canvas.legends[0].get_window_extent(agg.get_renderer())
    assert 0 <= legend.x0 and legend.x1 <= canvas.bbox.width
    assert 0 <= legend.y0 and legend.y1 <= canvas.bbox.height
    (axes,) = canvas.axes
    around = axes.get_tightbbox(agg.get_renderer())
    assert around is not None and legend.y1 <= around.y0
    assert axes.get_window_extent().height > 200
    texts = [text.get_text().replace("\n", "").replace(" ", "").replace("\\", "") for text in canvas.legends[0].texts]
    assert texts == [name.replace(" ", "") for name in names] + ["published"]


def test_two_seeds_are_dots_and_do_not_blow_the_axis() -> None:
    wide = [(-900.0, 900.0), (-800.0, 1000.0)]  # as Student's t makes of two
    two = Curve("maml", "maml", [0.0, 100.0], wide, "2 seeds", [[-2.0, 98.0], [2.0, 102.0]])
    three = Curve("random", "random", [0.0, 1.0], [(-30.0, 30.0), (-5.0, 7.0)], "3 seeds", [[0.0, 1.0]] * 3)
    (axes,) = figure(Comparison("title", "95% interval", [two, three], {})).axes
    lower, upper = axes.get_ylim()
    assert -50 < lower <= -30 and 102 <= upper < 130
    dots = [np.asarray(line.get_ydata()).tolist() for line in axes.get_lines() if line.get_marker() == "."]
    assert [-2.0, 98.0] in dots and [2.0, 102.0] in dots
    assert "dots: single seeds" in axes.get_title()


def test_an_error_that_diverges_leaves_the_figure_legible() -> None:
    curves = [
        Curve("maml", "maml", [3.0, 0.5], [[2.5, 3.5], [0.4, 0.6]], "9 tasks", [], ()),
        Curve("metasgd", "metasgd", [3.0, 1e29], [[2.5, 3.5], [-2e29, 4e29]], "9 tasks", [], ()),
    ]
    comparison = Comparison("title", "95% interval", curves, {}, "error")
    (axes,) = figure(comparison).axes
    low, high = axes.get_ylim()
    assert 3.5 < high < 10 and low < 0.4
    assert "larger means are cut off" in axes.get_title()
    (axes,) = figure(comparison._replace(quantity="return")).axes
    assert axes.get_ylim()[1] > 1e29
