"""The recipes of docs/environments.md, where the packages that they are about are installed (in CI they are not)."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import gymnasium
import pytest

from mamlrl.train import main

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
RECIPES = re.findall(r"<!-- recipe: (\w+) -->\n```python\n(.*?)```\n\n```sh\n(.*?)```", PAGE, re.DOTALL)
TINY = "--iterations 1 --sampling.tasks 2 --sampling.rollouts 2 --environment.horizon 5 --out run".split()


def test_there_are_two() -> None:
    assert [package for package, *_ in RECIPES] == ["metaworld", "gymnasium_robotics"]


@pytest.mark.parametrize(("package", "module", "commands"), RECIPES)
def test_a_recipe_trains(
    package: str, module: str, commands: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("gymnasium.envs.registration.registry", dict(gymnasium.registry))
    words = shlex.split(commands.splitlines()[-1])
    name = words[words.index("--env") + 1].partition(":")[0]
    monkeypatch.delitem(sys.modules, name, raising=False)
    Path(f"{name}.py").write_text(module)
    assert main([*words[words.index("--env") :], *TINY]) == 0
