"""Prototypical networks: distances to class means, and the derivative of the step that sets the last layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mamlrl.config import AdamConfig, AdaptationConfig, Config, PolicyConfig
from mamlrl.errors import ConfigError
from mamlrl.learners import LEARNERS
from mamlrl.policies.predictors import make_predictor
from mamlrl.structs import Examples, MetaBatch, flatten
from tests.core.problems import central_difference, random_params

TASKS, WAYS = 2, 3


def problem(shots: int = 2) -> tuple[Any, Any, MetaBatch]:
    config = Config(
        outer="adam",
        policy=PolicyConfig(network="mlp_norm", hidden_sizes=(6, 4)),
        adaptation=AdaptationConfig(inner_loss="cross_entropy"),
        adam=AdamConfig(updates=1),
    )
    generator = torch.Generator().manual_seed(0)
    policy = make_predictor(config.policy, spaces.Box(-1.0, 1.0, (5,)), spaces.Discrete(WAYS))
    row = LEARNERS["protonet"]
    learner: Any = row.build(policy, config, row.settings())
    state = learner.init(random_params(policy, generator))

    def examples(count: int) -> Examples:
        rows = (TASKS, count * WAYS, 1)
        targets = torch.arange(WAYS).repeat(count).expand(TASKS, -1).unsqueeze(-1)
        weights = torch.full(rows, 1 / rows[1], dtype=torch.float64)
        return Examples(torch.randn((*rows, 5), generator=generator, dtype=torch.float64), targets, weights)

    return learner, state, MetaBatch((examples(shots),), examples(4))


def test_logits_are_squared_distances_to_the_mean_features_of_each_class() -> None:
    learner, state, ((support,), query, *_) = problem()
    adapted = learner.adapt(state.meta, learner.start(state.meta), support).params
    features = [learner.policy.features(learner.start(state.meta), one.observations) for one in (support, query)]
    prototypes = features[0].unflatten(1, (-1, WAYS)).mean(1)  # the classes of the examples go round
    distances = torch.cdist(features[1], prototypes) ** 2
    found = learner.policy.outputs(adapted, query.observations)[:, :, 0].log_softmax(-1)
    torch.testing.assert_close(found, (-distances).log_softmax(-1))
    again = learner.adapt(state.meta, adapted, support, 1).params
    assert all(torch.equal(again[name], leaf) for name, leaf in adapted.items())


def test_the_meta_gradient_is_that_of_central_differences_and_an_update_lowers_the_loss() -> None:
    learner, state, meta_batch = problem()
    objective, generator = learner.objective(state, meta_batch), torch.Generator().manual_seed(1)
    assert {"weight", "bias"}.isdisjoint(state.meta.init)
    direction = torch.randn(objective.point.shape, generator=generator, dtype=torch.float64)
    slope = central_difference(lambda point: objective.evaluate(point)[0], objective.point, direction, 1e-4)
    assert float(direction @ objective.loss_and_gradient()[1]) == pytest.approx(float(slope), rel=1e-6)
    new, outcome = learner.meta_step(state, meta_batch, torch.Generator())
    assert not outcome.not_finite
    assert objective.evaluate(flatten(new.meta, state.meta))[0] < objective.evaluate(objective.point)[0]


def test_pushforward_and_pullback_are_transposes() -> None:
    learner, state, meta_batch = problem()
    step, generator = learner.objective(state, meta_batch).path.steps[0], torch.Generator().manual_seed(1)

    def like(params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: torch.randn(leaf.shape, generator=generator, dtype=torch.float64) for name, leaf in params.items()
        }

    stacked = {
        name: leaf if leaf.dim() > step.start[name].dim() else leaf.expand(TASKS, *leaf.shape)
        for name, leaf in step.params.items()
    }
    tangent, cotangent = like(stacked), like(stacked)
    forward, back = step.pushforward(tangent), step.pullback(cotangent)
    ahead = sum((forward[name] * cotangent[name]).sum() for name in stacked)
    behind = sum((back[name] * tangent[name]).sum() for name in stacked)
    torch.testing.assert_close(ahead, behind)


@pytest.mark.parametrize("changes", [{"network": "mlp"}, {"loss": "squared_error"}])
def test_what_has_no_features_or_no_classes_is_refused(changes: dict[str, str]) -> None:
    loss = changes.get("loss", "cross_entropy")
    config = Config(
        outer="adam",
        policy=PolicyConfig(network=changes.get("network", "mlp_norm"), hidden_sizes=(4,)),
        adaptation=AdaptationConfig(inner_loss=loss),  # type: ignore[arg-type]
    )
    target = spaces.Discrete(3) if loss == "cross_entropy" else spaces.Box(-1.0, 1.0, (3,))
    policy = make_predictor(config.policy, spaces.Box(-1.0, 1.0, (5,)), target)
    with pytest.raises(ConfigError, match="protonet needs examples of classes"):
        LEARNERS["protonet"].build(policy, config, LEARNERS["protonet"].settings())
