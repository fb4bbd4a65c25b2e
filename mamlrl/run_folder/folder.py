"""The folder of a run: settings, versions, and where metrics and checkpoints go."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path

from mamlrl.config import Config
from mamlrl.config.files import CONFIG_FILE, to_yaml
from mamlrl.errors import ConfigError

VERSIONS_FILE = "versions.txt"
CHECKPOINTS = "checkpoints"


def default_folder(config: Config) -> Path:
    """``runs/<name>/<learner>/seed-<seed>-<time>``, with a number at the end if that exists."""
    stem = f"seed-{config.seed}-{_now()}"
    parent = Path("runs", _name(config), config.learner)
    candidates = (parent / (stem + suffix) for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(folder for folder in candidates if not folder.exists())


def results_folder(kind: str, config: Config) -> Path:
    """``runs/<kind>/<name>-<time>``, for what is made of a run."""
    return Path("runs", kind, f"{_name(config)}-{_now()}")


def _name(config: Config) -> str:
    return config.name or re.sub(r"[^\w.-]+", "-", config.env)


def _now() -> str:
    return time.strftime("%Y%m%d-%H%M%S")


def check_free(folder: Path) -> None:
    """A new run may go into this folder.

    Raises:
        ConfigError: it holds a run already, or is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder}: not a folder")
    if any((folder / name).exists() for name in (CONFIG_FILE, "metrics.csv", CHECKPOINTS)):
        raise ConfigError(f"--out {folder}: holds a run already; go on with it by --resume, or name another folder")


def check_results(folder: Path, result: str) -> None:
    """Results can go into this folder; found out before anything is computed, and nothing is made.

    Raises:
        ConfigError: it is no folder, or holds the file `result` already.
        PermissionError: it cannot be written.
    """
    if (folder / result).exists():
        raise ConfigError(f"--out {folder}: holds {result} already; name another folder")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"--out {folder}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(folder))


def create(folder: Path, config: Config) -> None:
    """Make the folder and write the settings and versions of a new run.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / CONFIG_FILE).open("x") as file:  # exclusive: two runs cannot share a folder
        file.write(to_yaml(config))
    (folder / VERSIONS_FILE).write_text(versions())


def reopen(folder: Path, config: Config, iteration: int) -> None:
    """Bring settings and versions of a resumed run up to date: it may be extended, or go on with other versions."""
    if (folder / CONFIG_FILE).read_text() != to_yaml(config):
        temporary = folder / f"{CONFIG_FILE}.tmp"
        temporary.write_text(to_yaml(config))
        temporary.replace(folder / CONFIG_FILE)
    path = folder / VERSIONS_FILE
    recorded = path.read_text() if path.exists() else ""
    if not recorded.endswith(versions()):
        with path.open("a") as file:
            file.write(f"\nresumed after iteration {iteration}\n{versions()}")
        print("note: versions differ from those that the run began with (see versions.txt); results may differ too")


def versions() -> str:
    """What the results depend on: the commit of the checkout, if any, and the versions of the packages."""
    packages = ("mamlrl", "torch", "numpy", "mujoco", "gymnasium")
    lines = [f"commit {git_commit()}", f"python {platform.python_version()}"]
    return "\n".join([*lines, *(f"{name} {metadata.version(name)}" for name in packages)]) + "\n"


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
