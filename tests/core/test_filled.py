"""Learners that compute parameters from the examples: what they compute, and the derivative of the step that does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

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

TASKS, WAYS, SHOTS = 2, 3, 2
OWN: dict[str, dict[str, Any]] = {name: {"size": 3, "hidden_sizes": (5, 4)} for name in ("cnp", "recurrent")}
FILLED = {
    "protonet": {"weight", "bias"},
    "matching": {"keys", "values", "weight", "bias"},
    "cnp": {"context"},
    "recurrent": {"context"},
}
"""What is not meta-learned."""


class Problem(NamedTuple):
    learner: Any
    state: Any
    meta_batch: MetaBatch

    def adapted(self, support: Examples | None = None) -> dict[str, Tensor]:
        start = self.learner.start(self.state.meta)
        return self.learner.adapt(self.state.meta, start, support or self.meta_batch.support[0]).params


@cache
def problem(learner: str, loss: str = "cross_entropy") -> Problem:
    network = "mlp" if learner in OWN else "mlp_norm"
    config = Config(
        learner=learner,
        outer="adam",
        policy=PolicyConfig(network=network, hidden_sizes=(6, 4)),
        adaptation=AdaptationConfig(inner_loss=loss),  # type: ignore[arg-type]
        adam=AdamConfig(updates=1),
    )
    generator = torch.Generator().manual_seed(0)
    targets = spaces.Discrete(WAYS) if loss == "cross_entropy" else spaces.Box(-1.0, 1.0, (2,))
    policy = make_predictor(config.policy, spaces.Box(-1.0, 1.0, (5,)), targets)
    row = LEARNERS[learner]
    made: Any = row.build(policy, config, row.settings(**OWN.get(learner, {})))
    state = made.init(random_params(made.policy, generator))

    def examples(count: int) -> Examples:
        rows = (TASKS, count * WAYS, 1)
        weights = torch.full(rows, 1 / rows[1], dtype=torch.float64)
        inputs = torch.randn((*rows, 5), generator=generator, dtype=torch.float64)
        if loss == "cross_entropy":
            targets = torch.arange(WAYS).repeat(count).expand(TASKS, -1).unsqueeze(-1)
        else:
            targets = torch.randn((*rows, 2), generator=generator, dtype=torch.float64)
        return Examples(inputs, targets, weights)

    return Problem(made, state, MetaBatch((examples(SHOTS),), examples(4)))


every = pytest.mark.parametrize(
    ("learner", "loss"),
    [*((name, "cross_entropy") for name in FILLED), *((name, "squared_error") for name in OWN)],
)


@every
def test_the_meta_gradient_is_that_of_central_differences_and_an_update_lowers_the_loss(
    learner: str, loss: str
) -> None:
    made, state, meta_batch = problem(learner, loss)
    objective, generator = made.objective(state, meta_batch), torch.Generator().manual_seed(1)
    assert FILLED[learner].isdisjoint(state.meta.init)
    direction = torch.randn(objective.point.shape, generator=generator, dtype=torch.float64)
    slope = central_difference(lambda point: objective.evaluate(point)[0], objective.point, direction, 1e-4)
    assert float(direction @ objective.loss_and_gradient()[1]) == pytest.approx(float(slope), rel=1e-6)
    new, outcome = made.meta_step(state, meta_batch, torch.Generator())
    assert not outcome.not_finite
    assert objective.evaluate(flatten(new.meta, state.meta))[0] < objective.evaluate(objective.point)[0]


@every
def test_pushforward_and_pullback_are_transposes(learner: str, loss: str) -> None:
    made, state, meta_batch = problem(learner, loss)
    step, generator = made.objective(state, meta_batch).path.steps[0], torch.Generator().manual_seed(1)

    def random(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}

    after = {
        name: leaf.shape if leaf.dim() > step.start[name].dim() else (TASKS, *leaf.shape)
        for name, leaf in step.params.items()
    }
    tangent, cotangent = random({name: leaf.shape for name, leaf in step.start.items()}), random(after)
    tangent = {name: leaf.expand(TASKS, *leaf.shape) for name, leaf in tangent.items()}  # shared
    forward, back = step.pushforward(tangent), step.pullback(cotangent)
    ahead = sum((forward[name] * cotangent[name]).sum() for name in after)
    behind = sum((back[name] * tangent[name]).sum() for name in state.meta.init)
    torch.testing.assert_close(ahead, behind)
    assert not any(back[name].any() for name in back if name not in state.meta.init)


@every
def test_a_second_step_on_the_same_examples_changes_nothing(learner: str, loss: str) -> None:
    made, state, meta_batch = one = problem(learner, loss)
    adapted = one.adapted()
    again = made.adapt(state.meta, adapted, meta_batch.support[0], 1).params
    for name, leaf in adapted.items():
        torch.testing.assert_close(again[name], leaf, rtol=1e-12, atol=1e-12)


def test_logits_of_protonet_are_squared_distances_to_the_mean_features_of_each_class() -> None:
    learner, state, ((support,), query, *_) = one = problem("protonet")
    features = [learner.policy.features(learner.start(state.meta), each.observations) for each in (support, query)]
    prototypes = features[0].unflatten(1, (-1, WAYS)).mean(1)  # the classes of the examples go round
    distances = torch.cdist(features[1], prototypes) ** 2
    found = learner.policy.outputs(one.adapted(), query.observations)[:, :, 0].log_softmax(-1)
    torch.testing.assert_close(found, (-distances).log_softmax(-1))


def test_matching_takes_votes_by_cosine_and_holds_all_classes_for_as_likely_before() -> None:
    learner, state, ((support,), query, *_) = one = problem("matching")
    tell = make_predictor(
        PolicyConfig(network="mlp_norm", hidden_sizes=(6, 4)), spaces.Box(-1.0, 1.0, (5,)), spaces.Discrete(WAYS)
    ).features
    assert tell is not None
    known, asked = (tell(state.meta.init, each.observations) for each in (support, query))
    cosines = torch.nn.functional.cosine_similarity(asked.unsqueeze(2), known.unsqueeze(1), dim=-1)
    votes = (10 * cosines).softmax(-1).unflatten(2, (-1, WAYS)).sum(2)
    found = learner.policy.outputs(one.adapted(), query.observations)[:, :, 0].softmax(-1)
    torch.testing.assert_close(found, (votes + 1e-4) / (1 + WAYS * 1e-4))
    before = learner.policy.outputs(learner.start(state.meta), query.observations).softmax(-1)
    torch.testing.assert_close(before, torch.full_like(before, 1 / WAYS))


def shuffled(examples: Examples) -> Examples:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    return Examples(*(leaf[:, order] for leaf in examples))


def test_a_set_has_no_order_and_a_sequence_has_one() -> None:
    for learner, alike in (("cnp", True), ("recurrent", False)):
        one = problem(learner, "squared_error")
        found = one.adapted(shuffled(one.meta_batch.support[0]))["context"]
        assert torch.allclose(found, one.adapted()["context"], rtol=1e-12) == alike


def test_a_set_is_read_as_the_mean_of_a_perceptron_and_its_context_enters_the_first_layer() -> None:
    learner, state, ((support,), query, *_) = one = problem("cnp", "squared_error")
    leaves, pairs = state.meta.init, torch.cat([support.observations, support.targets], dim=-1)[:, :, 0]

    rows = pairs
    for layer in range(3):
        rows = rows @ leaves[f"reader_weight_{layer}"] + leaves[f"reader_bias_{layer}"]
        rows = rows.relu() if layer < 2 else rows
    context = rows.mean(1)
    adapted = one.adapted()
    torch.testing.assert_close(adapted["context"], context)
    hidden = query.observations[:, :, 0] @ leaves["weight_0"] + leaves["bias_0"]
    hidden = (hidden + (context @ leaves["context_weight"]).unsqueeze(1)).tanh()
    hidden = (hidden @ leaves["weight_1"] + leaves["bias_1"]).tanh()
    expected = hidden @ leaves["weight_2"] + leaves["bias_2"]
    torch.testing.assert_close(learner.policy.outputs(adapted, query.observations)[:, :, 0], expected)


def test_a_sequence_is_read_as_torch_reads_it() -> None:
    """By its LSTM, whose two biases are ours."""
    _, state, ((support,), *_) = one = problem("recurrent", "squared_error")
    leaves = {name.removeprefix("reader_"): leaf for name, leaf in state.meta.init.items()}
    pairs = torch.cat([support.observations, support.targets], dim=-1)[:, :, 0]
    rows = (pairs @ leaves["weight_0"] + leaves["bias_0"]).tanh()
    lstm = torch.nn.LSTM(5, 4, batch_first=True, dtype=torch.float64)
    theirs = {"weight_ih_l0": "input_weight", "weight_hh_l0": "recurrent_weight"}
    theirs |= {"bias_ih_l0": "input_bias", "bias_hh_l0": "recurrent_bias"}
    with torch.no_grad():
        for name, ours in theirs.items():
            getattr(lstm, name).copy_(leaves[ours].mT if leaves[ours].dim() == 2 else leaves[ours])
        expected = lstm(rows)[0][:, -1] @ leaves["head_weight"] + leaves["head_bias"]
    torch.testing.assert_close(one.adapted()["context"], expected)


@pytest.mark.parametrize("learner", ["protonet", "matching"])
@pytest.mark.parametrize("changes", [{"network": "mlp"}, {"loss": "squared_error"}])
def test_what_has_no_features_or_no_classes_is_refused(learner: str, changes: dict[str, str]) -> None:
    loss = changes.get("loss", "cross_entropy")
    refused(learner, changes.get("network", "mlp_norm"), loss, f"{learner} needs examples of classes")


@pytest.mark.parametrize("learner", ["cnp", "recurrent"])
def test_a_reader_needs_a_network_with_a_linear_first_layer(learner: str) -> None:
    refused(learner, "mlp_norm", "cross_entropy", f"{learner} needs a network whose first layer is linear")


def refused(learner: str, network: str, loss: str, words: str) -> None:
    config = Config(
        learner=learner,
        outer="adam",
        policy=PolicyConfig(network=network, hidden_sizes=(4,)),
        adaptation=AdaptationConfig(inner_loss=loss),  # type: ignore[arg-type]
    )
    target = spaces.Discrete(3) if loss == "cross_entropy" else spaces.Box(-1.0, 1.0, (3,))
    policy = make_predictor(config.policy, spaces.Box(-1.0, 1.0, (5,)), target)
    with pytest.raises(ConfigError, match=words):
        LEARNERS[learner].build(policy, config, LEARNERS[learner].settings())
