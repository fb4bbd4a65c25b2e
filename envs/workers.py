"""Rows of a vector environment, spread over worker processes.

Each worker holds a share of the rows, as `Rows`, and answers one request at a time: the same code steps the same
environments in the same order as in one process, so the results are the same to the last bit at any number of workers.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, MutableSequence, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper
from numpy.typing import NDArray

from .base import Array, Mask
from .errors import EnvironmentFailure, failure
from .infos import Columns, join_columns
from .rows import Family, Rows

LOOK_EVERY = 0.5  # s between two looks at whether workers live and get on; what they send is noticed at once
PATIENCE = 5.0  # s that a worker may take to close its environments

_ends_of_this_process: weakref.WeakSet[Connection] = weakref.WeakSet()
"""This process's ends of the pipes to all workers. A forked worker inherits those that are there, and closes them: it
would keep the pipes of other workers open, which then would not notice that nobody writes to them any more."""


class _Worker(NamedTuple):
    """A process with a share of the rows, as seen from the process that started it."""

    rows: slice
    process: Any
    connection: Connection
    calls: MutableSequence[int]  # as of `Rows`, in shared memory


class WorkerRows:
    """N rows in worker processes, with the methods of `Rows`.

    Args:
        family: what the rows are made from.
        num_rows: N.
        num_workers: processes; 0 takes one for each processor that this process may use.
        timeout: seconds that one call of one environment's method may take; 0 for any time.

    Raises:
        EnvironmentFailure: from every method, what an environment did wrong. One that has ended its process, or does
            not return, has failed too.
    """

    def __init__(self, family: Family, num_rows: int, num_workers: int, timeout: float):
        self._family, self._timeout = family, timeout
        self._tasks: list[Array | None] = [None] * num_rows
        self._failed: EnvironmentFailure | None = None
        bounds = np.linspace(0, num_rows, min(num_workers or num_processors(), num_rows) + 1).astype(int).tolist()
        self._workers: list[_Worker] = []
        # Called at the program's end too, before multiprocessing waits for processes that still wait for us.
        self.close = Finalize(self, _end_workers, (self._workers,), exitpriority=10)
        try:
            for start, stop in itertools.pairwise(bounds):
                self._workers.append(_start_worker(family, slice(start, stop)))
            self._receive("constructor", self._workers)
        except BaseException:
            self.close()
            raise

    def reset(
        self, rows: Mask, seeds: Sequence[int | None], tasks: Array | None, options: dict[str, Any]
    ) -> tuple[NDArray[Any], Columns]:
        """Start episodes in some of the rows, as `Rows.reset`."""
        if tasks is not None:
            self._tasks = [task if row else old for row, task, old in zip(rows, tasks, self._tasks, strict=True)]
        observations, infos = self._ask(
            "reset",
            [
                (rows[share], seeds[share], None if tasks is None else tasks[share], options)
                for share, *_ in self._workers
            ],
        )
        return np.concatenate(observations), self._joined(infos)

    def step(self, actions: NDArray[Any]) -> tuple[NDArray[Any], Array, Mask, Mask, Columns]:
        """Advance the rows whose episode has not ended by a time step, as `Rows.step`."""
        *arrays, infos = self._ask("step", [(actions[share],) for share, *_ in self._workers])
        observations, rewards, terminated, truncated = (np.concatenate(parts) for parts in arrays)
        return observations, rewards, terminated, truncated, self._joined(infos)

    def render_row(self, row: int) -> Any:
        """Whatever the row's environment draws."""
        (worker,) = (worker for worker in self._workers if worker.rows.start <= row < worker.rows.stop)
        self._send(worker, "render_row", (row - worker.rows.start,))
        return self._receive("render", [worker])[0]

    def _joined(self, infos: Any) -> Columns:
        return join_columns(infos, [share.stop - share.start for share, *_ in self._workers])

    def _ask(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> Any:
        """Results of all workers, those of each value of the method together."""
        for worker, some in zip(self._workers, arguments, strict=True):
            self._send(worker, method, some)
        return zip(*self._receive(method, self._workers), strict=True)

    def _send(self, worker: _Worker, method: str, arguments: tuple[Any, ...]) -> None:
        if self._failed is not None:  # workers may be gone, or still at what they were asked before
            raise self._failed
        with contextlib.suppress(OSError):  # the process has ended: _receive finds out how
            worker.connection.send((method, arguments))

    def _receive(self, method: str, workers: Sequence[_Worker]) -> list[Any]:
        """What the workers answer, in their order.

        All of them are waited for, also when one has failed: then all are done, and the failure of the first row is
        raised, as in a single process.
        """
        answers: dict[int, Any] = {}
        seen = {worker.rows.start: (worker.calls[0], time.monotonic()) for worker in workers}
        while missing := [worker for worker in workers if worker.rows.start not in answers]:
            wait([worker.connection for worker in missing], timeout=LOOK_EVERY)
            for worker in missing:
                key = worker.rows.start
                ended = not worker.process.is_alive()  # before the look at the pipe: it may have answered and ended
                if worker.connection.poll():
                    answers[key] = self._answer(worker, method)
                elif ended:
                    answers[key] = self._breaking(worker, method, _how_it_ended(worker.process))
                elif worker.calls[0] != seen[key][0]:
                    seen[key] = worker.calls[0], time.monotonic()
                elif self._timeout and time.monotonic() - seen[key][1] > self._timeout:
                    text = f"has not returned within {self._timeout:g} s (environment.timeout)"
                    answers[key] = self._breaking(worker, method, text)
        results = [answers[worker.rows.start] for worker in workers]
        for result in results:
            if isinstance(result, EnvironmentFailure):
                raise result
        return results

    def _answer(self, worker: _Worker, method: str) -> Any:
        try:
            return worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(PATIENCE)  # it is on its way out
            return self._breaking(worker, method, _how_it_ended(worker.process))

    def _breaking(self, worker: _Worker, method: str, what: str) -> EnvironmentFailure:
        """A failure after which the worker is of no use any more."""
        worker.process.kill()
        row = worker.rows.start + int(worker.calls[1])
        self._failed = EnvironmentFailure(self._family.spec.id, method, what, self._tasks[row])
        return self._failed


def num_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(family: Family, rows: slice) -> _Worker:
    context = multiprocessing.get_context()
    ours, theirs = context.Pipe()
    _ends_of_this_process.add(ours)
    calls = context.RawArray("q", 2)
    # Gymnasium's wrapper pickles what a specification may hold, such as a class that was defined in a notebook.
    make_family = CloudpickleWrapper(lambda: family)  # type: ignore[arg-type] # it is declared for environments
    arguments = (theirs, make_family, rows.stop - rows.start, calls, family.spec.id)
    process = context.Process(target=_work, args=arguments, daemon=True, name=f"environments {family.spec.id}")
    # What is garbage here by now is not for a forked worker to collect: there a simulator's thread pool, for one, would
    # wait for ever for its threads, which no fork copies.
    gc.freeze()
    try:
        process.start()
    finally:
        gc.unfreeze()
    theirs.close()
    return _Worker(rows, process, ours, calls)


def _work(
    connection: Connection, family: Callable[[], Family], num_rows: int, calls: MutableSequence[int], environment: str
) -> None:
    """Answer requests until there is nobody to ask."""
    # A terminal sends Ctrl-C to all its processes, a cluster SIGTERM: the parent decides when to stop, and still needs
    # us for the rest of the iteration. (SIG_IGN would be handed on to programs that an environment starts.)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    for end in list(_ends_of_this_process):
        end.close()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    rows, method = None, "constructor"
    with contextlib.suppress(EOFError, OSError):  # nobody is there any more
        try:
            rows = Rows(family(), num_rows, calls)
            answer = None
        except BaseException as error:
            answer = failure(environment, method, error)
        while True:
            try:
                connection.send(answer)
            except OSError:
                raise
            except Exception as error:  # such as a picture that does not pickle
                connection.send(failure(environment, method, error))
            method, arguments = connection.recv()
            try:
                answer = getattr(rows, method)(*arguments)
            except BaseException as error:  # KeyboardInterrupt too: here it can only be the environment's own
                answer = failure(environment, method, error)
    if rows is not None:
        rows.close()


def _end_with_parent() -> None:
    """End this process when its parent has ended, even if an environment never returns."""
    parent, parent_id = multiprocessing.parent_process(), os.getppid()
    while parent is not None and parent.is_alive() and os.getppid() == parent_id:
        time.sleep(1.0)
    os._exit(1)


def _how_it_ended(process: Any) -> str:
    code = process.exitcode
    if code is None:
        return "closed the connection of its process"
    if code >= 0:
        return f"ended its process, with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"ended its process: killed by {name}{' (is there enough memory?)' if -code == signal.SIGKILL else ''}"


def _end_workers(workers: list[_Worker]) -> None:
    """Let workers close their environments, and end those that do not."""
    for worker in workers:
        worker.connection.close()
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
    workers.clear()
