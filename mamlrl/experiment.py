"""What a run works with: environments or supervised tasks, policy, learner and random streams."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim
from gymnasium.vector import VectorEnv

from mamlrl.config import Config, PolicyConfig
from mamlrl.config.files import check_read
from mamlrl.config.size import check_examples_memory, check_memory, sampling_memory, training_memory
from mamlrl.distributed import gather, local_size, share_of
from mamlrl.envs.making import make_task_envs, registered_horizon
from mamlrl.envs.observe_task import ObserveTaskVector
from mamlrl.envs.trials import TrialVector
from mamlrl.envs.workers import num_processors
from mamlrl.errors import ConfigError, UserError, described, shown, suggestion
from mamlrl.learner_settings import own_settings, resolved
from mamlrl.learners import LearnerRow, check_remembers, find_learner, training_steps
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.named_learner import NamedLearner
from mamlrl.objectives import EXAMPLE_LOSSES
from mamlrl.policies import POLICIES, make_policy
from mamlrl.policies.base import Policy
from mamlrl.policies.convolutional import ConvNet
from mamlrl.policies.predictors import make_predictor
from mamlrl.policies.tabular import TabularNetwork
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import Examples, Params
from mamlrl.supervised import TASK_SETS, find_task_set, make_tasks
from mamlrl.supervised.base import ALL, TaskDistribution, to_examples
from mamlrl.supervised.observe_task import ObserveTask

DEFAULT_HORIZON = 100
"""Time steps of an episode where neither the settings nor the environment say how many."""
MOST_COLORS = 4
"""Of a picture: where the first of its sizes is no larger, and the last is, colours stand first."""
BRIGHTEST = 10.0
"""Of pixels, as the space of observations bounds them, that a network takes as they are."""
LEARNER_PARTS = ("policy", "init", "start", "adapt", "meta_step")
"""What a learner has, see `learners.base.Learner`."""


class Experiment(NamedTuple):
    """What a meta-iteration works with, all of it the same from the first to the last."""

    config: Config
    """complete: with all of the learner's own settings, and the outer step and inner loss that are taken"""
    envs: VectorEnv
    policy: Policy
    learner: Learner
    streams: Streams


class SupervisedExperiment(NamedTuple):
    """The same of a run on supervised tasks."""

    config: Config
    """complete: with all of the learner's own settings"""
    tasks: TaskDistribution
    """of one split"""
    policy: Policy
    """the predictor: its distribution is that of the targets"""
    learner: Learner
    streams: Streams


def make_supervised(config: Config, split: str = "train") -> SupervisedExperiment:
    """Tasks, predictor, learner and streams of a run on supervised tasks. Writes nothing.

    Args:
        config: the settings; `env` is a row of `supervised.TASK_SETS`.
        split: "train", "validation" or "test".

    Raises:
        ConfigError: a setting is not one of such a run, or names something that does not exist here.
    """
    row = find_learner(config.learner)
    in_updates = dataclasses.replace(config, iterations=total_updates(config))  # what a learner calls an iteration
    own = own_settings(in_updates, row)
    config = resolved(config, row, own)
    check_device(config.device)
    if row.rollouts_only:
        raise ConfigError(
            f"learner {config.learner} learns from rollouts alone: {row.rollouts_only}; {config.env} has none"
        )
    check_read(config, "examples")
    loss = TASK_SETS[config.env].loss
    if config.adaptation.inner_loss != loss:
        raise ConfigError(
            f"adaptation.inner_loss is {config.adaptation.inner_loss!r}; of {config.env} it must be {loss!r}"
        )
    tasks = supervised_tasks(config, split)
    check_amounts(config, tasks.most_examples)
    policy = make_predictor(config.policy, tasks.input_space, tasks.target_space)
    inputs, outputs, network = tasks.input_space.shape[0], policy.distribution.num_outputs, policy.network
    units = network.units_per_image if isinstance(network, ConvNet) else 0
    check_examples_memory(config, training_steps(config), inputs, outputs, units)
    learner = make_learner(row, policy, config, own)
    return SupervisedExperiment(config, tasks, learner.policy, learner, Streams(config.seed))


def check_amounts(config: Config, most: int) -> None:
    """There are as many examples as are asked for.

    Args:
        config: the settings.
        most: of a task or class; 0 for any number.

    Raises:
        ConfigError: there are fewer.
    """
    data, held_out = config.data, config.eval
    amounts = {
        "data": (data.shots, data.queries),
        "eval": (held_out.shots or data.shots, held_out.queries or data.queries),
    }
    for section, (shots, queries) in amounts.items():
        if 0 < most < shots + queries:
            raise ConfigError(
                f"{section}.shots {shots} and {section}.queries {queries} are {shots + queries} images of a class, of "
                f"which there are {most}"
            )


def supervised_tasks(config: Config, split: str) -> TaskDistribution:
    """The configured tasks; with the task in the inputs for a learner that sees it.

    Raises:
        ConfigError: they cannot be made of `environment.kwargs`.
    """
    tasks = make_tasks(config, split)
    return ObserveTask(tasks) if find_learner(config.learner).observes_task else tasks


def total_updates(config: Config) -> int:
    """Meta-updates of a run on supervised tasks."""
    return config.iterations * config.data.updates


def draw_examples(
    experiment: SupervisedExperiment,
    tasks: np.ndarray,
    shots: int,
    queries: int,
    rng: np.random.Generator,
    rows: slice = ALL,
) -> tuple[Examples, Examples]:
    """Support and query examples of some rows of tasks [M, P], on the device of the run."""
    support, query = experiment.tasks.draw(tasks, shots, queries, rng, rows)
    return to_examples(support, experiment.config.device), to_examples(query, experiment.config.device)


def make_experiment(config: Config) -> Experiment:
    """Environments for this rank's share of the tasks, policy, learner and streams of a run. Writes nothing.

    Raises:
        UserError: a setting names something that does not exist here or does not fit the environment.
    """
    row = find_learner(config.learner)
    own = own_settings(config, row)
    config = resolved(config, row, own)
    check_device(config.device)
    check_is_environment(config)
    if row.examples_only:
        reason = f"{row.examples_only}; {config.env} has none"
        raise ConfigError(f"learner {config.learner} learns from examples alone: {reason}")
    config = resolve_horizon(config)
    check_memory(whole_rollouts(config), of_ranks_here(whole_rollouts(config), sampling_memory))
    envs = make_envs(config, share_of(config.sampling.tasks).count * config.sampling.rollouts)
    try:
        told = {
            "sampling.reward_info": [config.sampling.reward_info],
            "sampling.predicted_infos": config.sampling.predicted_infos,
        }
        check_infos(envs, told)
        spaces_ = envs.single_observation_space, envs.single_action_space
        if (network := POLICIES.get(config.policy.network)) is not None:
            check_remembers(network.recurrent, config, row.recurrent)
        config = with_picture(config, envs)
        policy = make_policy(policy_config(config, envs), *spaces_, recurrent=row.recurrent)
        check_one_hot(envs, policy)
        learner = make_learner(row, policy, config, own)
    except BaseException:
        envs.close()
        raise
    return Experiment(config, envs, learner.policy, learner, Streams(config.seed))


def check_infos(envs: VectorEnv, told: Mapping[str, Sequence[str]]) -> None:
    """Numbers of the environment's info that trials are learned from are there, if it goes through trials.

    Args:
        envs: the environment, which is reset and stepped.
        told: names of the numbers, by what gives them, for the message; an empty one stands for none.

    Raises:
        ConfigError: the environment's info has no such number for each row.
    """
    asked = [(setting, name) for setting, names in told.items() for name in names if name]
    if not asked or not isinstance(envs, TrialVector):
        return
    envs.action_space.seed(0)
    envs.reset(seed=0)
    infos = envs.step(envs.action_space.sample())[-1]
    arrays = {name: np.asarray(values) for name, values in infos.items()}
    rows = (envs.num_envs,)
    numbers = [name for name, one in arrays.items() if np.issubdtype(one.dtype, np.floating) and one.shape == rows]
    for setting, name in asked:
        if name not in numbers:
            raise ConfigError(
                f"{setting}: the environment's info has no number {shown(name)}; its numbers are "
                f"{', '.join(numbers) or 'none'}{suggestion(name, numbers)}"
            )


def check_one_hot(envs: VectorEnv, policy: Policy) -> None:
    """The environment's observations are one-hot, if the policy takes no others.

    Raises:
        ConfigError: they are not.
    """
    network = getattr(policy, "network", None)
    if isinstance(network, TabularNetwork):
        observations, _ = envs.reset(seed=0)
        network.check_one_hot(torch.as_tensor(observations).unsqueeze(0))


def check_is_environment(config: Config) -> None:
    """The run is one in environments, and its settings are those of one.

    Raises:
        ConfigError: it is not.
    """
    if find_task_set(config.env):
        raise ConfigError(f"{config.env} is a set of supervised tasks and no environment, which this needs")
    check_read(config, "rollouts")
    loss = config.adaptation.inner_loss
    if loss in EXAMPLE_LOSSES:
        raise ConfigError(f"adaptation.inner_loss is {loss!r}, which takes examples; {config.env} is an environment")


def make_learner(row: LearnerRow, policy: Policy, config: Config, own: Any) -> Learner:
    """The learner of a row.

    Raises:
        UserError: the learner does not fit the policy, or a user's class cannot be made or is none.
    """
    try:
        learner = row.build(policy, config, own)
    except UserError:
        raise
    except Exception as error:  # whatever a user's class raises
        raise ConfigError(f"learner {config.learner} cannot be made: {described(error)}") from error
    missing = [name for name in LEARNER_PARTS if not hasattr(learner, name)]
    if missing:
        raise ConfigError(
            f"learner {config.learner} has no {', '.join(missing)}; it must have {', '.join(LEARNER_PARTS)}"
        )
    return NamedLearner(learner, config.learner) if ":" in config.learner else learner


def start_learner(learner: Learner, params: Params, config: Config) -> LearnerState:
    """The learner's state before the first meta-iteration.

    Args:
        learner: the learner.
        params: initial parameters of its policy.
        config: names the learner in messages.

    Raises:
        UserError: a user's learner fails, or returns something else.
    """
    try:
        state = learner.init(params)
    except UserError:
        raise
    except Exception as error:  # whatever a user's class raises
        raise ConfigError(f"learner {config.learner}: init failed: {described(error)}") from error
    if not isinstance(state, LearnerState):
        raise ConfigError(
            f"learner {config.learner}: init returned a {type(state).__name__}; it must return a LearnerState"
        )
    return state


def make_envs(config: Config, num_envs: int) -> VectorEnv:
    """The configured environment, `num_envs` times; with the task in the observation for a learner that sees it.

    For a learner with a memory it goes through trials of `sampling.episodes`.

    Raises:
        ConfigError: there is no such environment, or it is no family of tasks.
    """
    settings = resolve_horizon(config).environment
    row = find_learner(config.learner)
    try:
        envs = make_task_envs(
            config.env,
            num_envs,
            settings.horizon,
            settings.kwargs,
            settings.vectorization,
            num_threads(config),
            settings.workers,
            settings.timeout,
            config.sampling.episodes if row.recurrent else 1,
        )
        if row.recurrent:
            return TrialVector(envs, config.sampling.episodes)
        return ObserveTaskVector(envs) if row.observes_task else envs
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_training_memory(experiment: Experiment) -> None:
    """A meta-iteration and an evaluation fit into the memory that there is.

    Raises:
        ConfigError: it does not; names the settings that it depends on.
    """
    config, envs = whole_rollouts(experiment.config), experiment.envs
    observation_dim, action_dim = flatdim(envs.single_observation_space), flatdim(envs.single_action_space)
    needed = of_ranks_here(
        config, lambda one: training_memory(one, training_steps(one), observation_dim, 2 * action_dim)
    )
    check_memory(config, needed)
    if config.eval.every:
        held_out = config.eval
        rollouts = max(held_out.rollouts, held_out.min_steps // config.environment.horizon)
        sampling = dataclasses.replace(config.sampling, tasks=held_out.tasks, rollouts=rollouts)
        config = dataclasses.replace(config, sampling=sampling)
        needed = of_ranks_here(config, lambda one: sampling_memory(one, observation_dim, 2 * action_dim))
        check_memory(config, needed, "eval")


def of_ranks_here(config: Config, memory: Callable[[Config], int]) -> int:
    """Bytes that the ranks of this machine take, each for its share of `sampling.tasks`.

    Args:
        config: the settings.
        memory: from the settings of a rank to its bytes.
    """
    sampling = dataclasses.replace(config.sampling, tasks=share_of(config.sampling.tasks).count)
    return local_size() * memory(dataclasses.replace(config, sampling=sampling))


def whole_rollouts(config: Config) -> Config:
    """The settings with the time steps of a whole rollout as the horizon: of all episodes of a trial."""
    if not find_learner(config.learner).recurrent:
        return config
    horizon = config.environment.horizon * config.sampling.episodes
    return dataclasses.replace(config, environment=dataclasses.replace(config.environment, horizon=horizon))


def resolve_horizon(config: Config) -> Config:
    """The config with a horizon: where none is given, the limit that the environment is registered with.

    Raises:
        ConfigError: there is no such environment.
    """
    if config.environment.horizon:
        return config
    environment = dataclasses.replace(config.environment, horizon=_registered_horizon(config) or DEFAULT_HORIZON)
    return dataclasses.replace(config, environment=environment)


def horizon_note(config: Config) -> str | None:
    """What to tell the user where the horizon is beyond the limit that an environment of others is registered with."""
    given, limit = config.environment.horizon, _registered_horizon(config)
    if limit is None or given <= limit or config.env.startswith("mamlrl/"):
        return None
    return f"environment.horizon is {given}, in place of the {limit} time steps that {config.env} is registered with"


def _registered_horizon(config: Config) -> int | None:
    try:
        return registered_horizon(config.env)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def num_threads(config: Config) -> int:
    """The configured number of threads, or one for each processor that there is for this rank."""
    return config.threads or max(1, num_processors() // local_size())


def set_threads(threads: int) -> None:
    """Have torch compute with so many threads, on all ranks: the last digits of what each decides by depend on it.

    Raises:
        ConfigError: another rank would have others.
    """
    numbers = gather(threads)
    for rank, number in enumerate(numbers):
        if number != numbers[0]:
            raise ConfigError(
                f"rank {rank} would compute with {number} threads, and rank 0 with {numbers[0]}; --threads gives all "
                "ranks the same"
            )
    torch.set_num_threads(threads)


def policy_config(config: Config, envs: VectorEnv) -> PolicyConfig:
    """Settings of the policy; what follows the environment's own observation in the policy's is not scaled.

    An oracle's task is, where there are scales for its numbers too.
    """
    policy = config.policy
    if isinstance(envs, ObserveTaskVector) and policy.observation_scale:
        policy = _with_task_scales(policy, envs)
    return with_input_scales(policy, envs.extra_inputs) if isinstance(envs, TrialVector) else policy


def _with_task_scales(policy: PolicyConfig, envs: ObserveTaskVector) -> PolicyConfig:
    given, seen = len(policy.observation_scale), math.prod(envs.single_observation_space.shape or ())
    if given not in (seen, seen - envs.task_dim):
        raise ConfigError(
            f"policy.observation_scale has {given} factors; it must have {seen - envs.task_dim}, one for each"
            f" observation, or {seen} with those of the task that an oracle sees"
        )
    return policy if given == seen else with_input_scales(policy, envs.task_dim)


def with_input_scales(policy: PolicyConfig, inputs: int) -> PolicyConfig:
    """Settings of a policy whose observation is followed by inputs that are not scaled."""
    scale = policy.observation_scale
    return dataclasses.replace(policy, observation_scale=(*scale, *[1.0] * inputs)) if scale else policy


def with_picture(config: Config, envs: VectorEnv) -> Config:
    """The config with the shape of the pictures that its policy sees, as the environment says where it is not given.

    A run stores it: the policy is made anew where the environment is not there to ask.

    Raises:
        ConfigError: the environment says another shape, has its colours first, or pixels far above 1.
    """
    row = POLICIES.get(config.policy.network)
    if row is None or not row.pictures or not isinstance(envs, TrialVector):
        return config
    given, known = config.policy.picture, envs.picture_shape
    if given and known and given != known:
        raise ConfigError(f"policy.picture is {list(given)}; the environment's pictures are {list(known)}")
    if not given and known and known[0] <= MOST_COLORS < known[2]:
        raise ConfigError(
            f"observations are {' x '.join(map(str, known))}, which looks like colours first; policy.network "
            f"{config.policy.network} takes height x width x colours"
        )
    policy = dataclasses.replace(config.policy, picture=given or known)
    space = envs.single_observation_space
    brightest = brightest_pixel(space, policy.picture) if isinstance(space, spaces.Box) else 0.0
    if brightest > BRIGHTEST and not policy.observation_scale:
        raise ConfigError(
            f"pixels of {config.env} go up to {brightest:g}; policy.network {policy.network} learns from ones near 1, "
            "which gymnasium.wrappers.RescaleObservation(env, 0.0, 1.0) makes of them, or policy.observation_scale"
        )
    return dataclasses.replace(config, policy=policy)


def brightest_pixel(space: spaces.Box, picture: tuple[int, ...]) -> float:
    """The largest bound of the picture that observations begin with; 0 where there is none."""
    size = math.prod(picture) if picture else 0
    bounds = np.abs([space.low[:size], space.high[:size]])
    return float(np.max(bounds, initial=0.0, where=np.isfinite(bounds)))


def check_device(device: str) -> None:
    """A CUDA device, if one is asked for, is there."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device != "cpu" and int(device.partition(":")[2] or 0) >= available:
        raise ConfigError(f"device is {device!r}, but there are {available} CUDA devices here; --device cpu needs none")


def draw_tasks(envs: VectorEnv, num_tasks: int, rng: np.random.Generator) -> np.ndarray:
    """Tasks [M, P] from the environment's distribution."""
    try:
        return envs.sample_tasks(num_tasks, rng)  # type: ignore[attr-defined]
    except ValueError as error:
        raise UserError(str(error)) from error


def spaces_of(experiment: Experiment | SupervisedExperiment) -> tuple[spaces.Space, spaces.Space]:
    """What the policy sees, and what it acts in or predicts."""
    if isinstance(experiment, SupervisedExperiment):
        return experiment.tasks.input_space, experiment.tasks.target_space
    return experiment.envs.single_observation_space, experiment.envs.single_action_space


def initial_state(experiment: Experiment | SupervisedExperiment) -> LearnerState:
    """The learner's state before the first meta-iteration, on the device of the run."""
    config, _, policy, learner, streams = experiment
    params = policy.init_params(streams.torch(Stream.INITIALISATION))
    return start_learner(learner, {name: leaf.to(config.device) for name, leaf in params.items()}, config)
