"""RL2 learns to learn: a memory that finds the better arms within ten pulls."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mamlrl.config.files import make_config, shipped_settings
from mamlrl.evaluation.trials import trial_returns
from mamlrl.experiment import draw_tasks, initial_state, make_experiment
from mamlrl.training.iteration import meta_iteration


@pytest.mark.slow
def test_a_memory_finds_the_better_arms():
    config = make_config(shipped_settings("bandit"))
    config = dataclasses.replace(
        config, adam=dataclasses.replace(config.adam, anneal_updates=30), iterations=30, threads=1
    )
    experiment = make_experiment(config)
    state = initial_state(experiment)
    for iteration in range(30):
        state, _ = meta_iteration(experiment, state, iteration)
    tasks = draw_tasks(experiment.envs, 4000, np.random.default_rng(0))
    params = experiment.learner.start(state.meta)
    returns = trial_returns(config, experiment.policy, params, tasks, 10, 1, told="expected_reward").mean((0, 1))
    experiment.envs.close()
    # any arm pays 0.5 on average; the Bayes optimum of the ten pulls is 6.66
    assert returns.sum() > 6.2, returns
    assert returns[0] < 0.55 and returns[-1] > 0.68, "the gain must come with the pulls"
