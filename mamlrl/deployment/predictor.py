"""A meta-learned predictor in somebody's own program: adapt it to a few examples, predict."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from itertools import repeat
from os import PathLike
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike
from torch import Tensor, nn

from mamlrl.config import Config
from mamlrl.deployment.saved import write_adapted
from mamlrl.deployment.untrained import untrained_learner
from mamlrl.errors import ConfigError, UserError, shown
from mamlrl.learners import step_scale
from mamlrl.learners.base import Learner, LearnerState
from mamlrl.policies.base import Policy
from mamlrl.policies.predictors import make_predictor
from mamlrl.rounds import adapted_on
from mamlrl.structs import MetaParams, Params
from mamlrl.supervised.base import Drawn, to_examples

MOST_STEPS = 10**6


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MetaPredictor:
    """A meta-learned initialisation with all that adapts it. It pickles: network and learner are made anew.

    Args:
        config: settings of the training.
        policy: the network, with the distribution of the targets around its outputs.
        learner: adapts it.
        meta: what was meta-learned.
        input_space: of one input, [O].
        target_space: a Box [A] for numbers, Discrete for classes.
    """

    config: Config
    policy: Policy
    learner: Learner
    meta: MetaParams
    input_space: spaces.Space
    target_space: spaces.Space

    def __repr__(self) -> str:
        return f"MetaPredictor({self.config.learner} on {self.config.env}, seed {self.config.seed})"

    def __reduce__(self) -> tuple[Callable[..., MetaPredictor], tuple[Any, ...]]:
        return _made_anew, (self.config, self.meta, self.input_space, self.target_space)

    def unadapted(self) -> Predictor:
        """The predictor before any gradient step."""
        return Predictor(self, self.learner.start(self.meta))

    def adapt(self, x: ArrayLike, y: ArrayLike, steps: int | None = None) -> Predictor:
        """Gradient steps on examples, by the inner step of training.

        Steps beyond those of training are as long as `eval.step_size_schedule` says.

        Args:
            x: inputs [N, O], or [N] where an input is one number.
            y: targets [N, A], or [N] where a target is one number or a class.
            steps: gradient steps, all on the same examples; as many as in training by default.

        Raises:
            UserError: the examples do not fit the predictor, or hold a number that is not finite.
        """
        return self.unadapted().adapt(x, y, steps)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Predictor:
    """A predictor that has adapted to a task.

    Args:
        origin: what it was adapted from.
        params: its parameters, stacked for one task or shared.
        steps: gradient steps that it has taken.
    """

    origin: MetaPredictor
    params: Params
    steps: int = 0

    def __repr__(self) -> str:
        return f"Predictor({self.steps} gradient {'step' if self.steps == 1 else 'steps'}, from {self.origin!r})"

    def adapt(self, x: ArrayLike, y: ArrayLike, steps: int | None = None) -> Predictor:
        """Further gradient steps, counted on; this predictor stays as it is. As `MetaPredictor.adapt`."""
        origin, config = self.origin, self.origin.config
        steps = config.adaptation.steps if steps is None else steps
        if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or not 0 <= steps <= MOST_STEPS:
            raise ConfigError(f"steps is {shown(steps)}; it must be an integer in [0, {MOST_STEPS}]")
        inputs = self._inputs(x)
        examples = to_examples(Drawn(inputs[None], self._targets(y, len(inputs))[None]))
        path = adapted_on(
            origin.learner,
            origin.meta,
            repeat(examples, int(steps)),
            lambda step: step_scale(config, step),
            self.params,
            self.steps,
        )
        params = deque(path, maxlen=1)[0]  # all of them would take the memory of as many networks
        return dataclasses.replace(self, params=params, steps=self.steps + int(steps))

    @torch.no_grad()
    def predict(self, x: ArrayLike) -> np.ndarray:
        """Targets: numbers [N, A], or [N] where inputs were given as [N]; the likeliest classes [N].

        Args:
            x: inputs [N, O], or [N] where an input is one number.

        Raises:
            UserError: they do not fit the predictor, or hold a number that is not finite.
        """
        predicted = self.origin.policy.distribution.mode(self._outputs(x)).numpy()
        return predicted[:, 0] if predicted.shape[1:] == (1,) and np.ndim(x) == 1 else predicted

    @torch.no_grad()
    def probabilities(self, x: ArrayLike) -> np.ndarray:
        """Of each class, [N, Z].

        Raises:
            UserError: the predictor predicts numbers, or the inputs do not fit it.
        """
        if not isinstance(self.origin.target_space, spaces.Discrete):
            raise UserError("the predictor predicts numbers, which have no probabilities")
        return self._outputs(x).softmax(-1).numpy()

    def module(self) -> PredictorModule:
        """The predictor as a `torch.nn.Module`, from inputs [N, O] to outputs [N, Z]: numbers, or logits."""
        return PredictorModule(self.origin.policy, self.params)

    def save(self, path: str | PathLike[str], overwrite: bool = False) -> None:
        """Write the predictor to a file of plain tensors and numbers, for `mamlrl.load_adapted`.

        Args:
            path: the file.
            overwrite: whether it may take the place of a file that is there.

        Raises:
            UserError: there is a file already, or not the folder that it is to be in.
            OSError: the file cannot be written.
        """
        origin = self.origin
        both = (origin.input_space, origin.target_space)
        write_adapted(path, overwrite, origin.config, both, (origin.meta, self.params), steps=self.steps)

    def _outputs(self, x: ArrayLike) -> Tensor:
        inputs = torch.from_numpy(self._inputs(x))
        return self.origin.policy.outputs(self.params, inputs[None, :, None])[0, :, 0]

    def _inputs(self, x: ArrayLike) -> np.ndarray:
        return _rows("x", x, self.origin.input_space.shape or ())

    def _targets(self, y: ArrayLike, count: int) -> np.ndarray:
        """Numbers [N, A] or classes [N].

        Raises:
            UserError: they are none, or not as many as there are inputs.
        """
        space = self.origin.target_space
        if isinstance(space, spaces.Discrete):
            values = _rows("y", y, (1,))[:, 0]
            if not ((values >= 0) & (values < space.n) & (values == np.floor(values))).all():
                raise UserError(f"y holds what is no class; classes are 0 to {space.n - 1}")
            values = values.astype(np.int64)
        else:
            values = _rows("y", y, space.shape or ())
        if len(values) != count:
            raise UserError(f"y has {len(values)} rows; x has {count}")
        return values


def untrained_predictor(
    config: Config, input_space: spaces.Space, target_space: spaces.Space
) -> tuple[MetaPredictor, LearnerState]:
    """The predictor of some settings before training, and its learner's state."""
    config, learner, state = untrained_learner(config, make_predictor, input_space, target_space)
    return MetaPredictor(config, learner.policy, learner, state.meta, input_space, target_space), state


def _made_anew(
    config: Config, meta: MetaParams, input_space: spaces.Space, target_space: spaces.Space
) -> MetaPredictor:
    return dataclasses.replace(untrained_predictor(config, input_space, target_space)[0], meta=meta)


class PredictorModule(nn.Module):
    """Inputs [N, O] to outputs [N, Z]; it can be exported, ``torch.export.export(module, (inputs,))``.

    Args:
        policy: the network.
        params: adapted parameters, stacked for one task or shared.
    """

    def __init__(self, policy: Policy, params: Params):
        super().__init__()
        self._policy, self._names = policy, list(params)
        self.leaves = nn.ParameterList([nn.Parameter(leaf.detach().clone()) for leaf in params.values()])

    def forward(self, inputs: Tensor) -> Tensor:
        """Numbers, or logits of classes."""
        return self._policy.outputs(dict(zip(self._names, self.leaves, strict=True)), inputs[None, :, None])[0, :, 0]


def _rows(name: str, given: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Rows [N, *shape] of finite numbers, at least one; [N] stands for [N, 1].

    Raises:
        UserError: they are not.
    """
    try:
        values = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is no array of numbers: {error}") from error
    if shape == (1,) and values.ndim == 1:
        values = values[:, None]
    if values.shape[1:] != shape or not len(values):
        raise UserError(f"{name} has shape {list(np.shape(given))}; it must be [N, {', '.join(map(str, shape))}]")
    if not np.isfinite(values).all():
        raise UserError(f"{name} holds a number that is not finite (NaN or infinite)")
    return values
