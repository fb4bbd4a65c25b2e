"""Training and evaluation from Python: ``mamlrl.train`` and ``mamlrl.evaluate``, and the examples of docs/python.md."""

from __future__ import annotations

import asyncio
import csv
import inspect
import math
import os
import pydoc
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mamlrl
from mamlrl.api import Evaluation, Run
from mamlrl.config.files import CONFIG_FILE, load_settings, merge
from mamlrl.envs.navigation import Navigation2DVectorEnv
from mamlrl.errors import ConfigError, UserError
from mamlrl.evaluate import main as evaluate_command
from mamlrl.run_folder.checkpoints import list_checkpoints
from mamlrl.train import main as train_command

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
SMALL: dict[str, Any] = {
    "iterations": 3,
    "threads": 1,
    "sampling": {"tasks": 4, "rollouts": 3},
    "environment": {"horizon": 8},
    "policy": {"hidden_sizes": [8]},
    "trust_region": {"cg_iterations": 3},
    "eval": {"every": 0},
}
"""A run whose iterations take milliseconds."""
FLAGS = (
    "--env navigation --iterations 3 --threads 1 --sampling.tasks 4 --sampling.rollouts 3 --environment.horizon 8 "
    "--policy.hidden_sizes [8] --trust_region.cg_iterations 3 --eval.every 0"
).split()
"""The same for the command."""
FEW: dict[str, Any] = {"steps": 1, "tasks": 3, "rollouts": 2, "threads": 1}
"""An evaluation that takes milliseconds."""


def train(env: str | None = "navigation", **settings: Any) -> Run:
    return mamlrl.train(env, **merge(SMALL, settings))


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(out=tmp_path_factory.mktemp("api") / "run")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def as_cells(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Data as a CSV file holds it."""
    return [
        {name: "" if isinstance(value, float) and math.isnan(value) else str(value) for name, value in row.items()}
        for row in rows
    ]


def reproducible(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Metrics without the seconds that things took."""
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def iterations_saved(folder: str | Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in list_checkpoints(Path(folder) / "checkpoints"))


def test_train_returns_the_folder_and_the_rows_of_its_metrics_csv(run: Run) -> None:
    assert run.folder.is_absolute()
    rows = read_csv(run.folder / "metrics.csv")
    assert [{name: float(cell or "nan") for name, cell in row.items()} for row in rows] == run.metrics
    assert [row["iteration"] for row in run.metrics] == [1, 2, 3]
    assert run.best == max(row["return/step_1"] for row in run.metrics)


def test_train_is_what_the_command_does(run: Run) -> None:
    assert train_command([*FLAGS, "--out", "by-command"]) == 0
    assert (run.folder / CONFIG_FILE).read_text() == Path("by-command", CONFIG_FILE).read_text()
    metrics = [{name: float(cell) for name, cell in row.items()} for row in read_csv(Path("by-command", "metrics.csv"))]
    assert reproducible(metrics) == reproducible(run.metrics)


def test_settings_are_nested_and_go_over_those_of_a_file() -> None:
    Path("mine.yaml").write_text("seed: 5\ntrust_region: {max_kl: 0.5, cg_damping: 0.25}\n")
    made = train(config="mine.yaml", seed=7, iterations=1, trust_region={"max_kl": 0.02}, out="out")
    settings = load_settings(made.folder / CONFIG_FILE)
    assert settings["seed"] == 7
    assert settings["trust_region"]["max_kl"] == 0.02
    assert settings["trust_region"]["cg_damping"] == 0.25
    assert settings["trust_region"]["cg_iterations"] == 3
    assert settings["env"] == "mamlrl/Navigation2D-v0"  # the short name resolves
    assert settings["name"] == "navigation"


def test_numbers_of_numpy_and_tuples_are_settings() -> None:
    settings: dict[str, Any] = {"seed": np.int64(4), "policy": {"hidden_sizes": (np.int32(4),)}}
    made = train(iterations=np.array(1), adaptation={"step_size": np.float32(0.5)}, out="out", **settings)
    saved = load_settings(made.folder / CONFIG_FILE)
    assert (saved["seed"], saved["policy"]["hidden_sizes"], saved["adaptation"]["step_size"]) == (4, [4], 0.5)


def test_settings_of_the_caller_stay_as_they_are() -> None:
    own = {"max_kl": 0.02, "cg_iterations": 2}
    train(iterations=1, trust_region=own, out="out")
    assert own == {"max_kl": 0.02, "cg_iterations": 2}


def test_the_default_folder_is_that_of_the_command() -> None:
    made = train(iterations=1)
    assert made.folder.parent == Path.cwd() / "runs" / "navigation" / "maml"


def test_the_callback_sees_each_iteration_with_its_metrics() -> None:
    seen: list[tuple[int, dict]] = []

    def callback(iteration: int, metrics: dict[str, float | None]) -> None:
        seen.append((iteration, dict(metrics)))
        metrics.clear()  # its own copy

    made = train(callback=callback, out="out", eval={"every": 2, "tasks": 2, "rollouts": 2, "steps": 1})
    assert [iteration for iteration, _ in seen] == [1, 2, 3]
    assert [metrics["eval/return/step_1"] is None for _, metrics in seen] == [True, False, True]
    for (_, metrics), row in zip(seen, made.metrics, strict=True):
        assert row.keys() == metrics.keys() | {"iteration"}
        numbers = {name: math.nan if value is None else value for name, value in metrics.items()}
        assert {name: row[name] for name in numbers} == pytest.approx(numbers, nan_ok=True, rel=0, abs=0)


def test_a_callback_that_answers_true_stops_the_run_which_can_go_on(run: Run) -> None:
    stopped = train(callback=lambda iteration, metrics: iteration == 2, out="out")
    assert len(stopped.metrics) == 2
    assert iterations_saved("out")[-1] == 2
    resumed = mamlrl.train(resume=stopped.folder)
    assert reproducible(resumed.metrics) == reproducible(run.metrics)


def test_a_resumed_run_may_be_longer() -> None:
    stopped = train(iterations=1, out="out")
    assert len(mamlrl.train(resume="out", iterations=2).metrics) == 2
    assert len(mamlrl.train(resume=stopped.folder).metrics) == 2  # nothing left to do


def test_a_callback_that_is_none_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="callback is 5; it must be a function of"):
        train(callback=5, out="out")
    assert not Path("out").exists()


def test_an_exception_in_the_callback_ends_the_run_in_good_order_and_is_raised() -> None:
    class Mine(Exception):
        pass

    def callback(iteration: int, metrics: dict[str, float | None]) -> None:
        if iteration == 2:
            raise Mine("enough")

    with pytest.raises(Mine, match="enough"):
        train(callback=callback, out="out", checkpoint={"every": 10})
    assert iterations_saved("out")[-1] == 2
    assert not Path("out", "error.txt").exists()
    assert len(mamlrl.train(resume="out").metrics) == 3


def test_ctrl_c_finishes_the_iteration_saves_it_and_raises_keyboard_interrupt(run: Run) -> None:
    def callback(iteration: int, metrics: dict[str, float | None]) -> None:
        if iteration == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(callback=callback, out="out", checkpoint={"every": 10})
    assert signal.getsignal(signal.SIGINT) is before
    assert iterations_saved("out")[-1] == 2
    assert reproducible(mamlrl.train(resume="out").metrics)[2] == reproducible(run.metrics)[2]


def test_a_second_ctrl_c_does_not_wait_for_the_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    step = Navigation2DVectorEnv.step

    def interrupted_step(self: Any, actions: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps in (10, 12):
            signal.raise_signal(signal.SIGINT)
        return step(self, actions)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Navigation2DVectorEnv, "step", interrupted_step)
        train(out="out")
    assert steps == 12  # of 16 in an iteration
    assert signal.getsignal(signal.SIGINT) is before
    assert len(mamlrl.train(resume="out").metrics) == 3


def test_a_failure_is_one_error_and_the_run_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, actions: Any) -> Any:
        raise ZeroDivisionError("no more")

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"ZeroDivisionError: no more.*error\.txt"):
        train(out="out", callback=lambda *_: patch.setattr(Navigation2DVectorEnv, "step", broken))
    assert iterations_saved("out")[-1] == 1
    assert len(mamlrl.train(resume="out").metrics) == 3


def in_thread(function: Callable[[], Any]) -> Any:
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join()
    return result[0]


async def in_a_running_loop() -> list[Run]:
    """As a notebook calls it: in the thread of the loop, and beside it."""
    return [train(out="in-loop"), await asyncio.to_thread(train, out="beside-loop")]


def test_it_gives_the_same_numbers_in_a_thread_and_in_a_running_loop_and_twice_in_a_process(run: Run) -> None:
    runs = [in_thread(lambda: train(out="in-thread")), *asyncio.run(in_a_running_loop())]
    assert all(reproducible(one.metrics) == reproducible(run.metrics) for one in runs)


def test_two_threads_train_at_once(run: Run) -> None:
    async def both() -> list[Run]:
        return await asyncio.gather(*(asyncio.to_thread(train, out=name) for name in ("a", "b")))

    assert all(reproducible(one.metrics) == reproducible(run.metrics) for one in asyncio.run(both()))


def test_nothing_is_printed_but_on_demand(capfd: pytest.CaptureFixture[str]) -> None:
    made = train(iterations=1, out="out", eval={"every": 1, "tasks": 2, "rollouts": 2})
    mamlrl.evaluate(made.folder, **FEW)
    in_thread(lambda: train(iterations=1, out="in-thread"))
    with pytest.raises(ConfigError):
        train(seed=-1)
    assert capfd.readouterr() == ("", "")
    train(iterations=1, out="loud", progress=True)
    assert "done: 1 iteration" in capfd.readouterr().out


def test_the_process_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> list[Any]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        general = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state().tolist()
        return [
            handlers,
            torch.get_num_threads(),
            general,
            str(np.random.get_state()),  # noqa: NPY002 (nobody may touch it)
            dict(os.environ),
            os.getcwd(),
            list(sys.path),
            threading.active_count(),
            threading.excepthook,
        ]

    seen: list[int] = []
    torch.set_num_threads(2)
    try:
        before = state()
        made = train(iterations=1, out="out", callback=lambda *_: seen.append(torch.get_num_threads()))
        mamlrl.evaluate(made.folder, **FEW)
        with pytest.raises(ZeroDivisionError):
            train(out="other", callback=lambda *_: 1 / 0)
        assert state() == before
    finally:
        torch.set_num_threads(1)
    assert seen == [1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iteratoins": 3}, "iteratoins; did you mean iterations"),
        ({"trust_region": {"max_kll": 1}}, "trust_region.max_kll; did you mean trust_region.max_kl"),
        ({"trust_region.max_kl": 1}, "trust_region.max_kl"),
        ({"trust_region": 3}, "trust_region is 3; it must be a mapping"),
        ({"trust_region": {"max_kl": "small"}}, "trust_region.max_kl is 'small'; it must be a number"),
        ({"seed": None}, "seed has no value"),
        ({"seed": 1.5}, "seed is 1.5; it must be an integer"),
        ({"seed": object()}, "seed is <object"),
        ({"env": "navigatoin"}, "navigatoin: unknown name; did you mean navigation"),
        ({"env": 3}, "env is 3"),
        ({"env": None}, "env is missing"),
        ({"env": "no_module_of_this_name:X-v0"}, "no_module_of_this_name"),
        ({"learner": "mamll"}, "learner is 'mamll'"),
        ({"learner": "random"}, "learner is 'random', which has nothing to train"),
        ({"learner_settings": {"rate": 1}}, "learner_settings.rate is not read by learner maml"),
        ({"config": "nowhere.yaml"}, "cannot read nowhere.yaml"),
        ({"config": 3}, "config: "),
        ({"config": ""}, "config: "),
        ({"out": "a\0b"}, "out: "),
        ({"out": "x" * 5000}, "out: "),
        ({"resume": "nowhere"}, "nowhere: not a run folder"),
        ({"resume": "nowhere", "out": "out"}, "out and resume exclude each other"),
    ],
)
def test_a_wrong_setting_or_path_is_a_config_error_that_names_it(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        train(**settings)
    assert "--" not in str(raised.value).partition("python -m")[0]  # flags are the command's
    assert not list(Path.cwd().iterdir())


def test_a_folder_that_holds_a_run_is_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(run.folder))):
        train(out=run.folder)
    with pytest.raises(ConfigError, match="seed was 1 and is now 2"):
        mamlrl.train(resume=run.folder, seed=2)


@pytest.mark.parametrize("random", [False, True])
def test_evaluate_gives_the_tables_of_the_command_as_data(run: Run, random: bool, capsys: Any) -> None:
    table = mamlrl.evaluate([run.folder], **FEW, random=random, interval="bootstrap")
    flags = [word for name, value in FEW.items() for word in (f"--{name}", str(value))]
    flags += ["--interval", "bootstrap", "--out", "by-command", *["--random"] * random]
    assert evaluate_command([str(run.folder), *flags]) == 0
    assert as_cells(table.rows) == read_csv(Path("by-command", "evaluation.csv"))
    assert as_cells(table.summary) == read_csv(Path("by-command", "summary.csv"))
    assert table.text in capsys.readouterr().out
    assert {row["method"] for row in table.rows} == {"maml"} | ({"random"} if random else set())


def test_evaluate_takes_a_path_a_list_or_a_folder_of_runs_and_writes_nothing(run: Run) -> None:
    before = sorted(run.folder.rglob("*"))
    tables = [mamlrl.evaluate(runs, **FEW).rows for runs in (run.folder, [str(run.folder)], run.folder.parent)]
    tables.append(mamlrl.evaluate((run.folder / "checkpoints" / "best.pt",), **FEW).rows)  # type: ignore[arg-type]
    assert all(rows == tables[0] for rows in tables)
    assert not list(Path.cwd().iterdir())
    assert sorted(run.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": "nowhere"}, "nowhere: no such file or folder"),
        ({"runs": []}, "runs is empty; it must name at least one run"),
        ({"runs": None}, "runs is None; it must be a path, or a list of paths"),
        ({"runs": 3}, "runs is 3; it must be a path, or a list of paths"),
        ({"runs": [None]}, "runs: expected str, bytes or os.PathLike object, not NoneType"),
        ({"runs": ["a\0b"]}, "runs: "),
        ({"steps": -1}, "steps is -1"),
        ({"tasks": 1.5}, "tasks is 1.5"),
        ({"step_size_schedule": "double"}, "step_size_schedule is 'double'"),
        ({"seed": -1}, "seed is -1"),
        ({"threads": "all"}, "threads is 'all'"),
        ({"interval": "wide"}, "interval is 'wide'; it must be one of student, bootstrap, standard_error"),
        ({"interval": ["student"]}, "interval is ['student']"),
        ({"protocol": "mine"}, "protocol is 'mine'; it must be 'paper'"),
        ({"protocol": "paper"}, "protocol paper excludes tasks, rollouts"),
    ],
)
def test_a_wrong_argument_of_evaluate_is_a_config_error_that_names_it(
    run: Run, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        mamlrl.evaluate(**{"runs": run.folder, **FEW, **arguments})


def test_what_is_returned_shows_itself_in_a_line_or_as_a_table(run: Run) -> None:
    assert re.fullmatch(r"Run\('.*': 3 iterations, best return -\d+\.\d\d\)", repr(run))
    assert repr(Run(run.folder, run.metrics, None)).endswith("3 iterations)")
    table = mamlrl.evaluate(run.folder, **FEW)
    assert isinstance(table, Evaluation)
    assert repr(table) == str(table) == table._repr_markdown_() == table.text
    assert "| maml" in table.text


CALLS = """
from mamlrl.errors import ConfigError
import inspect
def refused(call, **arguments):
    assert list(inspect.signature(call).parameters)[1:3] in (["config", "out"], ["steps", "tasks"])
    try:
        call(**arguments)
    except ConfigError:
        return
    raise AssertionError(call)
"""


@pytest.mark.parametrize(
    "program",
    [
        "import mamlrl.train; refused(mamlrl.train, env='no'); mamlrl.train.main",
        "import mamlrl; refused(mamlrl.train, env='no'); import mamlrl.train; refused(mamlrl.train, env='no')",
        "from mamlrl.train import main; import mamlrl; refused(mamlrl.train, env='no')",
        "from mamlrl import train; refused(train, env='no'); from mamlrl.train import main",
        "import mamlrl.evaluate; refused(mamlrl.evaluate, runs='no', steps=-1); mamlrl.evaluate.main",
        "import mamlrl; refused(mamlrl.evaluate, runs='no', steps=-1); from mamlrl.evaluate import main",
    ],
)
def test_commands_are_modules_and_functions_whatever_is_imported_first(program: str) -> None:
    heavy = "import sys; assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", f"{CALLS}\n{program}\n{heavy}"]
    ran = subprocess.run(command, cwd=PAGE.parents[1], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_commands_still_run_as_modules() -> None:
    for name in ("train", "evaluate"):
        command = [sys.executable, "-m", f"mamlrl.{name}", "--help"]
        ran = subprocess.run(command, cwd=PAGE.parents[1], capture_output=True, text=True)
        assert ran.returncode == 0 and f"python -m mamlrl.{name}" in ran.stdout, ran.stderr


def test_help_and_names_are_those_of_the_functions() -> None:
    assert {"train", "evaluate", "load", "load_adapted"} <= set(dir(mamlrl))
    assert not {"Any", "Path", "TYPE_CHECKING", "annotations", "importlib"} & set(dir(mamlrl))
    assert "trust_region={" in pydoc.render_doc(mamlrl.train) and "callback: " in pydoc.render_doc(mamlrl.train)
    assert "step_size_schedule: " in pydoc.render_doc(mamlrl.evaluate)
    assert inspect.signature(mamlrl.train).parameters["callback"].default is None
    assert "Meta-train a policy" in str(inspect.getdoc(type(mamlrl.train).__call__))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mamlrl.trian  # type: ignore[attr-defined] # noqa: B018


def blocks(marker: str = "") -> list[str]:
    """The Python blocks of the page: that after a marker, or those that have none."""
    marked = re.findall(r"(?:<!-- example (\w+) -->\n)?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [code for name, code in marked if name == marker]


@pytest.fixture
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page trains is small, whatever it says."""
    original = mamlrl.train

    def train_small(*arguments: Any, **settings: Any) -> Run:
        return original(*arguments, **merge(settings, SMALL, {"trust_region": settings.get("trust_region", {})}))

    monkeypatch.setattr(mamlrl, "train", train_small)


def test_the_optuna_example_of_the_page_tunes_and_prunes(
    small_numbers: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import optuna

    class PrunesTheSecond(optuna.pruners.BasePruner):
        """The page's own pruner, which decides of itself only after many trials."""

        def __init__(self, **arguments: Any):
            self._pages = median_pruner(**arguments)

        def prune(self, study: Any, trial: Any) -> bool:
            self._pages.prune(study, trial)
            return (trial.number, trial.last_step) == (1, 2)

    median_pruner, optimize = optuna.pruners.MedianPruner, optuna.study.Study.optimize
    monkeypatch.setattr(optuna.pruners, "MedianPruner", PrunesTheSecond)
    monkeypatch.setattr(optuna.study.Study, "optimize", lambda self, objective, n_trials: optimize(self, objective, 3))
    (code,) = blocks("optuna")
    page: dict[str, Any] = {}
    exec(code, page)
    study = page["study"]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "COMPLETE"]
    for trial in study.trials:
        folder = Path("runs", study.study_name, str(trial.number))
        rows = read_csv(folder / "metrics.csv")
        assert [float(row["return/step_1"]) for row in rows] == list(trial.intermediate_values.values())
        settings = load_settings(folder / CONFIG_FILE)
        assert trial.params == {
            "step_size": settings["adaptation"]["step_size"],
            "max_kl": settings["trust_region"]["max_kl"],
        }
    assert study.best_trial.number in (0, 2)
    assert str(study.best_params) in capfd.readouterr().out
    exec(code, page)  # once more: a study of its own
    assert len(list(Path("runs").iterdir())) == 2


@pytest.mark.filterwarnings("ignore:.*action components lie on their bounds")
def test_the_other_examples_of_the_page_run_one_after_the_other(small_numbers: None) -> None:
    page: dict[str, Any] = {}
    for code in blocks():
        exec(code, page)
    assert page["run"].best is not None
    assert {row["method"] for row in page["table"].rows} == {"maml", "random"}
    assert page["env"].action_space.contains(page["action"])
    assert page["adapted"].steps == 1  # on the user's own episodes
    assert page["actions"].shape == (5, 2)
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["adapted.pt", "policy.pt2", "runs"]
