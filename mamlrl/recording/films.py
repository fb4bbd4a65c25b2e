"""Films and stills of a policy before and after gradient steps on a task.

A film shows one rollout for each number of gradient steps side by side, all from the same start state and with the
policy's likeliest actions. The gradient steps themselves are taken on sampled rollouts, as in training.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from mamlrl.envs.making import make_task_envs
from mamlrl.envs.observe_task import ObserveTaskVector
from mamlrl.errors import UserError
from mamlrl.experiment import Experiment, draw_tasks, make_envs
from mamlrl.learners import evaluation_steps, find_learner, step_scale
from mamlrl.learners.base import LearnerState
from mamlrl.rounds import adaptation_rounds
from mamlrl.run_folder.figures import steps_name
from mamlrl.run_folder.metrics_log import MetricsLog
from mamlrl.sampler import collect, one_math_thread, to_environment_actions
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import MetaParams, Params, Rollouts, on_device

FRAMES_PER_SECOND = 25  # at most; of faster simulations some time steps are left out
CAPTION_HEIGHT, GAP = 84, 8  # pixels
SPEED_WINDOW = 0.5  # s, over which the speed in the caption is a mean
COLORS = ("#8a94a3", "#f0a202", "#2f6db5", "#1b998b", "#7b3f98", "#d1495b")
"""One for every number of gradient steps, in films and stills alike."""

TASK_NAMES = {
    "Navigation2D-v0": "goal ({:.2f}, {:.2f})",
    "HalfCheetahVel-v0": "target {:.2f} m/s",
    "HalfCheetahDir-v0": "direction {:+.0f}",
    "AntVel-v0": "target {:.2f} m/s",
    "AntDir-v0": "direction {:+.0f}",
    "AntGoal-v0": "goal ({:.2f}, {:.2f})",
}
TARGET_SPEED = ("HalfCheetahVel-v0", "AntVel-v0")
NAVIGATION = "Navigation2D-v0"

Frame = NDArray[np.uint8]


class Take(NamedTuple):
    """One rollout, by the policy after so many gradient steps."""

    steps: int
    """gradient steps"""
    frames: list[Frame]
    """[height, width, 3] each"""
    frame_returns: list[float]
    """undiscounted return up to each frame"""
    frame_speeds: list[float]
    """speed along x in m/s at each frame; empty where the environment tells none"""
    observations: np.ndarray
    """[T + 1, O], to the end of the episode"""
    speeds: np.ndarray
    """[T] along x, m/s; [0] where the environment tells none"""


class Film(NamedTuple):
    """Takes on one task."""

    environment: str
    """the environment's id without its namespace"""
    task: np.ndarray
    """[P]"""
    takes: list[Take]
    frames_per_second: float
    time_step: float
    """seconds between two time steps of the simulation"""


def task_name(environment: str, task: np.ndarray) -> str:
    """What the task is, in a few words."""
    name = TASK_NAMES.get(environment, "task " + ", ".join(["{:.2f}"] * len(task)))
    return name.format(*task)


def film_tasks(
    experiment: Experiment,
    envs: VectorEnv,
    meta: MetaParams,
    tasks: np.ndarray,
    steps: Sequence[int],
    streams: Streams,
    iteration: int = 0,
) -> Iterator[Film]:
    """Adapt to each task, and film rollouts after the given numbers of gradient steps.

    Args:
        experiment: policy, learner and settings.
        envs: vector environment in which rollouts for the gradient steps are sampled, M * B rows.
        meta: what is meta-learned.
        tasks: [M, P].
        steps: numbers of gradient steps, ascending.
        streams: of start states and action noise.
        iteration: which recording of a run this is; each has noise of its own.

    Raises:
        UserError: the environment cannot be rendered.
    """
    config, _, policy, learner, _ = experiment

    def sample(params: Params, step: int) -> Rollouts:
        return collect(envs, policy, params, tasks, streams.rollouts(iteration, step), config.environment)

    rounds = adaptation_rounds(
        learner, meta, sample, steps[-1], config.sampling, lambda step: step_scale(config, step), query=False
    )
    adapted = [learner.start(meta)]
    for one in tqdm(rounds, "gradient steps", steps[-1], leave=False, disable=None):
        assert one.adapted is not None
        adapted.append(one.adapted)
    seed = int(streams.rollouts(iteration, steps[-1]).reset_seeds(1, 1)[0, 0])
    for row, task in enumerate(tasks):
        of_task = [_of_task(adapted[step], adapted[0], row) for step in steps]
        stacked = {name: torch.stack([one[name] for one in of_task]) for name in of_task[0]}
        yield _film(experiment, stacked, task, steps, seed)


def _of_task(params: Params, shared: Params, row: int) -> Params:
    """One task's parameters out of stacked ones, or of ones that are as shared as the initialisation."""
    return {name: leaf[row] if leaf.dim() > shared[name].dim() else leaf for name, leaf in params.items()}


def _film(experiment: Experiment, params: Params, task: np.ndarray, steps: Sequence[int], seed: int) -> Film:
    """Rollouts of all takes in lock step: row i by the policy i of the stacked parameters."""
    envs = _rendered_envs(experiment, len(steps))
    rate = float(envs.metadata.get("render_fps", 20))
    stride = max(1, round(rate / FRAMES_PER_SECOND))
    try:
        played = _play(experiment, envs, params, task, seed, stride)
    finally:
        envs.close()
    window = max(1, round(SPEED_WINDOW * rate))
    takes = [_take(played, row, count, window) for row, count in enumerate(steps)]
    return Film(experiment.config.env.rpartition("/")[2], task, takes, rate / stride, 1.0 / rate)


class _Played(NamedTuple):
    """Rollouts of N rows."""

    observations: np.ndarray  # [T + 1, N, O]
    returns: np.ndarray  # [T + 1, N], up to each time step
    speeds: np.ndarray | None  # [T, N]
    lengths: np.ndarray  # [N]
    frames: list[list[Frame]]  # N each
    shown: np.ndarray  # time steps of the frames


@torch.no_grad()
@one_math_thread()
def _play(experiment: Experiment, envs: VectorEnv, params: Params, task: np.ndarray, seed: int, stride: int) -> _Played:
    """An episode of each row, with a picture every `stride` time steps and at the end."""
    settings, policy, num_rows = experiment.config.environment, experiment.policy, envs.num_envs
    observation, _ = envs.reset(seed=[seed] * num_rows, options={"task": np.tile(task, (num_rows, 1))})  # type: ignore[arg-type]
    memory = policy.initial_state(num_rows, 1)
    observations, rewards, speeds = [observation], [np.zeros(num_rows)], []
    frames, shown = [_pictures(envs)], [0]
    alive, lengths = np.ones(num_rows, bool), np.zeros(num_rows, int)
    for t in tqdm(range(1, settings.horizon + 1), "filming", leave=False, disable=None):
        inputs = torch.as_tensor(np.asarray(observation).reshape(num_rows, 1, -1), dtype=torch.float32)
        outputs, memory = policy.step(params, inputs, memory)
        action = policy.distribution.mode(outputs)[:, 0].numpy()
        env_action = to_environment_actions(action, envs.single_action_space, settings.action_scale)
        observation, reward, terminated, truncated, infos = envs.step(env_action)
        lengths += alive
        alive = alive & ~(terminated | truncated)
        observations.append(observation)
        rewards.append(reward)
        if "x_velocity" in infos:
            speeds.append(infos["x_velocity"])
        if t % stride == 0 or not alive.any():
            frames.append(_pictures(envs))
            shown.append(t)
        if not alive.any():
            break
    speed_rows = np.array(speeds) if speeds else None
    return _Played(np.array(observations), np.cumsum(rewards, 0), speed_rows, lengths, frames, np.array(shown))


def _take(played: _Played, row: int, steps: int, window: int) -> Take:
    """One row's rollout, by the policy after so many gradient steps; its speed is a mean over `window` time steps."""
    end = int(played.lengths[row])
    speeds = np.zeros(0) if played.speeds is None else played.speeds[:end, row]
    moments = [] if played.speeds is None else np.minimum(played.shown, end)
    return Take(
        steps,
        [pictures[row] for pictures in played.frames],
        played.returns[played.shown, row].tolist(),
        [float(speeds[max(0, t - window) : max(t, 1)].mean()) for t in moments],
        played.observations[: end + 1, row],
        speeds,
    )


def _rendered_envs(experiment: Experiment, num_envs: int) -> VectorEnv:
    config = experiment.config
    settings, kwargs = config.environment, {**config.environment.kwargs, "render_mode": "rgb_array"}
    try:
        envs = make_task_envs(config.env, num_envs, settings.horizon, kwargs, settings.vectorization, num_threads=1)
    except ValueError as error:  # its constructor takes no render_mode
        raise UserError(f"the environment cannot be rendered: {error}") from error
    return ObserveTaskVector(envs) if find_learner(config.learner).observes_task else envs


def _pictures(envs: VectorEnv) -> list[Frame]:
    """A picture of every row."""
    try:
        return [np.asarray(envs.render_row(row), np.uint8) for row in range(envs.num_envs)]  # type: ignore[attr-defined]
    except Exception as error:  # whatever an environment raises that cannot draw, or not here
        raise UserError(f"the environment cannot be rendered: {str(error) or type(error).__name__}") from error


def compose(film: Film) -> Iterator[Frame]:
    """Pictures of a film: panels side by side, each under its caption."""
    name = task_name(film.environment, film.task)
    for index in range(len(film.takes[0].frames)):
        panels = [_panel(take, index, name) for take in film.takes]
        height, width = panels[0].shape[:2]
        full_width = len(panels) * (width + GAP) - GAP
        picture = np.full(
            (height + height % 2, full_width + full_width % 2, 3), 255, np.uint8
        )  # H.264 wants even sides
        for column, panel in enumerate(panels):
            left = column * (width + GAP)
            picture[:height, left : left + width] = panel
        yield picture


def _panel(take: Take, index: int, task: str) -> Frame:
    """One take's picture below its caption: number of gradient steps, task, return so far, speed."""
    frame = take.frames[index]
    panel = Image.new("RGB", (frame.shape[1], frame.shape[0] + CAPTION_HEIGHT), "white")
    panel.paste(Image.fromarray(frame), (0, CAPTION_HEIGHT))
    canvas, color = ImageDraw.Draw(panel), COLORS[take.steps % len(COLORS)]
    unit = frame.shape[1] / 480  # captions shrink with the picture
    large, small = ImageFont.load_default(26 * unit), ImageFont.load_default(20 * unit)
    right = frame.shape[1] - 8 * unit
    canvas.rectangle((0, 0, frame.shape[1], 6), fill=color)
    canvas.text((8 * unit, 34), steps_name(take.steps), font=large, fill="#1d2530", anchor="lm")
    canvas.text((right, 34), f"return {take.frame_returns[index]:.1f}", font=large, fill="#1d2530", anchor="rm")
    canvas.text((8 * unit, 66), task, font=small, fill="#5a6472", anchor="lm")
    if take.frame_speeds:
        speed = f"speed {take.frame_speeds[index]:.2f} m/s"
        canvas.text((right, 66), speed, font=small, fill="#5a6472", anchor="rm")
    return np.array(panel)


def check_ffmpeg() -> None:
    """MP4 files can be written.

    Raises:
        UserError: there is no ffmpeg.
    """
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "no ffmpeg was found, which writes MP4 files; pip install imageio-ffmpeg brings one, or install ffmpeg and "
            "set IMAGEIO_FFMPEG_EXE to its path"
        ) from error


def write_mp4(path: Path, film: Film) -> None:
    """Write a film; the file appears when it is whole.

    Raises:
        UserError: ffmpeg failed.
        OSError: the file cannot be written.
    """
    import imageio_ffmpeg

    pictures = compose(film)
    first = next(pictures)
    temporary = path.with_name(f".{path.name}.partial.mp4")
    writer = imageio_ffmpeg.write_frames(
        str(temporary),
        (first.shape[1], first.shape[0]),
        fps=film.frames_per_second,  # type: ignore[arg-type] # ffmpeg takes fractions
        quality=None,  # type: ignore[arg-type] # as its documentation says
        output_params=["-crf", "23"],
        macro_block_size=2,
        ffmpeg_log_level="error",
    )
    try:
        writer.send(None)
        writer.send(first.tobytes())
        for picture in pictures:
            writer.send(picture.tobytes())
        writer.close()
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: ffmpeg could not write it") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_gif(path: Path, film: Film) -> None:
    """Write a film as an animated GIF of half the size; the file appears when it is whole.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(encode_gif(film)[0])
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def encode_gif(film: Film, scale: float = 0.5, stride: int = 2) -> tuple[bytes, tuple[int, int]]:
    """A film as an animated GIF, smaller and with fewer pictures, and its width and height."""
    images = []
    for index, picture in enumerate(compose(film)):
        if index % stride == 0:
            image = Image.fromarray(picture)
            size = (int(image.width * scale), int(image.height * scale))
            images.append(image.resize(size, Image.Resampling.LANCZOS).quantize(64))
    buffer, pause = io.BytesIO(), round(1000 * stride / film.frames_per_second)
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=pause, loop=0)
    return buffer.getvalue(), images[0].size


def still(films: Sequence[Film]) -> Figure | None:
    """Figure of all takes, a panel a task: paths in 2D navigation, speed against time of what runs; else None."""
    if films[0].environment == NAVIGATION:
        draw_panel, label_x, label_y = _draw_paths, "x (m)", "y (m)"
    elif films[0].takes[0].frame_speeds:
        draw_panel, label_x, label_y = _draw_speeds, "time (s)", "speed along x (m/s)"
    else:
        return None
    columns = min(len(films), 4)
    rows = -(-len(films) // columns)
    canvas = Figure(figsize=(3.4 * columns + 0.4, 3.2 * rows + 0.6), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    for axes, film in zip(grid.flat, films, strict=False):
        draw_panel(axes, film)
        axes.set_title(task_name(film.environment, film.task), fontsize=10)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(films) :]:
        axes.set_axis_off()
    canvas.supxlabel(label_x, fontsize=10)
    canvas.supylabel(label_y, fontsize=10)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside upper center", ncols=len(labels) if columns > 1 else 2, fontsize=9)
    return canvas


def _draw_paths(axes: Axes, film: Film) -> None:
    for take in film.takes:
        path = take.observations[:, :2]
        axes.plot(*path.T, ".-", color=COLORS[take.steps % len(COLORS)], markersize=4, label=steps_name(take.steps))
    axes.plot(0, 0, "o", color="white", markeredgecolor="#5a6472", label="start")
    axes.plot(*film.task, "*", color="#d1495b", markersize=13, label="goal")
    reach = 1.2 * max(0.5, *[np.abs(take.observations[:, :2]).max() for take in film.takes])
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _draw_speeds(axes: Axes, film: Film) -> None:
    for take in film.takes:
        times = np.arange(1, len(take.speeds) + 1) * film.time_step
        color = COLORS[take.steps % len(COLORS)]
        axes.plot(times, take.speeds, color=color, linewidth=1.2, label=steps_name(take.steps))
    if film.environment in TARGET_SPEED:
        axes.axhline(film.task[0], color="#d1495b", linestyle="--", linewidth=1.2, label="target")


class Recorder:
    """A film of one held-out task every `video.every` meta-iterations, into the run folder and TensorBoard.

    What goes wrong in it is printed once, and no more films are made: a training goes on without them.

    Args:
        experiment: what is trained.
        folder: the run folder.
        log: of the run.
    """

    def __init__(self, experiment: Experiment, folder: Path, log: MetricsLog):
        self._experiment, self._folder, self._log = experiment, folder / "videos", log
        self._works = True

    def __call__(self, state: LearnerState, iteration: int) -> None:
        """Film the policy, if a film is due after this iteration."""
        if not self._works or iteration % self._experiment.config.video.every:
            return
        try:
            self._record(on_device(state.meta, "cpu"), iteration)
        except Exception as error:  # a film is never worth a training
            self._works = False
            print(f"note: no videos are recorded: {error}", flush=True)

    def _record(self, meta: MetaParams, iteration: int) -> None:
        check_ffmpeg()
        config, streams = self._experiment.config, self._experiment.streams.evaluation()
        envs = make_envs(config, config.sampling.rollouts)
        try:
            tasks = draw_tasks(envs, 1, streams.numpy(Stream.TASKS, 0))
            steps = sorted({min(steps, evaluation_steps(config)) for steps in (0, 1, 3)})
            (film,) = film_tasks(self._experiment, envs, meta, tasks, steps, streams, iteration)
        finally:
            envs.close()
        self._folder.mkdir(exist_ok=True)
        write_mp4(self._folder / f"iteration-{iteration:06d}.mp4", film)
        self._log.write_gif("adaptation/film", *encode_gif(film), iteration)
