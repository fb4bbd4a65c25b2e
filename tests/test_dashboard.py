"""What TensorBoard is told of a run, and what its page shows: in a real browser, headless."""

from __future__ import annotations

import gc
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mamlrl.config import Config, EvalConfig
from mamlrl.run_folder import dashboard
from mamlrl.run_folder.metrics_log import MetricsLog
from mamlrl.statistics import Estimate
from mamlrl.train import main

RUN = (
    "--env navigation --sampling.tasks 4 --sampling.rollouts 3 --environment.horizon 20 --policy.hidden_sizes [8] "
    "--threads 1 --iterations 4 --eval.every 2 --eval.tasks 3 --eval.rollouts 2 --video.every 4"
).split()

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with films."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in ("1", "2"):
        assert main([*RUN, "--seed", seed, "--out", str(folder / f"nav-{seed}")]) == 0
    return folder


def test_every_chart_has_data(logdir: Path, tmp_path: Path) -> None:
    """Of this learner or of another: those of step sizes need one that learns them."""
    config = Config(eval=EvalConfig(every=2, steps=3))
    assert main([*RUN[:-2], "--learner", "metasgd", "--out", str(tmp_path / "run")]) == 0
    tags = []
    for folder in (logdir / "nav-1", tmp_path / "run"):
        events = EventAccumulator(str(folder))
        events.Reload()
        tags += events.Tags()["scalars"]
    for charts in dashboard.arrange(config).values():
        for kind, patterns in charts.values():
            for pattern in patterns:  # of bands they are whole tags
                assert any(re.match(pattern, tag) if kind == "Multiline" else pattern == tag for tag in tags), pattern


def test_bands_lie_around_the_mean() -> None:
    of_a_single_task = Estimate(1.0, float("nan"))
    assert dict(dashboard.bands({"return": [Estimate(-5.0, 2.0), of_a_single_task]})) == {
        "return_band/step_0/lower": -7.0,
        "return_band/step_0/upper": -3.0,
    }
    assert dict(dashboard.bands({"return": [of_a_single_task, Estimate(3.0, 0.5)]}, "eval/")) == {
        "eval/return_band/step_1/lower": 2.5,
        "eval/return_band/step_1/upper": 3.5,
    }


def test_metrics_are_drawn_by_what_they_are_and_not_by_their_names(tmp_path: Path) -> None:
    """A measure of an environment's that is called like a return with an interval is a number like any other."""
    with MetricsLog(tmp_path) as log:
        log.write(1, {"x/return/step_0": 1.0, "x/return_interval/step_0": 0.5, "eval/return/step_0": 2.0})
        log.write(2, {"eval/return/step_0": 2.0}, {"return": [Estimate(1.0, 0.5)]}, {"return": [Estimate(2.0, 0.1)]})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    assert {tag for tag in tags["scalars"] if "band" in tag} == {
        f"{quantity}_band/step_0/{bound}" for quantity in ("return", "eval/return") for bound in ("lower", "upper")
    }
    assert [image.step for image in events.Images("adaptation/return")] == [2]


def test_figures_do_not_stay_in_memory(tmp_path: Path) -> None:
    """Without a search of all objects, which comes after hundreds of evaluations."""
    estimates = {"return": [Estimate(2.0, 0.1), Estimate(3.0, 0.1)]}
    with MetricsLog(tmp_path) as log:
        log.write(1, {}, None, estimates)  # imports what it draws with
        before = {id(one) for one in gc.get_objects()}
        log.write(2, {}, None, estimates)
        new = [one for one in gc.get_objects() if id(one) not in before]
    assert not [one for one in new if type(one).__module__.startswith("matplotlib")]


def test_a_run_of_an_id_has_it_for_its_name_among_the_hyperparameters() -> None:
    assert dashboard.hyperparameters(Config(env="my_tasks:Thermostat-v0"))["name"] == "my_tasks:Thermostat-v0"
    assert dashboard.hyperparameters(Config(env="mamlrl/AntVel-v0", name="ant-vel"))["name"] == "ant-vel"


def test_hyperparameters_are_all_settings_as_plain_values() -> None:
    values = dashboard.hyperparameters(Config(environment=Config().environment))
    assert values["adaptation.step_size"] == 0.1 and values["learner"] == "maml" and values["policy.hidden_sizes"]
    assert all(isinstance(value, bool | int | float | str) for value in values.values())
    assert set(dashboard.COMPARED) <= set(values)


def test_a_run_without_evaluation_has_no_charts_of_it() -> None:
    layout = dashboard.arrange(Config(learner="oracle"))
    assert not any("held-out" in title for title in layout)
    assert len(layout["Return on training tasks"]) == 2  # all steps in one chart; before adaptation, with its band


@pytest.fixture(scope="module")
def page(logdir: Path) -> Iterator[object]:
    """A browser's page, and TensorBoard serving two runs: `page.show(tab)` goes to one of its tabs."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium was found, and in CI it must be there: apt-get install chromium")
        pytest.skip("no Chromium was found: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        assert any("TensorBoard" in line and "http" in line for line in server.stderr), "TensorBoard did not start"
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            tab = browser.new_page(viewport={"width": 1500, "height": 1400})
            tab.set_default_timeout(60_000)

            def show(name: str) -> None:
                tab.goto("about:blank")  # the same page with another fragment would not be loaded anew
                tab.goto(f"http://127.0.0.1:{port}/{name}")

            tab.show = show  # type: ignore[attr-defined]
            yield tab
            browser.close()
    finally:
        server.terminate()
        server.wait()


def drawn(page, selector: str) -> bool:
    """Whether an image of the page has arrived and been decoded."""
    return page.locator(selector).first.evaluate("image => image.decode().then(() => image.naturalWidth > 50)")


def test_the_first_page_shows_adaptation_figures_and_films(page) -> None:
    page.show("")
    for tag in ("adaptation/film", "adaptation/return"):
        card = page.locator("card-view", has=page.get_by_text(tag, exact=True))
        card.first.wait_for()
        assert card.count() == 2  # runs
        assert drawn(page, f"card-view:has-text('{tag}') img")


def test_the_custom_layout_shows_returns_with_bands_trust_region_and_time(page) -> None:
    page.show("#custom_scalars")
    titles = ("Return on training tasks", "Return on held-out tasks", "Meta-update", "Time", "Policy and baseline")
    for title in titles:
        page.get_by_text(title, exact=True).first.wait_for()
    for title in ("by adaptation step", "3 gradient steps, 95% interval over tasks", "KL divergence"):
        page.get_by_text(title, exact=True).first.wait_for()
    lines = page.locator("tf-custom-scalar-multi-line-chart-card path.line")
    lines.first.wait_for(state="attached")
    assert lines.count() >= 4
    bands = page.locator("tf-custom-scalar-margin-chart-card path.area")
    bands.first.wait_for(state="attached")
    assert bands.count() >= 4


def test_settings_and_the_table_of_runs(page) -> None:
    page.show("#text")
    page.get_by_text("hidden_sizes", exact=False).first.wait_for()
    page.show("#hparams")
    for word in ("nav-1", "nav-2", "eval/return/step_3"):
        page.get_by_text(word, exact=True).first.wait_for()
