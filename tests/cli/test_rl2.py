"""The learner with a memory, by the commands: training, resume, evaluation, films, and an agent from Python."""

from __future__ import annotations

import csv
import pickle
import re
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import yaml

import mamlrl
from mamlrl import evaluate, record
from mamlrl.errors import UserError

from .conftest import Command, assert_fails, read_metrics, reproducible, runner

TINY = (
    "--env navigation --learner rl2 --sampling.tasks 4 --sampling.rollouts 2 --sampling.episodes 3 "
    "--environment.horizon 5 --policy.hidden_sizes [6] --threads 1 --eval.tasks 2 --eval.rollouts 2 "
)
CURRICULUM = "--sampling.curriculum [2] --sampling.curriculum_iterations [2]"


def test_a_run_tells_of_every_episode_and_resumes_to_the_last_bit(command: Command) -> None:
    settings = f"{TINY} {CURRICULUM} --eval.every 2"
    whole = command(f"{settings} --iterations 4 --out whole")
    assert whole.code == 0
    assert "iteration 1/4: return of 2 episodes -" in whole.out and "iteration 4/4: return -" in whole.out
    assert command(f"{settings} --iterations 3 --learner_settings.anneal_iterations 4 --out halves").code == 0
    outcome = command("--resume halves --iterations 4")
    assert outcome.code == 0, outcome.err
    assert reproducible("whole") == reproducible("halves")
    rows = read_metrics("whole")
    assert [row["trial/episodes"] for row in rows] == ["2.0", "2.0", "3.0", "3.0"]
    assert [row["return/episode_2"] == "" for row in rows] == [True, True, False, False]
    total = sum(float(rows[-1][f"return/episode_{number}"]) for number in range(3))
    assert total == pytest.approx(float(rows[-1]["return/step_0"]), rel=1e-5)
    held_out = [row["eval/return/episode_2"] != "" for row in rows]
    assert held_out == [False, True, False, True]
    assert not any("return/step_1" in row for row in rows)


@pytest.fixture
def trained(command: Command) -> None:
    assert command(f"{TINY} --iterations 1 --eval.every 0 --out run").code == 0


@pytest.mark.usefixtures("trained")
def test_evaluation_has_episodes_on_its_axis_beside_gradient_steps(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "--env navigation --sampling.tasks 2 --sampling.rollouts 2 --environment.horizon 5 --threads 1"
    assert command(f"{other} --policy.hidden_sizes [6] --iterations 1 --eval.every 0 --out maml").code == 0
    outcome = runner(evaluate.main, capsys)("run maml --tasks 3 --rollouts 4 --steps 1 --out both --threads 1")
    assert outcome.code == 0, outcome.err
    assert "3 held-out tasks, 4 rollouts of 5 steps, or trials of 3 episodes" in outcome.out
    assert "| method | 0 episodes | 1 episode | 2 episodes | 4 episodes |" in re.sub(" +", " ", outcome.out)
    with Path("both/summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    used = {learner: [row["episodes"] for row in rows if row["learner"] == learner] for learner in ("rl2", "maml")}
    assert used == {"rl2": ["0", "1", "2"], "maml": ["0", "4"]}
    with Path("both/evaluation.csv").open() as file:
        assert sum(row["method"] == "rl2" for row in csv.DictReader(file)) == 3 * 3
    assert Path("both/evaluation.png").is_file()


def test_the_untrained_policy_has_a_memory_too(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"{TINY} --policy.network gaussian_gru --iterations 1 --eval.every 0 --out run").code == 0
    outcome = runner(evaluate.main, capsys)("run --random --tasks 2 --rollouts 2 --out both --threads 1")
    assert outcome.code == 0, outcome.err
    assert "| random (rl2) |" in outcome.out
    with Path("both/summary.csv").open() as file:
        learners = [row["learner"] for row in csv.DictReader(file)]
    assert learners == ["rl2"] * 3 + ["random"] * 3


@pytest.mark.usefixtures("trained")
def test_a_film_is_one_of_a_trial(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = runner(record.main, capsys)("run --tasks 1 --out films --threads 1")
    assert outcome.code == 0, outcome.err
    assert len(imageio.imread("films/task-1.mp4", plugin="FFMPEG")) == 16  # the start and three times five steps
    assert Path("films/still.png").is_file()
    assert_fails(runner(record.main, capsys)("run --steps 0,1 --out more"), 2, "does not adapt; give --steps 0")


@pytest.mark.usefixtures("trained")
def test_an_agent_remembers_until_it_is_started_anew() -> None:
    policy = mamlrl.load("run")
    agent, observation = policy.start(), [0.1, -0.2]
    first = agent.act(observation, deterministic=True)
    second = agent.act(observation, -0.5, True, deterministic=True)
    assert first.shape == (2,) and not np.array_equal(first, second)
    agent.start()
    np.testing.assert_array_equal(agent.act(observation, 7.0, deterministic=True), first)
    other = pickle.loads(pickle.dumps(policy)).start()
    np.testing.assert_array_equal(other.act(observation, deterministic=True), first)
    rewarded = agent.act(observation, 9.0, deterministic=True)
    assert not np.array_equal(other.act(observation, 0.0, deterministic=True), rewarded)


@pytest.mark.usefixtures("trained")
def test_trials_side_by_side_are_each_alone() -> None:
    policy, observations = mamlrl.load("run"), np.array([[0.1, 0.0], [0.3, -0.2]])
    together, alone = policy.start(), policy.start()
    for rewards, dones in (([0.0, 0.0], [False, False]), ([1.0, -1.0], [False, True])):
        batch = together.act(observations, rewards, dones, deterministic=True)
        single = alone.act(observations[1], rewards[1], dones[1], deterministic=True)
        np.testing.assert_allclose(batch[1], single, rtol=1e-5)


@pytest.mark.usefixtures("trained")
def test_an_agent_acts_as_the_sampler_does() -> None:
    """On the observations of trials, the likeliest actions: those of training's own policy, episode after episode."""
    import torch

    from mamlrl.envs.making import make_task_envs
    from mamlrl.envs.trials import TrialVector

    policy = mamlrl.load("run")
    envs = TrialVector(make_task_envs("mamlrl/Navigation2D-v0", 1, 5), 2)
    inputs, _ = envs.reset(seed=0, options={"task": np.array([[0.2, 0.1]])})
    agent, memory = policy.start(), policy.policy.initial_state(1, 1)
    reward, ended = 0.0, False
    for _ in range(10):
        action = agent.act(inputs[0, :2], reward, ended, deterministic=True)
        with torch.no_grad():
            outputs, memory = policy.policy.step(policy.params, torch.tensor(inputs[None]).float(), memory)
        mean = policy.policy.distribution.mode(outputs)[0, 0].numpy()
        np.testing.assert_allclose(action, 0.1 * np.clip(mean, -1, 1), rtol=1e-5)
        inputs, rewards, _, _, _ = envs.step(action[None])
        reward, ended = rewards[0], bool(inputs[0, -1])


PICTURES = (
    "--learner rl2 --sampling.tasks 3 --sampling.rollouts 1 --environment.horizon 4 --policy.hidden_sizes [6] "
    "--threads 1 --eval.every 0 --iterations 1"
)


@pytest.mark.parametrize(
    ("env", "shape"),
    [
        ("mamlrl/Maze-v0 --environment.kwargs.height 6 --policy.network categorical_conv_gru", [6, 20, 3]),
        ("tests.envs.third_party:Camera-v0 --policy.network gaussian_conv_lstm", [4, 5, 3]),
    ],
)
def test_a_run_knows_the_shape_of_the_pictures_that_its_agent_sees(
    command: Command, env: str, shape: list[int]
) -> None:
    """Which the environment told it."""
    outcome = command(f"--env {env}", PICTURES, "--out run")
    assert outcome.code == 0, outcome.err
    assert yaml.safe_load(Path("run/config.yaml").read_text())["policy"]["picture"] == shape
    agent, picture = mamlrl.load("run").start(), np.zeros(shape)
    agent.act(picture)
    assert np.isfinite(agent.act(picture + 1.0, 0.5, True, deterministic=True)).all()
    with pytest.raises(UserError, match=f"pictures are {' x '.join(map(str, shape))}"):
        agent.act(picture.transpose(2, 0, 1), 0.5)


@pytest.mark.usefixtures("trained")
def test_what_an_agent_cannot_take_is_said() -> None:
    policy = mamlrl.load("run")
    agent = policy.start()
    agent.act(np.zeros((3, 2)), np.zeros(3), np.zeros(3))
    for call, message in (
        (lambda: agent.act(np.zeros((4, 2)), 0.0), "the memory is of 3 trials, and there are observations of 4"),
        (lambda: agent.act(np.zeros((3, 2)), np.zeros(2)), r"reward has shape \(2,\); there are 3 trials"),
        (lambda: agent.act(np.zeros((3, 2))), "the reward that followed the action before is missing"),
        (lambda: agent.act(np.zeros((0, 2)), 0.0), r"shape \(0, 2\); it must hold 2 numbers, or be a batch"),
        (lambda: agent.act(np.full((3, 2), 1e300), 0.0), "not finite in single precision"),
        (lambda: agent.act(np.zeros((3, 2)), np.nan), "reward holds a number that is not finite"),
        (lambda: policy.start().act([0.0, 1.0, 2.0]), "it must hold 2 numbers"),
        (lambda: policy.adapt(None), "takes no gradient steps: its policy adapts by its memory"),
        (lambda: policy.start("x"), "seed is 'x'; it must be an integer"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    with pytest.raises(AttributeError, match="no act: learner rl2 takes no gradient steps"):
        _ = policy.act
    assert not hasattr(policy, "anything")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--learner rl2 --sampling.episodes 0", "sampling.episodes is 0; it must be at least 1"),
        ("--sampling.episodes 3", "sampling.episodes is not read by learner maml; learner rl2 reads it"),
        ("--sampling.reward_info distance", "sampling.reward_info is not read by learner maml"),
        (
            "--learner rl2 --sampling.reward_info distnce",
            "no number 'distnce'; its numbers are distance; did you mean distance?",
        ),
        (
            "--learner rl2 --sampling.predicted_infos [distnce]",
            "sampling.predicted_infos: the environment's info has no number",
        ),
        ("--learner rl2 --sampling.predicted_infos [distance,distance]", "names that stand once each"),
        ("--sampling.predicted_infos [distance]", "sampling.predicted_infos is not read by learner maml"),
        ("--learner rl2 --policy.network gaussian_mlp", "has no memory, and learner rl2 needs one"),
        ("--policy.network gaussian_lstm", "has a memory, and learner maml takes none"),
        ("--learner rl2 --outer sgd", "outer is 'sgd', but not with learner rl2"),
        ("--learner rl2 --policy.hidden_sizes []", "it must hold at least one layer, the recurrent one"),
        ("--learner rl2 --policy.network gaussian_conv_gru", "which sees pictures, and the environment has none"),
        ("--learner rl2 --policy.network categorical_conv_lstm", "needs 'gaussian_conv_lstm'"),
        (
            "--env tests.envs.third_party:ByteCamera-v0 --learner rl2 --policy.network gaussian_conv_gru",
            "pixels of tests.envs.third_party:ByteCamera-v0 go up to 255",
        ),
        ("--learner rl2 --policy.picture [1,2,1]", "policy.picture is [1, 2, 1], which gaussian_gru has not"),
        ("--learner rl2 --adaptation.step_size 1", "adaptation.step_size is not read by learner rl2, which takes no"),
        ("--learner rl2 --env sinusoid", "learner rl2 learns from rollouts alone"),
    ],
)
def test_bad_input_is_one_line(command: Command, flags: str, message: str) -> None:
    outcome = command("--env navigation --iterations 1 --out run", flags)
    assert_fails(outcome, 2, message)
    assert not Path("run").exists()
