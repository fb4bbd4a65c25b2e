"""Nothing that belongs on the device of a run stays on the CPU, and nothing passes between them in vain."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from gymnasium.vector import VectorEnv

from mamlrl.config.files import make_config, merge, shipped_settings
from mamlrl.experiment import initial_state, make_experiment, make_supervised
from mamlrl.structs import Metrics
from mamlrl.training.examples import supervised_iteration
from mamlrl.training.iteration import meta_iteration
from tests.elsewhere import Device, Elsewhere, back, moved
from tests.golden.record import CASES, COMMON, double
from tests.test_distributed import assert_same, supervised_settings

FEW = {"environment": {"horizon": 5}, "sampling": {"rollouts": 2}}


def without_times(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def counted_at_steps(envs: VectorEnv, device: Device) -> list[tuple[int, int]]:
    """Copies and reads so far at the beginning of each time step that environments take from now on."""
    counts, step = [], envs.step

    def counted(actions: Any) -> Any:
        counts.append((len(device.copies), device.reads))
        return step(actions)

    envs.step = counted  # type: ignore[method-assign]
    return counts


LEFT_OUT = ("maml_relu", "maml_discrete", "fomaml", "multitask", "anil", "emaml")
"""What others have all parts of."""


@pytest.mark.parametrize("name", [name for name in CASES if name not in LEFT_OUT])
def test_an_iteration_on_another_device_leaves_no_tensor_on_the_cpu(name: str) -> None:
    """A tensor of the CPU next to one of the device is an error; the numbers are those of the CPU, but that tanh is
    another function there, equal to rounding."""
    env, changes = CASES[name]
    base = {"env": env} if ":" in env else shipped_settings(env)
    preconditioner = {"trust_region": {"preconditioner": "kronecker"}} if name == "maml" else {}
    experiment = make_experiment(make_config(merge(base, COMMON, changes, FEW, preconditioner)))
    state = experiment.learner.init(double(initial_state(experiment).meta.init))
    expected, outcome = meta_iteration(experiment, state, 0)
    with Device() as device:
        at_steps = counted_at_steps(experiment.envs, device)
        found, elsewhere = meta_iteration(experiment, moved(state), 0)
    experiment.envs.close()
    assert all(isinstance(leaf, Elsewhere) for leaf in found.meta.init.values())
    assert_same((back(found), [without_times(elsewhere.metrics)]), (expected, [without_times(outcome.metrics)]), 1e-6)
    rounds = len([metric for metric in outcome.metrics if metric.startswith("return/step_")])
    between = Counter((after[0] - before[0], after[1] - before[1]) for before, after in pairwise(at_steps))
    assert between[2, 0] == len(at_steps) - rounds, between  # observations and actions, and no number is waited for
    assert len(device.copies) - 2 * len(at_steps) <= 26  # rollouts as a whole, and numbers of the meta-update


@pytest.mark.parametrize("learner", ["maml", "imaml"])
def test_meta_updates_on_examples_likewise(learner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_supervised(supervised_settings(learner))
    state = initial_state(experiment)
    expected, outcome = supervised_iteration(experiment, state, 0)
    monkeypatch.setattr("mamlrl.experiment.to_examples", _to_examples_elsewhere)
    with Device():
        found, elsewhere = supervised_iteration(experiment, moved(state), 0)
    assert_same((back(found), [without_times(elsewhere.metrics)]), (expected, [without_times(outcome.metrics)]), 1e-5)


def _to_examples_elsewhere(drawn, device):
    from mamlrl.supervised.base import to_examples

    return to_examples(drawn, "meta")


def test_the_device_refuses_tensors_of_the_cpu() -> None:
    with Device() as device:
        values = moved(torch.ones(3))
        with pytest.raises(RuntimeError, match="tensors on two devices"):
            _ = values + torch.ones(3)
        assert float((values + 1).sum()) == 6.0 and not device.copies
        assert (values.cpu() + torch.ones(3)).tolist() == [2.0] * 3 and device.copies == [(3,)]
