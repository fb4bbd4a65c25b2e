"""The training loop: meta-iterations, evaluation, logging, checkpoints. It does not know what a return is."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mamlrl.config import Config
from mamlrl.distributed import from_first, gather, size
from mamlrl.errors import LearnerFailure, UserError
from mamlrl.evaluation.held_out import HeldOut
from mamlrl.learners.base import LearnerState
from mamlrl.progress import ProgressLine
from mamlrl.run_folder.checkpoints import CheckpointFolder, Progress, check_fits, plain, restore
from mamlrl.run_folder.metrics_log import MetricsLog
from mamlrl.structs import Metrics
from mamlrl.training.interrupts import StopRequest
from mamlrl.training.iteration import IterationOutcome

SAME = 0.01
"""Share of a meta-update by which its results may differ between ranks: far more than rounding makes, far less than
other tasks do."""
MAX_NONFINITE_STEPS = 3
"""Meta-updates in a row that may be refused for a non-finite number before the run ends."""

Iterate = Callable[[LearnerState, int], tuple[LearnerState, IterationOutcome]]
Evaluate = Callable[[LearnerState, int], HeldOut]


class Hooks(NamedTuple):
    """What happens after an iteration besides logging and checkpoints; each is called with the iterations done."""

    evaluate: Evaluate | None = None
    record: Callable[[LearnerState, int], None] | None = None
    callback: Callable[[int, Metrics], bool | None] | None = None
    """a user's own: sees the metrics of the iteration; a true answer stops the run"""


def meta_train(
    iterate: Iterate,
    progress: Progress,
    config: Config,
    log: MetricsLog,
    checkpoints: CheckpointFolder,
    stop: StopRequest,
    hooks: Hooks = Hooks(),  # noqa: B008 (immutable)
) -> Progress:
    """Meta-iterations until the configured number is done or a stop is asked for; logs and checkpoints each.

    Whatever ends it, there is a checkpoint of the last iteration that was logged.

    Args:
        iterate: one meta-iteration, (state, number from 0) -> (state, what happened).
        progress: where the run stands.
        config: how many iterations, and how often there is a checkpoint.
        log: of the run.
        checkpoints: of the run.
        stop: ends the run after an iteration.
        hooks: what else happens after each.

    Raises:
        UserError: three meta-updates in a row were refused because a number was not finite, or a state cannot be saved.
    """
    line = ProgressLine(progress.iteration, config.iterations)
    saved, logged, stopped = progress.iteration, progress, False
    try:
        while progress.iteration < config.iterations and not stop.agreed(stopped):
            start, stop.iteration = time.perf_counter(), progress.iteration + 1
            try:
                progress, outcome, held_out = one_iteration(iterate, progress, checkpoints, hooks.evaluate)
            except LearnerFailure as error:
                raise LearnerFailure(f"{error}, in iteration {progress.iteration + 1}") from error.__cause__
            counted = {"env_steps": progress.env_steps} if progress.env_steps else {}
            ours = {"update/nonfinite": float(outcome.not_finite), **counted}
            metrics = {**outcome.metrics, **ours, **held_out.metrics}
            log.write(progress.iteration, metrics, outcome.estimates, held_out.estimates, held_out.episodes)
            logged = progress
            if hooks.record:
                hooks.record(progress.state, progress.iteration)
            if progress.iteration % config.checkpoint.every == 0:
                checkpoints.save(progress)
                saved = progress.iteration
            refused = ", update refused: not finite" if progress.nonfinite_steps else ""
            rate = outcome.env_steps / (time.perf_counter() - start)
            steps = f", {rate:,.0f} steps/s" if outcome.env_steps else ""
            line.update(progress.iteration, f"{outcome.status}{refused}{steps}")
            check_updates(progress, config)
            stopped = bool(hooks.callback and hooks.callback(progress.iteration, metrics))
        if saved < progress.iteration:
            checkpoints.save(progress)
    except BaseException:  # of an environment or a learner, a full disk, or an impatient Ctrl-C
        if saved < logged.iteration:
            with contextlib.suppress(OSError):
                checkpoints.save(logged)
        raise
    finally:
        line.close()
    return progress


def one_iteration(
    iterate: Iterate, progress: Progress, checkpoints: CheckpointFolder, evaluate: Evaluate | None
) -> tuple[Progress, IterationOutcome, HeldOut]:
    """A meta-iteration and the evaluation after it, which may make the best checkpoint.

    A new state that is not finite is refused, whatever the learner says of its update: the old one stays.

    Returns:
        Where the run stands then, what happened, and what was measured on held-out tasks.

    Raises:
        UserError: the new state has another structure than the old one; a checkpoint of it could not be read back.
    """
    state, outcome = iterate(progress.state, progress.iteration)
    state = in_step(state, progress.state)
    if not is_finite(state):
        state, outcome = progress.state, outcome._replace(not_finite=True)
    try:
        check_fits(state, progress.state)
    except ValueError as error:
        raise UserError(f"the learner's {error}: its state after a meta-update is not built as `init` does") from error
    done = progress._replace(
        state=state,
        iteration=progress.iteration + 1,
        env_steps=progress.env_steps + outcome.env_steps,
        nonfinite_steps=progress.nonfinite_steps + 1 if outcome.not_finite else 0,
    )
    if evaluate:
        held_out = evaluate(state, done.iteration)
        done = save_if_best(checkpoints, done, done, held_out.score)
    else:  # what an iteration measures is the state before its update
        held_out = HeldOut({}, None)
        done = save_if_best(checkpoints, done, progress, outcome.score)
    return done, outcome, held_out


def in_step(state: LearnerState, before: LearnerState) -> LearnerState:
    """The new state of the first rank, on all of them: where processors differ, the last bits of others may too.

    Raises:
        UserError: what is meta-learned is something else on this rank.
    """
    if size() == 1 or len(set(gather(digest(state)))) == 1:
        return state
    theirs = from_first(lambda: plain(state))
    agreed = restore(theirs, state)
    change, difference = (distance(agreed.meta, other.meta) for other in (before, state))
    if is_finite(agreed) and not difference <= SAME * change:  # comparisons with NaN are false
        raise UserError(
            f"the meta-update differs from that of rank 0, by {difference:.2g} after a step of {change:.2g}; what "
            "it averages over tasks must go through mamlrl.objectives.mean_over_tasks"
        )
    return agreed


def digest(state: LearnerState) -> bytes:
    """Of all numbers of a state, to the last bit; the states themselves can be large."""
    numbers = hashlib.blake2b()
    for leaf in leaves(state):
        if isinstance(leaf, Tensor):
            numbers.update(leaf.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            numbers.update(repr(leaf).encode())
    return numbers.digest()


def leaves(state: Any) -> Iterator[Any]:
    """Tensors and numbers of a learner's state."""
    if isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from leaves(part)
    else:
        yield state


def distance(state: Any, other: Any) -> float:
    """Euclidean distance of all tensors of two states that are built alike."""
    if isinstance(state, Tensor):
        return float(torch.linalg.vector_norm(state.double() - other.double())) if state.is_floating_point() else 0.0
    if isinstance(state, dict):
        return math.hypot(*(distance(leaf, other[name]) for name, leaf in state.items()))
    pairs = zip(state, other, strict=True) if isinstance(state, list | tuple) else ()
    return math.hypot(*(distance(*pair) for pair in pairs))


def is_finite(state: Any) -> bool:
    """Whether no tensor of a learner's state holds NaN or an infinity."""
    return all(bool(leaf.isfinite().all()) for leaf in leaves(state) if isinstance(leaf, Tensor))


def check_updates(progress: Progress, config: Config) -> None:
    """The learner still learns.

    Raises:
        UserError: the last meta-updates were refused because a number was not finite.
    """
    if progress.nonfinite_steps >= MAX_NONFINITE_STEPS:
        raise UserError(
            f"{config.env}: {MAX_NONFINITE_STEPS} iterations in a row had their meta-updates refused for a non-finite "
            "number; where the data hold none, smaller steps may help, by adaptation.step_size or the settings of the "
            f"meta-update of learner {config.learner}"
        )


def save_if_best(
    checkpoints: CheckpointFolder, progress: Progress, measured: Progress, score: float | None
) -> Progress:
    """Keep what was measured as the best checkpoint if its score, if it has one, is the highest yet."""
    if score is None or not score > progress.best_return:  # NaN is not
        return progress
    checkpoints.save_best(measured._replace(best_return=score, best_iteration=progress.iteration))
    return progress._replace(best_return=score, best_iteration=progress.iteration)
