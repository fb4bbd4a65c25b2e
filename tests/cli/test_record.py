"""`python -m mamlrl.record` and films during training: what they leave, and what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mamlrl.record import main, parse_steps
from mamlrl.recording.panels import CAPTION_HEIGHT, GAP

from . import drawing_envs
from .conftest import SMALL, Command, assert_fails, runner

FEW = "--steps 0,2 --rollouts 2"
PANEL, HEIGHT = 480, 480 + CAPTION_HEIGHT
DRAWING = f"{__package__}.drawing_envs:toy"


@pytest.fixture
def record(command: Command, capsys: pytest.CaptureFixture[str]) -> Command:
    """Records in the folder of `command`."""
    return runner(main, capsys)


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
    assert pictures.shape == (9, HEIGHT, 2 * PANEL + GAP, 3)  # the start and 8 time steps
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


def train_toy(command: Command, family: str, *flags: str) -> None:
    train(command, f"--env {DRAWING}/{family}-v0 --policy.observation_scale []", *flags)


def test_an_environment_of_ones_own_with_discrete_actions(command: Command, record: Command) -> None:
    train_toy(command, "DrawnDiscrete")
    outcome = record(f"run --tasks 1 --out films {FEW}")
    assert outcome.code == 0, outcome.err
    assert os.listdir("films") == ["task-1.mp4"]  # what a still would show is not known


def test_a_task_of_a_discrete_space_is_given_as_a_number(
    command: Command, record: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing_envs.Drawn, "task_space", spaces.Discrete(17, start=-8), raising=False)
    monkeypatch.setattr(drawing_envs.Drawn, "sample_tasks", lambda self, n, rng: rng.integers(-8, 9, (n, 1)))
    train_toy(command, "Drawn")
    outcome = record(f"run --task -8 --out films {FEW}")
    assert outcome.code == 0, outcome.err
    assert_fails(
        record(f"run --task 9 --out others {FEW}"), 2, "--task 9 is not in the task space Discrete(17, start=-8)"
    )
    assert_fails(record(f"run --task 0.5 --out others {FEW}"), 2, "--task 0.5 is not in the task space")


@pytest.mark.parametrize(
    ("family", "cause"),
    [
        ("Text", "need the render mode 'rgb_array', its metadata['render_modes'] names 'ansi'"),
        ("Undeclared", "render_mode"),
        ("NeedsPackage", "pygame is not installed"),
        ("Drawn", "returned"),
    ],
)
def test_an_environment_that_cannot_draw_is_refused_before_anything_is_computed(
    command: Command, record: Command, monkeypatch: pytest.MonkeyPatch, family: str, cause: str
) -> None:
    kwargs = "--environment.kwargs.draws text" if family == "Drawn" else ""
    train_toy(command, family, kwargs)
    monkeypatch.setattr("mamlrl.recording.films.collect", not_called)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they would stand beside the one line
        outcome = record(f"run --out films {FEW}")
    assert_fails(outcome, 1, f"toy/{family}-v0", "cannot be rendered: ", cause)
    assert not Path("films").exists()


def not_called(*_: object) -> None:
    raise AssertionError("computed something")


BAD_INPUT = [
    ("nowhere", ["nowhere", "no such file"]),
    ("run --tasks 0", ["--tasks is 0", "[1, 100]"]),
    ("run --steps 0,x", ["--steps is '0,x'", "0,1,3"]),
    ("run --task 0.1", ["--task has 1 number; a task here has 2"]),
    ("run --task 0.1 7", ["--task 0.1 7 is not in the task space: number 2 of 2 is 7; it must be in [-0.5, 0.5]"]),
    ("run --task 0.1 0.2 --tasks 2", ["not allowed with"]),
    ("run --task nan 0.2", ["--task is nan 0.2", "finite"]),
    ("run --device tpu", ["device is 'tpu'", "cpu or cuda"]),
    ("run --threads -1", ["--threads is -1", "[0, 4096]"]),
    ("run --thread 1", ["unrecognized arguments: --thread 1; did you mean --threads?"]),
    ("run --xyz", ["unrecognized arguments: --xyz; flags are", "--steps", "--device"]),
    ("run --task x", ["argument --task", "'x' is not a number"]),
    ("run --task 0.1,0.2", ["argument --task", "'0.1,0.2' is not a number; several numbers have spaces"]),
    ("run --tasks 10000", ["--tasks is 10000", "[1, 100]"]),
    ("run --rollouts 0", ["--rollouts is 0", "[1, 10000]"]),
    ("run --seed -1", ["--seed is -1"]),
    ("run --speed 0", ["--speed is 0.0", "[0.05, 20.0]"]),
    ("run --speed nan", ["--speed is nan"]),
    ("run --steps 0,1,2,3,4,5,6,7,8", ["--steps", "at most 8 panels"]),
    ("run --steps 1001", ["--steps is '1001'", "at most 1000"]),
    (f"run --steps {'9' * 5000}", ["--steps is '999", "...'"]),
    ("run --steps -1", ["--steps"]),
    ("run --steps \u0663", ["--steps is"]),
    ("run --format avi", ["--format", "'mp4', 'gif'"]),
    ("run --step 1", ["--step"]),
    ("run run", ["run"]),
    ("", ["RUN"]),
    ("run --out run/config.yaml", ["not a folder"]),
    ("run --out run/config.yaml/films", ["not a folder"]),
    ("run/config.yaml", ["config.yaml"]),
]


def test_bad_input_is_one_clear_line(command: Command, record: Command) -> None:
    train(command)
    for flags, words in BAD_INPUT:
        outcome = record(flags)
        assert_fails(outcome, 2, *words)
        assert len(outcome.err) < 400
        assert os.listdir() == ["run"]


def test_an_empty_path_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([""], ["run", "--out", ""], ["run", "--out", "a\0b"]):
        assert main(arguments) == 2
        assert "cannot be a file or folder" in capsys.readouterr().err
    assert os.listdir() == []


def test_a_film_as_a_gif_needs_no_ffmpeg(command: Command, record: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    train(command)
    monkeypatch.setattr("imageio_ffmpeg._io.get_ffmpeg_exe", no_ffmpeg)
    assert record("run --tasks 1 --steps 0,1 --format gif --out films").code == 0
    assert sorted(os.listdir("films")) == ["still.png", "task-1.gif"]
    pictures = imageio.imread("films/task-1.gif", index=None)
    assert len(pictures) > 2 and pictures.shape[2] > pictures.shape[1]  # two panels side by side


@pytest.mark.parametrize("name", ["task-1.mp4", "task-3.mp4", "still.png"])
def test_nothing_is_overwritten(command: Command, record: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    train(command)
    Path("films").mkdir()
    Path("films", name).write_text("mine")
    monkeypatch.setattr("mamlrl.recording.films.collect", not_called)
    assert_fails(record("run --out films"), 2, f"holds {name} already")
    assert os.listdir("films") == [name] and Path("films", name).read_text() == "mine"


def test_films_of_other_names_may_lie_beside(command: Command, record: Command) -> None:
    train(command)
    Path("films").mkdir()
    Path("films/task-2.mp4").write_text("mine")
    assert record("run --tasks 1 --steps 0 --out films").code == 0
    assert sorted(os.listdir("films")) == ["still.png", "task-1.mp4", "task-2.mp4"]


@pytest.mark.parametrize(("speed", "pictures", "rate"), [(0.5, 9, 10), (1, 9, 20), (5, 3, 25)])
def test_a_film_may_be_slower_or_faster(
    command: Command, record: Command, speed: float, pictures: int, rate: float
) -> None:
    train(command)  # 8 time steps, at 20 in a second
    assert record(f"run --tasks 1 --steps 0 --speed {speed} --out films").code == 0
    film = imageio.immeta("films/task-1.mp4", plugin="FFMPEG")
    assert film["fps"] == pytest.approx(rate)
    assert len(imageio.imread("films/task-1.mp4", plugin="FFMPEG")) == pictures


@pytest.mark.parametrize("speed", [0.1, 1, 20])
def test_a_gif_has_the_speed_of_the_film(command: Command, record: Command, speed: float) -> None:
    train(command)
    assert record(f"run --tasks 1 --steps 0 --speed {speed} --format gif --out films").code == 0
    pause = imageio.immeta("films/task-1.gif", index=0)["duration"]  # ms
    shown = len(imageio.imread("films/task-1.gif", index=None))
    assert pause >= 40  # browsers slow down what is much quicker
    assert pause * shown == pytest.approx(9 / 20 / speed * 1000, rel=0.3, abs=80)


def test_a_film_that_fails_leaves_the_others_whole(command: Command, record: Command) -> None:
    train_toy(command, "Drawn", "--environment.kwargs.fails_at 15")  # one at the start, 9 each film
    outcome = record("run --tasks 3 --steps 0 --out films")
    assert_fails(outcome, 1, "cannot be rendered: ", "the camera fell over")
    assert os.listdir("films") == ["task-1.mp4"]


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_every_kind_of_picture(command: Command, record: Command, format: str) -> None:
    train_toy(command, "Drawn", "--environment.kwargs.draws growing")
    assert record(f"run --tasks 1 --format {format} --out films {FEW}").code == 0


def test_no_ffmpeg(command: Command, record: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    train(command)
    monkeypatch.setattr("imageio_ffmpeg._io.get_ffmpeg_exe", no_ffmpeg)
    assert_fails(record("run --out films"), 1, "no ffmpeg", "pip install imageio-ffmpeg")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    monkeypatch.setattr("imageio_ffmpeg._io.get_ffmpeg_exe", imageio_ffmpeg.get_ffmpeg_exe)
    assert_fails(record("run --out films"), 1, "IMAGEIO_FFMPEG_EXE=/nowhere/ffmpeg is no ffmpeg", "unset it")
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


@pytest.mark.parametrize("family", ["Text", "Undeclared", "NeedsPackage", "Drawn"])
def test_a_training_that_cannot_be_filmed_does_not_begin(command: Command, family: str) -> None:
    kwargs = "--environment.kwargs.draws text" if family == "Drawn" else ""
    outcome = command(*SMALL, f"--env {DRAWING}/{family}-v0 --policy.observation_scale [] --video.every 25", kwargs)
    assert_fails(outcome, 1, "--video.every is 25, but ", "cannot be rendered", "--video.every 0 makes no films")
    assert os.listdir() == []


def test_a_training_without_ffmpeg_does_not_begin(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageio_ffmpeg._io.get_ffmpeg_exe", no_ffmpeg)
    outcome = command(*SMALL, "--iterations 3 --video.every 1 --out run")
    assert_fails(outcome, 1, "--video.every is 1, but no ffmpeg was found")
    assert os.listdir() == []


def test_a_training_without_opengl_does_not_begin(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import mujoco  # noqa: F401 (refuses the value where it is imported for the first time)

    monkeypatch.setenv("MUJOCO_GL", "nothing")
    outcome = command(*SMALL, "--env cheetah-vel --policy.observation_scale [] --video.every 2 --out run")
    assert_fails(outcome, 1, "--video.every is 2, but ", "libegl1")
    assert os.listdir() == []


def test_a_film_that_fails_later_stops_no_training(command: Command) -> None:
    command_line = f"--env {DRAWING}/Drawn-v0 --policy.observation_scale [] --environment.kwargs.fails_at 5"
    out = train(command, command_line, "--iterations 3 --video.every 1")
    assert out.count("note: no more films are made: ") == 1 and "the camera fell over" in out
    assert Path("run/checkpoints/iteration-000003.pt").exists()
    assert os.listdir("run/videos") == []


def test_films_change_nothing_in_the_training(command: Command) -> None:
    train(command, "--iterations 2 --video.every 1")
    assert command(*SMALL, "--iterations 2 --out plain").code == 0
    columns = slice(0, 3)  # iteration and returns
    films, plain = (
        [line.split(",")[columns] for line in Path(folder, "metrics.csv").read_text().splitlines()]
        for folder in ("run", "plain")
    )
    assert films == plain


def test_a_terminated_command_leaves_no_unfinished_file(tmp_path: Path) -> None:
    program = """
import os, signal, sys, time
from pathlib import Path
from mamlrl.commands import run_command
from mamlrl.run_folder.files import replacing
def film(argv):
    with replacing(Path("task-1.mp4")) as unfinished:
        unfinished.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
sys.exit(run_command(film, None))
"""
    process = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stderr, list(tmp_path.iterdir())) == (143, "", [])
