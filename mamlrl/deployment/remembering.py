"""A policy that learns within a trial, by its memory, in somebody's own program."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike

from mamlrl.config import Config, PolicyConfig
from mamlrl.config.schema import require_at_least
from mamlrl.deployment.acting import choose, in_environment_units
from mamlrl.deployment.untrained import untrained_learner
from mamlrl.envs.trials import action_numbers, action_size, trial_inputs
from mamlrl.errors import UserError, shown
from mamlrl.experiment import with_input_scales
from mamlrl.learners.base import LearnerState
from mamlrl.policies import make_policy
from mamlrl.policies.base import Policy
from mamlrl.seeding import Stream, Streams
from mamlrl.structs import Params

NO_GRADIENT = (
    "takes no gradient steps: its policy adapts by its memory; start() gives an agent, whose act(observation, reward, "
    "done) learns"
)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class RememberingPolicy:
    """A policy that was meta-trained to learn within a trial. It pickles: the policy is made anew.

    Args:
        config: settings of the training.
        policy: the policy.
        params: its parameters.
        input_space: what it sees, `mamlrl.envs.trials.trial_inputs`.
        action_space: that it was trained on.
    """

    config: Config
    policy: Policy
    params: Params
    input_space: spaces.Space
    action_space: spaces.Space

    def __repr__(self) -> str:
        config = self.config
        return f"RememberingPolicy({config.learner} on {config.env}, seed {config.seed}: {self.observed} numbers seen)"

    def __reduce__(self) -> tuple[Callable[..., RememberingPolicy], tuple[Any, ...]]:
        return _made_anew, (self.config, self.params, self.input_space, self.action_space)

    @property
    def observed(self) -> int:
        """Numbers of an observation."""
        return math.prod(self.input_space.shape or ()) - action_size(self.action_space) - 2

    def start(self, seed: int = 0) -> Agent:
        """An agent at the start of a trial, which remembers nothing.

        Args:
            seed: of the noise of its actions.

        Raises:
            ConfigError: the seed is no integer of at least 0.
        """
        require_at_least("seed", seed, 0)
        return Agent(self, seed)

    def __getattr__(self, name: str) -> Any:
        """There is nothing of a policy that takes gradient steps: what there is in its place."""
        if name in ("act", "unadapted", "module"):
            raise AttributeError(f"no {name}: learner {self.config.learner} {NO_GRADIENT}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def adapt(self, *_: Any, **__: Any) -> None:
        """There is nothing to call before acting.

        Raises:
            UserError: always; says what there is in its place.
        """
        raise UserError(f"learner {self.config.learner} {NO_GRADIENT}")


class Agent:
    """A policy with its memory of a trial, which every `act` adds to.

    Args:
        origin: the policy.
        seed: of the noise of its actions.
    """

    def __init__(self, origin: RememberingPolicy, seed: int = 0):
        self.origin = origin
        self._rng = Streams(seed).numpy(Stream.ACTIONS)
        self.start()

    def start(self) -> Agent:
        """Begin another trial, in another task: all is forgotten."""
        self._memory: Any = None
        self._actions = np.zeros((0, 0))
        return self

    @torch.no_grad()
    def act(
        self,
        observation: ArrayLike,
        reward: ArrayLike | None = None,
        done: ArrayLike = False,
        deterministic: bool = False,
    ) -> Any:
        """The next action, in the environment's units and within its bounds.

        The memory lasts over the ends of episodes, until `start`.

        Args:
            observation: one, or a batch of them, [N, ...], of N trials side by side.
            reward: that followed the action before, or N of them; at the start of a trial it does not count, and may be
                left out.
            done: whether that action ended an episode, so that the observation is the first of the next one; or N.
            deterministic: take the mean of a Gaussian policy, or the likeliest discrete action, in place of a sample.

        Returns:
            An action, or a batch of them.

        Raises:
            UserError: the observation has another size, the reward is missing, there are not as many rewards, a number
                is not finite, or the memory is of another number of trials.
        """
        rows, single = self._rows(observation)
        count = len(rows)
        memory, before = self._memory, self._actions
        if memory is None:
            memory = self.origin.policy.initial_state(1, count)
            before, told = np.zeros((count, action_size(self.origin.action_space))), np.zeros((2, count))
        elif len(self._actions) != count:
            raise UserError(
                f"the memory is of {len(self._actions)} trials, and there are observations of {count}; start() begins "
                "others"
            )
        elif reward is None:
            raise UserError("the reward that followed the action before is missing: act(observation, reward, done)")
        else:
            told = np.stack([_of_rows("reward", reward, count), _of_rows("done", done, count)])
        inputs = torch.from_numpy(trial_inputs(rows, before, *told).astype(np.float32))
        policy = self.origin.policy
        outputs, self._memory = policy.step(self.origin.params, inputs.unsqueeze(0), memory)
        chosen = choose(policy.distribution, outputs, deterministic, self._rng)
        actions = in_environment_units(chosen, self.origin.action_space, self.origin.config.environment.action_scale)
        self._actions = action_numbers(actions, self.origin.action_space)
        if not single:
            return actions
        return int(actions[0]) if isinstance(self.origin.action_space, spaces.Discrete) else actions[0]

    def _rows(self, observation: ArrayLike) -> tuple[np.ndarray, bool]:
        """Observations [N, O], and whether it was a single one."""
        size = self.origin.observed
        try:
            values = np.asarray(observation, np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"the observation is no array of numbers: {error}") from error
        single = values.size == size and (values.ndim < 2 or len(values) != 1)
        if not single and (math.prod(values.shape[1:]) != size or not len(values)):
            raise UserError(
                f"the observation has shape {values.shape}; it must hold {size} numbers, or be a batch of such"
            )
        picture = self.origin.config.policy.picture
        if picture and values.ndim > 2 and values.shape[-3:] != picture:
            raise UserError(f"the observation has shape {values.shape}; pictures are {' x '.join(map(str, picture))}")
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(np.float32)).all()
        if not finite:
            raise UserError("the observation holds a number that is not finite in single precision (NaN or infinite)")
        return values.reshape(-1, size), single


def _of_rows(name: str, values: ArrayLike, count: int) -> np.ndarray:
    """A number for each of N trials."""
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is {shown(values)}; it must be a number, or one for each trial") from error
    if numbers.shape not in ((), (count,)):
        raise UserError(f"{name} has shape {numbers.shape}; there are {count} trials")
    if not np.isfinite(numbers).all():
        raise UserError(f"{name} holds a number that is not finite (NaN or infinite)")
    return np.broadcast_to(numbers, (count,))


def untrained_remembering(
    config: Config, input_space: spaces.Space, action_space: spaces.Space
) -> tuple[RememberingPolicy, LearnerState]:
    """The policy of some settings before training, and its learner's state."""

    def make(policy: PolicyConfig, seen: spaces.Space, given: spaces.Space) -> Policy:
        return make_policy(with_input_scales(policy, action_size(given) + 2), seen, given, recurrent=True)

    config, learner, state = untrained_learner(config, make, input_space, action_space)
    params = learner.start(state.meta)
    return RememberingPolicy(config, learner.policy, params, input_space, action_space), state


def _made_anew(
    config: Config, params: Params, input_space: spaces.Space, action_space: spaces.Space
) -> RememberingPolicy:
    origin, _ = untrained_remembering(config, input_space, action_space)
    return dataclasses.replace(origin, params=params)
