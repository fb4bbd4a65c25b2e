"""Values that no command or function could use, generated: each is refused in a line, at once, with nothing written.

Those of training flags and of files are in tests/cli/test_values_beyond_reason.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mamlrl
from mamlrl import compare, evaluate, record
from mamlrl.config.files import all_fields
from mamlrl.errors import ConfigError, UserError

from ..cli.test_values_beyond_reason import LONGEST_LINE, MANY_DIGITS, NO_PATHS

NUMBERS = (
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "-1",
    "1e999",
    "1" + "0" * 40,
    MANY_DIGITS,
    "0x1",
    "1:2",
    "1_0_",
    "1,5",
    "½",
    "\0",
)
TEXTS = ("x" * 10_000, "[1]", "{a: 1}", "\udcff", "\x1b[2J", "é", "None", "--", "-", "a\nb", "$HOME", "%s", "{0}", "*")
WRONG = (*NUMBERS, *TEXTS)

OPTIONS: dict[str, tuple[Callable[[Sequence[str]], int], dict[str, Sequence[str]]]] = {
    "evaluate": (
        evaluate.main,
        {
            **dict.fromkeys(("steps", "tasks", "rollouts", "seed", "threads"), WRONG),
            **dict.fromkeys(("interval", "protocol", "step_size_schedule", "device"), WRONG),
            "out": NO_PATHS,
            "random": ("1",),
        },
    ),
    "record": (
        record.main,
        {
            **dict.fromkeys(("tasks", "rollouts", "seed", "format", "speed"), WRONG),
            "steps": [text for text in WRONG if text != "1,5"],
            "task": ("", "nan", "inf", "1e999", "x", "\0", "[1]", "0x1"),
            "out": NO_PATHS,
        },
    ),
    "compare": (
        compare.main,
        {
            **dict.fromkeys(("smooth", "against", "interval", "format", "reference"), WRONG),
            "out": NO_PATHS,
        },
    ),
}


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err[:2000]
    assert 5 < len(captured.err) < LONGEST_LINE, captured.err[:2000]
    return captured.err


@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_wrong_option_is_one_line(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main, options = OPTIONS[name]
    cases = [(option, value) for option, values in options.items() for value in values]
    for option, value in cases:
        assert main(["no-run", f"--{option}={value}"]) == 2, (option, value)
        message = complaint(capsys)
        assert "no such f" not in message and "no-run:" not in message, f"--{option}={value!r} was accepted"
        assert option in message, message
    for path in NO_PATHS:
        assert main([path]) == 2
        complaint(capsys)
    assert list(tmp_path.iterdir()) == []
    assert len(cases) >= 130


WORDS = ("run", "--", "--out", "--task", "--tasks=1", "--unknown", "-x", "@file", "--help=1", "--out=a", "--random", "")


@pytest.mark.parametrize("name", list(OPTIONS))
def test_any_words_are_refused(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in itertools.chain.from_iterable(itertools.product(WORDS, repeat=count) for count in range(3)):
        assert OPTIONS[name][0](list(words)) == 2, words
        complaint(capsys)
    assert list(tmp_path.iterdir()) == []


# From Python


class Odd:
    """Nothing can be done with it."""

    def __repr__(self) -> str:
        return "odd " * 5000

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    __hash__ = None  # type: ignore[assignment]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0.5,
        10**30,
        10**5000,
        float("nan"),
        float("inf"),
        1j,
        b"bytes",
        "",
        "x" * 10_000,
        "\0",
        "\udcff",
    ),
    *([], [None], [[1]], {}, {1: 2}, {"a": {1}}, (1, "a"), {1}, range(3), Odd(), [Odd()], object, lambda: 3, Path("x")),
    *(
        np.array(np.nan),
        np.zeros((2, 2)),
        np.array([None]),
        np.float64("inf"),
        np.int64(-5),
        np.str_("x"),
        np.datetime64("now"),
    ),
    *(nested(30), (number for number in range(3)), memoryview(b"x"), type, Ellipsis),
)


class Accepted(Exception):
    pass


def accept(*_: Any) -> None:
    raise Accepted


def assert_a_line(error: UserError) -> None:
    message = " ".join(str(error).split())
    assert 5 < len(message) < LONGEST_LINE, message[:2000]


SECTIONS = {name.rpartition(".")[0] for name in all_fields()} - {""}


@pytest.mark.parametrize("field", [*sorted(all_fields()), *sorted(SECTIONS), "nonsense", "environment.kwargs.x"])
def test_a_setting_from_python_is_taken_or_refused(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mamlrl.training.run.run", accept)
    refused = 0
    for value in VALUES:
        keywords: Any = value
        for part in reversed(field.split(".")):
            keywords = {part: keywords}
        try:
            mamlrl.train(**({"env": "navigation"} | keywords))
        except Accepted:
            continue
        except ConfigError as error:
            refused += 1
            assert_a_line(error)
    assert list(tmp_path.iterdir()) == []
    assert refused >= 10, refused


@pytest.mark.parametrize("argument", ["config", "out", "resume"])
def test_a_path_from_python_is_taken_or_refused(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mamlrl.training.run.run", accept)
    for value in VALUES[1:]:
        try:
            mamlrl.train("navigation", **{argument: value})
        except (Accepted, ConfigError) as error:
            if isinstance(error, ConfigError):
                assert_a_line(error)
    assert list(tmp_path.iterdir()) == []


EVALUATION = ("steps", "tasks", "rollouts", "step_size_schedule", "seed", "protocol", "device", "threads")


@pytest.mark.parametrize("argument", EVALUATION)
def test_an_argument_of_evaluate_from_python_is_taken_or_refused(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = 0
    for value in VALUES:
        keywords: Any = {argument: value}
        with pytest.raises(UserError) as caught:  # at the latest that there is no such run
            mamlrl.evaluate("no-run", **keywords)
        assert_a_line(caught.value)
        refused += "no such file" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert refused >= 25, refused


@pytest.mark.parametrize("function", [mamlrl.load, mamlrl.load_adapted])
def test_a_path_of_load_is_taken_or_refused(
    function: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (
        *(value for value in VALUES if isinstance(value, str) and len(value) < 300),
        Path("x"),
        "no-run",
        tmp_path,
        "/dev/null",
        "/dev/zero",
    ):
        with pytest.raises(UserError) as caught:
            function(value)
        assert_a_line(caught.value)
    for value in (None, 3, [], {}, Odd()):
        with pytest.raises((UserError, TypeError)):
            function(value)


def test_that_is_how_many_values() -> None:
    options = sum(len(values) for _, table in OPTIONS.values() for values in table.values())
    python = len(VALUES) * (len(all_fields()) + len(SECTIONS) + 2 + 3 + len(EVALUATION))
    assert options >= 500 and python >= 2500, (options, python)
