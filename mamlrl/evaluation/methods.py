"""Which runs are one method, and what it is called in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mamlrl.config import Config
from mamlrl.config.files import all_fields, fields_marked, flat_settings

MOST_SETTINGS = 3
"""Settings that a name lists; methods that differ in more are called by their configuration or folder."""


class HasSettings(Protocol):
    """A run, as far as it matters here."""

    @property
    def path(self) -> Path:
        """Its folder or checkpoint."""
        ...

    @property
    def config(self) -> Config:
        """Its settings."""
        ...


AnyRun = TypeVar("AnyRun", bound=HasSettings)


def group_methods(runs: Iterable[AnyRun]) -> dict[str, list[AnyRun]]:
    """Runs by method, each under its name, in the order in which methods first appear.

    Runs of different seeds whose settings differ in nothing else that matters are one method. A second run of the
    same seed is a method of its own: it is no independent sample.
    """
    groups: list[list[AnyRun]] = []
    for run in runs:
        same = next((group for group in groups if _is_another_seed(run, group)), None)
        groups.append([run]) if same is None else same.append(run)
    return dict(zip(_names([group[0] for group in groups]), groups, strict=True))


def relevant_settings(config: Config) -> dict[str, Any]:
    """The settings that make a method, by dotted name."""
    irrelevant = fields_marked("makes a method", False)
    return {name: value for name, value in flat_settings(config).items() if name not in irrelevant}


def environment_settings(config: Config) -> dict[str, Any]:
    """The settings that say which environment a run was trained on, by dotted name."""
    settings = relevant_settings(config).items()
    return {name: value for name, value in settings if name.partition(".")[0] in ("env", "environment")}


def _is_another_seed(run: HasSettings, group: Sequence[HasSettings]) -> bool:
    """Whether a run is one more of a method, with a seed that is not there yet."""
    new = run.config.seed not in {other.config.seed for other in group}
    return new and relevant_settings(run.config) == relevant_settings(group[0].config)


def _names(runs: Sequence[HasSettings]) -> list[str]:
    """A name for each run, no two alike.

    The learner; where several have the same, with the settings in which they differ; where these are too many or the
    same, with the name of the configuration; where that is the same too, with the folder.
    """
    rows = []
    for run in runs:
        learner = run.config.learner
        rivals = [relevant_settings(other.config) for other in runs if other.config.learner == learner]
        different = differing_settings(relevant_settings(run.config), rivals)
        details = [different, run.config.name, _tail(run.path, runs)]
        rows.append([learner, *(f"{learner} ({detail})" for detail in details if detail)])
    return first_unique(rows)


def first_unique(candidates: Sequence[Sequence[str]]) -> list[str]:
    """Of every row of candidates the first that no other row has, or else the last."""
    taken = [name for row in candidates for name in set(row)]
    return [next((name for name in row if taken.count(name) == 1), row[-1]) for row in candidates]


def differing_settings(settings: dict[str, Any], rivals: Sequence[dict[str, Any]]) -> str:
    """What settings say where rivals (they among them) differ: ``step_size 0.05, max_kl 0.01``.

    Empty where these are too many for a name.
    """
    names = dict.fromkeys(name for rival in rivals for name in rival)
    differing = [name for name in names if any(rival.get(name) != rivals[0].get(name) for rival in rivals)]
    if len(differing) > MOST_SETTINGS:
        return ""
    words = zip(_shortened(differing), differing, strict=True)
    return ", ".join(f"{word} {_text(settings.get(name))}" for word, name in words)


def _shortened(names: Sequence[str]) -> list[str]:
    """Settings by the last parts of their names, or all of them by their whole names where one has to be."""
    short = [short_name(name) for name in names]
    return list(names) if any("." in name for name in short) else short


def short_name(setting: str) -> str:
    """The last part of a setting's dotted name, or all of it where another setting ends alike."""
    last = setting.rpartition(".")[2]
    alike = [name for name in all_fields() if name.rpartition(".")[2] == last and name != setting]
    return setting if alike else last


def _text(value: Any) -> str:
    """A setting's value in a name."""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
    return text if text not in ("", "[]", "None") else "none"


def _tail(path: Path, runs: Sequence[HasSettings]) -> str:
    """As much of the end of a run's path as tells it from the others."""

    def parts(path: Path) -> tuple[str, ...]:
        location = path.absolute().parent / path.name.removesuffix(".pt")
        return tuple(part for part in location.parts if part != "checkpoints")

    others = [parts(run.path) for run in runs]
    own = parts(path)
    for length in range(1, len(own)):
        if sum(other[-length:] == own[-length:] for other in others) == 1:
            return "/".join(own[-length:])
    return str(path)
