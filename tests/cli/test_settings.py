"""From command line and YAML to settings, and what is said when they are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
import yaml

from mamlrl.config import Config
from mamlrl.config.command_line import parse_command
from mamlrl.config.files import all_fields, differences, make_config, merge, shipped_names, to_settings, to_yaml
from mamlrl.errors import ConfigError

from .conftest import Command, assert_fails

WRONG_FLAGS = [
    ("--env cheetah-vell", ["cheetah-vel", "navigation"]),
    ("--env CartPole-v1", ["CartPole-v1", "module:Id"]),
    ("--env nowhere_to_be_found:Tasks-v0", ["nowhere_to_be_found"]),
    ("--env mamlrl/HalfCheetaVel-v0", ["HalfCheetahVel"]),
    ("--env gymnasium:CartPole-v1", ["sample_tasks"]),
    ("--sampling.tasks 3", ["--env is missing", "cheetah-vel"]),
    ("--env navigation --sampling.task 3", ["--sampling.task;", "did you mean --sampling.tasks?"]),
    ("--env navigation --iteratons 3", ["did you mean --iterations?"]),
    ("--env navigation --sampling.tasks two", ["sampling.tasks", "'two'", "an integer"]),
    ("--env navigation --sampling.tasks 2.5", ["sampling.tasks", "2.5", "an integer"]),
    ("--env navigation --sampling.rollouts 0", ["sampling.rollouts", "0", "at least 1"]),
    ("--env navigation --sampling.discount 1.5", ["sampling.discount", "1.5", "in [0, 1]"]),
    ("--env navigation --policy.initial_std -1", ["policy.initial_std", "-1", "min_std"]),
    ("--env navigation --policy.hidden_sizes 3", ["policy.hidden_sizes", "3", "[100,100]"]),
    ("--env navigation --policy.hidden_sizes [8,0]", ["policy.hidden_sizes", "(8, 0)"]),
    ("--env navigation --policy.activation swish", ["policy.activation", "swish", "tanh, relu"]),
    ("--env navigation --learner_settings.first_order 3", ["learner_settings.first_order", "3", "true or false"]),
    ("--env navigation --adaptation.step_size nan", ["adaptation.step_size", "nan"]),
    ("--env navigation --trust_region.max_kl inf", ["trust_region.max_kl", "inf"]),
    ("--env navigation --seed -1", ["seed", "-1", "at least 0"]),
    ("--env navigation --seed", ["--seed"]),
    ("--env navigation --device tpu", ["device", "tpu", "cpu or cuda"]),
    ("--env navigation --learner mamml", ["learner", "mamml", "did you mean maml?"]),
    ("--env navigation --environment.kwargs.colour red", ["colour"]),
    ("--env navigation --out a --resume b", ["--out", "--resume"]),
    ("--env navigation surplus", ["surplus"]),
    ("--config missing.yaml", ["missing.yaml"]),
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


def test_help_names_every_field_with_its_default_and_imports_nothing_heavy() -> None:
    program = (
        "import os, sys, mamlrl.train\n"
        "try: mamlrl.train.main(['--help'])\n"
        "finally:\n"
        "    assert not {'torch', 'mujoco', 'tensorboard'} & sys.modules.keys()\n"
        "    assert 'GOMP_SPINCOUNT' in os.environ  # which torch reads when it is imported"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for name in [*all_fields(), "config", "out", "resume"]:
        assert f"--{name} " in shown.stdout
    for words in ("cheetah-vel", "in nats", "default: 0.99", "policy units", "Time steps after"):
        assert words in " ".join(shown.stdout.split())


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_configuration_is_complete(name: str) -> None:
    config = parse_command(["--env", name]).config
    assert config.name == name
    assert config.env in gymnasium.registry
    envs = gymnasium.make_vec(config.env, 2, **config.environment.kwargs)  # takes the arguments
    envs.close()
    assert config.environment.kwargs  # what published variants differ in is stated


@pytest.mark.parametrize("name", ["navigation", "cheetah-vel", "cheetah-dir"])
def test_the_two_paper_configurations_have_the_same_task_and_the_same_adaptation(name: str) -> None:
    ours, original = (to_settings(parse_command(["--env", f"{name}-paper{kind}"]).config) for kind in ("", "-original"))
    changed = differences(ours, original)
    assert changed["adaptation.inner_loss"] == ("likelihood_ratio", "log_prob")
    assert changed["policy.activation"] == ("tanh", "relu")
    how_it_is_learned = {
        *("name", "iterations", "eval.every", "adaptation.inner_loss", "policy.activation", "policy.initial_std"),
        *("policy.min_std", "policy.observation_scale", "sampling.gae_lambda"),
        *("trust_region.max_kl", "trust_region.curvature_fraction"),
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
