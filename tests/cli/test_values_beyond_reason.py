"""Settings that no run could have, generated: each is refused in one line of bounded length, or is a setting.

Other exceptions fail a test by themselves. What is accepted comes back the same from its own YAML.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from gymnasium import spaces
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mamlrl import compare, evaluate
from mamlrl.config import Config, PolicyConfig
from mamlrl.config.command_line import parse_command
from mamlrl.config.files import all_fields, make_config, shipped_settings, to_yaml
from mamlrl.config.size import (
    check_memory,
    evaluation_memory_of_images,
    machine_memory,
    sampling_memory,
    training_memory,
    training_memory_of_images,
)
from mamlrl.config.yaml_text import dump_yaml, parse_yaml
from mamlrl.errors import ConfigError
from mamlrl.policies.predictors import make_predictor

from .conftest import Command, assert_fails

LONGEST_LINE = 900
MANY_DIGITS = "9" * 5000
BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])

VALUES = (
    *("", " ", "-", "--", "-1", "-1e-3", "0", "1", "2.5", "1e3", "1e400", "-1e400", "1e-400", "nan", ".nan", ".inf"),
    *("-.inf", "inf", "null", "~", "true", "True", "yes", "0x10", "010", "1_000", "1:30", "2001-02-30", "'1'"),
    *(str(2**31), str(2**63), str(2**64), str(-(2**63)), "1" + "0" * 40, MANY_DIGITS, "9" * 500 + ".5"),
    *("[]", "[1]", "[0]", "[-1]", "[nan]", "[.inf]", "[true]", "[1, [2]]", "[1, a]", "{}", "{a: 1}", "{1: 2}", "{a}"),
    *("[" * 3000, "{a: " * 300, "[" + "1," * 4000 + "1]", "[[[]]]", "[1, 2", "]", "}", ": :", "? [a]: b", "- a"),
    *(
        "&a [*a]",
        "&a {b: *a}",
        "*a",
        "<<: {a: 1}",
        "!!python/object/apply:os.system [ls]",
        "!!binary YQ==",
        "!!set {a}",
    ),
    *("!!int 3", "!foo 3", "!!float nan", "a: 1\na: 2", "---\na\n---\nb", "%YAML 9.9\n---\na", "@", "`", "\t- a", "#"),
    *("\0", "\x1b[2J", "\udcff", "\u202e", "é", "a\nb", "x" * 100_000, "../x", "/", "a/b", "..", ".x:x", ":x", "x:"),
    *("x::y", "a.b.:c", "1a:b", "a b:c", "no_such_module:X-v0", "cuda:-1", "cuda:99999999999", "$HOME", "%s", "{0}"),
)


def check(act: Callable[[Sequence[str]], object], argv: list[str]) -> bool:
    """Whether the command line is accepted; else the complaint is a line that can be read."""
    try:
        act(argv)
    except ConfigError as error:
        message = " ".join(str(error).split())
        assert 5 < len(message) < LONGEST_LINE, message
        return False
    return True


def parse_and_repeat(argv: Sequence[str]) -> None:
    """Accept what comes back from its own YAML."""
    config = parse_command(argv).config
    assert make_config(parse_yaml(to_yaml(config), "its own YAML")) == config


ALIKE = {
    *("env", "name", "learner", "device", "seed", "threads", "environment.horizon", "environment.action_scale"),
    *("environment.kwargs", "environment.kwargs.x", "environment.metrics", "policy.activation", "policy.hidden_sizes"),
    *("policy.observation_scale", "adaptation.step_size", "learner_settings", "config", "out", "resume"),
}
"""Flags that take all values; the other settings have the type of one of them, and take every seventh."""


@pytest.mark.parametrize("field", sorted(ALIKE | set(all_fields())))
def test_a_flag_takes_a_value_or_says_why_not(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = [] if field == "env" else ["--env", "navigation"]
    for value in VALUES if field in ALIKE else VALUES[::7]:
        check(parse_and_repeat, [*base, f"--{field}={value}"])
    assert list(tmp_path.iterdir()) == []


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.sampled_from([*all_fields(), "environment.kwargs.x"]), st.text(max_size=30))
@example("environment.kwargs.x", "1e5")
@example("environment.kwargs.x", "'1e5'")
def test_any_text_is_a_value_or_is_refused(field: str, text: str) -> None:
    check(parse_and_repeat, ["--env", "navigation", f"--{field}", text])


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([*(f"--{name}" for name in all_fields()), *VALUES]), max_size=5))
def test_any_words_are_a_command_or_are_refused(words: list[str]) -> None:
    check(parse_command, ["--env=navigation", *(word for word in words if word not in ("--help", "-h"))])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(min_size=1), values, max_size=3),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.dictionaries(st.text(min_size=1), PLAIN, max_size=4))
@example({"x": "3", "y": "null", "z": "1e5", "d": "2001-01-01", "o": "010"})  # text stays text
def test_arguments_of_an_environment_survive_yaml(kwargs: dict) -> None:
    try:
        config = make_config({"environment": {"kwargs": kwargs}})
    except ConfigError as error:
        assert "UTF-8" in str(error) or "a name" in str(error)
        return
    assert make_config(parse_yaml(to_yaml(config), "its own YAML")) == config
    assert config.environment.kwargs == kwargs


DOCUMENTS = {
    "a key twice": (
        b"seed: 1\nsampling:\n  tasks: 2\n  tasks: 3\n",
        "my.yaml, line 4",
        "sampling.tasks",
        "second time",
    ),
    "a section twice": (b"policy: {}\nseed: 1\npolicy: {}\n", "line 3", "policy"),
    "an alias within itself": (b"environment: &a\n  kwargs: {x: *a}\n", "line 2", "*a"),
    "a list in itself": (b"environment: {kwargs: {x: &l [1, *l]}}", "*l"),
    "a bomb": (BOMB.encode(), "values, aliases written out"),
    "a bomb of merged keys": (BOMB.replace("[x, x]", "{x: 1}").replace("[", "{<<: [").replace("]", "]}").encode(), ""),
    "an unknown alias": (b"seed: *nobody", "not valid YAML"),
    "too many values": (b"policy: {observation_scale: [" + b"1," * 100_000 + b"1]}", "more than 100000 values"),
    "very deep lists": (b"environment: {kwargs: {x: " + b"[" * 100_000, "deep"),
    "very deep mappings": (b"{a: " * 50_000, "deep"),
    "very deep blocks": ("\n".join(" " * n + "a:" for n in range(500)).encode(), "deep"),
    "a Python object": (b"seed: !!python/object/apply:os.system [ls]", "line 1", "not valid YAML"),
    "a Python name": (b"seed: !!python/name:os.system", "not valid YAML"),
    "an own tag": (b"seed: !mine 3", "not valid YAML"),
    "two documents": (b"seed: 1\n---\nseed: 2\n", "not valid YAML"),
    "UTF-16": ("env: navigation\n".encode("utf-16"), "my.yaml", "UTF-8"),
    "UTF-32": ("env: navigation\n".encode("utf-32"), ""),
    "Latin-1": ("name: é".encode("latin-1"), "UTF-8"),
    "zero bytes": (b"env: navi\0gation", "not valid YAML"),
    "only zero bytes": (bytes(1000), "not valid YAML"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "my.yaml"),
    "a program": (b"\x7fELF" + bytes(range(256)) * 4000, "my.yaml"),
    "a large text": (b"word " * 10**6, "larger than"),
    "a long line": (b"word " * 10**5, "mapping"),
    "nothing": (b"", "mapping"),
    "a comment": (b"# env: navigation", "mapping"),
    "a number": (b"3", "3", "mapping"),
    "a list": (b"[env, navigation]", "mapping"),
    "a table": (b"a,b\n1,2\n" * 1000, "mapping"),
    "JSON of something else": (b'{"cells": [], "metadata": {}}', "cells"),
    "tabs": (b"sampling:\n\ttasks: 3", "line 2", "not valid YAML"),
    "an open bracket": (b"sampling: {tasks: 3", "not valid YAML"),
    "an integer of thousands of digits": (b"seed: " + MANY_DIGITS.encode(), "not valid YAML"),
    "a long key": (b"? " + b"k" * 50_000 + b"\n: 3", "unknown key"),
    "a key that is a number": (b"3: 4", "unknown key 3"),
    "a key that is a list": (b"? [a]\n: 4", "not valid YAML"),
    "a key that is nothing": (b"null: 4", "unknown key"),
    "truth for a number": (b"env: navigation\nseed: true", "seed is True", "an integer"),
    "a number for truth": (b"env: navigation\nlearner_settings: 3", "learner_settings is 3", "a mapping"),
    "a date": (b"env: navigation\nseed: 2001-02-03", "'2001-02-03'", "an integer"),
    "an impossible date": (b"env: navigation\nseed: 2001-02-30", "an integer"),
    "bytes": (b"env: navigation\nenvironment: {kwargs: {x: !!binary YQ==}}", "environment.kwargs.x", "a number, text"),
    "a set": (b"env: navigation\nenvironment: {kwargs: {x: !!set {a}}}", "environment.kwargs.x", "a number, text"),
    "not a number": (b"env: navigation\nenvironment: {kwargs: {x: [1, .nan]}}", "environment.kwargs.x", "nan"),
    "numbers as keys": (b"env: navigation\nenvironment: {kwargs: {x: {1: 2}}}", "environment.kwargs.x", "1"),
    "an infinite scale": (
        b"env: navigation\npolicy: {observation_scale: [.nan, 1]}",
        "policy.observation_scale",
        "nan",
    ),
    "a list where text is due": (b"env: [navigation]", "env is ['navigation']", "text"),
    "a mapping where a list is due": (b"env: navigation\npolicy: {hidden_sizes: {a: 1}}", "policy.hidden_sizes"),
    "an item of a wrong type": (b"env: navigation\npolicy: {hidden_sizes: [8, 2.5]}", "policy.hidden_sizes[1] is 2.5"),
    "settings of 0.1.0 that are none": (b"env: navigation\nadaptation: {first_order: true}\nlearner_settings: 3", ""),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_file_that_holds_no_settings_is_one_line(kind: str, command: Command, tmp_path: Path) -> None:
    content, *words = DOCUMENTS[kind]
    (tmp_path / "my.yaml").write_bytes(content)
    outcome = command("--config my.yaml")
    assert_fails(outcome, 2, *words)
    assert len(outcome.err) < LONGEST_LINE
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.integers(0, 10**6), st.integers(0, 40), st.text(max_size=4) | st.sampled_from(["&a ", "*a", "{", "]", "\n- "])
)
def test_a_shipped_configuration_with_a_slip_is_settings_or_is_refused(place: int, length: int, slip: str) -> None:
    text = dump_yaml(shipped_settings("cheetah-vel-paper"))
    place %= len(text)
    try:
        make_config(parse_yaml(text[:place] + slip + text[place + length :], "my.yaml") or {})
    except ConfigError as error:
        assert len(" ".join(str(error).split())) < LONGEST_LINE
    except AttributeError:  # no mapping, which load_settings says
        pass


def test_only_files_are_read(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "/dev/zero", "/dev/null"):
        assert_fails(command(f"--config {name}"), 2, name, "not a file")
    for name in ("loop", "missing", "missing/x"):
        assert_fails(command(f"--config {name}"), 2, name)
    assert_fails(command("--env navigation --policy /dev/zero"), 2, "unknown flag --policy")
    assert_fails(command("--env navigation --config a --config b"), 2, "--config is given twice")


def test_an_alias_that_stands_for_little_is_fine() -> None:
    text = "sampling: &s {tasks: 3}\neval: {<<: *s, rollouts: 2}\npolicy: {hidden_sizes: &h [3, 3]}\nname: 'x'"
    config = make_config(parse_yaml(text, "my.yaml"))
    assert (config.sampling.tasks, config.eval.tasks, config.eval.rollouts) == (3, 3, 2)


IMPORTS = {
    "an exception": "raise RuntimeError('no licence')",
    "the end of the program": "import sys; sys.exit(7)",
    "a missing module": "import no_such_module",
    "wrong syntax": "def",
    "an assertion": "assert False",
    "endless recursion": "def f(): f()\nf()",
}


@pytest.mark.parametrize("kind", IMPORTS)
def test_a_module_whose_import_fails_is_one_line(
    kind: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    name = f"broken_{sum(map(ord, kind))}"
    (tmp_path / f"{name}.py").write_text(IMPORTS[kind])
    assert_fails(command(f"--env {name}:X-v0"), 1, name, "import raised")
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.py"]


OPTIONS = ("steps", "tasks", "rollouts", "seed", "threads", "device", "step_size_schedule", "protocol")
WRONG = ("", "nan", "-1", "1e9", "1" + "0" * 40, MANY_DIGITS, "x" * 10_000, "\0", ".5", "[1]", "\udcff", "0x1", "1:2")
NO_PATHS = ("", "\0", "x" * 300, "\udcff", "a\nb")


def test_wrong_options_of_evaluate_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [f"--{name}={value}" for name in OPTIONS for value in WRONG]
    for argument in [*options, *(f"--out={path}" for path in NO_PATHS)]:
        assert evaluate.main(["no-run", argument]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1
        assert len(message) < LONGEST_LINE
        assert "no such file" not in message, f"{argument} was accepted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value", ["x" * 50_000, "no_module:" + "x" * 50_000, "x" * 50_000 + ":Name", "json:" + "x" * 999]
)
@pytest.mark.parametrize("flag", ["--learner", "--policy.network"])
def test_the_name_of_a_part_is_never_printed_whole(flag: str, value: str, small_run: Command) -> None:
    outcome = small_run(f"{flag}={value}")
    assert_fails(outcome, 2, flag[2:])
    assert len(outcome.err) < LONGEST_LINE


def test_a_path_to_compare_is_never_printed_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    deep = "/".join(["x" * 100] * 30)
    for arguments in (*([path] for path in (*NO_PATHS, deep)), *(["x", f"--out={path}"] for path in NO_PATHS)):
        assert compare.main(arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1 and len(message) < LONGEST_LINE
    assert evaluate.main([deep]) == 2 and len(capsys.readouterr().err) < LONGEST_LINE


TOO_LARGE = [
    "--sampling.tasks 1000000 --sampling.rollouts 1000",
    "--environment.horizon 900000000",
    "--policy.hidden_sizes [1000000,1000000]",
    "--eval.every 1 --eval.tasks 1000000 --eval.rollouts 1000",
    "--eval.every 1 --eval.min_steps 900000000",
    "--sampling.tasks 100000",  # less than 10 KB for each of 2,400,000 time steps, and there are fewer
]


@pytest.mark.parametrize("flags", TOO_LARGE)
def test_a_run_that_needs_more_memory_than_there_is_does_not_start(
    flags: str, small_run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mamlrl.config.size.machine_memory", lambda: 1.2 * 2**30)
    outcome = small_run(flags, "--out run")
    assert_fails(outcome, 2, "GiB of memory", "1.2 GiB here", "environment.horizon", "policy.hidden_sizes")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "observation_dim", "action_outputs", "peak"),
    [  # MiB, measured on whole meta-iterations
        ("--env navigation --sampling.tasks 20 --sampling.rollouts 20", 2, 4, 824),
        ("--env navigation --adaptation.steps 4", 2, 4, 1381),
        ("--env navigation --policy.hidden_sizes [100,100,100,100]", 2, 4, 1304),
        ("--env cheetah-vel --sampling.tasks 20 --environment.horizon 200", 17, 12, 1325),
        ("--env cheetah-vel --sampling.tasks 20 --policy.hidden_sizes [1000] --environment.horizon 20", 17, 12, 789),
        ("--env ant-vel --sampling.tasks 20 --sampling.rollouts 20", 27, 16, 867),
    ],
)
def test_the_estimate_of_memory_is_near_what_was_measured(
    flags: str, observation_dim: int, action_outputs: int, peak: int
) -> None:
    config = parse_command(flags.split()).config
    estimate = training_memory(config, config.adaptation.steps, observation_dim, action_outputs) / 2**20
    assert estimate == pytest.approx(peak, rel=0.15)
    assert sampling_memory(config, observation_dim, action_outputs) / 2**20 < peak


@pytest.mark.parametrize(
    ("network", "filters", "inputs", "amount", "steps", "peak"),
    [  # MiB, measured on whole meta-updates: tasks, support and query images
        ("conv", 32, 784, (8, 5, 75), 1, 1446),
        ("conv", 64, 784, (4, 5, 75), 5, 1461),
        ("conv", 64, 784, (8, 25, 25), 1, 2260),
        ("conv", 32, 3 * 84 * 84, (1, 5, 75), 1, 1570),
        ("conv", 32, 3 * 84 * 84, (1, 25, 25), 5, 2834),
        ("conv_stride", 64, 784, (16, 5, 75), 1, 1363),
        ("conv_stride", 64, 784, (16, 25, 75), 5, 2710),
    ],
)
def test_the_estimate_of_memory_for_images_is_near_what_was_measured(
    network: str, filters: int, inputs: int, amount: tuple[int, int, int], steps: int, peak: int
) -> None:
    config = PolicyConfig(network=network, hidden_sizes=(filters,) * 4)
    made = make_predictor(config, spaces.Box(0, 1, (inputs,)), spaces.Discrete(5)).network
    tasks, support, query = amount
    estimate = training_memory_of_images(tasks, made.units_per_image, support, query, steps) / 2**20  # type: ignore[attr-defined]
    assert estimate == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(
    ("tasks", "support", "query", "peak"), [(30, 5, 75, 1605), (30, 25, 25, 1641), (30, 25, 5, 1658)]
)
def test_the_estimate_for_evaluations_on_images_is_near_what_was_measured(
    tasks: int, support: int, query: int, peak: int
) -> None:
    """Of four layers of 32 filters, images of 28 x 28 pixels."""
    assert evaluation_memory_of_images(tasks, 33216, support, query) / 2**20 == pytest.approx(peak, rel=0.1)


def test_a_gpu_has_memory_of_its_own() -> None:
    assert machine_memory() > 2**28
    check_memory(Config(device="cuda"), 2**60)
    with pytest.raises(ConfigError, match="GiB"):
        check_memory(Config(), 2**60)
