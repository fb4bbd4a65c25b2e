"""A meta-trained policy in somebody's own program: load, adapt, act, save, export."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike

from mamlrl.config import Config
from mamlrl.config.schema import require_at_least
from mamlrl.deployment.acting import choose, in_environment_units
from mamlrl.deployment.environment import check_environment, checked_task, one_row
from mamlrl.deployment.episodes import Episode, Episodes, to_rollouts
from mamlrl.deployment.module import PolicyModule
from mamlrl.deployment.predictor import MetaPredictor, Predictor, untrained_predictor
from mamlrl.deployment.remembering import Agent, RememberingPolicy, untrained_remembering
from mamlrl.deployment.saved import adapted_params, read_spaces, write_adapted
from mamlrl.deployment.untrained import untrained_learner
from mamlrl.envs.errors import EnvironmentFailure
from mamlrl.errors import ConfigError, UserError, said
from mamlrl.experiment import make_experiment
from mamlrl.learners import find_learner, step_scale
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.policies import make_policy
from mamlrl.policies.base import Policy
from mamlrl.rounds import adaptation_rounds
from mamlrl.run_folder.checkpoints import (
    ADAPTED,
    CheckpointError,
    config_of,
    read_archive,
    restore,
)
from mamlrl.run_folder.pretrained import Trained, find_checkpoints, read_trained
from mamlrl.run_folder.spaces import from_plain, to_plain
from mamlrl.sampler import collect, join
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import MetaParams, Params, Rollouts
from mamlrl.supervised import find_task_set

__all__ = [
    "AdaptedPolicy",
    "Agent",
    "Episode",
    "MetaPolicy",
    "MetaPredictor",
    "PolicyModule",
    "Predictor",
    "RememberingPolicy",
    "load_adapted",
    "load_policy",
]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MetaPolicy:
    """A meta-learned initialisation with all that adapts it. It pickles: policy and learner are made anew.

    Args:
        config: settings of the training.
        policy: the policy.
        learner: adapts it.
        meta: what was meta-learned.
        observation_space: that the policy was trained on.
        action_space: that the policy was trained on.
    """

    config: Config
    policy: Policy
    learner: Learner
    meta: MetaParams
    observation_space: spaces.Space
    action_space: spaces.Space

    def __repr__(self) -> str:
        spaces_ = f"{_short_space(self.observation_space)} -> {_short_space(self.action_space)}"
        return f"MetaPolicy({self.config.learner} on {self.config.env}, seed {self.config.seed}: {spaces_})"

    def __reduce__(self) -> tuple[Callable[..., MetaPolicy], tuple[Any, ...]]:
        return _made_anew, (self.config, self.meta, self.observation_space, self.action_space)

    def unadapted(self, seed: int = 0) -> AdaptedPolicy:
        """The policy before any gradient step.

        Args:
            seed: of action noise, and of the environment's resets when it adapts.
        """
        require_at_least("seed", seed, 0)
        return AdaptedPolicy(self, self.learner.start(self.meta), self.action_space, seed=int(seed))

    def adapt(
        self,
        env: gymnasium.Env,
        task: ArrayLike | None = None,
        steps: int = 1,
        rollouts: int = 20,
        seed: int = 0,
    ) -> AdaptedPolicy:
        """Gradient steps in one environment, each on fresh episodes, by the inner step of training.

        Episodes are cut off at the horizon of training, or earlier where the environment says so. Steps beyond those of
        training have half the step size. The environment stays open.

        Args:
            env: any environment with the observation and action space of the training, wrapped or not.
            task: given at every reset as ``options={"task": task}``; None resets without options: then the environment
                is the task.
            steps: gradient steps; 0 gives the unadapted policy.
            rollouts: episodes per gradient step.
            seed: of the environment's resets and of action noise.

        Raises:
            UserError: the environment does not fit the policy, refused the task, or returned a number that is not
                finite.
        """
        return self.unadapted(seed).adapt(env, task, steps, rollouts)

    def adapt_from(self, episodes: Episodes, seed: int = 0) -> AdaptedPolicy:
        """A gradient step on episodes that were collected with the unadapted policy, see `AdaptedPolicy.adapt_from`."""
        return self.unadapted(seed)._step_on(episodes)


@dataclasses.dataclass(repr=False, eq=False)
class AdaptedPolicy:
    """A policy that has adapted to a task; it can act, adapt further, be saved and be exported.

    Args:
        origin: what it was adapted from.
        params: its parameters, stacked for one task or shared.
        action_space: of the environment that it acts in.
        returns: the return of each episode that it adapted on, an array per gradient step.
        seed: of action noise, and of the environment's resets when it adapts further.
    """

    origin: MetaPolicy
    params: Params
    action_space: spaces.Space
    returns: tuple[np.ndarray, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        self._rng = Streams(self.seed).numpy(Stream.ACTIONS)
        self.start()

    @property
    def steps(self) -> int:
        """Gradient steps that it has taken."""
        return len(self.returns)

    def __repr__(self) -> str:
        last = f", return {self.returns[-1].mean():.2f} before the last" if self.returns else ""
        name = "gradient step" if self.steps == 1 else "gradient steps"
        return f"AdaptedPolicy({self.steps} {name}{last}, from {self.origin!r})"

    def start(self) -> None:
        """Begin an episode: a policy with a memory forgets what came before. Others need not be told."""
        self._memory: tuple[int, Any] | None = None

    @torch.no_grad()
    def act(self, observation: ArrayLike, deterministic: bool = False) -> Any:
        """The action on an observation, in the environment's units and within its bounds.

        What a recurrent policy remembers goes on from call to call, until `start` or a batch of another size.

        Args:
            observation: one observation, or a batch of them, [N, ...], of N episodes side by side.
            deterministic: take the mean of a Gaussian policy, or the likeliest discrete action, in place of a sample.

        Returns:
            An action, or a batch of them.

        Raises:
            UserError: the observation has another shape than those of training, or holds a number that is not finite.
        """
        policy = self.origin.policy
        rows, single = self._observation_rows(observation)
        count = rows.shape[1]
        if self._memory is None or self._memory[0] != count:
            self._memory = (count, policy.initial_state(1, count))
        outputs, memory = policy.step(self.params, rows, self._memory[1])
        self._memory = (count, memory)
        chosen = choose(policy.distribution, outputs, deterministic, self._rng)
        actions = in_environment_units(chosen, self.action_space, self.origin.config.environment.action_scale)
        if not single:
            return actions
        return int(actions[0]) if isinstance(self.action_space, spaces.Discrete) else actions[0]

    def _observation_rows(self, observation: ArrayLike) -> tuple[torch.Tensor, bool]:
        """[1, N, O], and whether it was a single one."""
        shape = self.origin.observation_space.shape or ()
        try:
            values = np.asarray(observation, np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"the observation is no array of numbers: {error}") from error
        single = values.shape == shape
        if not single and values.shape[1:] != shape:
            raise UserError(
                f"the observation has shape {values.shape}; the policy was trained on {shape}, and takes one or a batch"
            )
        if not np.isfinite(values).all():
            raise UserError("the observation holds a number that is not finite (NaN or infinite)")
        count = 1 if single else len(values)
        return torch.from_numpy(values.reshape(1, count, math.prod(shape))), single

    def adapt(
        self, env: gymnasium.Env, task: ArrayLike | None = None, steps: int = 1, rollouts: int = 20
    ) -> AdaptedPolicy:
        """Further gradient steps in an environment; this policy stays as it is.

        Steps are counted on: `adapt(env)` twice is `adapt(env, steps=2)`, and those beyond the steps of training have
        half the step size. Arguments and errors are those of `MetaPolicy.adapt`.
        """
        for name, value, least in (("steps", steps, 0), ("rollouts", rollouts, 1)):
            require_at_least(name, value, least)
        origin, streams = self.origin, Streams(self.seed)
        check_environment(env, origin.observation_space, origin.action_space)
        numbers, tasks = checked_task(env, task), np.zeros((1, 0))  # the row knows the task

        def sample(params: Params, step: int) -> Rollouts:
            envs = one_row(env, numbers)
            episodes = (  # one after the other: there is one environment
                collect(envs, origin.policy, params, tasks, streams.rollouts(one, step), origin.config.environment)
                for one in range(rollouts)
            )
            try:
                return join(list(episodes))
            except EnvironmentFailure as error:  # a number that is not finite
                raise UserError(str(error)) from error

        return self._stepped(sample, steps, env.action_space)

    def adapt_from(self, episodes: Episodes) -> AdaptedPolicy:
        """A gradient step on episodes that were collected elsewhere, with this policy; it stays as it is.

        The step is that of training, which is on-policy: log-probabilities are those of this policy, whatever chose the
        actions. Actions are mapped back to policy units; those on their bounds were clipped there, so that what the
        policy chose is not known, which a warning says.

        Args:
            episodes: observations, actions and rewards in the environment's units, as `Episode` or mappings.

        Raises:
            UserError: an episode does not fit the policy; names it.
        """
        return self._step_on(episodes)

    def _step_on(self, episodes: Episodes) -> AdaptedPolicy:
        origin, scale = self.origin, self.origin.config.environment.action_scale
        rollouts = to_rollouts(episodes, origin.policy, self.params, origin.observation_space, self.action_space, scale)
        return self._stepped(lambda params, step: rollouts, 1, self.action_space)

    def _stepped(
        self, sample: Callable[[Params, int], Rollouts], steps: int, action_space: spaces.Space
    ) -> AdaptedPolicy:
        """The policy after gradient steps, by the rounds of training."""
        origin, config = self.origin, self.origin.config
        params, returns = self.params, list(self.returns)
        rounds = adaptation_rounds(
            origin.learner,
            origin.meta,
            sample,
            steps,
            config.sampling,
            lambda step: step_scale(config, step),
            query=False,
            params=params,
            done=self.steps,
        )
        for one in rounds:
            assert one.adapted is not None
            params = one.adapted
            returns.append((one.rollouts.rewards * one.rollouts.mask).sum(2)[0].numpy())
        return AdaptedPolicy(origin, params, action_space, tuple(returns), self.seed)

    def module(self) -> PolicyModule:
        """The policy as a `torch.nn.Module`, from observations [N, ...] to their likeliest actions.

        Raises:
            UserError: the policy has a memory, which a module of single observations cannot keep.
        """
        policy = self.origin.policy
        if policy.initial_state(1, 1) is not None:
            raise UserError("the policy remembers what came before; a module of single observations cannot")
        return PolicyModule(policy, self.params, self.action_space, self.origin.config.environment.action_scale)

    def save(self, path: str | PathLike[str], overwrite: bool = False) -> None:
        """Write the policy to a file of plain tensors and numbers, for `mamlrl.load_adapted`.

        Args:
            path: the file.
            overwrite: whether it may take the place of a file that is there.

        Raises:
            UserError: there is a file already, or not the folder that it is to be in.
            OSError: the file cannot be written.
        """
        origin = self.origin
        write_adapted(
            path,
            overwrite,
            origin.config,
            (origin.observation_space, origin.action_space),
            (origin.meta, self.params),
            action_space=to_plain(self.action_space),
            returns=[torch.from_numpy(returns) for returns in self.returns],
            seed=self.seed,
        )


def load_policy(path: str | PathLike[str]) -> MetaPolicy | MetaPredictor | RememberingPolicy:
    """See `mamlrl.load`."""
    checkpoints = find_checkpoints(Path(path))
    if len(checkpoints) > 1:
        raise ConfigError(f"{path} holds {len(checkpoints)} policies; name one of them, such as {checkpoints[0]}")
    trained = read_trained(checkpoints[0])
    if find_learner(trained.config.learner).observes_task:
        raise UserError(
            f"{checkpoints[0]}: the policy of learner {trained.config.learner} sees the task and never adapts"
        )
    saved = trained.spaces
    observation_space, action_space = _made_spaces(trained) if saved is None else read_spaces(saved, trained.path)
    if find_task_set(trained.config.env):
        return _predictor(trained, observation_space, action_space)
    if find_learner(trained.config.learner).recurrent:
        remembering, state = untrained_remembering(trained.config, observation_space, action_space)
        return dataclasses.replace(remembering, params=trained.meta(state).init)
    origin, state_like = _untrained(trained.config, observation_space, action_space)
    return dataclasses.replace(origin, meta=trained.meta(state_like))


def _predictor(trained: Trained, input_space: spaces.Space, target_space: spaces.Space) -> MetaPredictor:
    """The predictor of a checkpoint. The tasks that it was trained on need not be there."""
    predictor, state = untrained_predictor(trained.config, input_space, target_space)
    return dataclasses.replace(predictor, meta=trained.meta(state))


def load_adapted(path: str | PathLike[str]) -> AdaptedPolicy | Predictor:
    """See `mamlrl.load_adapted`."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; mamlrl.load takes a run, load_adapted a file of AdaptedPolicy.save")
    content = read_archive(path)
    if content.get("format") != ADAPTED:
        raise UserError(f"{path} is no adapted policy; mamlrl.load reads the checkpoint of a training")
    config, both = config_of(content, path), read_spaces(content.get("spaces"), path)
    of_examples = find_task_set(config.env)
    origin, state_like = untrained_predictor(config, *both) if of_examples else _untrained(config, *both)
    try:
        meta = restore(content["meta"], state_like.meta, "meta")
        origin = dataclasses.replace(origin, meta=meta)
        params = adapted_params(content["params"], origin.learner.start(meta), meta)
        if isinstance(origin, MetaPredictor):
            return Predictor(origin, params, int(content["steps"]))
        returns = tuple(returns.numpy() for returns in content["returns"])
        action_space, seed = from_plain(content["action_space"]), int(content["seed"])
    except Exception as error:  # whatever content of another kind leads to
        raise CheckpointError(f"{path} is damaged: {said(error)}") from error
    return AdaptedPolicy(origin, params, action_space, returns, seed)


def _untrained(
    config: Config, observation_space: spaces.Space, action_space: spaces.Space
) -> tuple[MetaPolicy, LearnerState]:
    """The policy of some settings before training, and its learner's state."""
    config, learner, state = untrained_learner(config, make_policy, observation_space, action_space)
    return MetaPolicy(config, learner.policy, learner, state.meta, observation_space, action_space), state


def _made_anew(
    config: Config, meta: MetaParams, observation_space: spaces.Space, action_space: spaces.Space
) -> MetaPolicy:
    origin, _ = _untrained(config, observation_space, action_space)
    return dataclasses.replace(origin, meta=meta)


def _made_spaces(trained: Trained) -> tuple[spaces.Space, spaces.Space]:
    """The spaces of the environment itself, for a checkpoint of an early version, which does not hold them.

    Raises:
        UserError: the environment cannot be made here.
    """
    config = trained.config
    sampling = dataclasses.replace(config.sampling, tasks=1, rollouts=1)
    try:
        envs = make_experiment(dataclasses.replace(config, sampling=sampling)).envs
    except (UserError, EnvironmentFailure) as error:
        raise UserError(
            f"{trained.path} is of an early version and does not hold its spaces, so that the environment "
            f"is needed: {said(error)}; where the environment is, mamlrl.train(resume=...) goes on with the run and "
            "stores them, or save an adapted policy there"
        ) from error
    envs.close()
    return envs.single_observation_space, envs.single_action_space


def _short_space(space: spaces.Space) -> str:
    return f"Discrete({space.n})" if isinstance(space, spaces.Discrete) else f"Box{space.shape}"
