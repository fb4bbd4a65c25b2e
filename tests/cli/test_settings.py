"""From command line and YAML to settings, and what is said when they are wrong."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import pytest
import yaml

from mamlrl import train
from mamlrl.config import Config
from mamlrl.config.command_line import parse_command
from mamlrl.config.files import (
    all_fields,
    differences,
    make_config,
    make_section,
    merge,
    shipped_names,
    to_settings,
    to_yaml,
)
from mamlrl.errors import ConfigError
from mamlrl.experiment import make_supervised
from mamlrl.supervised import find_task_set

from .conftest import Command, assert_fails, read_metrics

WRONG_FLAGS = [
    ("--env cheetah-vell", ["did you mean cheetah-vel "]),
    ("--env unheard-of", ["cheetah-vel, ", "navigation, ", "mamlrl/HopperVel-v0", "module:Id-v0"]),
    ("--env CartPole-v1", ["CartPole-v1", "module:Id"]),
    ("--env nowhere_to_be_found:Tasks-v0", ["nowhere_to_be_found"]),
    ("--env mamlrl/HalfCheetaVel-v0", ["HalfCheetahVel"]),
    ("--env gymnasium:CartPole-v1", ["sample_tasks"]),
    ("--env tests.cli.toy_envs:toy/Lin-v0", ["tests.cli.toy_envs registers toy/DiscreteLine-v0,", "toy/Line-v0"]),
    ("--sampling.tasks 3", ["--env is missing", "cheetah-vel"]),
    ("--env navigation --sampling.task 3", ["--sampling.task;", "did you mean --sampling.tasks?"]),
    ("--env navigation --iteratons 3", ["did you mean --iterations?"]),
    ("--env navigation --sampling.tasks two", ["sampling.tasks", "'two'", "an integer"]),
    ("--env navigation --sampling.tasks 2.5", ["sampling.tasks", "2.5", "an integer"]),
    ("--env navigation --sampling.rollouts 0", ["sampling.rollouts", "0", "at least 1"]),
    ("--env navigation --sampling.discount 1.5", ["sampling.discount", "1.5", "in [0, 1]"]),
    ("--env navigation --policy.initial_std -1", ["policy.initial_std", "-1", "min_std"]),
    ("--env navigation --policy.hidden_sizes 3", ["policy.hidden_sizes", "3", "[100,100]"]),
    ("--env navigation --policy.hidden_sizes [8,0]", ["policy.hidden_sizes is [8, 0]"]),
    (
        "--env navigation --environment.metrics success:median",
        ["is ['success:median']", ":mean, :max or :last"],
    ),
    ("--env navigation --environment.metrics 3", ["metrics is 3; it must be a list such as [success], or one name"]),
    ("--env navigation --policy.activation swish", ["policy.activation", "swish", "tanh, relu"]),
    ("--env navigation --learner_settings.first_order 3", ["learner_settings.first_order", "3", "true or false"]),
    ("--env navigation --adaptation.step_size nan", ["adaptation.step_size", "nan"]),
    ("--env navigation --trust_region.max_kl inf", ["trust_region.max_kl", "inf"]),
    ("--env navigation --trust_region.cg_tolerance 1", ["trust_region.cg_tolerance", "1.0", "in [0, 1)"]),
    ("--env navigation --seed -1", ["seed", "-1", "at least 0"]),
    ("--env navigation --seed", ["--seed"]),
    ("--env navigation --device tpu", ["device", "tpu", "cpu or cuda"]),
    ("--env navigation --learner mamml", ["learner", "mamml", "did you mean maml?"]),
    ("--env navigation --environment.kwargs.colour red", ["colour"]),
    ("--env navigation --seed 99999999999999999999", ["seed", "at most 9223372036854775807"]),
    ("--env navigation --threads 5000", ["threads", "5000", "at most 4096"]),
    ("--env navigation --sampling.discount true", ["sampling.discount is True", "a number"]),
    ("--env navigation --policy.observation_scale [nan,1]", ["policy.observation_scale[0] is 'nan'", "a number"]),
    ("--env navigation --policy.observation_scale [.inf,1]", ["policy.observation_scale", "inf", "finite"]),
    ("--env navigation --adaptation.stepsize 0.1", ["did you mean --adaptation.step_size?"]),
    ("--env navigation --name a/b", ["name", "'a/b'", "folder's name"]),
    ("--env .x:x", ["'.x:x'", "module:Id-v0"]),
    ("--env :x", ["':x'", "module:Id-v0"]),
    ("--env x:", ["'x:'", "module:Id-v0"]),
    ("--env navigation --out a --resume b", ["--out", "--resume"]),
    ("--env navigation surplus", ["surplus"]),
    ("--config missing.yaml", ["missing.yaml"]),
]

OWN = "--env navigation --learner tests.cli.toy_learners:"
WRONG_FLAGS += [
    (f"{OWN}NeedsASetting", ["learner_settings.goal is missing", "NeedsASetting"]),
    (f"{OWN}NeedsASetting --learner_settings.goal 3", ["learner_settings.goal is 3", "text"]),
    (f"{OWN}SettingsOfAnotherKind", ["SettingsOfAnotherKind", "dataclass"]),
    (f"{OWN}SettingsOfNoType --learner_settings.rate 1", ["SettingsOfNoType", "NoSuchType"]),
    (f"{OWN}SettingsThatNoFileHolds", ["learner_settings.place", "a number, text"]),
    (f"{OWN}Picky --learner_settings.rate 2", ["Picky", "ValueError: rate is 2.0; it must be at most 1"]),
    (f"{OWN}Picky --learner_settings.rat 2", ["learner_settings.rat is not read", "did you mean rate?"]),
]
NETWORK = "--env navigation --policy.network tests.cli.toy_learners:"
WRONG_FLAGS += [
    (f"{NETWORK}TooManyOutputs", ["TooManyOutputs", "outputs", "[2, 3, 4, 3]"]),
    (f"{NETWORK}NoTime", ["NoTime", "outputs", "[2, 12, 2]"]),
    (f"{NETWORK}WholeNumbers", ["WholeNumbers", "outputs have no gradient"]),
    (f"{NETWORK}NumpyNetwork", ["NumpyNetwork", "numpy()"]),
    (f"{NETWORK}Failing", ["Failing", "AssertionError: seven observations"]),
    (f"{NETWORK}NoParameters", ["NoParameters", "KeyError: 'weight'"]),
]

WRONG_FILES = [
    ("sampling: {taks: 3}", ["sampling.taks", "did you mean sampling.tasks?"]),
    ("env: navigation\nlerner: maml", ["lerner", "did you mean learner?"]),
    ("env: navigation\nsampling: {tasks: many}", ["sampling.tasks", "many", "an integer"]),
    ("env: navigation\npolicy: 3", ["policy", "3", "mapping"]),
    ("env: navigation\nseed:", ["seed", "no value", "an integer"]),
    ("env: navigation\nseed: [", ["my.yaml, line", "YAML"]),
    ("- env", ["mapping"]),
]


@pytest.mark.parametrize(("flags", "words"), WRONG_FLAGS, ids=[flags for flags, _ in WRONG_FLAGS])
def test_a_wrong_command_is_one_line_and_writes_nothing(
    command: Command, tmp_path: Path, flags: str, words: list[str]
) -> None:
    assert_fails(command(flags), 2, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "words"), WRONG_FILES, ids=[text for text, _ in WRONG_FILES])
def test_a_wrong_file_is_one_line_and_writes_nothing(
    command: Command, tmp_path: Path, text: str, words: list[str]
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    assert_fails(command("--config my.yaml"), 2, *words)
    assert list(tmp_path.iterdir()) == [file]


def shown_by(*argv: str) -> str:
    """What a command prints that does nothing else, and imports nothing that takes long."""
    program = (
        "import os, sys, mamlrl.train\n"
        f"try: mamlrl.train.main({list(argv)})\n"
        "finally:\n"
        "    assert not {'torch', 'mujoco', 'tensorboard'} & sys.modules.keys()\n"
        "    assert 'GOMP_SPINCOUNT' in os.environ  # which torch reads when it is imported"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_help_names_every_field_with_its_default() -> None:
    text = shown_by("--help")
    for name in [*all_fields(), "config", "out", "resume", "print_config"]:
        assert f"--{name} " in text
    for words in ("cheetah-vel", "in nats", "default: 0.99", "policy units", "Time steps after", "one of tanh, relu"):
        assert words in " ".join(text.split())


@pytest.mark.parametrize("env", ["cheetah-vel", "mamlrl/HalfCheetahVel-v0"])
def test_help_has_the_defaults_of_the_family_that_is_named(env: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse_command(["--env", env, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("(an integer; default: 40)", "default: 0.95)", '"observation": "gymnasium"', "default: cheetah-vel)"):
        assert words in text


def printed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        train.main(argv)
    assert not ended.value.code
    return capsys.readouterr().out


def test_help_has_the_own_settings_of_the_learner_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(printed(["--learner", "promp", "--learner_settings.kl_penalty", "1", "--help"], capsys).split())
    assert "--learner_settings.kl_penalty X Factor on the mean KL" in text and "(a number; default: 0.0005)" in text
    assert train.main(["--learner", "prompt", "--help"]) == 2
    assert "did you mean promp?" in capsys.readouterr().err


def test_print_config_shows_the_settings_and_does_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed: 7\npolicy: {hidden_sizes: [8]}\nlearner_settings: {tolerance: 0.5}")
    argv = ["--env", "cheetah-vel", "--config", "mine.yaml", "--sampling.tasks", "9", "--learner", "imaml"]
    Path("all.yaml").write_text(printed([*argv, "--print_config"], capsys))
    every = parse_command(["--config", "all.yaml"]).config
    assert every.learner_settings["tolerance"] == 0.5 and every.learner_settings["cg_iterations"] == 10
    assert dataclasses.replace(every, learner_settings={"tolerance": 0.5}) == parse_command(argv).config
    assert (parse_command(argv).config.seed, parse_command(argv).config.sampling.tasks) == (7, 9)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_settings_need_no_torch() -> None:
    program = "import sys, mamlrl.config, mamlrl.config.size; assert not {'torch', 'mujoco'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", ["navigation", "cheetah-vel", "cheetah-dir", "ant-vel", "ant-dir", "ant-goal"])
def test_an_id_takes_the_settings_of_its_family_and_says_so(name: str) -> None:
    by_name = parse_command(["--env", name, "--seed", "3"])
    by_id = parse_command(["--env", by_name.config.env, "--seed", "3"])
    assert by_id.config == by_name.config
    assert by_name.notes == ()
    assert f"configs/{name}.yaml" in by_id.notes[0] and "--config" in by_id.notes[0]


def test_a_file_with_an_id_holds_all_of_its_settings(tmp_path: Path) -> None:
    """Such as the config.yaml of a run, which repeats it number by number."""
    config = parse_command(["--env", "cheetah-vel-paper-original"]).config
    file = tmp_path / "config.yaml"
    file.write_text(f"env: {config.env}\nenvironment: {{kwargs: {{frame_skip: 3}}}}")
    command = parse_command(["--config", str(file)])
    assert command.config.environment.kwargs == {"frame_skip": 3}
    assert command.config.policy.observation_scale == () and command.notes == ()


def test_the_horizon_is_the_one_that_the_environment_is_registered_with(command: Command) -> None:
    tiny = "--iterations 1 --sampling.tasks 2 --sampling.rollouts 2 --policy.hidden_sizes [4] --threads 1"
    limits = {"toy/ShortLine-v0": 7, "toy/Line-v0": 100}  # the second one is registered without a limit
    for number, (env, horizon) in enumerate(limits.items()):
        outcome = command(f"--env tests.cli.toy_envs:{env}", tiny, f"--out run-{number}")
        assert outcome.code == 0 and "note" not in outcome.out
        stored = yaml.safe_load(Path(f"run-{number}/config.yaml").read_text())
        assert stored["environment"]["horizon"] == horizon
        assert int(read_metrics(f"run-{number}")[0]["env_steps"]) == 2 * 2 * 2 * horizon
    shorter = command("--env tests.cli.toy_envs:toy/ShortLine-v0 --environment.horizon 5", tiny, "--out shorter")
    assert "note" not in shorter.out
    longer = command("--env tests.cli.toy_envs:toy/ShortLine-v0 --environment.horizon 9", tiny, "--out longer")
    assert "note: environment.horizon is 9, in place of the 7 time steps" in longer.out
    assert int(read_metrics("longer")[0]["env_steps"]) == 2 * 2 * 2 * 9


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_configuration_is_complete(name: str) -> None:
    config = parse_command(["--env", name]).config
    assert config.name == name
    assert config.environment.kwargs  # what published variants differ in is stated
    if "folder" in config.environment.kwargs:
        with pytest.raises(ConfigError, match="which is not there; put "):  # the user brings the data
            make_supervised(config)
        return
    if find_task_set(config.env):
        make_supervised(config)
        return
    assert config.env in gymnasium.registry
    envs = gymnasium.make_vec(config.env, 2, **config.environment.kwargs)  # takes the arguments
    envs.close()


@pytest.mark.parametrize("name", ["navigation", "cheetah-vel", "cheetah-dir"])
def test_the_two_paper_configurations_have_the_same_task_and_the_same_adaptation(name: str) -> None:
    ours, original = (to_settings(parse_command(["--env", f"{name}-paper{kind}"]).config) for kind in ("", "-original"))
    changed = differences(ours, original)
    assert changed["adaptation.inner_loss"] == ("likelihood_ratio", "log_prob")
    assert changed["policy.activation"] == ("tanh", "relu")
    how_it_is_learned = {
        *("name", "iterations", "eval.every", "adaptation.inner_loss", "policy.activation", "policy.initial_std"),
        *("policy.min_std", "policy.observation_scale", "sampling.gae_lambda"),
        *("trust_region.max_kl", "trust_region.curvature_fraction", "trust_region.preconditioner"),
        *("trust_region.cg_iterations", "trust_region.cg_damping"),
    }
    assert set(changed) <= how_it_is_learned
    papers = {"policy.initial_std": 1.0, "policy.min_std": 1e-6, "policy.observation_scale": []}
    papers |= {"sampling.gae_lambda": 1.0, "trust_region.curvature_fraction": 1.0}
    for setting, value in papers.items():
        group, field = setting.split(".")
        assert original[group][field] == value, setting


def test_later_settings_go_over_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("sampling: {tasks: 7, rollouts: 7}\nenvironment: {kwargs: {goal_range: 0.3}}\nseed: 7")
    argv = ["--env", "navigation", "--config", str(file), "--sampling.tasks", "9", "--environment.kwargs.max_step", "1"]
    config = parse_command(argv).config
    assert (config.sampling.tasks, config.sampling.rollouts) == (9, 7)
    assert config.adaptation.step_size == 0.5  # of the shipped configuration
    assert config.environment.kwargs == {"max_step": 1, "goal_range": 0.3, "goal_radius": 0.01}


def test_a_file_may_name_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("env: cheetah-dir\npolicy: {min_std: 1e-5}")
    config = parse_command(["--config", str(file)]).config
    assert (config.env, config.name) == ("mamlrl/HalfCheetahDir-v0", "cheetah-dir")
    assert config.policy.min_std == 1e-5


def test_settings_survive_yaml() -> None:
    config = parse_command(["--env", "cheetah-vel-paper", "--policy.hidden_sizes", "[8,8]"]).config
    assert make_config(yaml.safe_load(to_yaml(config))) == config
    assert make_config(to_settings(Config())) == Config()


def test_merge_and_differences() -> None:
    assert merge({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, {"a": 4}) == {"a": 4, "b": {"c": 2, "d": 3}}
    assert differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}) == {"b.c": (2, 3)}


def test_make_config_refuses_unknown_keys() -> None:
    with pytest.raises(ConfigError, match="did you mean seed"):
        make_config({"sed": 3})


@pytest.mark.parametrize("module", ["mamlrl", "mamlrl.envs"])
def test_an_id_of_ours_is_the_same_with_its_module(module: str, tmp_path: Path) -> None:
    plain, named = (parse_command(["--env", f"{prefix}mamlrl/AntVel-v0"]) for prefix in ("", f"{module}:"))
    assert plain == named and named.config.name == "ant-vel" and "configs/ant-vel.yaml" in named.notes[0]
    file = tmp_path / "mine.yaml"
    file.write_text(f"env: {module}:mamlrl/AntVel-v0")
    assert parse_command(["--config", str(file)]).config.env == "mamlrl/AntVel-v0"


def test_one_metric_of_the_environment_needs_no_brackets() -> None:
    command = parse_command("--env navigation --environment.metrics distance:last".split())
    assert command.config.environment.metrics == ("distance:last",)


@dataclass(frozen=True)
class PairSettings:
    betas: tuple[float, float] = (0.9, 0.999)
    named: tuple[int, str] = (1, "one")


def test_lists_of_a_fixed_length_have_that_length_and_a_type_at_each_place() -> None:
    settings = make_section(PairSettings, {"betas": [0.5, 1], "named": [2, "two"]}, "learner_settings")
    assert settings == PairSettings((0.5, 1.0), (2, "two"))
    for betas in ([0.5], [0.5, 0.6, 0.7], 0.5):
        with pytest.raises(ConfigError, match=r"betas is .*; it must be a list of 2: a number, a number"):
            make_section(PairSettings, {"betas": betas}, "learner_settings")
    with pytest.raises(ConfigError, match=r"learner_settings.named\[1\] is 3; it must be text"):
        make_section(PairSettings, {"named": [2, 3]}, "learner_settings")
