"""Rollouts of all tasks in lock step: M x B environments, one batched forward pass a time step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch.nn.functional import pad

from mamlrl.config import EnvironmentConfig
from mamlrl.distributions import Distribution
from mamlrl.envs.errors import EnvironmentFailure
from mamlrl.errors import NonFiniteError, UserError
from mamlrl.policies.base import Policy
from mamlrl.seeding import RolloutStreams
from mamlrl.structs import Params, Rollouts


def to_environment_actions(actions: np.ndarray, space: spaces.Space, action_scale: float) -> np.ndarray:
    """Map policy actions to the action space: [-action_scale, action_scale] onto the bounds, clipped there.

    Discrete actions, which count from 0, are counted from the space's start.
    """
    if isinstance(space, spaces.Discrete):
        return actions + space.start
    assert isinstance(space, spaces.Box)
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


MOST_LEFT = 0.75
"""Of the tasks that the policy sees: where no more are left, those that are over leave, which copies the memory."""


class TimeStep(NamedTuple):
    """One time step of N = M * B episodes in lock step, as `play` hands it out."""

    observations: torch.Tensor
    """[M, B, O], that the actions were chosen on"""
    outputs: torch.Tensor
    """[M, B, Z], parameters of the action distributions"""
    actions: torch.Tensor
    """[M, B, A] in policy units, before clipping ([M, B] for discrete actions)"""
    rewards: np.ndarray
    """[N]"""
    terminated: np.ndarray
    """[N], whether the task itself has ended the episode"""
    alive: np.ndarray
    """[N], whether the episode was still going on when the actions were taken"""
    infos: dict[str, Any]
    """of the vector environment"""
    next_observations: np.ndarray
    """[N, ...], after the time step"""


def reset_to_tasks(envs: VectorEnv, tasks: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Start an episode in every row, row m * B + b on task m.

    Args:
        envs: vector environment of `mamlrl.envs.making.make_task_envs`.
        tasks: [M, P].
        seeds: of the rows, [M, B].

    Returns:
        Observations [N, ...].

    Raises:
        UserError: the environment refused a task.
    """
    rows = np.repeat(tasks, seeds.shape[1], axis=0)
    try:
        return envs.reset(seed=seeds.reshape(-1).tolist(), options={"task": rows})[0]  # type: ignore[arg-type]
    except ValueError as error:  # such as a task outside of the task space
        raise UserError(f"environment {_name(envs)}: {error}") from error


def longest_rollout(envs: VectorEnv, config: EnvironmentConfig) -> int:
    """Time steps of a rollout at most (T): of all episodes, where it is a trial of several."""
    return config.horizon * getattr(envs, "trial_episodes", 1)


def play(
    envs: VectorEnv,
    policy: Policy,
    params: Params,
    observations: np.ndarray,
    num_tasks: int,
    choose: Callable[[torch.Tensor, int], torch.Tensor],
    config: EnvironmentConfig,
) -> Iterator[TimeStep]:
    """Step all rows together until every episode has ended or the horizon is reached: one forward pass a time step.

    Where the environments go through trials of several episodes, an episode here is a trial: what the policy remembers
    lasts to its end. Sampling and filming step environments here, and nowhere else. A row whose episode has ended is
    held by the vector environment. Tasks that are over leave the forward passes of a policy with a memory and shared
    parameters; their outputs are zeros then.

    Args:
        envs: vector environment after a reset.
        policy: the policy.
        params: its parameters, shared by all tasks or stacked.
        observations: of the reset, [N, ...].
        num_tasks: M; N is a multiple of it.
        choose: from the outputs [M, B, Z] and the number of the time step to actions in policy units.
        config: horizon and action scale.
    """
    leaf = next(iter(params.values()))
    rollouts = envs.num_envs // num_tasks
    alive = np.ones(envs.num_envs, bool)
    memory, going = policy.initial_state(num_tasks, rollouts), np.arange(num_tasks)
    index = torch.from_numpy(going)
    can_leave = isinstance(memory, tuple) and not all(one.shape[:1] == (num_tasks,) for one in params.values())
    for t in range(longest_rollout(envs, config)):
        inputs = torch.from_numpy(observations.reshape(num_tasks, rollouts, -1)).to(leaf.dtype)
        seen = inputs if len(going) == num_tasks else inputs[going]
        outputs, memory = policy.step(params, seen.to(leaf.device), memory)
        if len(going) < num_tasks:
            outputs = outputs.new_zeros(num_tasks, *outputs.shape[1:]).index_copy(0, index, outputs)
        actions = choose(outputs, t)
        env_actions = to_environment_actions(
            actions.flatten(0, 1).cpu().numpy(), envs.single_action_space, config.action_scale
        )
        observations, rewards, terminations, truncations, infos = envs.step(env_actions)
        yield TimeStep(inputs, outputs, actions, rewards, terminations & alive, alive, infos, observations)
        alive = alive & ~(terminations | truncations)
        if not alive.any():
            break
        left = alive.reshape(num_tasks, rollouts).any(1)[going]
        if can_leave and left.sum() <= MOST_LEFT * len(going):
            kept = torch.from_numpy(np.flatnonzero(left)).to(leaf.device)
            memory, going = tuple(one[kept] for one in memory), going[left]
            index = torch.from_numpy(going).to(leaf.device)


def action_noise(
    distribution: Distribution, streams: RolloutStreams, num_tasks: int, steps: int, rollouts: int
) -> np.ndarray:
    """What actions are sampled with, [M, T, B, ...]; that of a task does not depend on the others."""
    draw = streams.normal_noise if distribution.noise == "normal" else streams.uniform_noise
    return draw(num_tasks, (steps, rollouts, *distribution.noise_shape))


@torch.no_grad()
@one_math_thread()
def collect(
    envs: VectorEnv,
    policy: Policy,
    params: Params,
    tasks: np.ndarray,
    streams: RolloutStreams,
    config: EnvironmentConfig,
    infos: Sequence[str] = (),
) -> Rollouts:
    """Collect B = num_envs / M rollouts on each of M tasks.

    Environment m * B + b runs rollout b of task m. A rollout that ends early is masked from then on.

    Args:
        envs: vector environment of `mamlrl.envs.making.make_task_envs`.
        policy: the policy.
        params: its parameters, shared by all tasks or stacked.
        tasks: [M, P].
        streams: environment seeds and action noise.
        config: horizon and action scale.
        infos: names of numbers of the environment's info that are kept of every time step.

    Raises:
        NonFiniteError: the policy produced a number that is not finite.
        EnvironmentFailure: the environment did.
        UserError: the environment refused a task.
    """
    num_tasks, rollouts = len(tasks), envs.num_envs // len(tasks)
    leaf = next(iter(params.values()))
    device, dtype, distribution = leaf.device, leaf.dtype, policy.distribution
    drawn = action_noise(distribution, streams, num_tasks, longest_rollout(envs, config), rollouts)
    noise = torch.from_numpy(drawn).to(device, dtype)
    observation = reset_to_tasks(envs, tasks, streams.reset_seeds(num_tasks, rollouts))

    def sample(outputs: torch.Tensor, t: int) -> torch.Tensor:
        return distribution.sample(outputs, noise[:, t])

    steps = list(play(envs, policy, params, observation, num_tasks, sample, config))

    def by_task(rows: list[np.ndarray]) -> torch.Tensor:
        """T arrays [N] to [M, B, T]."""
        by_step = torch.from_numpy(np.stack(rows)).view(len(rows), num_tasks, rollouts)
        return by_step.permute(1, 2, 0).to(device, dtype).contiguous()

    kept = [by_task([_told(step, name) for step in steps]) for name in infos]
    actions = torch.stack([step.actions for step in steps], dim=2)
    last = torch.from_numpy(steps[-1].next_observations.reshape(num_tasks, rollouts, -1))
    result = Rollouts(
        observations=torch.stack([step.observations for step in steps], dim=2).to(device),
        actions=actions,
        log_probs=distribution.log_prob(torch.stack([step.outputs for step in steps], dim=2), actions),
        rewards=by_task([step.rewards for step in steps]),
        terminated=by_task([step.terminated for step in steps]),
        mask=by_task([step.alive for step in steps]),
        final_observations=last.to(device, dtype),
        measures={name: by_task([row])[..., 0] for name, row in measure(steps, config.metrics).items()},
        episodes=by_task([step.infos["episode"] for step in steps]) if hasattr(envs, "trial_episodes") else None,
        infos=torch.stack(kept, dim=-1) if kept else None,
    )
    _check_finite(result, envs, tasks)
    return result


def measure(steps: Sequence[TimeStep], metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Numbers of the environment's info, one for each rollout, [N]; NaN for one of which the info told none.

    Args:
        steps: of the rollouts.
        metrics: names of infos, each alone or with how its time steps become one number, as `environment.metrics`.
            Those that the environment does not tell are left out.

    Raises:
        UserError: an info is not one number for each row.
    """
    alive = np.stack([step.alive for step in steps])
    measures = {}
    for name, _, reduction in (entry.partition(":") for entry in metrics):
        values = np.stack([_told(step, name) for step in steps])
        told = alive & ~np.isnan(values)
        if told.any():
            reduced = _REDUCTIONS[reduction or "mean"](values, told)
            measures[name] = np.where(told.any(0), reduced, np.nan)
    return measures


def _told(step: TimeStep, name: str) -> np.ndarray:
    """What a time step's info says under a name, [N]; NaN in rows that it says nothing of."""
    rows = len(step.alive)
    if name not in step.infos:
        return np.full(rows, np.nan)
    try:
        values = np.asarray(step.infos[name], float)
        mask = np.asarray(step.infos.get(f"_{name}", np.ones(rows)), bool)
    except (TypeError, ValueError, OverflowError):  # texts, dicts, arrays of different lengths
        values = mask = np.asarray(None)
    if values.shape not in ((rows,), (rows, 1)) or mask.shape != (rows,):
        shape = f"an array of shape {list(values.shape)}" if values.ndim else "no array of numbers"
        raise UserError(
            f"environment.metrics has {name}, but the environment's info of that name is {shape}; it must be a number "
            "for each environment, or be left out: --environment.metrics '[]' has none"
        )
    return np.where(mask, values.reshape(rows), np.nan)


def numbers_or_nan(step: TimeStep, name: str) -> np.ndarray:
    """What a time step's info says under a name, [N]; NaN in rows that it says nothing of, or no number."""
    try:
        return _told(step, name)
    except UserError:
        return np.full(len(step.alive), np.nan)


def _mean(values: np.ndarray, told: np.ndarray) -> np.ndarray:
    return np.where(told, values, 0.0).sum(0) / np.maximum(told.sum(0), 1)


def _largest(values: np.ndarray, told: np.ndarray) -> np.ndarray:
    return np.where(told, values, -np.inf).max(0)


def _last(values: np.ndarray, told: np.ndarray) -> np.ndarray:
    return values[len(told) - 1 - told[::-1].argmax(0), np.arange(told.shape[1])]


_REDUCTIONS = {"mean": _mean, "max": _largest, "last": _last}
"""From values and where they were told, both [T, N], to [N]; anything for a rollout that told none."""


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
    names = dict.fromkeys(name for one in rollouts for name in one.measures)
    measures = {name: torch.cat([_measure_of(one, name) for one in rollouts], dim=1) for name in names}

    def padded(leaf: torch.Tensor) -> torch.Tensor:
        return pad(leaf, (*(0, 0) * (leaf.dim() - 3), 0, longest - leaf.shape[2]))

    def joined(leaves: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.cat([padded(leaf) for leaf in leaves], dim=1)

    *by_step, final, _, episodes, infos = zip(*rollouts, strict=True)
    of_trials = (None if leaves[0] is None else joined(leaves) for leaves in (episodes, infos))
    return Rollouts._make([*map(joined, by_step), torch.cat(final, dim=1), measures, *of_trials])


def _measure_of(rollouts: Rollouts, name: str) -> torch.Tensor:
    """A measure [M, B]; NaN where these rollouts did not tell of it."""
    return rollouts.measures.get(name, torch.full_like(rollouts.mask[..., 0], torch.nan))


def _name(envs: VectorEnv) -> str:
    return envs.spec.id if envs.spec is not None else type(envs).__name__


def _check_finite(rollouts: Rollouts, envs: VectorEnv, tasks: np.ndarray) -> None:
    observed = rollouts.observations.sum(-1).isfinite()  # in one pass over pictures; but finite numbers may overflow
    if not observed.all():
        observed = rollouts.observations.isfinite().all(-1)
    acted = rollouts.actions.isfinite().reshape(*observed.shape, -1).all(-1)
    if not acted[observed].all():  # after an observation that is not finite, no action can be
        raise NonFiniteError(
            "the policy's actions are not finite; smaller steps keep the parameters bounded, by "
            "adaptation.step_size or the settings of the meta-update"
        )
    finite = {
        "observations": observed,
        "rewards": rollouts.rewards.isfinite(),
        "final observations": rollouts.final_observations.isfinite().all(-1, keepdim=True),
    }
    for name, rows in finite.items():
        if not rows.all():
            row, _, time = (~rows).nonzero()[0].tolist()
            method = "reset" if name == "observations" and not time else "step"
            raise not_finite(_name(envs), method, name, tasks[row])


def not_finite(environment: str, method: str, what: str, task: np.ndarray) -> EnvironmentFailure:
    """The failure of an environment that returned a number that is not finite, on a task [P], empty where unknown."""
    told = f"returned {what} that are not finite (NaN or infinite)"
    return EnvironmentFailure(environment, method, told, task if task.size else None)


def mean_returns(rollouts: Rollouts) -> torch.Tensor:
    """Mean undiscounted return of each task's rollouts but for those that are masked out, [M]."""
    return _mean_over_rollouts((rollouts.rewards * rollouts.mask).sum(2), rollouts.mask)


LEADING = (1, 2, 3, 5)
"""Digits of the numbers of episodes that are shown where there are many."""


def shown_episodes(episodes: int) -> list[int]:
    """Numbers of the episodes, from 0, whose returns are shown: all of ten, of more the 1st, 2nd, 3rd, 5th, 10th, ...

    And the last one.
    """
    if episodes <= 10:
        return list(range(episodes))
    counts = {digit * 10**power for power in range(len(str(episodes))) for digit in LEADING}
    return sorted({count - 1 for count in counts if count <= episodes} | {episodes - 1})


def episode_returns(rollouts: Rollouts, episodes: int) -> torch.Tensor:
    """Undiscounted return of each episode of trials, [M, B, E]; 0 for one that did not take place."""
    assert rollouts.episodes is not None
    rewards = rollouts.rewards * rollouts.mask
    return rewards.new_zeros(*rewards.shape[:2], episodes).scatter_add(2, rollouts.episodes.long(), rewards)


def mean_episode_returns(rollouts: Rollouts, episodes: int) -> torch.Tensor:
    """Mean over the trials of each task that `mean_returns` is over too of `episode_returns`, [M, E]."""
    return _mean_over_rollouts(episode_returns(rollouts, episodes), rollouts.mask)


def mean_measures(rollouts: Rollouts) -> dict[str, torch.Tensor]:
    """Mean of each measure over the rollouts of each task that `mean_returns` is over too, [M]; NaN if none told it."""
    return {name: _mean_over_rollouts(values, rollouts.mask) for name, values in rollouts.measures.items()}


def _mean_over_rollouts(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean [M, ...] of numbers of whole rollouts [M, B, ...] but for NaN and for those whose mask [M, B, T] is 0."""
    counts = (mask[..., 0] > 0).reshape(*mask.shape[:2], *[1] * (values.dim() - 2))
    return values.where(counts, torch.nan).nanmean(1)
