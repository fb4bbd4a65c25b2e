"""Who may import whom: the core knows no environment, file or logger, and the environments know nothing of the core."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CORE = (
    "structs",
    "errors",
    "config/schema",
    "distributions",
    "objectives",
    "advantages",
    "policies",
    "adaptation",
    "outer",
    "learners",
)
"""Pure functions, lowest layer first: a module imports from its own layer or from those before it."""

FORBIDDEN_IN_CORE = (
    "mujoco",
    "tensorboard",
    "torch.utils.tensorboard",
    "matplotlib",
    "imageio",
    "tqdm",
    "yaml",
    "docstring_parser",
)
ALLOWED_IN_ENVS = ("gymnasium", "mujoco", "numpy", "PIL", "mamlrl.envs")


def module_name(path: Path) -> str:
    """`mamlrl.policies.mlp` for mamlrl/policies/mlp.py, `mamlrl.envs.base` for envs/base.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "mamlrl" else ("mamlrl", *parts)
    return ".".join(parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, at any depth."""
    package = module_name(path).split(".")
    if path.stem != "__init__":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            # `from mamlrl import sampler` imports a module too
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "mamlrl" else [module]


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is one of the packages or lies in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def files_of(name: str) -> list[Path]:
    """The file of a module, or all files of a package."""
    single = ROOT / "mamlrl" / f"{name}.py"
    return [single] if single.exists() else sorted((ROOT / "mamlrl" / name).rglob("*.py"))


@pytest.mark.parametrize("layer", CORE)
def test_core_imports_only_lower_layers(layer: str) -> None:
    names = (name.partition("/")[0] for name in CORE[: CORE.index(layer) + 1])
    allowed = tuple(f"mamlrl.{name}" for name in names)
    files = files_of(layer)
    assert files
    for path in files:
        for module in imports_of(path):
            assert not is_within(module, FORBIDDEN_IN_CORE), f"{path.name} imports {module}"
            if is_within(module, ("mamlrl",)):
                assert is_within(module, allowed), f"{path.name} imports {module}, a higher layer"


def test_environments_stand_alone() -> None:
    allowed = (*ALLOWED_IN_ENVS, *sys.stdlib_module_names)
    for path in sorted((ROOT / "envs").rglob("*.py")):
        for module in imports_of(path):
            assert is_within(module, allowed), f"envs/{path.name} imports {module}"


def test_sampler_sees_neither_losses_nor_learners() -> None:
    for module in imports_of(ROOT / "mamlrl" / "sampler.py"):
        assert not is_within(
            module,
            tuple(f"mamlrl.{name}" for name in ("objectives", "adaptation", "outer", "learners", "training")),
        )


def test_learners_see_no_environment() -> None:
    for path in files_of("learners"):
        for module in imports_of(path):
            assert not is_within(module, ("gymnasium", "mamlrl.envs", "mamlrl.sampler"))


COMMANDS = ("mamlrl.train", "mamlrl.evaluate", "mamlrl.record")


def test_nothing_imports_a_command() -> None:
    for path in sorted((ROOT / "mamlrl").rglob("*.py")):
        if module_name(path) not in COMMANDS:
            assert not set(imports_of(path)) & set(COMMANDS), f"{path.name} imports a command"


def test_no_module_imports_itself_through_others() -> None:
    """Imports within functions count too: they hide a circle and do not open it."""
    files = {module_name(path): path for folder in ("mamlrl", "envs") for path in (ROOT / folder).rglob("*.py")}
    graph = {name: {module for module in imports_of(path) if module in files} for name, path in files.items()}
    graph["mamlrl"] = set()  # the package itself imports its public functions when they are called
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
