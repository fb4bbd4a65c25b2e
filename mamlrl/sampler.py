"""Rollouts of all tasks in lock step: M x B environments, one batched forward pass a time step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch.nn.functional import pad

from mamlrl.config import EnvironmentConfig
from mamlrl.errors import NonFiniteError, UserError
from mamlrl.policies.base import Policy
from mamlrl.seeding import RolloutStreams
from mamlrl.structs import Params, Rollouts


def to_environment_actions(actions: np.ndarray, space: spaces.Space, action_scale: float) -> np.ndarray:
    """Map policy actions to the action space: [-action_scale, action_scale] onto the bounds, clipped there.

    Discrete actions pass through.
    """
    if not isinstance(space, spaces.Box):
        return actions
    center, half_range = (space.high + space.low) / 2, (space.high - space.low) / 2
    return center + half_range * np.clip(actions / action_scale, -1.0, 1.0)


@contextmanager
def one_math_thread() -> Iterator[None]:
    """Keep tensor arithmetic on the calling thread.

    Between two forward passes of a few hundred rows the idle workers of a thread pool spin, on the very processors
    that step the environments: sampling the half-cheetah took 1.7 times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
@one_math_thread()
def collect(
    envs: VectorEnv,
    policy: Policy,
    params: Params,
    tasks: np.ndarray,
    streams: RolloutStreams,
    config: EnvironmentConfig,
) -> Rollouts:
    """Collect B = num_envs / M rollouts on each of M tasks.

    Environment m * B + b runs rollout b of task m. A rollout that ends early is held by the vector environment and
    masked here.

    Args:
        envs: vector environment of `mamlrl.envs.base.make_task_envs`.
        policy: the policy.
        params: its parameters, shared by all tasks or stacked.
        tasks: [M, P].
        streams: environment seeds and action noise.
        config: horizon and action scale.

    Raises:
        NonFiniteError: the policy or the environment produced a number that is not finite.
        UserError: the environment refused a task.
    """
    num_tasks, horizon = len(tasks), config.horizon
    rollouts = envs.num_envs // num_tasks
    leaf = next(iter(params.values()))
    device, dtype = leaf.device, leaf.dtype
    distribution = policy.distribution
    draw = streams.normal_noise if distribution.noise == "normal" else streams.uniform_noise
    noise = torch.from_numpy(draw(num_tasks, (horizon, rollouts, *distribution.noise_shape))).to(device, dtype)

    observation_dim = int(np.prod(envs.single_observation_space.shape or (1,)))
    observations = torch.empty(horizon, num_tasks, rollouts, observation_dim, dtype=dtype)
    rewards = np.zeros((horizon, envs.num_envs))
    terminated = np.zeros((horizon, envs.num_envs), bool)
    mask = np.zeros((horizon, envs.num_envs), bool)
    outputs, actions = [], []

    seeds = streams.reset_seeds(num_tasks, rollouts).reshape(-1).tolist()
    try:
        observation, _ = envs.reset(seed=seeds, options={"task": np.repeat(tasks, rollouts, axis=0)})  # type: ignore[arg-type]
    except ValueError as error:  # such as a task outside of the task space
        raise UserError(f"environment {_name(envs)}: {error}") from error
    alive = np.ones(envs.num_envs, bool)
    memory = policy.initial_state(num_tasks, rollouts)
    for t in range(horizon):
        observations[t] = torch.from_numpy(observation.reshape(num_tasks, rollouts, -1))
        output, memory = policy.step(params, observations[t].to(device), memory)
        action = distribution.sample(output, noise[:, t])
        outputs.append(output)
        actions.append(action)
        env_action = to_environment_actions(
            action.flatten(0, 1).cpu().numpy(), envs.single_action_space, config.action_scale
        )
        observation, rewards[t], terminations, truncations, _ = envs.step(env_action)
        mask[t] = alive
        terminated[t] = terminations & alive
        alive = alive & ~(terminations | truncations)
        if not alive.any():
            break

    num_steps = len(actions)  # of the longest rollout

    def by_task(steps: np.ndarray) -> torch.Tensor:
        """[T, N] of numpy to [M, B, T]."""
        by_step = torch.from_numpy(steps[:num_steps]).view(num_steps, num_tasks, rollouts)
        return by_step.permute(1, 2, 0).to(device, dtype).contiguous()

    sampled_actions = torch.stack(actions, dim=2)
    result = Rollouts(
        observations=observations[:num_steps].permute(1, 2, 0, 3).contiguous().to(device),
        actions=sampled_actions,
        log_probs=distribution.log_prob(torch.stack(outputs, dim=2), sampled_actions),
        rewards=by_task(rewards),
        terminated=by_task(terminated),
        mask=by_task(mask),
        final_observations=torch.from_numpy(observation.reshape(num_tasks, rollouts, -1)).to(device, dtype),
    )
    _check_finite(result, envs)
    return result


def collect_steps(
    envs: VectorEnv,
    policy: Policy,
    params: Params,
    tasks: np.ndarray,
    streams: RolloutStreams,
    config: EnvironmentConfig,
    min_steps: int,
) -> Rollouts:
    """Collect rollouts until every task has at least `min_steps` time steps, B at a time.

    Rollouts of a task that already has enough are masked out. The other arguments are those of `collect`.
    """
    rollouts = collect(envs, policy, params, tasks, streams, config)
    if not min_steps:
        return rollouts
    more = streams.further_parts()
    while rollouts.mask.sum((1, 2)).min() < min_steps:
        rollouts = join([rollouts, collect(envs, policy, params, tasks, next(more), config)])
    lengths = rollouts.mask.sum(-1)
    wanted = lengths.cumsum(1) - lengths < min_steps
    return rollouts._replace(mask=rollouts.mask * wanted.unsqueeze(-1))


def join(rollouts: Sequence[Rollouts]) -> Rollouts:
    """Rollouts [M, B_i, T_i, ...] of the same tasks as one, [M, sum B_i, max T_i, ...], padded with zeros."""
    longest = max(one.mask.shape[2] for one in rollouts)

    def padded(leaf: torch.Tensor) -> torch.Tensor:
        return pad(leaf, (*(0, 0) * (leaf.dim() - 3), 0, longest - leaf.shape[2]))

    *by_step, final = zip(*rollouts, strict=True)
    joined = [torch.cat([padded(leaf) for leaf in leaves], dim=1) for leaves in by_step]
    return Rollouts._make([*joined, torch.cat(final, dim=1)])


def _name(envs: VectorEnv) -> str:
    return envs.spec.id if envs.spec is not None else type(envs).__name__


def _check_finite(rollouts: Rollouts, envs: VectorEnv) -> None:
    observed = rollouts.observations.isfinite().all(-1)
    acted = rollouts.actions.isfinite().reshape(*observed.shape, -1).all(-1)
    if not acted[observed].all():  # after an observation that is not finite, no action can be
        raise NonFiniteError(
            "the policy's actions are not finite; a smaller adaptation.step_size or trust_region.max_kl keeps the "
            "parameters bounded"
        )
    for field in ("observations", "rewards", "final_observations"):
        if not getattr(rollouts, field).isfinite().all():
            raise NonFiniteError(
                f"environment {_name(envs)} returned {field.replace('_', ' ')} that are not finite (NaN or infinite)"
            )


def mean_returns(rollouts: Rollouts) -> torch.Tensor:
    """Mean undiscounted return of each task's rollouts but for those that are masked out, [M]."""
    return (rollouts.rewards * rollouts.mask).sum((1, 2)) / rollouts.mask[..., 0].sum(1)
