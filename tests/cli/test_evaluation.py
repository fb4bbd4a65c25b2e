from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mamlrl.adaptation import InnerStep
from mamlrl.config import AdaptationConfig, Config, EnvironmentConfig, EvalConfig, PolicyConfig
from mamlrl.envs.making import make_task_envs
from mamlrl.evaluation.held_out import evaluate_adaptation
from mamlrl.experiment import Experiment
from mamlrl.learners.adaptations import GradientSteps
from mamlrl.learners.gradient import gradient_learner
from mamlrl.policies import make_policy
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import Batch, MetaParams, Params

TASKS, ROLLOUTS, HORIZON = 3, 2, 6
CONFIG = Config(
    outer="trust_region",
    environment=EnvironmentConfig(horizon=HORIZON),
    policy=PolicyConfig(hidden_sizes=(8,)),
    adaptation=AdaptationConfig(steps=2, step_size=0.5),
    eval=EvalConfig(tasks=TASKS, rollouts=ROLLOUTS, steps=4),
)


class RecordingSteps(GradientSteps):
    """Remembers the factors on its step sizes, and where they led."""

    scales: tuple[float, ...] = ()
    adapted: tuple[Params, ...] = ()

    def adapt(self, meta: MetaParams, params: Params, batch: Batch, step: int = 0, scale: float = 1.0) -> InnerStep:
        outcome = super().adapt(meta, params, batch, step, scale)
        self.scales, self.adapted = (*self.scales, scale), (*self.adapted, outcome.params)
        return outcome


def evaluate(config: Config, elsewhere: bool = False) -> tuple[np.ndarray, tuple[float, ...]]:
    returns, adaptation, _ = evaluate_on(config, (lambda tasks: tasks) if elsewhere else None)
    return returns, adaptation.scales


def evaluate_on(
    config: Config, others: Callable[[np.ndarray], np.ndarray] | None = None
) -> tuple[np.ndarray, RecordingSteps, list[np.ndarray]]:
    """Returns, the steps taken, and the tasks of each reset."""
    envs = make_task_envs(config.env, TASKS * ROLLOUTS, HORIZON, num_threads=1)
    policy = make_policy(config.policy, envs.single_observation_space, envs.single_action_space)
    adaptation, streams = RecordingSteps(policy, config.adaptation), Streams(3).evaluation()
    learner = gradient_learner(adaptation, config)
    state = learner.init(policy.init_params(streams.torch(Stream.INITIALISATION)))
    tasks = envs.sample_tasks(TASKS, streams.numpy(Stream.TASKS, 0))  # type: ignore[attr-defined]
    experiment = Experiment(config, envs, policy, learner, streams)
    adapted_to = None if others is None else others(tasks)
    acted_in, reset = [], envs.reset

    def recorded(**arguments: Any) -> Any:
        acted_in.append(np.array(arguments["options"]["task"])[::ROLLOUTS])
        return reset(**arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envs, "reset", recorded)
        result = evaluate_adaptation(experiment, envs, state.meta, tasks, streams, adapted_to=adapted_to)
    envs.close()
    return result.returns, adaptation, acted_in


def test_one_return_per_step_and_task_and_smaller_steps_after_those_of_training() -> None:
    returns, scales = evaluate(CONFIG)
    assert returns.shape == (5, TASKS)
    assert scales == (1.0, 1.0, 0.5, 0.5)


def test_other_tasks_that_are_the_same_make_no_difference() -> None:
    assert np.array_equal(evaluate(CONFIG)[0], evaluate(CONFIG, elsewhere=True)[0])


def test_steps_are_taken_on_the_other_tasks_and_returns_are_of_ones_own() -> None:
    returns, steps, acted_in = evaluate_on(CONFIG, lambda tasks: np.roll(tasks, 1, axis=0))
    own = evaluate_on(CONFIG)[2][0]
    other = np.roll(own, 1, axis=0)
    np.testing.assert_array_equal(acted_in, [other, own] * 4 + [own])  # nothing is sampled for nothing
    assert returns.shape == (5, TASKS)
    for wrong, right in zip(steps.adapted, evaluate_on(CONFIG)[1].adapted, strict=True):
        for name, leaf in wrong.items():
            assert not torch.equal(leaf, right[name])


def test_adaptation_with_step_size_zero_changes_nothing_but_the_noise() -> None:
    still = dataclasses.replace(CONFIG, adaptation=AdaptationConfig(step_size=0.0))
    fewer = dataclasses.replace(still, eval=dataclasses.replace(CONFIG.eval, steps=1))
    assert np.array_equal(evaluate(still)[0][:2], evaluate(fewer)[0])
    assert not np.array_equal(evaluate(CONFIG)[0][1], evaluate(still)[0][1])
    assert np.array_equal(evaluate(CONFIG)[0][0], evaluate(still)[0][0])
