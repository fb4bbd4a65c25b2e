"""SIGKILL before every operation on a file, and at random moments: the run resumes to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..cli.conftest import SMALL, reproducible

DRIVER = """
import contextlib, io, json, os, random, signal, sys, threading, time
from pathlib import Path
import torch
from tqdm import tqdm
torch.set_num_threads(1)
tqdm.set_lock(threading.RLock())  # its own is shared with all children: one killed while it holds it stops the others
from mamlrl.train import main
from mamlrl.training import run as needed_by_main

FLAGS = sys.argv[1:]

def changes_a_file(event, arguments):
    if event == "open" and (not isinstance(arguments[0], str) or arguments[1] == "r"):  # TensorBoard's are bytes
        return False
    in_run = event in ("open", "os.rename", "os.remove", "os.mkdir") and "run" in Path(str(arguments[0])).parts
    return in_run and not (event == "os.mkdir" and Path(arguments[0]).exists())

def in_child(argv, before=None, within=None):
    '''Exit code of the command in a child process; killed before operation number `before`, or `within` seconds.'''
    child = os.fork()
    if child == 0:
        operations = []
        def hook(event, arguments):
            if changes_a_file(event, arguments):
                operations.append(event)
                if len(operations) == before:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os._exit(main(argv))
    if within is not None:
        time.sleep(within)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def case(name, **death):
    '''Start a run in a folder of its own that dies once, then see it to its end.'''
    os.mkdir(name)
    os.chdir(name)
    died = in_child([*FLAGS, "--out", "run"], **death) == -signal.SIGKILL
    begun = Path("run/config.yaml").exists()
    code = in_child(["--resume", "run"] if begun else [*FLAGS, "--out", "run"])
    os.chdir("..")
    return died, code

with contextlib.redirect_stdout(io.StringIO()):  # in this process, so that its children find everything imported
    assert main([*FLAGS, "--out", "run"]) == 0
count, results = 0, {}
while not results or results[f"operation-{count}"][0]:
    count += 1
    results[f"operation-{count}"] = case(f"operation-{count}", before=count)
random.seed(0)
for number in range(4):
    results[f"moment-{number}"] = case(f"moment-{number}", within=random.uniform(0.0, 0.4))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[bool, int]]]:
    """A folder with runs that died and went on, and of each whether it died and the exit code in the end."""
    folder = tmp_path_factory.mktemp("deaths")
    flags = [*SMALL, "--iterations", "2", "--checkpoint.keep", "1"]
    driver = subprocess.run([sys.executable, "-c", DRIVER, *flags], cwd=folder, capture_output=True, text=True)
    assert driver.returncode == 0, driver.stderr
    return folder, json.loads(driver.stdout)


def test_a_death_before_any_operation_on_a_file_leaves_a_run_that_goes_on(
    deaths: tuple[Path, dict[str, tuple[bool, int]]],
) -> None:
    folder, results = deaths
    died = [name for name, (died, _) in results.items() if died]
    assert len(died) >= 20
    for name, (_, code) in results.items():
        assert code == 0, name
        assert reproducible(folder / name / "run") == reproducible(folder / "run"), name
        assert not list((folder / name).rglob("*.partial*")), name
