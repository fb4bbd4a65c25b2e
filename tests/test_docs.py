"""What the pages list is all that there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mamlrl.objectives import INNER_LOSSES
from tests.golden.record import FILE
from tests.test_import_direction import COMMANDS, MODULES

ROOT = Path(__file__).parents[1]
METRICS = {name for case in json.loads(FILE.read_text()).values() for row in case["metrics"] for name in row}
"""Of every learner."""


def page(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_table_of_inner_losses_has_them_all() -> None:
    rows = re.findall(r"^\| `(\w+)` \| \$", page("docs/algorithm.md"), re.MULTILINE)
    assert set(rows) == set(INNER_LOSSES)


@pytest.mark.parametrize("metric", sorted({re.sub(r"(step|episode)_\d+$", r"\1_k", name) for name in METRICS}))
def test_every_metric_is_in_the_table_by_its_name_or_its_kind(metric: str) -> None:
    table = page("docs/algorithm.md").partition("## Metrics")[2].partition("## References")[0]
    kind = metric.partition("/")[0]
    if f"`{kind}/...`" in table:
        assert f"`{metric}`" in page("docs/learners.md")
    else:
        assert f"`{metric}`" in table


def test_contributors_are_told_of_every_command_and_of_its_room() -> None:
    rooms = {name.split(".")[1] for name in MODULES if name.count(".") == 2} - {"envs", "policies", "outer", "learners"}
    layout = page("CONTRIBUTING.md")
    assert {name.removeprefix("mamlrl.") for name in COMMANDS} | {f"{room}/" for room in rooms} <= {
        name for name in re.findall(r"`([\w/]+)`", layout)
    }
