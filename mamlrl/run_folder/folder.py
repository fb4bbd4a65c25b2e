"""The folder of a run: settings, versions, and where metrics and checkpoints go."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path

from mamlrl.config import Config
from mamlrl.config.files import CONFIG_FILE, to_yaml
from mamlrl.distributed import size
from mamlrl.errors import ConfigError
from mamlrl.messages import say
from mamlrl.run_folder.files import keep_aside, write_whole

METRICS_FILE = "metrics.csv"
VERSIONS_FILE = "versions.txt"
ERROR_FILE = "error.txt"
CHECKPOINTS = "checkpoints"
VIDEOS = "videos"
MOST_NAMES = 3
"""Environments that the name of a folder lists."""


def make_default_folder(start: Path, config: Config) -> Path:
    """Make ``runs/<name>/<learner>/seed-<seed>-<time>`` below a folder, with a number at the end if that exists.

    Two runs that start in the same second get two folders.

    Raises:
        OSError: it cannot be made.
    """
    stem = f"seed-{config.seed}-{_now()}"
    parent = start / "runs" / _name(config) / _as_name(config.learner)
    parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            (parent / (stem + suffix)).mkdir()
            return parent / (stem + suffix)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(parent / stem))


def results_folder(kind: str, *configs: Config) -> Path:
    """``runs/<kind>/<name>-<time>``, for what is made of runs; of several environments with all names, or how many."""
    names = list(dict.fromkeys(map(_name, configs)))
    name = "-".join(names) if len(names) <= MOST_NAMES else f"{len(names)}-environments"
    return Path("runs", kind, f"{name}-{_now()}")


def _name(config: Config) -> str:
    return config.name or _as_name(config.env)


def _as_name(text: str) -> str:
    """An id or ``module:Name`` as a folder's name, which on some systems holds no colon."""
    return re.sub(r"[^\w.-]+", "-", text)


def _now() -> str:
    return time.strftime("%Y%m%d-%H%M%S")


def check_free(folder: Path, shown: Path) -> None:
    """A new run may go into this folder: what it writes is not there.

    Args:
        folder: the run folder.
        shown: the same, as the user wrote it.

    Raises:
        ConfigError: it holds a run already, or a file that the run would replace, or is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {shown}: not a folder")
    if any(os.path.lexists(folder / name) for name in (CONFIG_FILE, METRICS_FILE, CHECKPOINTS)):
        raise ConfigError(f"--out {shown}: holds a run already; go on with it by --resume, or name another folder")
    foreign = [folder / name for name in (VERSIONS_FILE, VIDEOS, ERROR_FILE) if os.path.lexists(folder / name)]
    for path in (*foreign, *folder.glob("events.out.tfevents.*")):
        raise ConfigError(f"--out {shown}: holds {path.name} already, which a run writes too; name another folder")


def check_results(folder: Path, result: str) -> None:
    """Results can go into this folder; found out before anything is computed, and nothing is made.

    Raises:
        ConfigError: it is no folder, or holds the file `result` already.
        PermissionError: it cannot be written.
    """
    if os.path.lexists(folder / result):
        raise ConfigError(f"--out {folder}: holds {result} already; name another folder")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"--out {folder}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(folder))


def create(folder: Path, config: Config) -> None:
    """Write the settings and versions of a new run into its folder.

    From the moment that the settings are there, whole, `--resume` goes on with the run.

    Raises:
        OSError: the folder cannot be written.
    """
    write_whole(folder / CONFIG_FILE, to_yaml(config).encode())
    write_whole(folder / VERSIONS_FILE, versions().encode())


def reopen(folder: Path, config: Config, iteration: int) -> None:
    """Bring settings and versions of a resumed run up to date: it may be extended, or go on with other versions."""
    if (folder / CONFIG_FILE).read_text() != to_yaml(config):
        write_whole(folder / CONFIG_FILE, to_yaml(config).encode())
    path = folder / VERSIONS_FILE
    recorded = path.read_text(errors="replace") if path.is_file() else ""
    if recorded.endswith(versions()):
        return
    if os.path.lexists(path) and not path.is_file():
        keep_aside(path)
    begun = f"{recorded}\nresumed after iteration {iteration}\n" if recorded else ""
    write_whole(path, f"{begun}{versions()}".encode())
    if recorded:
        say("note: versions, processor or ranks differ from before (see versions.txt); results may differ too")


def write_error(folder: Path, traceback: str) -> bool:
    """Append to error.txt what ended a run; False where it cannot be written."""
    path = folder / ERROR_FILE
    if path.exists() and not path.is_file():
        return False
    try:
        with path.open("a", errors="replace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{traceback}\n")
    except OSError:
        return False
    return True


def remove_error(folder: Path) -> None:
    """Remove error.txt of a run that was resumed and is done: nothing is wrong any more."""
    with contextlib.suppress(OSError):
        (folder / ERROR_FILE).unlink()


def versions() -> str:
    """What the results depend on: the commit of the checkout, if any, versions of the packages, processor, ranks."""
    packages = ("mamlrl", "torch", "numpy", "mujoco", "gymnasium")
    lines = [f"commit {git_commit()}", f"python {platform.python_version()}"]
    lines += [f"{name} {metadata.version(name)}" for name in packages]
    return "\n".join([*lines, f"processor {processor()}", f"ranks {size()}"]) + "\n"


def processor() -> str:
    """The processor's model: libraries choose their arithmetic by it."""
    try:
        models = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        models = None
    return models[1] if models else platform.processor() or platform.machine()


def git_commit() -> str:
    """Commit of the checkout that mamlrl runs from, "-dirty" where files differ from it; "none" without one."""
    package = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in a foreign repository
        return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return "none"
