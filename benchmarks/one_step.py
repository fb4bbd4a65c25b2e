"""What one gradient step tells of a task, and what there is to be had if it tells no more than a direction.

    python benchmarks/one_step.py

On the MAML paper's 40 tasks of 2D navigation and of the half-cheetah's target velocity:

- returns that need no gradient: told the task itself; told only in which direction the goal lies (2D navigation), with
  the best distance for all tasks; told only whether to run fast or slowly (velocity), with the best two speeds;
- where shipped policies get to after 0 to 2 steps, by the task.

In 2D navigation a controller acts that knows where to go, with the noise of the shipped policies; on the half-cheetah
the shipped `oracle`.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import torch

from mamlrl.envs.making import make_task_envs
from mamlrl.evaluation.protocols import PAPER
from mamlrl.experiment import initial_state, make_experiment
from mamlrl.learners import step_scale
from mamlrl.rounds import Round, adaptation_rounds
from mamlrl.run_folder.pretrained import read_trained
from mamlrl.sampler import collect
from mamlrl.seeding import Streams
from mamlrl.structs import Params, Rollouts

PRETRAINED = Path(__file__).parents[1] / "runs" / "pretrained"
STD = 0.5  # of the shipped policies of 2D navigation, in units of the largest step
VELOCITY, CENTRE_OF_MASS = 8, 17  # along x, in observations as of rllab's half-cheetah
TIME_STEP = 0.01  # s, of that half-cheetah


def rounds_of(path: str, tasks: np.ndarray, rollouts: int, steps: int) -> list[Round]:
    """Rollouts of a shipped policy on tasks [M, P] after 0, ..., `steps` gradient steps, as `mamlrl.evaluate`."""
    trained = read_trained(PRETRAINED / path / "checkpoint.pt")
    sampling = dataclasses.replace(trained.config.sampling, tasks=len(tasks), rollouts=rollouts)
    experiment = make_experiment(dataclasses.replace(trained.config, sampling=sampling, threads=0))
    meta, streams, config = trained.meta(initial_state(experiment)), Streams(1).test(), experiment.config

    def sample(params: Params, step: int) -> Rollouts:
        return collect(experiment.envs, experiment.policy, params, tasks, streams.rollouts(0, step), config.environment)

    def scale(step: int) -> float:
        return step_scale(config, step)

    rounds = list(adaptation_rounds(experiment.learner, meta, sample, steps, sampling, scale))
    experiment.envs.close()
    return rounds


def navigate(goals: np.ndarray, targets: np.ndarray, rollouts: int = 40) -> float:
    """Mean return on goals [M, 2] of going straight to targets [M, 2] with noise."""
    rng, rows = np.random.default_rng(0), len(goals) * rollouts
    envs = make_task_envs("mamlrl/Navigation2D-v0", rows, 100)
    positions = envs.reset(seed=0, options={"task": np.repeat(goals, rollouts, axis=0)})[0]
    wanted, returns = np.repeat(targets, rollouts, axis=0), np.zeros(rows)
    for _ in range(100):
        actions = np.clip(wanted - positions + 0.1 * STD * rng.standard_normal((rows, 2)), -0.1, 0.1)
        positions, rewards, *_ = envs.step(actions)
        returns += rewards
    envs.close()
    return returns.mean()


def navigation() -> None:
    """Print what there is to be had in 2D navigation, and how far towards the goal policies go after each step."""
    goals = PAPER["mamlrl/Navigation2D-v0"].tasks()
    distances = np.linalg.norm(goals, axis=1)
    directions = goals / distances[:, None]
    print(f"2D navigation, return if told the goal: {navigate(goals, goals):.1f}")
    best = max((navigate(goals, radius * directions), radius) for radius in np.arange(0.3, 0.6, 0.02))
    print("if told the direction, going {1:.2f} far: {0:.1f}".format(*best))
    names = ["up to 0.3", "0.3 to 0.4", "0.4 to 0.5", "further"]
    for learner in ("maml", "cavia"):
        for one in rounds_of(f"navigation-paper/{learner}/seed-1", goals, 40, 2):
            late = one.rollouts.mask.clone()
            late[:, :, :30] = 0.0  # on the way
            places = (one.rollouts.observations * late[..., None]).sum((1, 2)) / late.sum((1, 2))[:, None]
            reached = (places.numpy() * directions).sum(1)
            print(
                f"{learner}, {one.step} steps, goes, where the goal is",
                *by_group(reached, distances, [0.3, 0.4, 0.5], names),
            )


def velocity() -> None:
    """Print what there is to be had of the oracle's gaits on the half-cheetah, and speeds after each step."""
    targets = PAPER["mamlrl/HalfCheetahVel-v0"].tasks()[:, 0]
    told = np.linspace(0.0, 2.0, 41)
    [gaits] = rounds_of("cheetah-vel-paper/oracle", told[:, None], 20, 0)
    observed, final = gaits.rollouts.observations, gaits.rollouts.final_observations
    x = torch.cat([observed[..., CENTRE_OF_MASS], final[..., CENTRE_OF_MASS, None]], -1).double()
    speeds = x.diff(dim=-1).numpy() / TIME_STEP  # those that the reward is of
    costs = -gaits.rollouts.rewards.double().numpy() - abs(speeds - told[:, None, None])
    returns = np.stack([-(abs(speeds - target) + costs).sum(-1).mean(1) for target in targets])  # [M, told]
    itself = [np.interp(target, told, row) for target, row in zip(targets, returns, strict=True)]
    print(f"velocity, return of the oracle: {np.mean(itself):.1f}")
    print(f"of one speed for all tasks: {returns.mean(0).max():.1f}")
    pairs = itertools.combinations(range(len(told)), 2)  # each task has the better of the two
    best = max((np.maximum(returns[:, one], returns[:, two]).mean(), told[one], told[two]) for one, two in pairs)
    print("of two, told {1:.2f} and {2:.2f}: {0:.1f}".format(*best))
    names = ["0 to 0.4", "0.4 to 0.8", "0.8 to 1.2", "1.2 to 1.6", "1.6 to 2"]
    for learner in ("maml", "metasgd"):
        for one in rounds_of(f"cheetah-vel-paper/{learner}", targets[:, None], 20, 2):
            speed = one.rollouts.observations[:, :, 100:, VELOCITY].mean((1, 2)).numpy()
            print(
                f"{learner}, {one.step} steps, runs, where wanted is",
                *by_group(speed, targets, [0.4, 0.8, 1.2, 1.6], names),
            )


def by_group(values: np.ndarray, by: np.ndarray, edges: list[float], names: list[str]) -> list[str]:
    """Mean of the values of each group of tasks, with the group's name."""
    group = np.digitize(by, edges)
    return [f"  {name}: {values[group == i].mean():.2f}" for i, name in enumerate(names)]


if __name__ == "__main__":
    navigation()
    velocity()
