"""Commands on several ranks: they go on from each other's checkpoints, and whatever ends one ends all of them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined] # documented there

from mamlrl import launch
from mamlrl.errors import ConfigError, UserError
from mamlrl.learners.base import LearnerState, Updated
from mamlrl.structs import MetaParams
from tests.cli.toy_learners import Reptile
from tests.golden.walk import Walk

from ..cli.conftest import SMALL, TINY, reproducible
from .processes import Ended, Running, start

WALK = ("--env tests.faults.test_ranks:faults/RankWalk-v0 --sampling.tasks 4 --sampling.rollouts 2",)
WALK += ("--environment.horizon 6 --environment.vectorization sync --policy.hidden_sizes [4] --threads 1",)
RL2 = "--learner rl2 --iterations 1 --out rl2"
FAILING_RANK, HOW = "TEST_FAILING_RANK", "TEST_HOW_IT_FAILS"
OTHERS_PACKAGES = "TEST_PACKAGES_OF_THE_LAST_RANK"


class Alone(Reptile):
    """A learner that averages over the tasks of its own rank."""

    def meta_step(self, state, meta_batch, generator):
        phi = self.adapt(state.meta, self.start(state.meta), meta_batch.query).params
        return LearnerState(MetaParams({name: leaf.mean(0) for name, leaf in phi.items()})), Updated()


class RankWalk(Walk):
    """A walk that ends badly on one rank, in the second iteration, which begins after 32 to 48 time steps."""

    steps = 0

    def step(self, action):
        RankWalk.steps += 1
        if os.environ.get("RANK") == os.environ.get(FAILING_RANK) and RankWalk.steps > 60:
            if os.environ[HOW] == "raise":
                raise ValueError("the model has a hole")
            if os.environ[HOW] == "nan":
                return np.full(2, np.nan), 0.0, False, False, {}
            if os.environ[HOW] != "once":
                os.kill(os.getpid(), getattr(signal, os.environ[HOW]))
            elif os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            RankWalk.steps = -(10**6)
        return super().step(action)


gymnasium.register("faults/RankWalk-v0", entry_point=f"{__name__}:RankWalk")


def as_rank(number: int, size: int, port: int, more: dict[str, str]) -> None:
    """What torchrun does to a process that it starts; the last rank finds OTHERS_PACKAGES before all else."""
    told = {"RANK": number, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
    told |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.update({name: str(value) for name, value in told.items()} | more)
    if number == size - 1 and OTHERS_PACKAGES in more:
        sys.path.insert(0, more[OTHERS_PACKAGES])


Start = Callable[..., list[Running]]


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Start]:
    """Starts a command on two ranks, in the folder of the test: (arguments, more of the environment, command)."""
    stores, started = [], list[Running]()

    def start_all(*argv: str, command: str = "train", of_rank: Sequence[Sequence[str]] = ((), ()), **more: str) -> list:
        stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        port = stores[-1].port
        new = [
            start(tmp_path, *argv, *of_rank[number], command=command, prepare=partial(as_rank, number, 2, port, more))
            for number in (0, 1)
        ]
        started.extend(new)
        return new

    yield start_all
    for one in started:
        one.process.kill()


def ended(running: Sequence[Running]) -> list[Ended]:
    """How all of them ended."""
    return [one.wait() for one in running]


def test_ranks_and_one_process_go_on_from_each_other(ranks: Start, tmp_path: Path) -> None:
    """One process, then two, then one: as a single one from the first to the last, to rounding."""
    whole = start(tmp_path, *SMALL, "--iterations 3 --out whole")
    first = start(tmp_path, *SMALL, "--iterations 1 --out parts")
    assert [one.wait().code for one in (whole, first)] == [0, 0]
    both = ended(ranks(*SMALL, "--resume auto --out parts --iterations 2"))
    assert [one.code for one in both] == [0, 0], both
    assert both[1].out == both[1].err == ""
    assert "note: versions, processor or ranks differ from before" in both[0].out
    assert start(tmp_path, "--resume parts --iterations 3").wait().code == 0
    for ours, theirs in zip(*(reproducible(tmp_path / name) for name in ("parts", "whole")), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("return/step_0", "return/step_1", "policy/entropy", "trust_region/gradient_norm", "env_steps"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-3), name  # in float32
    assert len(list((tmp_path / "parts").glob("events.out.tfevents.*"))) == 3


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_error_in_the_environment_of_one_rank_is_told_once_and_ends_all(
    rank: str, ranks: Start, tmp_path: Path
) -> None:
    first, other = ended(ranks(*WALK, "--out run", **{FAILING_RANK: rank, HOW: "raise"}))
    assert (first.code, other.code) == (1, 1) and other.out == other.err == ""
    (line,) = first.err.splitlines()
    who = "rank 1: " if rank == "1" else ""
    assert line.startswith(f"error: {who}environment faults/RankWalk-v0: step raised ValueError: the model has a hole")
    assert "error.txt; to go on: torchrun --standalone --nproc-per-node 2 -m mamlrl.train --resume run" in line
    assert "ValueError: the model has a hole" in (tmp_path / "run/error.txt").read_text()
    assert (tmp_path / "run/checkpoints/iteration-000001.pt").exists()


def test_a_number_that_is_not_finite_on_one_rank_ends_all(ranks: Start) -> None:
    first, other = ended(ranks(*WALK, "--out run", **{FAILING_RANK: "1", HOW: "nan"}))
    assert (first.code, other.code) == (1, 1) and other.err == ""
    assert "rank 1: environment faults/RankWalk-v0: step returned observations that are not finite" in first.err


def test_a_rank_that_is_killed_is_named_and_the_run_goes_on(ranks: Start, tmp_path: Path) -> None:
    first, other = ended(ranks(*WALK, "--out run --iterations 4", **{FAILING_RANK: "1", HOW: "SIGKILL"}))
    assert (first.code, other.code) == (1, -signal.SIGKILL)
    (line,) = first.err.splitlines()
    assert line.startswith(
        "error: rank 1 does not answer: killed, stuck, or on a machine that is gone; to go on: torch"
    )
    again = ended(ranks(*WALK, "--out run --iterations 4 --resume auto"))
    assert [one.code for one in again] == [0, 0], again
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 5


def test_where_the_first_rank_is_killed_the_next_one_speaks(ranks: Start) -> None:
    first, other = ended(ranks(*WALK, "--out run", **{FAILING_RANK: "0", HOW: "SIGKILL"}))
    assert (first.code, other.code) == (-signal.SIGKILL, 1)
    assert other.err == "error: rank 0 does not answer: killed, stuck, or on a machine that is gone\n"


@pytest.mark.parametrize(("how", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_to_one_rank_stops_all_after_the_same_iteration(
    how: str, code: int, ranks: Start, tmp_path: Path
) -> None:
    first, other = ended(ranks(*WALK, "--out run --iterations 50", **{FAILING_RANK: "1", HOW: how}))
    assert (first.code, other.code) == (code, code) and other.out == other.err == ""
    assert "stopped after iteration 2 of 50; go on with" in first.out
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert (tmp_path / f"run/checkpoints/iteration-{len(rows) - 1:06d}.pt").exists()


def test_updates_that_are_refused_end_all_with_one_message(ranks: Start) -> None:
    flags = "--learner tests.cli.toy_learners:Reptile --learner_settings.rate 1e30 --seed 4 --iterations 9 --out run"
    first, other = ended(ranks(*SMALL, flags))
    assert first.code == other.code == 1 and other.err == ""
    assert "3 iterations in a row had their meta-updates refused" in first.err and len(first.err.splitlines()) == 1


def test_a_learner_that_averages_by_itself_is_told_apart(ranks: Start) -> None:
    flags = "--learner tests.faults.test_ranks:Alone --learner_settings.rate 1 --out run"
    first, other = ended(ranks(*SMALL, flags))
    assert (first.code, other.code) == (1, 1) and other.err == ""
    assert "error: rank 1: the meta-update differs from that of rank 0, by " in first.err
    assert "must go through mamlrl.objectives.mean_over_tasks" in first.err and first.err.count("\n") == 1


def test_what_is_wrong_with_the_command_is_told_once(ranks: Start) -> None:
    for words, said in (
        ("--sampling.tasks 1", "sampling.tasks is 1, and there are 2 ranks; it must be at least one a rank"),
        ("--sampling.taks 1", "unknown flag --sampling.taks"),
    ):
        first, other = ended(ranks(*SMALL, words))
        assert (first.code, other.code) == (2, 2) and said in first.err, first.err
        assert len(first.err.splitlines()) == 1 and other.err == ""


def test_ranks_must_be_given_the_same_command(ranks: Start, tmp_path: Path) -> None:
    first, other = ended(ranks(*SMALL, "--out run", of_rank=(["--seed 1"], ["--seed 2"])))
    assert (first.code, other.code) == (2, 2) and other.err == ""
    assert "rank 1 was started with --env" in first.err and first.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_ranks_must_have_the_same_versions(ranks: Start, tmp_path: Path) -> None:
    installed = tmp_path / "others" / "gymnasium-0.1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: gymnasium\nVersion: 0.1\n")
    first, other = ended(ranks(*SMALL, "--iterations 1 --out run", **{OTHERS_PACKAGES: str(tmp_path / "others")}))
    assert (first.code, other.code) == (1, 1) and other.err == ""
    assert first.err.startswith("error: rank 1 has gymnasium 0.1, and rank 0 has gymnasium 1.")
    assert first.err.endswith("; all must have the same\n") and first.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_commands_of_one_process_say_so(ranks: Start) -> None:
    for command, words, said in (("record", "run", "this command"), ("evaluate", "--protocol rl2", "--protocol rl2")):
        first, _ = ended(ranks(words, command=command))
        assert f"error: {said} works in one process; torchrun has started 2" in first.err and first.code == 2


def test_ranks_evaluate_as_one_process(ranks: Start, tmp_path: Path) -> None:
    """Gradient steps, and trials."""
    training = [start(tmp_path, *SMALL, "--iterations 1 --out maml"), start(tmp_path, *TINY, RL2)]
    assert [one.wait().code for one in training] == [0, 0]
    words = "maml rl2 --tasks 3 --rollouts 2 --steps 1 --threads 1"
    first, other = ended(ranks(words, "--out two", command="evaluate"))
    assert (first.code, other.code, other.out) == (0, 0, ""), first
    assert start(tmp_path, words, "--out one", command="evaluate").wait().code == 0
    one, two = ((tmp_path / name / "evaluation.csv").read_text().splitlines() for name in ("one", "two"))
    assert len(one) == 16 and one[0] == two[0]
    for ours, theirs in zip(one[1:], two[1:], strict=True):
        np.testing.assert_allclose(
            [float(cell) for cell in ours.split(",")[1:]], [float(cell) for cell in theirs.split(",")[1:]], rtol=1e-5
        )


def test_resume_auto_needs_a_folder(ranks: Start) -> None:
    first, _ = ended(ranks(*SMALL, "--resume auto"))
    assert "--resume auto needs --out" in first.err


def as_only_rank(monkeypatch: pytest.MonkeyPatch, rank: int, port: int) -> None:
    """In the environment of one of two ranks, with little patience."""
    for name, value in {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(launch, "MEETING", 0.3)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    as_only_rank(monkeypatch, 0, free_port())
    started = time.monotonic()
    with pytest.raises(UserError, match=r"^rank 1 of 2 did not come within 0.3 s; were all started\?$"):
        launch.meet()
    assert time.monotonic() - started < 10


def test_a_first_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    as_only_rank(monkeypatch, 1, port)
    with pytest.raises(UserError, match=rf"^rank 0 does not answer at 127.0.0.1, port {port}, within 0.3 s$"):
        launch.meet()


def test_a_port_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        as_only_rank(monkeypatch, 0, port)
        with pytest.raises(UserError, match=rf"^MASTER_PORT is {port}, which another program has; choose another one$"):
            launch.meet()


def test_variables_that_torchrun_would_have_set_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    as_only_rank(monkeypatch, 0, 1)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigError, match=r"^WORLD_SIZE is 2, but RANK is 'first'; use torchrun$"):
        launch.meet()
