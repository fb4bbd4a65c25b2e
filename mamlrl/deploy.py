"""A meta-trained policy in somebody's own environment: load, adapt, act."""

from __future__ import annotations

import dataclasses
from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import ArrayLike

from mamlrl.config import Config
from mamlrl.errors import ConfigError, UserError
from mamlrl.experiment import initial_state, make_experiment
from mamlrl.learners import find_learner, step_scale
from mamlrl.learners.base import Learner
from mamlrl.policies.base import Policy
from mamlrl.rounds import adaptation_rounds
from mamlrl.run_folder.pretrained import find_checkpoints, read_trained
from mamlrl.sampler import collect, join, to_environment_actions
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import MetaParams, Params, Rollouts


def load_policy(path: str | PathLike[str]) -> MetaPolicy:
    """See `mamlrl.load`."""
    checkpoints = find_checkpoints(Path(path))
    if len(checkpoints) > 1:
        raise ConfigError(f"{path} holds {len(checkpoints)} policies; name one of them, such as {checkpoints[0]}")
    trained = read_trained(checkpoints[0])
    if find_learner(trained.config.learner).observes_task:
        raise UserError(
            f"{checkpoints[0]}: the policy of learner {trained.config.learner} sees the task and never adapts"
        )
    sampling = dataclasses.replace(trained.config.sampling, tasks=1, rollouts=1)
    experiment = make_experiment(dataclasses.replace(trained.config, sampling=sampling))
    experiment.envs.close()
    meta = trained.meta(initial_state(experiment))
    return MetaPolicy(
        trained.config,
        experiment.policy,
        experiment.learner,
        meta,
        experiment.envs.single_observation_space,
        experiment.envs.single_action_space,
    )


@dataclasses.dataclass(frozen=True)
class MetaPolicy:
    """A meta-learned initialisation with all that adapts it.

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
            env: any environment with the observation and action space of the training.
            task: given at every reset as ``options={"task": task}``; None resets without options: then the environment
                is the task.
            steps: gradient steps; 0 gives the unadapted policy.
            rollouts: episodes per gradient step.
            seed: of the environment's resets and of action noise.

        Raises:
            UserError: the environment does not fit the policy, refused the task, or returned a number that is not
                finite.
        """
        for name, value, least in (("steps", steps, 0), ("rollouts", rollouts, 1), ("seed", seed, 0)):
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        self._check_spaces(env)
        streams = Streams(seed)

        def sample(params: Params, step: int) -> Rollouts:
            return self._collect(env, task, params, rollouts, step, streams)

        params, scale = self.learner.start(self.meta), lambda step: step_scale(self.config, step)
        for one in adaptation_rounds(self.learner, self.meta, sample, steps, self.config.sampling, scale, query=False):
            assert one.adapted is not None
            params = one.adapted
        return AdaptedPolicy(self, params, env.action_space, streams.numpy(Stream.ACTIONS))

    def _collect(
        self, env: gymnasium.Env, task: ArrayLike | None, params: Params, rollouts: int, step: int, streams: Streams
    ) -> Rollouts:
        """One episode after the other: there is one environment, and it may not be copied."""
        envs = SyncVectorEnv([lambda: _WithTask(env, task)], autoreset_mode=AutoresetMode.DISABLED)
        tasks = np.zeros((1, 0))  # the wrapper knows it
        return join(
            [
                collect(envs, self.policy, params, tasks, streams.rollouts(rollout, step), self.config.environment)
                for rollout in range(rollouts)
            ]
        )

    def _check_spaces(self, env: gymnasium.Env) -> None:
        for name in ("observation_space", "action_space"):
            ours, theirs = getattr(self, name), getattr(env, name)
            fits = type(ours) is type(theirs) and ours.shape == theirs.shape
            if not fits or getattr(ours, "n", None) != getattr(theirs, "n", None):
                raise UserError(f"the environment's {name} is {theirs}; the policy was trained on {ours}")


class AdaptedPolicy:
    """A policy that has adapted to a task.

    Args:
        origin: what it was adapted from.
        params: the adapted parameters, stacked for one task or shared.
        action_space: of the environment that it acts in.
        rng: draws the actions.
    """

    def __init__(self, origin: MetaPolicy, params: Params, action_space: spaces.Space, rng: np.random.Generator):
        self.params = params
        self._origin, self._action_space, self._rng = origin, action_space, rng

    @torch.no_grad()
    def act(self, observation: ArrayLike, deterministic: bool = False) -> Any:
        """The action on an observation, in the environment's units and within its bounds.

        Args:
            observation: one observation.
            deterministic: take the mean of a Gaussian policy, or the likeliest discrete action, in place of a sample.

        Raises:
            UserError: the observation has another shape than those of training.
        """
        policy, shape = self._origin.policy, self._origin.observation_space.shape
        values = np.asarray(observation, np.float32)
        if values.shape != shape:
            raise UserError(f"the observation has shape {values.shape}; the policy was trained on {shape}")
        rows = torch.from_numpy(values.reshape(1, 1, -1))
        outputs, _ = policy.step(self.params, rows, policy.initial_state(1, 1))
        distribution = policy.distribution
        if isinstance(self._action_space, spaces.Discrete):
            noise = torch.from_numpy(self._rng.random((1, 1), np.float32))
            action = distribution.mode(outputs) if deterministic else distribution.sample(outputs, noise)
            return int(action) + int(self._action_space.start)
        noise = self._rng.standard_normal((1, 1, *distribution.noise_shape), np.float32)
        action = distribution.sample(outputs, torch.from_numpy(noise * (not deterministic)))
        scale = self._origin.config.environment.action_scale
        return to_environment_actions(action[0, 0].numpy(), self._action_space, scale).astype(self._action_space.dtype)


class _WithTask(gymnasium.Wrapper):
    """Somebody's environment with its task fixed."""

    def __init__(self, env: gymnasium.Env, task: ArrayLike | None):
        super().__init__(env)
        self._options = None if task is None else {"task": np.asarray(task, np.float64)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed, options=self._options)
