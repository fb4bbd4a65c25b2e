"""Films without a command: what environments may draw, what panels show, how a film ends, stills."""

from __future__ import annotations

import dataclasses
import errno
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from mamlrl.config import Config, EnvironmentConfig, PolicyConfig, SamplingConfig
from mamlrl.envs.mujoco_vector import MujocoTaskVectorEnv
from mamlrl.errors import NonFiniteError, UserError
from mamlrl.experiment import Experiment, initial_state, make_experiment
from mamlrl.recording import films, stage
from mamlrl.recording.panels import FULL_WIDTH, GREEN, INK, Panel, _outcome, compose
from mamlrl.recording.pictures import as_picture, enlarged, fitted
from mamlrl.recording.stage import check_stage, open_stage
from mamlrl.recording.stills import still
from mamlrl.recording.writers import Gif, write_gif, write_mp4
from mamlrl.run_folder.figures import save_figure

from .cli.drawing_envs import BAD, GOOD, RGB

HORIZON = 8


def experiment_on(env: str = "tests.cli.drawing_envs:toy/Drawn-v0", **kwargs: Any) -> Experiment:
    """An untrained policy in an environment with two copies."""
    environment = EnvironmentConfig(horizon=HORIZON, kwargs=kwargs)
    sampling = SamplingConfig(tasks=1, rollouts=2)
    config = Config(
        env=env, threads=1, environment=environment, sampling=sampling, policy=PolicyConfig(hidden_sizes=())
    )
    return make_experiment(config)


def filmed(experiment: Experiment, steps: tuple[int, ...] = (0, 1)) -> tuple[films.Film, list[list[Panel]]]:
    """A film of one task, and its panels."""
    shown: list[list[Panel]] = []
    meta, task = initial_state(experiment).meta, np.array([[0.5]])
    with open_stage(experiment, len(steps)) as open_:
        (subject,) = films.adapt(experiment, meta, task, steps, experiment.streams)
        film = films.film(experiment, open_, subject, shown.append)
    experiment.envs.close()
    return film, shown


@pytest.mark.parametrize("kind", GOOD)
def test_what_environments_draw(kind: str) -> None:
    picture = as_picture(GOOD[kind](0))
    assert (picture.dtype, picture.shape) == (np.uint8, RGB.shape) and picture.flags.c_contiguous
    brightness = {"rgba": 126, "truth values": 255}.get(kind, 90)  # 200 / 255 of 90, on white; true is white
    assert np.abs(picture.astype(int) - brightness).max() <= 1


@pytest.mark.parametrize("kind", BAD)
def test_what_no_film_can_be_made_of_is_one_line(kind: str) -> None:
    experiment = experiment_on(draws=kind)
    with pytest.raises(UserError, match=r"cannot be rendered: .") as raised:
        check_stage(experiment)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 300
    assert ("libegl1" in message) == (kind == "OpenGL")
    experiment.envs.close()


@pytest.mark.parametrize(
    ("said", "taken"), [(30, 30), (12.5, 12.5), *((bad, 20) for bad in (None, 0, -1, np.nan, "fast"))]
)
def test_an_environment_need_not_know_its_frame_rate(said: Any, taken: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cli.drawing_envs.Drawn.metadata", {"render_modes": ["rgb_array"], "render_fps": said})
    experiment = experiment_on()
    assert stage._simulation_rate(experiment.envs) == taken
    experiment.envs.close()


def test_a_picture_that_changes_its_size_is_fitted_to_the_first() -> None:
    _, shown = filmed(experiment_on(draws="growing"))
    assert {panel.picture.shape for panels in shown for panel in panels} == {RGB.shape}
    assert fitted(RGB, RGB) is RGB
    wide = fitted(np.zeros((10, 100, 3), np.uint8), RGB)
    assert wide.shape == RGB.shape and wide[0, 0, 0] == 255 and wide[15, 20, 0] == 0  # bordered in white


def test_small_pictures_are_enlarged_so_that_captions_can_be_read() -> None:
    assert enlarged(RGB, 320).shape == (8 * 31, 8 * 41, 3)
    assert enlarged(RGB, 41) is RGB
    assert compose([panel(picture=RGB)]).shape[1] >= 320


def panel(**fields: Any) -> Panel:
    """A panel of a dark picture in which nothing has happened yet."""
    dark = np.zeros((FULL_WIDTH, FULL_WIDTH, 3), np.uint8)
    return Panel(1, "task 0.50", dark, -1.0, None, None, ())._replace(**fields)


def has_color(picture: np.ndarray, color: str) -> bool:
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(picture[-60:].astype(int) - rgb).max(-1) <= 2).any())


def test_a_panel_says_that_its_episode_has_ended() -> None:
    going_on, ended, success = (compose([panel(**fields)]) for fields in ({}, {"ended": 37}, {"outcomes": (3,)}))
    both = compose([panel(ended=37, outcomes=(37,))])
    assert going_on[-30, 240].max() == 0 and ended[-30, 460].min() > 100  # it fades
    assert [has_color(picture, INK) for picture in (going_on, ended, success)] == [False, True, False]
    assert [has_color(picture, GREEN) for picture in (going_on, ended, success, both)] == [False, False, True, True]


@pytest.mark.parametrize("task", ["", "goal", "x" * 500, "two\nlines", "\u4efb\u52a1 \U0001f600", "a\tb"])
@pytest.mark.parametrize("width", [1, 41, 480, 1000])
def test_any_caption_in_any_width(task: str, width: int) -> None:
    picture = np.zeros((11, width, 3), np.uint8)
    composed = compose(
        [panel(task=task, picture=picture, episode_return=-1.2e12, speed=1e6, ended=10**6, outcomes=(1,))] * 3
    )
    assert composed.shape[0] % 2 == composed.shape[1] % 2 == 0


def test_a_film_tells_of_the_end_of_an_episode() -> None:
    film, shown = filmed(experiment_on(ends_after=5))
    assert film.lengths.tolist() == [5, 5]
    held = 10  # pictures in a second
    assert [panels[0].ended for panels in shown] == [None] * 5 + [5] * (1 + held)  # the start and 5 time steps


def test_an_episode_that_the_horizon_cuts_off_is_not_said_to_have_ended() -> None:
    film, shown = filmed(experiment_on())
    assert film.lengths.tolist() == [HORIZON, HORIZON]
    assert {panel.ended for panels in shown for panel in panels} == {None}
    assert len(shown) == HORIZON + 1


def test_a_film_tells_of_success_and_goes_on() -> None:
    _, shown = filmed(experiment_on(succeeds_after=3))
    assert [panels[0].outcomes for panels in shown] == [()] * 3 + [(3,)] * 6
    _, shown = filmed(experiment_on(succeeds_after=100))
    assert {panel.outcomes for panels in shown for panel in panels} == {()}


def test_a_film_of_a_trial_tells_of_the_success_of_each_episode() -> None:
    kwargs = {"ends_after": 5, "succeeds_after": 3}
    without = EnvironmentConfig(horizon=HORIZON, kwargs={"ends_after": 5})
    config = Config(
        env="tests.cli.drawing_envs:toy/Drawn-v0",
        learner="rl2",
        threads=1,
        environment=EnvironmentConfig(horizon=HORIZON, kwargs=kwargs),
        sampling=SamplingConfig(tasks=1, rollouts=1, episodes=2),
        policy=PolicyConfig(hidden_sizes=(4,)),
    )
    _, shown = filmed(make_experiment(config), steps=(0,))
    told = [panels[0].outcomes for panels in shown]
    assert told[:9] == [()] * 3 + [(3,)] * 5 + [(3, 3)] and told[-1] == (3, 3)
    _, shown = filmed(make_experiment(dataclasses.replace(config, environment=without)), steps=(0,))
    told = [panels[0].outcomes for panels in shown]
    assert told[:11] == [()] * 5 + [(None,)] * 5 + [(None, None)]


def test_a_film_shows_a_task_that_changes() -> None:
    """In the caption, as the pole, which does not jump, and as what a still says was wanted."""
    experiment = experiment_on("mamlrl/HalfCheetahVel-v0", change_at=3)
    poles: list[list[float]] = []
    with pytest.MonkeyPatch.context() as patch:
        drawn = MujocoTaskVectorEnv.render
        patch.setattr(MujocoTaskVectorEnv, "render", lambda self: poles.append(self._pole.tolist()) or drawn(self))
        film, shown = filmed(experiment)
    told = [panels[0].task for panels in shown]
    assert told[:3] == ["target 0.50 m/s"] * 3 and len(set(told[3:])) == 1 and told[3] != told[0]
    assert {panels[1].changed for panels in shown[:3]} == {None} and {panels[1].changed for panels in shown[3:]} == {3}
    assert film.description == "target 0.50 m/s" and film.target_speeds is not None
    later = film.target_speeds[3, 0]
    assert told[3] == f"target {later:.2f} m/s"
    np.testing.assert_array_equal(film.target_speeds[:, 0], [0.5] * 3 + [later] * 5)
    np.testing.assert_allclose(np.diff(np.array(poles)[1:, 0]), 0.05 * film.target_speeds[:, 0])
    figure = still([film])
    assert figure is not None and ("target, which changes", 0) in list(lines(figure))


def test_an_outcome_in_words() -> None:
    trial = panel(episode="episode 2")
    for outcomes, words in (
        ((), ""),
        ((None,), ""),
        ((3,), "steps to success: 3"),
        ((None, 4), "steps to success: -, 4"),
        ((3, None), "steps to success: 3, -"),
        ((1, 2, 3, None, 5, 6), "steps to success: ..., 2, 3, -, 5, 6"),
    ):
        assert _outcome(trial._replace(outcomes=outcomes)) == words
    assert _outcome(trial._replace(outcomes=(None, None), ended=9)) == "ended after 9 steps"


@pytest.mark.filterwarnings("ignore:.*not within the observation space")
def test_numbers_that_are_not_finite_are_no_film() -> None:
    experiment = experiment_on()
    meta = initial_state(experiment).meta
    meta = meta._replace(init={name: leaf * torch.nan for name, leaf in meta.init.items()})
    with open_stage(experiment, 1) as open_:
        (subject,) = films.adapt(experiment, meta, np.array([[0.5]]), (0,), experiment.streams)
        with pytest.raises(NonFiniteError, match=r"actions .* not finite"):
            films.film(experiment, open_, subject, lambda _: None)
    experiment.envs.close()


def a_film(**fields: Any) -> films.Film:
    """A film of two rollouts of which the second one is shorter."""
    observations = np.random.default_rng(0).normal(size=(6, 2, 2))
    film = films.Film(
        "goal (0.10, 0.20)",
        np.array([0.1, 0.2]),
        [0, 1],
        observations,
        np.zeros(2),
        None,
        np.array([5, 3]),
        0.1,
        None,
        None,
    )
    return film._replace(**fields)


def lines(figure: Figure) -> Iterator[tuple[str, int]]:
    """Label and number of points of each line."""
    return ((str(line.get_label()), len(line.get_xdata())) for line in figure.axes[0].lines)  # type: ignore[arg-type]


def test_stills_show_what_the_environment_says() -> None:
    paths = still([a_film(still="path")])
    assert paths is not None
    assert list(lines(paths)) == [("before adaptation", 6), ("1 gradient step", 4), ("start", 1), ("goal", 1)]
    speeds = still([a_film(still="speed", speeds=np.zeros((5, 2)), target_speeds=np.full((5, 2), 1.5))] * 5)
    assert speeds is not None
    assert list(lines(speeds))[1:] == [("before adaptation", 5), ("1 gradient step", 3), ("target", 2)]


def shown_ticks(axes: Axes) -> list[Text]:
    """Labels of the ticks along x."""
    left, right = axes.get_xlim()
    pairs = zip(axes.get_xticks(), axes.get_xticklabels(), strict=False)  # a panel above another has no labels
    return [label for x, label in pairs if left <= x <= right and label.get_visible() and label.get_text()]


@pytest.mark.parametrize(("count", "reach"), [(1, 40.0), (2, 2.3), (3, 1.0), (3, 8.0), (4, 2.3), (5, 1.0)])
def test_panels_of_a_still_are_to_one_scale_and_clear_of_the_legend(count: int, reach: float) -> None:
    many = [*range(2), 3]  # numbers of gradient steps
    observations = [
        reach * np.random.default_rng(number).uniform(-1, 1, (6, 3, 2)) / (number + 1) for number in range(count)
    ]
    shared = {"steps": many, "lengths": np.array([5, 3, 5])}
    paths = still([a_film(still="path", observations=one, **shared) for one in observations])
    speeds = still([a_film(still="speed", speeds=one[:5, :, 0], **shared) for one in observations])
    for figure in (paths, speeds):
        assert figure is not None
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)  # once, as when a file is written
        axes = figure.axes[:count]
        assert len({(one.get_xlim(), one.get_ylim()) for one in axes}) == 1
        (legend,) = figure.legends
        box = legend.get_window_extent(renderer)
        texts = [text for one in axes for text in (one.title, one.xaxis.label) if text.get_text()]
        assert not any(box.overlaps(text.get_window_extent(renderer)) for text in texts)
        for whole in (box, *(text.get_window_extent(renderer) for text in texts)):
            assert 0 <= whole.x0 and 0 <= whole.y0 and whole.x1 <= figure.bbox.width and whole.y1 <= figure.bbox.height
        beneath = [one.get_window_extent(renderer) for panel in axes for one in shown_ticks(panel)]
        rows = [[one for one in beneath if abs(one.y0 - first.y0) < 1] for first in beneath]
        gaps = [
            right.x0 - left.x1 for row in rows for left, right in itertools.pairwise(sorted(row, key=lambda b: b.x0))
        ]
        assert min(gaps) > 5  # pixels
    assert speeds is not None
    heights = [[np.asarray(line.get_ydata()).tolist() for line in one.lines] for one in speeds.axes[:count]]
    assert all([0.0, 0.0] in of_panel for of_panel in heights)


@pytest.mark.parametrize(
    "fields",
    [{}, {"still": "speed"}, {"still": "path", "observations": np.zeros((6, 2, 1))}, {"still": "portrait"}],
)
def test_no_still_of_what_cannot_be_shown(fields: dict[str, Any]) -> None:
    assert still([a_film(**fields)]) is None


def test_a_path_of_tasks_that_are_no_points() -> None:
    figure = still([a_film(still="path", task=np.array([1.0]), observations=np.full((6, 2, 4), 7.0))])
    assert figure is not None and "goal" not in dict(lines(figure))
    assert figure.axes[0].get_xlim()[1] > 7.0


def test_a_file_appears_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match=r"still\.png"):
        save_figure(Figure(), tmp_path / "still.png")
    with pytest.raises(OSError, match=r"film\.gif"), write_gif(tmp_path / "film.gif", 10.0) as write:
        write(RGB)
    assert list(tmp_path.iterdir()) == []


JUNK = 'for last; do :; done; cat > /dev/null; case "$last" in *.mp4) echo junk > "$last";; esac'


@pytest.mark.parametrize("does", ["exit 1", "exit 0", JUNK])
def test_an_ffmpeg_that_fails_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text(f"#!/bin/sh\n{does}\n")
    script.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
    monkeypatch.setattr("imageio_ffmpeg._io.get_first_available_h264_encoder", lambda: "libx264")
    with pytest.raises(UserError, match=r"film\.mp4: ffmpeg could not write it"):
        with write_mp4(tmp_path / "film.mp4", 10.0) as write:
            write(compose([panel()]))
    assert list(tmp_path.iterdir()) == [script]


def test_a_film_that_is_given_up_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), write_mp4(tmp_path / "film.mp4", 10.0) as write:
        write(compose([panel()]))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_gif_is_made_of_fewer_pictures_where_there_are_many() -> None:
    for rate, every in ((5.0, 1), (10.0, 1), (20.0, 2), (25.0, 2), (50.0, 4)):
        gif = Gif(rate)
        for _ in range(8):
            gif.add(RGB)
        assert len(gif._images) == 8 // every and gif._pause == round(1000 * every / rate)
