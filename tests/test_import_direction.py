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
    "external",
    "distributed",
    "distributions",
    "objectives",
    "advantages",
    "policies",
    "adaptation",
    "outer",
    "learners",
    "rounds",
)
"""Pure functions, lowest layer first: a module imports from its own layer or from those before it.

Two are not pure: `external` imports what a user names as module:Name, for the tables of policies and learners, and
`distributed` sums over the tasks of other processes, where there are some.
"""

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


MODULES = {module_name(path): path for folder in ("mamlrl", "envs") for path in sorted((ROOT / folder).rglob("*.py"))}
COMMANDS = tuple(name for name, path in MODULES.items() if '__name__ == "__main__"' in path.read_text())


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
            # what is imported may be a module itself, as in `from mamlrl import sampler`
            yield from (existing(f"{module}.{alias.name}", module) for alias in node.names)


def existing(name: str, package: str) -> str:
    """A module of the package's own, or else the one that holds the name."""
    return name if name in MODULES else package


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is one of the packages or lies in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def files_of(name: str) -> list[Path]:
    """The file of a module, or all files of a package."""
    single = ROOT / "mamlrl" / f"{name}.py"
    return [single] if single.exists() else sorted((ROOT / "mamlrl" / name).rglob("*.py"))


@pytest.mark.parametrize("layer", CORE)
def test_core_imports_only_lower_layers(layer: str) -> None:
    allowed = tuple(f"mamlrl.{name.replace('/', '.')}" for name in CORE[: CORE.index(layer) + 1])
    files = files_of(layer)
    assert files
    for path in files:
        for module in imports_of(path):
            assert not is_within(module, FORBIDDEN_IN_CORE), f"{path.name} imports {module}"
            # the package of settings hands on those of its schema, and nothing else: see below
            if is_within(module, ("mamlrl",)) and module != "mamlrl.config":
                assert is_within(module, allowed), f"{path.name} imports {module}, a higher layer"


def test_the_package_of_settings_hands_on_its_schema_alone() -> None:
    assert set(imports_of(ROOT / "mamlrl" / "config" / "__init__.py")) == {"mamlrl.config.schema"}


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


def test_nothing_imports_a_command() -> None:
    assert set(COMMANDS) >= {"mamlrl.train", "mamlrl.evaluate", "mamlrl.record"}
    for name, path in MODULES.items():
        if name not in COMMANDS:
            assert not set(imports_of(path)) & set(COMMANDS), f"{path.name} imports a command"
            assert "mamlrl.commands" not in imports_of(path), f"{path.name} imports what commands share"


def test_a_run_does_not_know_how_command_lines_are_written() -> None:
    for path in files_of("training"):
        assert "mamlrl.config.command_line" not in set(imports_of(path)), path.name


def module_graph() -> dict[str, set[str]]:
    """Who imports whom. Imports within functions count too: they hide a circle and do not open it."""
    graph = {name: {module for module in imports_of(path) if module in MODULES} for name, path in MODULES.items()}
    graph["mamlrl"] = set()  # the package itself imports its public functions when they are called
    return graph


def room_of(module: str) -> str:
    """The package or module right under mamlrl in which a module lies."""
    return ".".join(module.split(".")[:2])


def test_no_module_imports_itself_through_others() -> None:
    TopologicalSorter(module_graph()).prepare()  # raises CycleError, which names the circle


def test_no_room_imports_itself_through_others() -> None:
    rooms: dict[str, set[str]] = {}
    for module, imported in module_graph().items():
        rooms.setdefault(room_of(module), set()).update(map(room_of, imported))
    TopologicalSorter({room: others - {room} for room, others in rooms.items()}).prepare()


def test_a_submodule_that_is_imported_by_its_name_counts() -> None:
    """`from mamlrl.run_folder import dashboard` is an import of the module, not only of the package."""
    assert "mamlrl.run_folder.dashboard" in set(imports_of(ROOT / "mamlrl" / "run_folder" / "metrics_log.py"))


def test_a_deployed_policy_needs_neither_tensorboard_nor_matplotlib() -> None:
    """Nor what films or simulates: all of that is slow to import, and may not be there."""
    graph, todo, reached = module_graph(), ["mamlrl.deploy"], set()
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += graph[name]
    found = {module for name in reached for module in imports_of(MODULES[name])}
    heavy = ("tensorboard", "torch.utils.tensorboard", "matplotlib", "imageio", "mujoco")
    assert not [module for module in found if is_within(module, heavy)]
