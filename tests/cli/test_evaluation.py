from __future__ import annotations

import dataclasses

import torch

from mamlrl.config import AdaptationConfig, Config, EnvironmentConfig, EvalConfig, PolicyConfig
from mamlrl.envs.making import make_task_envs
from mamlrl.evaluation.held_out import evaluate_adaptation
from mamlrl.learners.maml import MAML
from mamlrl.policies import make_policy
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import Batch, Params

TASKS, ROLLOUTS, HORIZON = 3, 2, 6
CONFIG = Config(
    environment=EnvironmentConfig(horizon=HORIZON),
    policy=PolicyConfig(hidden_sizes=(8,)),
    adaptation=AdaptationConfig(steps=2, step_size=0.5),
    eval=EvalConfig(tasks=TASKS, rollouts=ROLLOUTS, steps=4),
)


class RecordingMAML(MAML):
    def adapt(self, params: Params, batch: Batch, step_size: float | None = None) -> Params:
        self.step_sizes = [*getattr(self, "step_sizes", []), step_size]
        return super().adapt(params, batch, step_size)


def evaluate(config: Config) -> tuple[torch.Tensor, list[float | None]]:
    envs = make_task_envs(config.env, TASKS * ROLLOUTS, HORIZON, num_threads=1)
    policy = make_policy(config.policy, envs.single_observation_space, envs.single_action_space)
    learner, streams = RecordingMAML(policy, config), Streams(3).evaluation()
    params = policy.init_params(streams.torch(Stream.INITIALISATION))
    tasks = envs.sample_tasks(TASKS, streams.numpy(Stream.TASKS, 0))  # type: ignore[attr-defined]
    returns = evaluate_adaptation(envs, policy, learner, params, tasks, streams, config)
    envs.close()
    return returns, learner.step_sizes


def test_one_return_per_step_and_task_and_smaller_steps_after_those_of_training() -> None:
    returns, step_sizes = evaluate(CONFIG)
    assert returns.shape == (5, TASKS)
    assert step_sizes == [None, None, 0.25, 0.25]


def test_adaptation_with_step_size_zero_changes_nothing_but_the_noise() -> None:
    still = dataclasses.replace(CONFIG, adaptation=AdaptationConfig(step_size=0.0))
    fewer = dataclasses.replace(still, eval=dataclasses.replace(CONFIG.eval, steps=1))
    assert torch.equal(evaluate(still)[0][:2], evaluate(fewer)[0])
    assert not torch.equal(evaluate(CONFIG)[0][1], evaluate(still)[0][1])
    assert torch.equal(evaluate(CONFIG)[0][0], evaluate(still)[0][0])
