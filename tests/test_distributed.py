"""Any number of ranks gives the numbers of one, to rounding."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mamlrl import evaluate
from mamlrl.config import Config
from mamlrl.config.files import make_config, merge, shipped_settings
from mamlrl.distributed import (
    from_first,
    gather,
    is_first,
    local_size,
    means_over_tasks,
    over,
    share_of,
    sums_over_tasks,
)
from mamlrl.errors import ConfigError, UserError
from mamlrl.evaluation.examples import SupervisedEvaluation
from mamlrl.evaluation.held_out import Evaluation
from mamlrl.experiment import initial_state, make_experiment, make_supervised, set_threads
from mamlrl.learners import LEARNERS
from mamlrl.learners.base import LearnerState
from mamlrl.learners.objective import draw_rollouts, draw_steps
from mamlrl.structs import Batch, MetaParams, Metrics
from mamlrl.training.examples import supervised_iteration
from mamlrl.training.interrupts import StopRequest
from mamlrl.training.iteration import meta_iteration
from mamlrl.training.loop import in_step, leaves
from mamlrl.training.run import with_examples
from tests.golden.record import CASES, COMMON, WALK, double
from tests.ranks import on_ranks

TOLERANCE = 1e-9
"""Relative, in float64: sums over tasks are added up in another order."""


def test_one_process_is_the_first_of_one():
    assert is_first() and local_size() == 1 and share_of(7) == (0, 7)
    values = torch.randn(3, 2)
    assert torch.equal(means_over_tasks([values])[0], values.mean(0))
    assert gather(5) == [5] and from_first(lambda: 6) == 6


@pytest.mark.parametrize(("total", "size"), [(3, 3), (7, 3), (40, 6), (5, 1)])
def test_shares_cover_all_tasks_in_order_and_differ_by_one_at_most(total, size):
    shares = on_ranks(size, lambda: share_of(total))
    assert [task for share in shares for task in range(total)[share.rows]] == list(range(total))
    assert max(share.count for share in shares) - min(share.count for share in shares) <= 1


def test_there_must_be_a_task_for_every_rank():
    with pytest.raises(ConfigError, match=r"^eval.tasks is 2, and there are 3 ranks; it must be at least one a rank$"):
        on_ranks(3, lambda: share_of(2, "eval.tasks"))


def test_means_are_over_the_tasks_of_all_ranks_whatever_their_shares():
    values, others = torch.randn(5, 3, 2, dtype=torch.float64), torch.randn(5)

    def of_rank() -> list[torch.Tensor]:
        rows = share_of(5).rows
        return means_over_tasks([values[rows], others[rows]])

    for mean, other in on_ranks(3, of_rank):
        torch.testing.assert_close(mean, values.mean(0))
        torch.testing.assert_close(other, others.mean(0))
        assert other.dtype == torch.float32


def test_a_rank_without_a_task_counts_for_nothing():
    values = torch.arange(4.0)

    def of_rank() -> list[torch.Tensor]:
        mine = values if is_first() else values[:0]
        return [*means_over_tasks([mine]), *sums_over_tasks([mine])]

    for mean, total in on_ranks(2, of_rank):
        assert (float(mean), float(total)) == (1.5, 6.0)


def test_the_first_rank_makes_what_all_have():
    assert on_ranks(3, lambda: from_first(lambda: ("made", is_first()))) == [("made", True)] * 3


@pytest.mark.parametrize("draw", [draw_steps, draw_rollouts])
def test_what_is_drawn_for_a_task_depends_on_its_number_alone(draw):
    """Neither on how tasks are grouped nor on how long the rollouts of others are."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 4, 6, dtype=torch.float64)
    mask[1:, :, 4:] = 0.0
    steps = torch.arange(3 * 4 * 6.0).view(3, 4, 6)
    weights = mask / mask.sum((1, 2), keepdim=True)
    batch = Batch(steps.unsqueeze(-1), steps, steps, steps, weights, steps, steps)
    few = Batch(*(leaf[1:, :, :4] for leaf in batch))

    def told(drawn: Batch) -> list[tuple[list[float], list[float]]]:
        kept = [row > 0 for row in drawn.weights]
        pairs = zip(drawn.actions, drawn.weights, kept, strict=True)
        return [(actions[mask].tolist(), weights[mask].tolist()) for actions, weights, mask in pairs]

    of_all = told(draw(batch, 0.5, generator))
    assert told(draw(few, 0.5, generator.manual_seed(1), 1)) == of_all[1:]


MORE: dict[str, tuple[str, dict[str, Any]]] = {
    # trials that end early, so that those of one rank are longer than those of another; curvature on one of them
    "rl2_trust_region": (
        WALK,
        {
            "learner": "rl2",
            "outer": "trust_region",
            "learner_settings": {"baseline": "linear"},
            "trust_region": {"curvature_fraction": 0.2},
            "sampling": {"rollouts": 2, "episodes": 1},
            "environment": {"horizon": 60},
        },
    ),
    "rl2_shares": (  # of two trials: most ranks have none in some of them
        WALK,
        {
            "learner": "rl2",
            "learner_settings": {"minibatches": 6},
            "sampling": {"episodes": 1},
            "environment": {"horizon": 60},
        },
    ),
    "rl2_predictions": (  # of trials that end at different times
        "maze",
        {
            "learner": "rl2",
            "learner_settings": {"minibatches": 2, "prediction_weight": 2.0},
            "sampling": {"episodes": 2, "predicted_infos": ["target_x", "target_ahead"]},
            "environment": {"horizon": 40, "kwargs": {"size": 2, "smallest": 2, "height": 4, "width": 4}},
        },
    ),
}
"""What is special to ranks, beside the golden cases."""
ALL = {name: case for name, case in CASES.items() if name != "maml_relu"} | MORE
ON_THREE = ("maml_discrete", "maml_half_curvature", *MORE)
"""Cases that three ranks are given too."""


def settings_of(name: str) -> Config:
    """Those of a case, with an evaluation."""
    env, changes = ALL[name]
    base = {"env": env} if ":" in env else shipped_settings(env)
    few = {"eval": {"every": 1, "tasks": 3, "rollouts": 2, "steps": 1, "min_steps": 0}}
    return make_config(merge(base, COMMON, changes, few))


def iterate(config: Config, iterations: int) -> tuple[LearnerState, list[dict[str, Any]]]:
    """The state and the metrics of this rank's iterations, those of the evaluation included, in float64."""
    experiment = make_experiment(config)
    evaluate = Evaluation(experiment)
    state, rows = experiment.learner.init(double(initial_state(experiment).meta.init)), []
    for iteration in range(iterations):
        state, outcome = meta_iteration(experiment, state, iteration)
        held_out = evaluate(state, iteration + 1)
        rows.append({**outcome.metrics, **held_out.metrics, "score": held_out.score, "env_steps": outcome.env_steps})
    experiment.envs.close()
    evaluate.close()
    return state, [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def tensors(state: LearnerState) -> list[torch.Tensor]:
    """All of a state: what is meta-learned, and what the outer optimiser remembers."""
    return [leaf for leaf in leaves(state) if isinstance(leaf, torch.Tensor)]


def assert_same(
    found: tuple[LearnerState, Sequence[Metrics]], expected: tuple[LearnerState, Sequence[Metrics]], tolerance: float
) -> None:
    """Same metrics and same state, to a relative tolerance."""
    assert [row.keys() for row in found[1]] == [row.keys() for row in expected[1]]
    for ours, theirs in zip(found[1], expected[1], strict=True):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=tolerance, abs=1e-12, nan_ok=True), name
    for mine, leaf in zip(tensors(found[0]), tensors(expected[0]), strict=True):
        # of weights near 0 the rounding is that of the others: with thousands of them one is as small as 1e-6
        torch.testing.assert_close(mine, leaf, rtol=tolerance, atol=1e-4 * tolerance)


@pytest.mark.parametrize("name", ALL)
def test_ranks_give_the_numbers_of_one_process(name):
    """Three tasks, which two ranks share unequally."""
    config = settings_of(name)
    if name == "maml":
        kronecker = dataclasses.replace(config.trust_region, preconditioner="kronecker")
        config = dataclasses.replace(config, trust_region=kronecker)
    expected = iterate(config, 1)
    for size in (2, 3) if name in ON_THREE else (2,):
        results = on_ranks(size, lambda: iterate(config, 1))
        for found in results:
            assert_same(found, expected, TOLERANCE)
            for mine, first in zip(tensors(found[0]), tensors(results[0][0]), strict=True):
                assert torch.equal(mine, first)


SUPERVISED = [name for name, row in LEARNERS.items() if row.trained and not row.rollouts_only]
"""Protonet's glyphs are drawn once for all tests, which takes some seconds."""


def supervised_settings(learner: str) -> Config:
    """A few tasks of a few examples."""
    changes: dict[str, Any] = {
        "learner": learner,
        "sampling": {"tasks": 5},
        "data": {"updates": 2, "shots": 3, "queries": 3},
        "policy": {"hidden_sizes": [4, 4]},
        "eval": {"every": 1, "tasks": 4, "steps": 1},
        "seed": 3,
    }
    if learner == "recurrent":
        changes["learner_settings"] = {"hidden_sizes": [4, 5], "size": 3}
    env = "glyphs" if learner in ("protonet", "matching") else "sinusoid"
    return make_config(merge(shipped_settings(env, learner), changes))


def of_examples(config: Config) -> tuple[LearnerState, list[dict[str, Any]]]:
    """What an iteration and an evaluation on supervised tasks lead to on this rank."""
    experiment = make_supervised(config)
    state, outcome = supervised_iteration(experiment, initial_state(experiment), 0)
    metrics = {**outcome.metrics, **SupervisedEvaluation(experiment)(state, 1).metrics}
    return state, [{name: value for name, value in metrics.items() if not name.startswith("time/")}]


@pytest.mark.parametrize("learner", SUPERVISED)
def test_ranks_give_the_numbers_of_one_process_on_supervised_tasks(learner):
    """In float32, in which examples are: sums over five tasks are added up in another order."""
    config = supervised_settings(learner)
    expected = of_examples(config)
    for found in on_ranks(2, lambda: of_examples(config)):
        assert_same(found, expected, 2e-4)


@pytest.mark.parametrize("learner", ["maml", "reptile", "protonet", "cnp", "recurrent"])
def test_chunks_of_the_tasks_of_each_rank_give_the_numbers_of_one_process(learner):
    """Of the five tasks one rank has three, the other two."""
    config = supervised_settings(learner)
    expected = of_examples(config)
    chunked = dataclasses.replace(config, data=dataclasses.replace(config.data, chunk=2))
    for found in (of_examples(chunked), *on_ranks(2, lambda: of_examples(chunked))):
        assert_same(found, expected, 2e-4)


def test_ranks_go_on_with_the_state_of_the_first_where_theirs_differs_in_the_last_digits():
    before = LearnerState(MetaParams({"weight": torch.zeros(3)}), {"done": torch.zeros(())})

    def of_rank(difference: float) -> tuple[LearnerState, LearnerState]:
        mine = LearnerState(MetaParams({"weight": torch.ones(3)}), {"done": torch.ones(())})
        if not is_first():
            mine.meta.init["weight"][1] += difference
        return mine, in_step(mine, before)

    assert all(agreed is mine for mine, agreed in on_ranks(2, lambda: of_rank(0.0)))
    for _, agreed in on_ranks(2, lambda: of_rank(1e-6)):
        assert agreed.meta.init["weight"].tolist() == [1.0] * 3 and isinstance(agreed, LearnerState)
    with pytest.raises(UserError, match=r"^the meta-update differs from that of rank 0, by 0.5 after a step of 1.7;"):
        on_ranks(2, lambda: of_rank(0.5))
    with pytest.raises(UserError, match=r"^the meta-update differs from that of rank 0, by nan after a step of 1.7;"):
        on_ranks(2, lambda: of_rank(float("nan")))


def test_another_step_of_adam_is_found_whatever_its_counters_say():
    """Two ranks whose gradients have other signs in 24 of 50 numbers."""
    before = LearnerState(MetaParams({"weight": torch.zeros(50)}), {"step": torch.zeros(()), "done": torch.zeros(())})
    counters = {name: count + 1 for name, count in before.optimiser.items()}

    def of_rank() -> LearnerState:
        step = torch.full((50,), 1e-3)
        if not is_first():
            step[:24] *= -1
        return in_step(LearnerState(MetaParams({"weight": step}), counters), before)

    with pytest.raises(UserError, match=r"^the meta-update differs from that of rank 0, by 0.0098 after .* 0.0071;"):
        on_ranks(2, of_rank)


def test_plain_numbers_of_a_state_are_those_of_the_first_rank_too():
    before = LearnerState(MetaParams({"weight": torch.zeros(3)}), {"step_size": 0.1})
    states = on_ranks(2, lambda: in_step(before._replace(optimiser={"step_size": 0.1 + (not is_first())}), before))
    assert [state.optimiser for state in states] == [{"step_size": 0.1}] * 2


class Interrupting:
    """The first of two ranks, to which a signal comes while it asks the other one."""

    rank, size, local_size = 0, 2, 2

    def __init__(self, stop: StopRequest):
        self._stop = stop

    def gather(self, value: Any) -> list[Any]:
        self._stop.signal = signal.SIGTERM
        return [value, (None, False)]


def test_a_signal_that_comes_while_ranks_agree_stops_them_the_next_time():
    stop = StopRequest()
    with over(Interrupting(stop)):  # type: ignore[arg-type] # nothing is summed
        assert not stop.agreed(False)
        assert stop.signal == signal.SIGTERM
        assert stop.agreed(False)


def test_ranks_compute_with_the_same_number_of_threads():
    with pytest.raises(ConfigError, match=r"^rank 1 would compute with 2 threads, and rank 0 with 1; --threads gives"):
        on_ranks(2, lambda: set_threads(1 if is_first() else 2))


def test_training_and_evaluation_on_ranks_each_ask_for_tasks_of_their_own():
    """By the names under which they were given."""
    config = supervised_settings("maml")  # 5 tasks, and 4 of evaluations
    assert on_ranks(6, lambda: make_supervised(config, "test").config.sampling.tasks) == [5] * 6
    with pytest.raises(ConfigError, match=r"^sampling.tasks is 5, and there are 6 ranks;"):
        on_ranks(6, lambda: with_examples(config))
    with pytest.raises(ConfigError, match=r"^eval.tasks is 4, and there are 5 ranks;"):
        on_ranks(5, lambda: with_examples(config))
    run = str(Path(__file__).parents[1] / "runs/pretrained/sinusoid")
    with pytest.raises(ConfigError, match=r"^--tasks is 2, and there are 3 ranks;"):
        on_ranks(3, lambda: evaluate._evaluate([run, "--tasks", "2"]))


def test_a_measure_that_only_some_tasks_tell_is_the_mean_over_these():
    from mamlrl.evaluation.held_out import AdaptationResult, joined

    ones = np.ones((2, 2))
    told = AdaptationResult(ones, {"success": ones})
    both = joined([AdaptationResult(ones, {}), told])
    assert both.returns.shape == (2, 4)
    np.testing.assert_array_equal(both.measures["success"], [[np.nan, np.nan, 1, 1]] * 2)
