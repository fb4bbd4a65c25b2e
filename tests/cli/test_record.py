"""`python -m mamlrl.record` and films during training: what they leave, and what goes wrong."""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium
import imageio.v3 as imageio
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mamlrl.record import main, parse_steps
from mamlrl.recording import films as video

from .conftest import SMALL, Command, Outcome, assert_fails
from .toy_envs import DiscreteLine

FEW = "--steps 0,2 --rollouts 2"
PANEL, HEIGHT = 480, 480 + video.CAPTION_HEIGHT


@pytest.fixture
def record(command: Command, capsys: pytest.CaptureFixture[str]) -> Command:
    """Records in the folder of `command`."""

    def run(*flags: str) -> Outcome:
        code = main([word for flag in flags for word in flag.split()])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def train(command: Command, *flags: str) -> str:
    outcome = command(*SMALL, "--iterations 1 --out run", *flags)
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_a_film_a_task_and_a_still(command: Command, record: Command) -> None:
    train(command)
    outcome = record(f"run --tasks 2 --out films {FEW}")
    assert (outcome.code, outcome.err) == (0, "")
    assert sorted(os.listdir("films")) == ["still.png", "task-1.mp4", "task-2.mp4"]
    pictures = imageio.imread("films/task-1.mp4", plugin="FFMPEG")
    assert pictures.shape == (9, HEIGHT, 2 * PANEL + video.GAP, 3)  # the start and 8 time steps
    assert np.abs(pictures[0].astype(int) - pictures[-1]).max() > 100  # something moves
    assert Path("films/still.png").read_bytes().startswith(b"\x89PNG")
    assert "goal (" in outcome.out and "films/task-2.mp4" in outcome.out


def test_a_checkpoint_alone_and_a_given_task(command: Command, record: Command, tmp_path: Path) -> None:
    train(command)
    alone = tmp_path / "alone.pt"
    Path("run/checkpoints/best.pt").rename(alone)
    outcome = record(f"{alone} --task -0.25 0.4 --steps 1 --rollouts 2 --out films")
    assert outcome.code == 0, outcome.err
    assert "goal (-0.25, 0.40)" in outcome.out


@pytest.mark.parametrize("learner", ["context", "multitask"])
def test_every_kind_of_learner(command: Command, record: Command, learner: str) -> None:
    train(command, f"--learner {learner}")
    assert record(f"run --tasks 1 --out films {FEW}").code == 0


def test_an_oracle_is_filmed_unadapted(command: Command, record: Command) -> None:
    train(command, "--learner oracle")
    assert_fails(record("run --steps 0,1"), 2, "oracle", "does not adapt")
    assert record("run --tasks 1 --steps 0 --out films").code == 0


def test_the_half_cheetah_has_its_speed_in_film_and_still(command: Command, record: Command) -> None:
    outcome = command(*SMALL, "--env cheetah-vel --policy.observation_scale [] --iterations 1 --out run")
    assert outcome.code == 0, outcome.err
    outcome = record(f"run --task 1.5 --out films {FEW}")
    assert outcome.code == 0, outcome.err
    assert "target 1.50 m/s" in outcome.out
    assert Path("films/still.png").exists()


class DrawnLine(DiscreteLine):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def render(self) -> np.ndarray:  # type: ignore[override]
        return np.full((31, 41, 3), 90, np.uint8)


gymnasium.register("toy/DrawnLine-v0", entry_point=f"{__name__}:DrawnLine")


def test_an_environment_of_ones_own_with_discrete_actions(command: Command, record: Command) -> None:
    train(command, f"--env {__name__}:toy/DrawnLine-v0 --policy.observation_scale []")
    outcome = record(f"run --tasks 1 --out films {FEW}")
    assert outcome.code == 0, outcome.err
    assert os.listdir("films") == ["task-1.mp4"]  # what a still would show is not known


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
def test_an_environment_that_cannot_draw(command: Command, record: Command) -> None:
    train(command, "--env tests.cli.toy_envs:toy/Line-v0 --policy.observation_scale []")
    outcome = record(f"run --out films {FEW}")
    assert outcome.code == 1
    assert "error: the environment cannot be rendered" in outcome.err
    assert not Path("films").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("nowhere", ["nowhere", "no such file"]),
        ("run --tasks 0", ["--tasks is 0", "at least 1"]),
        ("run --steps 0,x", ["--steps is '0,x'", "0,1,3"]),
        ("run --task 0.1", ["--task has 1 numbers", "has 2"]),
        ("run --task 0.1 7", ["7.0", "not in the task space"]),
        ("run --task 0.1 0.2 --tasks 2", ["not allowed with"]),
        ("run --out run/config.yaml", ["not a folder"]),
    ],
)
def test_bad_input_is_one_clear_line(command: Command, record: Command, flags: str, words: list[str]) -> None:
    train(command)
    assert_fails(record(flags), 2, *words)
    assert not Path("runs").exists()


def test_a_film_as_a_gif_needs_no_ffmpeg(command: Command, record: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    train(command)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", no_ffmpeg)
    assert record("run --tasks 1 --steps 0,1 --format gif --out films").code == 0
    assert sorted(os.listdir("films")) == ["still.png", "task-1.gif"]
    pictures = imageio.imread("films/task-1.gif", index=None)
    assert len(pictures) > 2 and pictures.shape[2] > pictures.shape[1]  # two panels side by side


def test_a_recording_is_not_overwritten(command: Command, record: Command) -> None:
    train(command)
    assert record(f"run --tasks 1 --out films {FEW}").code == 0
    assert_fails(record("run --out films"), 2, "holds task-1.mp4 already")


def test_no_ffmpeg(command: Command, record: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    train(command)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", no_ffmpeg)
    assert_fails(record("run --out films"), 1, "no ffmpeg", "pip install imageio-ffmpeg")
    assert not Path("films").exists()


def no_ffmpeg() -> str:
    raise RuntimeError("No ffmpeg exe could be found")


def test_no_opengl(command: Command, record: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = command(*SMALL, "--env cheetah-vel --policy.observation_scale [] --iterations 1 --out run")
    assert outcome.code == 0, outcome.err
    monkeypatch.setenv("MUJOCO_GL", "nothing")
    assert_fails(record(f"run --out films {FEW}"), 1, "cannot be rendered", "libegl1")


def test_steps_are_sorted_and_single() -> None:
    assert parse_steps("3,0,1,3") == [0, 1, 3]


def test_films_during_training(command: Command) -> None:
    train(command, "--iterations 2 --video.every 2")
    assert os.listdir("run/videos") == ["iteration-000002.mp4"]
    events = EventAccumulator("run").Reload()
    (image,) = events.Images("adaptation/film")
    assert image.step == 2
    assert image.encoded_image_string.startswith(b"GIF8")
    assert len(imageio.imread(image.encoded_image_string, extension=".gif")) > 1


def test_a_failed_film_stops_no_training(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", no_ffmpeg)
    out = train(command, "--iterations 3 --video.every 1")
    assert out.count("note: no videos are recorded: no ffmpeg") == 1
    assert Path("run/checkpoints/iteration-000003.pt").exists()


def test_films_change_nothing_in_the_training(command: Command) -> None:
    train(command, "--iterations 2 --video.every 1")
    assert command(*SMALL, "--iterations 2 --out plain").code == 0
    columns = slice(0, 3)  # iteration and returns
    films, plain = (
        [line.split(",")[columns] for line in Path(folder, "metrics.csv").read_text().splitlines()]
        for folder in ("run", "plain")
    )
    assert films == plain
