"""An environment, a learner and a network of somebody else's, a file each outside of the package, in every command."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import mamlrl
from mamlrl import evaluate, record
from mamlrl.train import main

from .conftest import Outcome, assert_fails, reproducible

ENVIRONMENT = '''
import gymnasium
import numpy as np
from gymnasium import spaces


class Dial(gymnasium.Env):
    """Turn a dial to an angle that only the reward tells of."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Box(-0.5, 0.5, (1,))

    def __init__(self, gear=1.0, render_mode=None):
        self.gear, self.render_mode = gear, render_mode

    def sample_tasks(self, n, rng):
        return rng.uniform(-1, 1, (n, 1))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.wanted = float((options or {}).get("task", [0.0])[0])
        self.angle = float(self.np_random.normal(0, 0.1))
        return self._observe(), {}

    def step(self, action):
        self.angle += self.gear * float(action[0])
        error = abs(self.angle - self.wanted)
        return self._observe(), -error, error > 5, False, {"success": error < 0.1}

    def render(self):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, int(32 + 31 * np.sin(self.angle))] = 255
        return picture

    def _observe(self):
        return np.array([np.sin(self.angle), np.cos(self.angle), self.angle], np.float32)


gymnasium.register("Dial-v0", entry_point=Dial, max_episode_steps=6)
'''

LEARNER = '''
from dataclasses import dataclass

import torch

from mamlrl.adaptation import inner_step
from mamlrl.learners.base import LearnerState, Updated
from mamlrl.objectives import INNER_LOSSES, mean_params_over_tasks
from mamlrl.structs import MetaParams


@dataclass(frozen=True)
class Settings:
    rate: float = 0.5
    momentum: float = 0.9


class HeavyBall:
    """Reptile with momentum, and a step size per leaf that is carried in what is meta-learned."""

    Settings = Settings

    def __init__(self, policy, config, settings):
        self.policy, self.settings, self.initial = policy, settings, config.adaptation.step_size
        self.loss = INNER_LOSSES[config.adaptation.inner_loss]

    def init(self, params):
        sizes = {name: torch.tensor(self.initial) for name in params}
        velocity = {name: torch.zeros_like(leaf) for name, leaf in params.items()}
        return LearnerState(MetaParams(params, (sizes,)), {"velocity": velocity, "updates": 0})

    def start(self, meta):
        return meta.init

    def adapt(self, meta, params, batch, step=0, scale=1.0):
        return inner_step(self.policy, params, batch, self.loss, meta.step_sizes_of(step), scale)

    def meta_step(self, state, meta_batch, generator):
        theta = phi = self.start(state.meta)
        for step, batch in enumerate((*meta_batch.support, meta_batch.query)):
            phi = self.adapt(state.meta, phi, batch, step).params
        target, velocity = mean_params_over_tasks(phi), state.optimiser["velocity"]
        velocity = {
            name: self.settings.momentum * velocity[name] + self.settings.rate * (target[name] - leaf)
            for name, leaf in theta.items()
        }
        theta = {name: leaf + velocity[name] for name, leaf in theta.items()}
        updates = state.optimiser["updates"] + 1
        meta = MetaParams(theta, state.meta.step_sizes)
        return LearnerState(meta, {"velocity": velocity, "updates": updates}), Updated({"heavy_ball/updates": updates})
'''

NETWORK = '''
import torch


class Bumps:
    """Radial basis functions with learned centres and one learned width."""

    def __init__(self, settings, num_observations, num_outputs):
        self.inputs, self.bumps, self.num_outputs = num_observations, settings.hidden_sizes[0], num_outputs

    def init_params(self, generator):
        return {
            "centres": torch.randn(self.bumps, self.inputs, generator=generator),
            "log_width": torch.zeros(()),
            "heights": 0.1 * torch.randn(self.bumps, self.num_outputs, generator=generator),
        }

    def outputs(self, params, observations):
        offsets = observations.unsqueeze(3) - params["centres"][:, None, None]
        widths = torch.exp(-params["log_width"])[:, None, None, None]
        bumps = torch.exp(-offsets.square().sum(-1) * widths)
        return torch.einsum("mbtk,mkz->mbtz", bumps, params["heights"])
'''

FLAGS = (
    "--env own_environment:Dial-v0 --environment.kwargs.gear 2.0 --learner own_learner:HeavyBall "
    "--learner_settings.momentum 0.5 --policy.network own_network:Bumps --policy.hidden_sizes [5] "
    "--sampling.tasks 3 --sampling.rollouts 3 --threads 1 --eval.every 1 --eval.tasks 2 --eval.rollouts 2"
)


@pytest.fixture(scope="module")
def users_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder outside of the package with one file for each part, and a run of two iterations in ``run``."""
    folder = tmp_path_factory.mktemp("outside")
    modules = {"own_environment": ENVIRONMENT, "own_learner": LEARNER, "own_network": NETWORK}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr("gymnasium.envs.registration.registry", dict(gymnasium.registry))
        for module, text in modules.items():
            patch.delitem(sys.modules, module, raising=False)
            (folder / f"{module}.py").write_text(text)
        assert main([*FLAGS.split(), "--iterations", "2", "--out", "run"]) == 0
        yield folder
    for module in modules:
        sys.modules.pop(module, None)


def test_they_train_with_their_own_metrics_and_settings(users_folder: Path) -> None:
    rows = reproducible(users_folder / "run")
    assert [row["heavy_ball/updates"] for row in rows] == ["1", "2"]
    assert all(row["success/step_1"] and row["eval/return/step_1"] for row in rows)
    assert rows[0]["return/step_1"] != rows[1]["return/step_1"]
    content = torch.load(users_folder / "run" / "checkpoints" / "iteration-000002.pt", weights_only=True)
    assert content["config"]["learner_settings"] == {"rate": 0.5, "momentum": 0.5}
    assert content["state"]["optimiser"]["updates"] == 2
    assert set(content["state"]["meta"]["init"]) == {"centres", "log_width", "heights", "free"}
    start = torch.load(users_folder / "run" / "checkpoints" / "iteration-000001.pt", weights_only=True)
    moved = {
        name: not torch.equal(leaf, start["state"]["meta"]["init"][name])
        for name, leaf in content["state"]["meta"]["init"].items()
    }
    assert all(moved.values()), moved


def test_they_resume_to_the_numbers_of_a_run_that_never_stopped(users_folder: Path) -> None:
    assert main([*FLAGS.split(), "--iterations", "1", "--out", "stopped"]) == 0
    assert main("--resume stopped --iterations 2".split()) == 0
    assert reproducible("stopped") == reproducible("run")
    last = [torch.load(f"{run}/checkpoints/iteration-000002.pt", weights_only=True) for run in ("run", "stopped")]
    for part in (content["state"]["optimiser"]["velocity"] for content in last):
        assert all(torch.equal(leaf, last[0]["state"]["optimiser"]["velocity"][name]) for name, leaf in part.items())


def test_they_are_evaluated_under_their_names(users_folder: Path) -> None:
    assert evaluate.main("run --tasks 2 --rollouts 2 --steps 2 --random --threads 1 --out evaluation".split()) == 0
    with Path("evaluation", "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"own_learner:HeavyBall", "random"}
    returns = {(row["method"], row["task"], row["step"]): float(row["return"]) for row in rows}
    assert len(returns) == 2 * 2 * 3
    assert all(np.isfinite(value) for value in returns.values())
    assert all("success" in row for row in rows)


def test_they_are_filmed(users_folder: Path) -> None:
    assert record.main("run --tasks 1 --steps 0,1 --format gif --out films".split()) == 0
    assert (users_folder / "films" / "task-1.gif").read_bytes().startswith(b"GIF8")


def test_they_are_loaded_and_adapt(users_folder: Path) -> None:
    policy = mamlrl.load("run")
    env = gymnasium.make("own_environment:Dial-v0", gear=2.0)
    adapted = policy.adapt(env, [0.5], steps=2, rollouts=3)
    assert env.action_space.contains(adapted.act(np.zeros(3)))
    adapted.save("adapted.pt")
    loaded = mamlrl.load_adapted("adapted.pt")
    assert all(torch.equal(loaded.params[name], leaf) for name, leaf in adapted.params.items())
    start = policy.unadapted().params
    assert all(not torch.equal(leaf[0], start[name]) for name, leaf in adapted.params.items())


WRONG_PARTS = """
import torch

from mamlrl.learners.base import LearnerState
from mamlrl.structs import MetaParams


class NoMethods:
    def __init__(self, policy, config, settings):
        self.policy = policy


class NoDataclass(NoMethods):
    class Settings:
        rate = 1.0


class Learner(NoMethods):
    def init(self, params):
        return LearnerState(MetaParams(params))

    start = adapt = meta_step = lambda self, meta, *arguments, **named: meta.init


class InitRaises(Learner):
    def init(self, params):
        raise KeyError("moments")


class InitReturnsParams(Learner):
    def init(self, params):
        return params


class Network:
    def __init__(self, settings, num_observations, num_outputs):
        self.sizes = num_observations, num_outputs

    def init_params(self, generator):
        return {"weight": torch.zeros(self.sizes)}

    def outputs(self, params, observations):
        return torch.einsum("mbto,moz->mbtz", observations, params["weight"])


class Free(Network):
    def init_params(self, generator):
        return {"weight": torch.zeros(self.sizes), "free": torch.zeros(1)}


class ListOfParams(Network):
    def init_params(self, generator):
        return [torch.zeros(self.sizes)]


class TooMany(Network):
    def outputs(self, params, observations):
        return torch.cat([super(TooMany, self).outputs(params, observations)] * 2, -1)


class Detached(Network):
    def outputs(self, params, observations):
        return super().outputs(params, observations).detach()


class Raises(Network):
    def outputs(self, params, observations):
        raise KeyError("size")
"""
OWN = "--env own_environment:Dial-v0 --iterations 1 --sampling.tasks 2 --sampling.rollouts 2 --threads 1"
WRONG = {
    "--learner own_learner:Nope": ("learner is 'own_learner:Nope'", "no attribute 'Nope'"),
    "--learner own_lerner:HeavyBall": ("learner is 'own_lerner:HeavyBall'", "No module named 'own_lerner'"),
    "--learner broken:HeavyBall": ("importing 'broken' failed: ZeroDivisionError: at import",),
    "--learner exits:HeavyBall": ("importing 'exits' failed: SystemExit: 3",),
    "--learner own_learner:torch": ("learner own_learner:torch cannot be made: TypeError: 'module' object",),
    "--learner own_learner:Settings": ("learner own_learner:Settings cannot be made", "positional argument"),
    "--learner wrong:NoMethods": ("learner wrong:NoMethods has no init, start, adapt, meta_step",),
    "--learner wrong:NoDataclass": ("learner is 'wrong:NoDataclass', but its Settings are no dataclass",),
    "--learner wrong:InitRaises": ("learner wrong:InitRaises: init failed: KeyError: 'moments'",),
    "--learner wrong:InitReturnsParams": ("init returned a dict; it must return a LearnerState",),
    "--learner own_learner:HeavyBall --learner_settings.speed 1": (
        "learner_settings.speed is not read by learner own_learner:HeavyBall; it reads rate, momentum",
    ),
    "--learner own_learner:HeavyBall --learner_settings.rate fast": (
        "learner_settings.rate is 'fast'; it must be a number",
    ),
    "--policy.network own_network:Nope": ("policy.network is 'own_network:Nope'", "no attribute 'Nope'"),
    "--policy.network own_learner:Settings": ("policy.network own_learner:Settings", "failed: TypeError"),
    "--policy.network wrong:Free": ("policy.network wrong:Free", "a parameter named free"),
    "--policy.network wrong:ListOfParams": ("policy.network wrong:ListOfParams", "failed: AttributeError"),
    "--policy.network wrong:TooMany": ("wrong:TooMany, made with (settings, 3, 1), failed", "has shape [2, 3, 4, 2]"),
    "--policy.network wrong:Detached": ("wrong:Detached", "its outputs have no gradient by its parameters"),
    "--policy.network wrong:Raises": ("policy.network wrong:Raises", "KeyError: 'size'"),
    "--env own_environment:Nope-v0": ("own_environment:Nope-v0",),
    "--env own_environmant:Dial-v0": ("own_environmant",),
    "--environment.kwargs.gaer 1": ("gaer", "gear"),
}


@pytest.mark.parametrize("flags", WRONG)
def test_what_is_wrong_with_them_is_one_line_and_nothing_is_written(
    flags: str, users_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.py").write_text("raise ZeroDivisionError('at import')")
    Path("exits.py").write_text("raise SystemExit(3)")
    Path("wrong.py").write_text(WRONG_PARTS)
    capsys.readouterr()
    code = main([*OWN.split(), *flags.split(), "--out", "refused"])
    captured = capsys.readouterr()
    assert_fails(Outcome(code, captured.out, captured.err), 2, *WRONG[flags])
    assert not Path("refused").exists()


def test_a_learner_that_fails_while_it_trains_leaves_its_traceback_and_can_go_on(
    users_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = import_module("own_learner").HeavyBall
    with monkeypatch.context() as patch:
        patch.setattr(learner, "adapt", lambda self, *arguments: [][0])
        code = main([*FLAGS.split(), "--iterations", "1", "--out", "failed"])
    captured = capsys.readouterr()
    outcome = Outcome(code, captured.out, captured.err)
    what = "learner own_learner:HeavyBall: adapt raised IndexError: list index out of range, in iteration 1;"
    assert_fails(outcome, 1, what, "failed/error.txt", "--resume failed")
    assert "Traceback" in Path("failed", "error.txt").read_text()
    assert main(["--resume", "failed"]) == 0
    assert not Path("failed", "error.txt").exists()


WRONG_RETURNS = {
    "start": (lambda self, meta: meta, "start returned a MetaParams; it must return a dict of parameters"),
    "adapt": (lambda self, meta, params, *arguments: params, "adapt returned a dict; it must return an InnerStep"),
    "meta_step": (
        lambda self, state, *arguments: state,
        "meta_step returned a LearnerState; it must return a LearnerState and an Outcome",
    ),
}


@pytest.mark.parametrize("method", WRONG_RETURNS)
def test_a_learner_that_returns_something_else_is_told_the_method_and_the_iteration(
    method: str, users_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    function, what = WRONG_RETURNS[method]
    monkeypatch.setattr(import_module("own_learner").HeavyBall, method, function)
    code = main([*FLAGS.split(), "--iterations", "1", "--out", f"wrong-{method}"])
    captured = capsys.readouterr()
    assert_fails(Outcome(code, captured.out, captured.err), 1, f"HeavyBall: {what}, in iteration 1;")


def test_parameters_of_another_shape_are_told_by_their_name(
    users_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = import_module("own_learner").HeavyBall
    meta_step = learner.meta_step

    def with_a_leading_axis(self, *arguments):
        state, updated = meta_step(self, *arguments)
        init = {name: leaf.unsqueeze(0) for name, leaf in state.meta.init.items()}
        return state._replace(meta=state.meta._replace(init=init)), updated

    monkeypatch.setattr(learner, "meta_step", with_a_leading_axis)
    code = main([*FLAGS.split(), "--iterations", "1", "--out", "wrong-shapes"])
    captured = capsys.readouterr()
    told = r"HeavyBall: meta_step returned \w+ of shape \[1, (.+)\]; it must be \[\1\], in iteration 1;"
    assert code == 1 and re.search(told, captured.err), captured.err


def test_a_learner_that_fails_in_an_evaluation_is_told_in_a_line(
    users_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*FLAGS.split(), "--iterations", "1", "--out", "trained"]) == 0
    monkeypatch.setattr(import_module("own_learner").HeavyBall, "adapt", lambda self, *arguments: [][0])
    capsys.readouterr()
    code = evaluate.main(["trained", "--tasks", "2", "--rollouts", "2", "--steps", "1", "--threads", "1"])
    captured = capsys.readouterr()
    assert code == 1
    assert captured.err == "error: learner own_learner:HeavyBall: adapt raised IndexError: list index out of range\n"


def test_default_folders_of_learners_and_environments_outside_have_names_that_every_system_takes(
    users_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FLAGS.split(), "--iterations", "1"]) == 0
    (folder,) = Path("runs").glob("*/*/*")
    assert folder.parent.name == "own_learner-HeavyBall"
    assert ":" not in str(folder)
