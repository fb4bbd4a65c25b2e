"""What a user meets first: the package as installed, and every command and example of the documentation."""

import configparser
import re
import shlex
import subprocess
import sys
from importlib import import_module, metadata, resources
from pathlib import Path

import gymnasium
import pytest
import torch
from gymnasium import spaces
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mamlrl
from mamlrl import compare, diagnose, evaluate, record
from mamlrl.config.command_line import parse_command
from mamlrl.config.files import make_config, shipped_settings, to_yaml
from mamlrl.experiment import make_envs, make_supervised, policy_config
from mamlrl.learners import find_learner
from mamlrl.policies import make_policy
from mamlrl.supervised import find_task_set
from mamlrl.train import main
from tests.core.problems import observation_space, sample_meta_batch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
]
EXAMPLES = {
    "my_tasks": "example environment",
    "my_learner": "example learner",
    "my_network": "example network",
}
"""Modules that the README shows, and the marker of each."""
TINY = ["--iterations", "2", "--sampling.tasks", "2", "--sampling.rollouts", "2", "--environment.horizon", "5"]


def block_after(marker: str) -> str:
    """The fenced block of the README that follows a marker."""
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no block marked {marker!r}"
    return found[1]


def commands_of(page: Path) -> list[str]:
    """The command lines in the bash blocks of a page, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip() and line[0] != "#"]


def calls_of(program: str) -> list[str]:
    """Arguments of every call of `python -m mamlrl.<program>` in the documentation."""
    calls = re.compile(rf"(?:python -m mamlrl\.|mamlrl-){program}\b(.*?)(?:&&|$)")
    return [call.strip() for page in PAGES for line in commands_of(page) for call in calls.findall(line)]


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README's commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("gymnasium.envs.registration.registry", dict(gymnasium.registry))
    for module, marker in EXAMPLES.items():
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(block_after(marker))
    (tmp_path / "mine.yaml").write_text(next(iter(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))))
    for folder, name in (("nav-2", "navigation"), ("sine", "sinusoid")):
        run = tmp_path / "runs" / folder
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(to_yaml(make_config({"name": name, **shipped_settings(name)})))
    return tmp_path


@pytest.mark.parametrize("arguments", calls_of("train"))
def test_training_commands_of_the_documentation_are_valid(arguments: str, users_folder: Path) -> None:
    argv = shlex.split(arguments, comments=True)
    if {"--help", "--print_config"} & set(argv):
        with pytest.raises(SystemExit, match="0"):
            parse_command(argv)
        return
    config = parse_command(argv).config
    if find_task_set(config.env):
        if "folder" not in config.environment.kwargs:  # where the user brings the data
            make_supervised(config)
        return
    envs = make_envs(config, num_envs=2)
    seen, recurrent = envs.single_observation_space, find_learner(config.learner).recurrent
    make_policy(policy_config(config, envs), seen, envs.single_action_space, recurrent)
    envs.close()


@pytest.mark.parametrize("arguments", calls_of("evaluate"))
def test_evaluation_commands_of_the_documentation_are_valid(arguments: str) -> None:
    evaluate.build_parser().parse_args(shlex.split(arguments, comments=True))


@pytest.mark.parametrize("arguments", calls_of("record"))
def test_recording_commands_of_the_documentation_are_valid(arguments: str) -> None:
    options = record.build_parser().parse_args(shlex.split(arguments, comments=True))
    assert options.steps is None or record.parse_steps(options.steps)


@pytest.mark.parametrize("arguments", calls_of("compare"))
def test_comparing_commands_of_the_documentation_are_valid(arguments: str) -> None:
    options = compare.build_parser().parse_args(shlex.split(arguments, comments=True))
    for reference in options.reference:
        compare.parse_reference(reference)


@pytest.mark.parametrize("arguments", calls_of("diagnose"))
def test_diagnosing_commands_of_the_documentation_are_valid(arguments: str) -> None:
    options = diagnose.parse(shlex.split(arguments, comments=True))
    diagnose.parse_rollouts(options.rollouts)


def test_documentation_names_scripts_that_exist() -> None:
    for page in PAGES:
        for script in re.findall(r"python (\w[\w/]*\.py)", "\n".join(commands_of(page))):
            assert (ROOT / script).exists(), f"{page.name} runs {script}"


def test_relative_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_names_every_shipped_configuration() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        assert path.stem in README or path.stem.endswith("-paper-original"), path.stem


def test_the_readmes_test_command_sets_up_and_tests() -> None:
    """`.ci/run` takes the command from the README; this is what it relies on."""
    command = block_after("test command").strip()
    steps = [shlex.split(step) for step in command.split("&&")]
    assert steps == [
        ["python3", "-m", "venv", ".venv"],
        [".venv/bin/pip", "install", "-c", "constraints.txt", "-e", ".[test]"],
        [".venv/bin/pytest", "-n", "logical", "--dist", "worksteal"],  # a process for each processor
    ]


def test_example_environment_trains(users_folder: Path) -> None:
    assert main(["--env", "my_tasks:Thermostat-v0", *TINY, "--out", "out"]) == 0
    assert len((users_folder / "out" / "metrics.csv").read_text().splitlines()) == 3


def test_example_environment_passes_gymnasiums_checks(users_folder: Path) -> None:
    from gymnasium.utils.env_checker import check_env

    example: dict = {}
    exec(block_after("example environment"), example)
    check_env(example["ThermostatEnv"](), skip_render_check=True)


@pytest.mark.parametrize(
    "flags",
    [
        ["--learner", "my_learner:Reptile", "--learner_settings.rate", "0.3"],
        ["--policy.network", "my_network:SkipNetwork", "--policy.hidden_sizes", "[4]"],
    ],
    ids=["learner", "network"],
)
def test_example_trains_and_is_evaluated_by_module_and_name(flags: list[str], users_folder: Path) -> None:
    assert main(["--env", "navigation", *TINY, *flags, "--out", "out"]) == 0
    assert len((users_folder / "out" / "metrics.csv").read_text().splitlines()) == 3
    small = "--tasks 2 --rollouts 2 --steps 1 --out evaluation".split()
    assert evaluate.main(["out", *small]) == 0
    lines = (users_folder / "evaluation" / "evaluation.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2
    assert {line.split(",")[0] for line in lines[1:]} == {flags[1] if flags[0] == "--learner" else "maml"}


def test_example_learner_moves_towards_the_adapted_parameters(users_folder: Path) -> None:
    """theta + rate * (mean of phi - theta): a rate of 0 stays, one of 1 is the mean of the adapted parameters."""
    config = make_config({"learner": "my_learner:Reptile"})
    row = find_learner(config.learner)
    policy = make_policy(config.policy, observation_space(), spaces.Box(-1.0, 1.0, (2,)))
    theta = policy.init_params(torch.Generator().manual_seed(0))
    moved = {}
    for rate in (0.0, 1.0):
        learner = row.make(policy, config, row.settings(rate))
        state, draws = learner.init(theta), torch.Generator().manual_seed(1)
        meta_batch, adapted = sample_meta_batch(learner, state.meta, 3, 1, draws)
        moved[rate] = learner.meta_step(state, meta_batch, draws)[0].meta.init
    assert all(torch.equal(moved[0.0][name], leaf) for name, leaf in theta.items())
    phi = learner.adapt(state.meta, adapted, meta_batch.query, 1).params
    for name, leaf in phi.items():
        torch.testing.assert_close(moved[1.0][name], leaf.mean(0))


def test_version_is_the_installed_one() -> None:
    assert metadata.version("mamlrl") == mamlrl.__version__


def test_checkout_runs_where_another_copy_is_installed() -> None:
    """As after a plain `pip install .`: the working directory comes first, and there envs/ lies beside the package."""
    program = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
import mamlrl.configs, mamlrl.envs.base
print(mamlrl.envs.base.__file__)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(ran.stdout.strip()).samefile(ROOT / "envs" / "base.py")


def test_every_configuration_is_installed() -> None:
    installed = {file.name for file in resources.files("mamlrl.configs").iterdir() if file.name.endswith(".yaml")}
    assert installed == {path.name for path in (ROOT / "configs").glob("*.yaml")}


def test_every_package_of_the_checkout_is_installed() -> None:
    files = [
        path.relative_to(ROOT) for top in ("mamlrl", "envs", "configs") for path in ROOT.glob(f"{top}/**/__init__.py")
    ]
    names = {
        ".".join(path.parent.parts if path.parts[0] == "mamlrl" else ("mamlrl", *path.parent.parts)) for path in files
    }
    declared = re.search(r"packages =\n((?:    .*\n)+)", (ROOT / "setup.cfg").read_text())
    assert declared
    assert set(declared[1].split()) == names
    for name in names:
        import_module(name)


def test_the_oldest_versions_are_those_that_are_admitted() -> None:
    """What `.ci/run` tests with; constraints-oldest.txt says why mujoco is newer."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    test = settings["options.extras_require"]["test"].split()
    needed = [
        *settings["options"]["install_requires"].split(),
        *filter(re.compile("(pytest|hypothesis)>").match, test),
    ]
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in map(Requirement, needed):
        floor, version = next(iter(requirement.specifier)).version, tested[requirement.name]
        newer = requirement.name == "mujoco"
        assert Version(version) == Version(floor) or newer, f"{requirement.name}: tested is {version}, not {floor}"


def test_constraints_pin_all_that_is_installed() -> None:
    """Every distribution that the package and its tests pull in, but those that its parent pins itself."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if line and line[0] != "#"}
    todo, seen = [("mamlrl", frozenset({"test"}))], set()
    while todo:
        name, extras = todo.pop()
        seen.add((name, extras))
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # not installed here: pinned itself, its own needs unknown
            continue
        for text in requirements:
            requirement = Requirement(text)
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}
            )
            exact = str(requirement.specifier).startswith("==")
            child = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if wanted and not exact and child not in seen:
                assert child[0] in pinned, f"constraints.txt does not pin {child[0]}, which {name} needs"
                todo.append(child)
