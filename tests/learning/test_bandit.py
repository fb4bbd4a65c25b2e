"""RL2 learns to learn: a memory that finds the better arms within ten pulls."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mamlrl.config.files import make_config, shipped_settings
from mamlrl.evaluation.trials import trial_returns
from mamlrl.experiment import draw_tasks, initial_state, make_experiment
from mamlrl.training.iteration import meta_iteration


def learned(settings: dict[str, Any], iterations: int) -> np.ndarray:
    """Expected reward in each episode after so many iterations of training, [E]."""
    config = make_config(settings)
    adam = dataclasses.replace(config.adam, anneal_updates=iterations)
    config = dataclasses.replace(config, adam=adam, iterations=iterations, threads=1)
    experiment = make_experiment(config)
    state = initial_state(experiment)
    for iteration in range(iterations):
        state, _ = meta_iteration(experiment, state, iteration)
    tasks = draw_tasks(experiment.envs, 4000, np.random.default_rng(0))
    params = experiment.learner.start(state.meta)
    episodes = config.sampling.episodes
    returns = trial_returns(config, experiment.policy, params, tasks, episodes, 1, told="expected_reward")
    experiment.envs.close()
    return returns.mean((0, 1))


@pytest.mark.slow
def test_a_memory_finds_the_better_arms():
    returns = learned(shipped_settings("bandit"), 30)
    # any arm pays 0.5 on average; the Bayes optimum of the ten pulls is 6.66
    assert returns.sum() > 6.2, returns
    assert returns[0] < 0.55 and returns[-1] > 0.68, "the gain must come with the pulls"


@pytest.mark.slow
def test_a_memory_for_each_state_and_action_explores_decision_processes():
    """Three episodes of ten time steps with three states, in which what was good must be found and gone back to."""
    settings = shipped_settings("tabular-mdp")
    settings["environment"] = {"horizon": 10, "kwargs": {"states": 3, "actions": 3}}
    settings["sampling"] |= {"episodes": 3, "curriculum": [], "curriculum_iterations": []}
    returns = learned(settings, 12)
    assert returns.sum() > 36.0, returns  # any actions earn 30 on average
    assert returns[2] > returns[0] + 1.0, "the gain must come with the episodes"
