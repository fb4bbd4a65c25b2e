"""The ranks of a command that torchrun started: how they meet, and how they end together.

Torchrun tells each process by environment variables which rank it is and where the first one is met. What ranks have to
say to each other besides numbers, such as why one of them fails, goes through the store that they meet in.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined] # documented there

from mamlrl import distributed
from mamlrl.envs.errors import EnvironmentFailure
from mamlrl.errors import ConfigError, LearnerFailure, RankFailure, UserError, cut, described, said
from mamlrl.messages import say, silence
from mamlrl.run_folder.folder import versions

T = TypeVar("T")

MEETING = 300.0
"""Seconds within which all ranks must have come."""
SILENCE = 1800.0
"""Seconds that a rank may let the others wait, as while it writes a film."""
PATIENCE = 2.0
"""Seconds after a lost connection in which those that are still there say so."""
FAILURE, HEARD = "failure", "heard"
"""Keys of the store: why a rank fails, and that the first one knows."""


def together(action: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command on all ranks, of which the first one alone speaks; when one fails, all end.

    Args:
        action: the command, which spreads tasks by `mamlrl.distributed`.
        argv: its arguments.

    Returns:
        The exit code.

    Raises:
        BaseException: on the rank that speaks, what ended the command here, or a `RankFailure` of what did elsewhere.
    """
    ranks = meet()
    first = ranks.rank == 0
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    try:
        with distributed.over(ranks), silence(not first), _speaking(first):
            check_same(ranks)
            exit_code = action(argv)
            ranks.gather(None)  # the first one may still have been writing
    except BaseException as error:
        ranks.leave(error)
        if ranks.speaks:
            raise
        return _exit_code(error)
    dist.destroy_process_group()
    return exit_code


@contextlib.contextmanager
def _speaking(first: bool) -> Iterator[None]:
    """Standard output of the other ranks goes nowhere."""
    if first:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    return error.exit_code if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1


class GlooRanks:
    """The ranks, over gloo: vectors of a GPU pass through the memory of the CPU, as they are short.

    Args:
        store: that they met in.
        rank: which one this is.
        size: how many there are.
    """

    def __init__(self, store: Store, rank: int, size: int):
        self.rank, self.size, self._store = rank, size, store
        self.speaks = rank == 0  # of what ends the work: the first one that is still there
        self._first_is_lost = False
        here = sum(self._machine_and_process(other)[0] == socket.gethostname() for other in range(size))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", here))

    def sum(self, flat: Tensor) -> Tensor:
        """All-reduce."""
        total = flat.detach().to("cpu", copy=True)
        with self._telling():
            dist.all_reduce(total)
        return total.to(flat.device)

    def gather(self, value: T) -> list[T]:
        """All-gather of pickled values."""
        values: list[T] = [value] * self.size
        with self._telling():
            dist.all_gather_object(values, value)
        return values

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """A connection that is lost is told as what became of the rank at its other end."""
        try:
            yield
        except RuntimeError as error:
            raise self._failure() from error

    def _failure(self) -> RankFailure:
        """Why the ranks are no longer together."""
        try:
            self._store.set(f"left/{self.rank}", "")
            others = [rank for rank in range(self.size) if rank != self.rank]
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and not self._store.check([FAILURE]):
                time.sleep(0.05)
            if self._store.check([FAILURE]):
                rank, message, exit_code, traceback_ = json.loads(self._store.get(FAILURE))
                return RankFailure(f"rank {rank}: {message}", exit_code, traceback_)
            lost = [rank for rank in others if not self._store.check([f"left/{rank}"]) and not self._is_running(rank)]
            self._first_is_lost = 0 in lost
            self.speaks = self.rank == min(rank for rank in range(self.size) if rank not in lost)
        except RuntimeError:
            lost, self._first_is_lost = [0], True  # the store went with it
            self.speaks = os.environ.get("LOCAL_RANK") == "0"
        which = ", ".join(map(str, lost)) or "of unknown number"
        answers = "ranks {} do not answer" if len(lost) > 1 else "rank {} does not answer"
        return RankFailure(f"{answers.format(which)}: killed, stuck, or on a machine that is gone")

    def _is_running(self, rank: int) -> bool:
        """Whether a rank of this machine has a process; False of other machines."""
        host, process = self._machine_and_process(rank)
        if host != socket.gethostname():
            return False
        try:
            os.kill(process, 0)
        except OSError:
            return False
        return True

    def _machine_and_process(self, rank: int) -> tuple[str, int]:
        host, process = json.loads(self._store.get(_here(rank)))
        return host, process

    def leave(self, error: BaseException) -> None:
        """End in the midst of the work: tell the others why, and let them see it when they next want something.

        The first rank is waited for, if it is there: torchrun ends all others as soon as one has ended.
        """
        first = self.rank == 0
        signal.signal(signal.SIGTERM, signal.SIG_IGN if first else signal.SIG_DFL)  # we are on our way out
        with contextlib.suppress(RuntimeError):  # the store may be gone
            if not isinstance(error, RankFailure):
                unexpected = not isinstance(error, UserError | SystemExit | KeyboardInterrupt)
                own = getattr(error, "user_traceback", "")
                text = f"{own}\n{''.join(traceback.format_exception(error))}" if unexpected else None
                tells = isinstance(error, UserError | EnvironmentFailure | LearnerFailure)
                message = said(error) if tells else described(error)
                reason = json.dumps([self.rank, message, _exit_code(error), text])
                self._store.compare_set(FAILURE, "", reason)
            if first:
                self._store.set(HEARD, "")
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
            if not (first or self._first_is_lost):
                self._store.wait([HEARD], timedelta(seconds=SILENCE))


def meet() -> GlooRanks:
    """Meet the other ranks.

    Raises:
        UserError: the environment variables of torchrun are not there, or somebody does not come.
    """
    values = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    wrong = [name for name, value in values.items() if not (value and (name == "MASTER_ADDR" or value.isdigit()))]
    if wrong:
        raise ConfigError(f"WORLD_SIZE is {values['WORLD_SIZE']}, but {wrong[0]} is {values[wrong[0]]!r}; use torchrun")
    rank, ranks = int(values["RANK"]), int(values["WORLD_SIZE"])
    store = open_store(values["MASTER_ADDR"], int(values["MASTER_PORT"]), rank, ranks)
    store.set(_here(rank), json.dumps([socket.gethostname(), os.getpid()]))
    wait_for_all(store, rank, ranks)
    try:
        own = PrefixStore("gloo", store)
        dist.init_process_group("gloo", store=own, rank=rank, world_size=ranks, timeout=timedelta(seconds=SILENCE))
    except RuntimeError as error:
        raise UserError(f"ranks cannot reach each other ({said(error)}); GLOO_SOCKET_IFNAME names a network") from error
    return GlooRanks(store, rank, ranks)


def open_store(host: str, port: int, rank: int, size: int) -> Store:
    """Where ranks meet: a store that torchrun or else the first rank keeps.

    Raises:
        UserError: its port is taken, or the first rank does not answer.
    """
    keeps = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = TCPStore(host, port, size, keeps, timedelta(seconds=MEETING), wait_for_workers=False)
    except RuntimeError as error:
        if keeps:
            raise UserError(f"MASTER_PORT is {port}, which another program has; choose another one") from error
        raise UserError(f"rank 0 does not answer at {host}, port {port}, within {MEETING:g} s") from error
    return PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def wait_for_all(store: Store, rank: int, size: int) -> None:
    """Wait until all ranks have come.

    Raises:
        UserError: some have not; the first rank says which.
        SystemExit: the same of the other ranks.
    """
    everyone, latest = [_here(number) for number in range(size)], time.monotonic() + MEETING
    while time.monotonic() < latest:
        with contextlib.suppress(RuntimeError):  # not within this second, after which a Ctrl-C is noticed
            store.wait(everyone, timedelta(seconds=min(1.0, MEETING)))
            return
    if rank:
        raise SystemExit(1)
    missing = [str(number) for number in range(size) if not store.check([_here(number)])]
    which = f"ranks {', '.join(missing)}" if len(missing) > 1 else f"rank {missing[0]}"
    raise UserError(f"{which} of {size} did not come within {MEETING:g} s; were all started?")


def _here(rank: int) -> str:
    """Key of the store: the machine and the process of a rank that has come."""
    return f"here/{rank}"


def check_same(ranks: distributed.Ranks) -> None:
    """All ranks were given the same command, and have the same versions; another processor is no more than a note.

    Raises:
        UserError: they were not, or have not.
    """
    *installed, processor, _ = versions().splitlines()
    rows = ranks.gather((sys.argv[1:], installed, processor))
    command, packages, model = rows[0]
    for rank, (words, others, _) in enumerate(rows):
        if words != command:
            given, expected = (cut(shlex.join(each)) for each in (words, command))
            raise ConfigError(f"rank {rank} was started with {given}; it must be as rank 0: {expected}")
        for theirs, ours in zip(others, packages, strict=True):
            if theirs != ours:
                raise UserError(f"rank {rank} has {theirs}, and rank 0 has {ours}; all must have the same")
    if any(other != model for *_, other in rows):
        say("note: ranks have different processors; results are those of the first one to rounding")
