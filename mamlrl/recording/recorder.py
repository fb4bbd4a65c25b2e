"""Films while a run trains."""

from __future__ import annotations

from pathlib import Path

from mamlrl.errors import UserError, said
from mamlrl.experiment import Experiment, draw_tasks, make_envs
from mamlrl.learners import evaluation_steps
from mamlrl.learners.base import LearnerState
from mamlrl.messages import say
from mamlrl.recording.films import adapt, film
from mamlrl.recording.panels import Panel, compose
from mamlrl.recording.stage import check_stage, open_stage
from mamlrl.recording.writers import Gif, check_ffmpeg, write_mp4
from mamlrl.run_folder.folder import VIDEOS
from mamlrl.run_folder.metrics_log import MetricsLog
from mamlrl.seeding import Stream
from mamlrl.structs import MetaParams, on_device

STEPS = (0, 1, 3)
"""Numbers of gradient steps, a panel each."""


def check_recording(experiment: Experiment) -> None:
    """Films can be made during this training; found out before it begins.

    Raises:
        UserError: they cannot: there is no ffmpeg, or the environment does not draw, or not here.
    """
    try:
        check_ffmpeg()
        check_stage(experiment)
    except UserError as error:
        every = experiment.config.video.every
        raise UserError(f"--video.every is {every}, but {error}; --video.every 0 makes no films") from error


class Recorder:
    """A film of one held-out task every `video.every` meta-iterations, into the run folder and TensorBoard.

    What goes wrong in it is printed once, and no more films are made: a training goes on without them.

    Args:
        experiment: what is trained.
        folder: the run folder.
        log: of the run.
    """

    def __init__(self, experiment: Experiment, folder: Path, log: MetricsLog):
        self._experiment, self._folder, self._log = experiment, folder / VIDEOS, log
        self._works = True

    def __call__(self, state: LearnerState, iteration: int) -> None:
        """Film the policy, if a film is due after this iteration."""
        if not self._works or iteration % self._experiment.config.video.every:
            return
        try:
            self._record(on_device(state.meta, "cpu"), iteration)
        except Exception as error:  # a film is never worth a training
            self._works = False
            say(f"note: no more films are made: {said(error)}")

    def _record(self, meta: MetaParams, iteration: int) -> None:
        config, streams = self._experiment.config, self._experiment.streams.evaluation()
        steps = sorted({min(steps, evaluation_steps(config)) for steps in STEPS})
        envs = make_envs(config, config.sampling.rollouts)
        try:
            tasks = draw_tasks(envs, 1, streams.numpy(Stream.TASKS, 0))
            (subject,) = adapt(self._experiment._replace(envs=envs), meta, tasks, steps, streams, iteration)
        finally:
            envs.close()
        self._folder.mkdir(exist_ok=True)
        with open_stage(self._experiment, len(steps)) as stage:
            gif = Gif(stage.frames_per_second)
            path = self._folder / f"iteration-{iteration:06d}.mp4"
            with write_mp4(path, stage.frames_per_second) as write:

                def show(panels: list[Panel]) -> None:
                    picture = compose(panels)
                    write(picture)
                    gif.add(picture)

                film(self._experiment, stage, subject, show)
        self._log.write_gif("adaptation/film", gif.encoded(), gif.size, iteration)
