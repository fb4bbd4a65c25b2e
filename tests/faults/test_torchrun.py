"""Torchrun itself: it starts a run anew whose rank was killed, and ranks on two machines train together."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from mamlrl.config.command_line import parse_command
from mamlrl.evaluate import build_parser

from .test_ranks import FAILING_RANK, HOW, WALK

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
RENDEZVOUS = "--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29400 --rdzv-id 7"
FLAGS = [word for flags in WALK for word in flags.split()]
PAGE = (ROOT / "docs/scale.md").read_text()
COMMANDS = re.findall(r"^(?:srun )?torchrun .*?(?<!\\)$", PAGE, re.MULTILINE | re.DOTALL)


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_the_page_tells_to_type_is_understood(command: str) -> None:
    """By torchrun, and by the command that it starts."""
    words = shlex.split(
        re.sub(r'"?\$\w+"?', "16", command.replace("\\\n", " ").replace('"$first:29400"', "first:29400"))
    )
    options = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    module, *arguments = [options.training_script, *options.training_script_args]
    assert options.module
    if module == "mamlrl.evaluate":
        build_parser().parse_args(arguments)
    else:
        assert module == "mamlrl.train" and parse_command(arguments).config.env == "mamlrl/HalfCheetahVel-v0"


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) == 5


@pytest.mark.slow
def test_a_run_whose_rank_was_killed_goes_on_by_itself(tmp_path: Path) -> None:
    """As on the page, with a small environment, which kills a rank at its first start."""
    words = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "-m", "mamlrl.train"]
    done = subprocess.run(
        [*TORCHRUN, *words, *FLAGS, *"--iterations 4 --out run --resume auto".split()],
        cwd=tmp_path,
        env=environment(**{FAILING_RANK: "1", HOW: "once"}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 5
    assert done.stderr.count("error: rank 1 does not answer") == 1 and "done: 4 iterations" in done.stdout


@contextlib.contextmanager
def two_machines() -> Iterator[list[str]]:
    """Names of two network namespaces with a cable between them, 10.77.0.1 and 10.77.0.2."""
    names = [f"mamlrl-{end}-{uuid.uuid4().hex[:6]}" for end in "ab"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ends = [f"m{name[-6:]}" for name in names]
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', '') or error}")
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.slow
def test_two_machines_train_together(tmp_path: Path) -> None:
    with two_machines() as names:
        running = [
            subprocess.Popen(
                [
                    *shlex.split(f"ip netns exec {name} {shlex.join(TORCHRUN)} {RENDEZVOUS}"),
                    *f"--rdzv-conf is_host={int(number == 1)} --local-addr 10.77.0.{number} -m mamlrl.train".split(),
                    *[*FLAGS, *"--iterations 2 --out run --resume auto".split()],
                ],
                cwd=tmp_path,
                env=environment(GLOO_SOCKET_IFNAME=f"m{name[-6:]}"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, name in enumerate(names, start=1)
        ]
        try:
            told = [one.communicate(timeout=240) for one in running]
        finally:
            for one in running:
                one.kill()
    assert [one.returncode for one in running] == [0, 0], told
    assert sorted("done: 2 iterations" in out for out, _ in told) == [False, True]
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 3
