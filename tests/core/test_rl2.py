"""What is special to RL2: credit over whole trials, and the schedule of its entropy bonus."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gymnasium import spaces

from mamlrl.advantages import (
    advantages_of_returns,
    discounted_returns,
    generalized_advantages,
    make_trial_batch,
    moments_by_time,
)
from mamlrl.config import Config, PolicyConfig, SamplingConfig, TrustRegionConfig
from mamlrl.errors import ConfigError
from mamlrl.learners import find_learner
from mamlrl.learners.predictions import PredictionTargets, explained_variance
from mamlrl.learners.rl2 import RL2Settings, _outer
from mamlrl.learners.trials import TrialObjective, credit, minibatches_of, pooled
from mamlrl.policies import make_policy
from mamlrl.policies.values import WithValues
from mamlrl.structs import Batch, MetaBatch, Rollouts
from tests.core.problems import (
    ROLLOUTS,
    TIME,
    action_space,
    central_difference,
    observation_space,
    random_batch,
    random_mask,
    random_params,
)

TASKS = 4


def make(outer: str = "adam", network: str = "auto", predicted: tuple[str, ...] = (), **settings: Any) -> Any:
    config = Config(
        learner="rl2",
        outer=outer,  # type: ignore[arg-type]
        sampling=SamplingConfig(predicted_infos=predicted),
        policy=PolicyConfig(network=network, hidden_sizes=(5,)),
        trust_region=TrustRegionConfig(cg_damping=0.0),
    )
    row = find_learner("rl2")
    policy = make_policy(config.policy, observation_space(), action_space("categorical"), recurrent=True)
    return row.build(policy, config, row.complete(RL2Settings(**settings), config))


def test_advantages_of_returns_are_those_of_rewards(generator: torch.Generator) -> None:
    mask = random_mask(TASKS, generator)
    rewards, values = (torch.randn(mask.shape, generator=generator) * mask for _ in range(2))
    returns = discounted_returns(rewards, 0.9) * mask
    found = advantages_of_returns(returns, values, mask, 0.9, 0.7)
    torch.testing.assert_close(found, generalized_advantages(rewards, values, mask, 0.9, 0.7))


def test_returns_go_over_the_ends_of_episodes() -> None:
    rewards = torch.tensor([[[1.0, 0.0, 2.0, 4.0]]])
    ones, episodes = torch.ones_like(rewards), torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    rollouts = Rollouts(ones[..., None], ones, ones, rewards, 0 * ones, ones, torch.zeros(1, 1, 1), episodes=episodes)
    batch, explained = make_trial_batch(rollouts, SamplingConfig(discount=0.5))
    assert batch.returns.tolist() == [[[2.0, 2.0, 4.0, 4.0]]] and explained == 0
    assert torch.equal(batch.weights, ones / 4)


def test_the_baseline_by_time_is_the_mean_over_all_trials_that_get_there() -> None:
    values = torch.tensor([[[1.0, 5.0]], [[3.0, 7.0]], [[8.0, 99.0]]])
    mask = torch.tensor([[[1.0, 1.0]], [[1.0, 1.0]], [[1.0, 0.0]]])
    mean, std = moments_by_time(values, mask)
    torch.testing.assert_close(mean, torch.tensor([4.0, 6.0]))
    torch.testing.assert_close(std, torch.tensor([(26 / 3) ** 0.5, 1.0]))


@pytest.mark.parametrize("baseline", ["time", "linear", "value"])
def test_advantages_are_normal_over_all_valid_time_steps(baseline, generator: torch.Generator) -> None:
    batch = pooled(batch_of(make(), generator))
    found = credit(batch, torch.randn(batch.weights.shape, generator=generator), baseline, SamplingConfig())
    valid = batch.weights > 0
    assert float(found.advantages[valid].mean()) == pytest.approx(0, abs=1e-9)
    assert float(found.advantages[valid].std(unbiased=False)) == pytest.approx(1)
    assert not found.advantages[~valid].any() and not found.targets[~valid].any()


def test_a_value_function_that_says_its_targets_explains_all(generator: torch.Generator) -> None:
    batch = pooled(batch_of(make(), generator))
    targets = credit(batch, torch.zeros_like(batch.weights), "value", SamplingConfig()).targets
    assert credit(batch, targets, "value", SamplingConfig()).explained_variance == pytest.approx(1)
    assert credit(batch, 0 * targets, "value", SamplingConfig()).explained_variance == pytest.approx(0)


def batch_of(learner, generator: torch.Generator) -> Batch:
    params = random_params(learner.policy, generator)
    return random_batch(learner.policy, params, TASKS, generator)


@pytest.mark.parametrize(("trials", "given", "taken"), [(10, 4, 4), (40, 16, 16), (2, 6, 2)])
def test_minibatches_are_all_trials_once_and_then_once_more(
    trials: int, given: int, taken: int, generator: torch.Generator
) -> None:
    parts = minibatches_of(trials, given, generator)
    for _ in range(2):
        drawn = [next(parts) for _ in range(taken)]
        assert sorted(torch.cat(drawn).tolist()) == list(range(trials))
        assert {len(part) for part in drawn} <= {trials // taken, -(-trials // taken)}


@pytest.mark.parametrize(("minibatches", "updates"), [(3, 9), (100, 18)])
def test_adam_goes_three_times_through_all_trials(minibatches: int, updates: int) -> None:
    config = Config(outer="adam", sampling=SamplingConfig(tasks=2, rollouts=3))
    assert _outer(config, RL2Settings(minibatches=minibatches)).updates == updates  # type: ignore[attr-defined]


def test_the_losses_of_minibatches_have_the_mean_of_all(generator: torch.Generator) -> None:
    """Where all trials are equally long; both loss and gradient."""
    learner = make(minibatches=TASKS * ROLLOUTS)
    state, batch = learner.init(random_params(learner.policy, generator)), batch_of(learner, generator)
    batch = batch._replace(weights=torch.full_like(batch.weights, 1 / (ROLLOUTS * TIME)))
    whole = learner.objective(state, MetaBatch((), batch))
    by_minibatch: TrialObjective = learner.objective(state, MetaBatch((), batch), generator)
    found = [by_minibatch.loss_and_gradient() for _ in range(TASKS * ROLLOUTS)]
    loss, gradient = whole.loss_and_gradient()
    assert sum(one for one, _ in found) / len(found) == pytest.approx(loss)
    torch.testing.assert_close(torch.stack([one for _, one in found]).mean(0), gradient)


@pytest.mark.parametrize("minibatches", [3, TASKS * ROLLOUTS])
def test_the_losses_of_minibatches_of_short_and_long_trials_have_the_mean_of_all(
    minibatches: int, generator: torch.Generator
) -> None:
    """By numbers of valid time steps, whatever a task has of them; each minibatch ends with its longest trial."""
    learner = make(minibatches=minibatches)
    state, batch = learner.init(random_params(learner.policy, generator)), batch_of(learner, generator)
    valid = (batch.weights > 0).double()
    batch = batch._replace(weights=valid / valid.sum((1, 2), keepdim=True))  # as of rounds that are adapted on
    assert len(pooled(batch).weights.unique()) == 2  # 0 and that of every time step
    whole = learner.objective(state, MetaBatch((), batch))
    by_minibatch: TrialObjective = learner.objective(state, MetaBatch((), batch), torch.Generator().manual_seed(3))
    drawn = minibatches_of(TASKS * ROLLOUTS, minibatches, torch.Generator().manual_seed(3))
    lengths = valid.flatten(0, 1).sum(1)
    for trial in range(TASKS * ROLLOUTS):
        assert by_minibatch._taken(torch.tensor([trial])).batch.weights.shape[2] == lengths[trial]
    loss, gradient = 0.0, torch.zeros_like(whole.point)
    for _ in range(minibatches):
        part = valid.flatten(0, 1)[next(drawn)].sum() / valid.sum()
        one, its_gradient = by_minibatch.loss_and_gradient()
        loss, gradient = loss + float(part) * one, gradient + part * its_gradient
    expected, its_gradient = whole.loss_and_gradient()
    assert loss == pytest.approx(expected)
    torch.testing.assert_close(gradient, its_gradient)


def trials_with_ends(learner: Any, generator: torch.Generator) -> tuple[Batch, torch.Tensor]:
    """A batch whose observations end with whether the step before was the last of an episode, and what was told."""
    batch = batch_of(learner, generator)
    observations = batch.observations.clone()
    observations[..., -1] = (torch.rand(batch.weights.shape, generator=generator) < 0.3).double()
    observations[:, :, 0, -1] = 0.0
    return batch._replace(observations=observations), torch.randn(*batch.weights.shape, 2, generator=generator)


@pytest.mark.parametrize("baseline", ["time", "value", "own_value"])
def test_predictions_are_of_what_was_told_after_the_time_step_before(baseline, generator: torch.Generator) -> None:
    """The part of the loss that they are, step by step; nothing is to be predicted at the start of an episode."""
    learner = make(predicted=("ahead", "aside"), baseline=baseline, prediction_weight=0.7)
    without = make(predicted=("ahead", "aside"), baseline=baseline, prediction_weight=0.0)
    state = learner.init(random_params(learner.policy, generator))
    batch, told = trials_with_ends(learner, generator)
    told[0, 0, 1, 0] = torch.nan  # of which the environment said nothing
    meta_batch, params = MetaBatch((), batch, infos=told), state.meta.init
    weight, bias = params["predictor_weight"], params["predictor_bias"]
    total, errors, numbers = torch.zeros(()), ([], []), ([], [])
    for task in range(TASKS):
        for rollout in range(ROLLOUTS):
            memory = learner.policy.initial_state(1, 1)
            for t in range(int((batch.weights[task, rollout] > 0).sum())):
                seen = batch.observations[task, rollout, t]
                _, memory = learner.policy.step(params, seen[None, None], memory)
                for number in (0, 1) if t and not seen[-1] else ():
                    wanted = told[task, rollout, t - 1, number]
                    if (task, rollout, t, number) != (0, 0, 2, 0):
                        error = (memory[0][0, 0] @ weight + bias)[number] - wanted
                        errors[number].append(error)
                        numbers[number].append(wanted)
                        total = total + error.square() / 2
    objective = learner.objective(state, meta_batch)
    loss, gradient = objective.loss_and_gradient()
    expected = 0.7 * float(total / (batch.weights > 0).sum())
    assert loss - without.objective(state, meta_batch).loss_and_gradient()[0] == pytest.approx(expected)
    explained = [
        1 - torch.stack(some).square().mean() / torch.stack(all_of).var(unbiased=False)
        for some, all_of in zip(errors, numbers, strict=True)
    ]
    assert objective.predictions_explained == pytest.approx(float(sum(explained)) / 2)
    direction = torch.randn(gradient.shape, generator=generator)
    slope = central_difference(lambda point: objective.evaluate(point)[0], objective.point, direction, 1e-4)
    assert float(gradient @ direction) == pytest.approx(float(slope), rel=1e-6)


def test_what_is_explained_does_not_depend_on_how_large_numbers_are(generator: torch.Generator) -> None:
    """In single precision; a constant is not explained."""
    noise, errors = (torch.randn(1, 40, 50, 1, generator=generator, dtype=torch.float32) for _ in range(2))
    for scale, mean in ((1.0, 0.0), (1.0, 1000.0), (1e-3, 5.0)):
        targets = PredictionTargets(scale * noise + mean, torch.ones_like(noise))
        assert explained_variance(targets.values + 0.5 * scale * errors, targets) == pytest.approx(0.75, abs=0.03)
    for constant in (0.0, 0.1, 1 / 3):
        targets = PredictionTargets(torch.full_like(noise, constant), torch.ones_like(noise))
        assert explained_variance(0 * noise, targets) == 0


@pytest.mark.parametrize(("head", "network"), [("per_state", "auto"), ("linear", "categorical_tabular")])
def test_predictions_are_functions_as_the_value_function_is(head, network, generator: torch.Generator) -> None:
    """Each column of numbers, with the weights of it, gives what a value function with these gives."""
    config = PolicyConfig(network=network, head=head, hidden_sizes=(4, 5))
    policy = make_policy(config, spaces.Box(-1.0, 1.0, (7,)), spaces.Discrete(2), recurrent=True)
    predicting, valued = (WithValues(policy, kind, count) for kind, count in (("", 2), ("value", 0)))  # type: ignore[arg-type]
    params, observations = random_params(predicting, generator), torch.zeros(2, 3, 4, 7)
    observations[..., 1] = observations[..., 3] = 1.0
    found = predicting.all_outputs(params, observations).predictions
    _, columns = policy.network.value_shape  # type: ignore[attr-defined]
    for number in range(2):
        picked = [
            name.unflatten(-1, (columns, 2))[..., number]
            for name in (params["predictor_weight"], params["predictor_bias"])
        ]
        own = {**valued.init_params(generator), **params, "value_weight": picked[0], "value_bias": picked[1]}
        torch.testing.assert_close(found[..., number], valued.all_outputs(own, observations).values)


def test_losses_of_minibatches_with_predictions_have_the_mean_of_all(generator: torch.Generator) -> None:
    learner = make(predicted=("ahead", "aside"), minibatches=3)
    state = learner.init(random_params(learner.policy, generator))
    batch, told = trials_with_ends(learner, generator)
    valid, meta_batch = batch.weights > 0, MetaBatch((), batch, infos=told)
    loss, gradient = learner.objective(state, meta_batch).loss_and_gradient()
    by_minibatch = learner.objective(state, meta_batch, torch.Generator().manual_seed(3))
    drawn = minibatches_of(TASKS * ROLLOUTS, 3, torch.Generator().manual_seed(3))
    for _ in range(3):
        part = float(valid.flatten(0, 1)[next(drawn)].sum() / valid.sum())
        one, its_gradient = by_minibatch.loss_and_gradient()
        loss, gradient = loss - part * one, gradient - part * its_gradient
    assert loss == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_a_trust_region_takes_no_predictions() -> None:
    with pytest.raises(
        ConfigError, match=r"^sampling.predicted_infos is \['ahead'\]; .* with outer trust_region it must be"
    ):
        make("trust_region", predicted=("ahead",))


@pytest.mark.parametrize("network", ["categorical_gru", "categorical_lstm"])
def test_the_fisher_product_through_the_memory_is_the_hessian_of_the_kl(network, generator: torch.Generator) -> None:
    learner = make("trust_region", network)
    state, batch = learner.init(random_params(learner.policy, generator)), batch_of(learner, generator)
    objective: TrialObjective = learner.objective(state, MetaBatch((), batch))
    pooled_batch, policy = pooled(batch), learner.policy

    def kl(vector: torch.Tensor) -> torch.Tensor:
        from mamlrl.objectives import mean_kl
        from mamlrl.structs import unflatten

        new = policy.outputs(unflatten(vector, state.meta).init, pooled_batch.observations)
        old = policy.outputs(state.meta.init, pooled_batch.observations)
        return mean_kl(policy.distribution, old, new, pooled_batch.weights).sum()

    direction = torch.randn(objective.point.shape, generator=generator)
    expected = torch.autograd.functional.hvp(kl, objective.point.clone(), direction)[1]
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(objective.curvature_product(direction), expected)


def test_the_entropy_bonus_falls_along_a_half_cosine(generator: torch.Generator) -> None:
    learner = make(entropy=0.4, final_entropy=0.2, anneal_iterations=3, baseline="time")
    state, batch = learner.init(random_params(learner.policy, generator)), batch_of(learner, generator)
    losses = []
    for done in (0.0, 1.0, 2.0, 9.0):
        counted = state._replace(optimiser={**state.optimiser, "done": torch.tensor(done)})
        losses.append(learner.objective(counted, MetaBatch((), batch)).evaluate(learner_point(state))[0])
    first, middle, last, after = losses
    assert first < middle < last == after  # the bonus lowers the loss
    assert middle == pytest.approx((first + last) / 2)


def learner_point(state) -> torch.Tensor:
    from mamlrl.structs import flatten

    return flatten(state.meta, state.meta)


def test_a_trust_region_takes_no_value_function() -> None:
    with pytest.raises(ConfigError, match="with outer trust_region it must be time or linear"):
        make("trust_region", baseline="value")


def test_a_trust_region_takes_no_preconditioner() -> None:
    config = Config(learner="rl2", outer="trust_region", trust_region=TrustRegionConfig(preconditioner="kronecker"))
    policy = make_policy(config.policy, observation_space(), action_space("categorical"), recurrent=True)
    with pytest.raises(ConfigError, match="'kronecker', which knows no recurrent layers"):
        find_learner("rl2").build(policy, config, RL2Settings())


@pytest.mark.parametrize(
    ("learner", "network", "message"),
    [
        (
            "rl2",
            "categorical_mlp",
            "which has no memory, and learner rl2 needs one; it must be auto or",
        ),
        ("maml", "categorical_gru", "which has a memory, and learner maml takes none; it must be auto or one of"),
    ],
)
def test_a_memory_without_its_learner_is_refused(learner, network, message) -> None:
    config = Config(learner=learner, policy=PolicyConfig(network=network))
    policy = make_policy(config.policy, observation_space(), action_space("categorical"))
    row = find_learner(learner)
    with pytest.raises(ConfigError, match=message):
        row.build(policy, config, row.settings())
