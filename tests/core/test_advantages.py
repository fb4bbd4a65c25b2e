from __future__ import annotations

import numpy as np
import pytest
import torch

from mamlrl.advantages import (
    RIDGE,
    baseline_features,
    discounted_returns,
    estimate_advantages,
    fit_baseline,
    generalized_advantages,
    make_batch,
    normalize,
)
from mamlrl.config import SamplingConfig
from mamlrl.structs import Rollouts


def random_rollouts(generator: torch.Generator, num_tasks: int = 2, rollouts: int = 4, steps: int = 6) -> Rollouts:
    lengths = torch.randint(1, steps + 1, (num_tasks, rollouts), generator=generator)
    mask = (torch.arange(steps) < lengths.unsqueeze(-1)).double()
    shape = (num_tasks, rollouts, steps)
    return Rollouts(
        observations=20 * torch.randn(*shape, 3, generator=generator),
        actions=torch.randn(*shape, 2, generator=generator),
        log_probs=torch.randn(shape, generator=generator),
        rewards=torch.randn(shape, generator=generator) * mask,
        terminated=torch.zeros(shape),
        mask=mask,
        final_observations=torch.randn(num_tasks, rollouts, 3, generator=generator),
    )


def test_returns_of_a_hand_worked_episode():
    rewards = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(discounted_returns(rewards, 0.5), torch.tensor([2.75, 3.5, 3.0]))


def test_advantages_of_a_hand_worked_episode():
    # r = 1, 2, 3 and V = 1, 1, 2 with discount 1/2 and lambda 1/2, and a second rollout that ends after one step
    rewards = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]])
    values = torch.tensor([[[1.0, 1.0, 2.0], [1.0, 9.0, 9.0]]])
    mask = torch.tensor([[[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]])
    # deltas: 1 + 1/2 - 1 = 1/2;  2 + 1 - 1 = 2;  3 - 2 = 1;   4 - 1 = 3 (nothing follows the end)
    expected = torch.tensor([[[0.5 + 0.25 * (2 + 0.25), 2.25, 1.0], [3.0, 0.0, 0.0]]])
    torch.testing.assert_close(generalized_advantages(rewards, values, mask, 0.5, 0.5), expected)


def test_lambda_one_is_the_return_minus_the_baseline(generator):
    rollouts = random_rollouts(generator)
    returns = discounted_returns(rollouts.rewards, 0.9) * rollouts.mask
    values = torch.randn(returns.shape, generator=generator)
    advantages = generalized_advantages(rollouts.rewards, values, rollouts.mask, 0.9, 1.0)
    torch.testing.assert_close(advantages, (returns - values) * rollouts.mask)


def test_baseline_equals_a_ridge_regression_per_task_on_valid_rows(generator):
    rollouts = random_rollouts(generator)
    returns = discounted_returns(rollouts.rewards, 0.9) * rollouts.mask
    features = baseline_features(rollouts.observations)
    values = fit_baseline(features, returns, rollouts.mask)
    for task in range(2):
        valid = rollouts.mask[task].bool()
        x, y = features[task][valid].numpy(), returns[task][valid].numpy()
        # ridge regression as least squares with extra rows sqrt(ridge) I
        x_ridge = np.vstack([x, np.sqrt(RIDGE) * np.eye(x.shape[1])])
        weights = np.linalg.lstsq(x_ridge, np.concatenate([y, np.zeros(x.shape[1])]), rcond=None)[0]
        np.testing.assert_allclose(values[task][valid].numpy(), x @ weights, atol=1e-5)


def test_features_clip_observations_and_count_time_in_hundreds():
    observations = torch.tensor([[[[20.0], [-3.0]]]])
    expected = torch.tensor([[[[10.0, 100.0, 0.0, 0.0, 0.0, 1.0], [-3.0, 9.0, 0.01, 1e-4, 1e-6, 1.0]]]])
    torch.testing.assert_close(baseline_features(observations), expected)


def test_normalised_advantages_have_mean_zero_and_std_one_over_valid_rows(generator):
    rollouts = random_rollouts(generator, steps=9)
    normalised, _ = normalize(torch.randn(rollouts.mask.shape, generator=generator), rollouts.mask)
    for task in range(2):
        valid = normalised[task][rollouts.mask[task].bool()]
        assert float(valid.mean()) == pytest.approx(0, abs=1e-12)
        assert float(valid.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert (normalised[rollouts.mask == 0] == 0).all()


def test_padding_changes_nothing(generator):
    rollouts = random_rollouts(generator)
    garbage = rollouts._replace(
        observations=torch.where(rollouts.mask.unsqueeze(-1) > 0, rollouts.observations, 5.0),
        rewards=torch.where(rollouts.mask > 0, rollouts.rewards, 7.0),
    )
    clean, dirty = (estimate_advantages(r, 0.9, 0.8) for r in (rollouts, garbage))
    torch.testing.assert_close(clean, dirty)


def rollouts_of(rewards: torch.Tensor, mask: torch.Tensor | None = None) -> Rollouts:
    """Rollouts with given rewards [M, B, T], and two observations that tell nothing."""
    mask = torch.ones_like(rewards) if mask is None else mask
    zeros = torch.zeros(*rewards.shape, 2)
    return Rollouts(zeros, zeros[..., :1], rewards, rewards * mask, rewards * 0, mask, zeros[:, :, 0])


def test_constant_rewards_and_observations_stay_finite():
    batch, explained = make_batch(rollouts_of(torch.ones(1, 2, 3)), SamplingConfig())
    assert batch.advantages.isfinite().all() and explained.isfinite().all()


@pytest.mark.parametrize("level", [-1e6, -1.0, 1e-9, 0.0, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("padded", [False, True])
def test_nothing_is_explained_of_returns_that_do_not_vary(level, padded, generator):
    """All of the return comes with the last step: without a discount it is the same everywhere."""
    mask = torch.ones(2, 4, 6)
    if padded:
        mask[:, 1, 3:], mask[1, 2, 1:] = 0, 0
    last = mask * (mask.cumsum(-1) == mask.sum(-1, keepdim=True))
    rollouts = rollouts_of(level * last, mask)
    varied = rollouts._replace(observations=torch.randn(2, 4, 6, 2, generator=generator))
    for each in (rollouts, varied):
        advantages, explained, _ = estimate_advantages(each, 1.0, 1.0)
        assert advantages.isfinite().all() and torch.equal(explained, torch.zeros(2))


def test_explained_variance_is_that_of_a_regression_with_the_numbers_of_valid_steps(generator):
    rollouts = random_rollouts(generator, rollouts=12)
    explained = estimate_advantages(rollouts, 0.9, 0.8).explained_variance
    returns = discounted_returns(rollouts.rewards, 0.9)
    for task in range(2):
        valid = rollouts.mask[task].bool()
        x, y = baseline_features(rollouts.observations)[task][valid].numpy(), returns[task][valid].numpy()
        weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
        assert float(explained[task]) == pytest.approx(1 - np.var(y - x @ weights) / np.var(y), abs=1e-6)
        assert 0 < float(explained[task]) <= 1


def test_returns_that_hardly_vary_are_still_explained():
    """A level a thousand times the variation is no reason to say that nothing varies."""
    rewards = torch.zeros(1, 2, 4)
    rewards[..., -1] = torch.tensor([1000.0, 1001.0])
    explained = estimate_advantages(rollouts_of(rewards), 1.0, 1.0).explained_variance
    assert float(explained) == pytest.approx(0, abs=1e-3)  # nothing tells the rollouts apart
    seeing = rollouts_of(rewards)._replace(observations=(rewards.sum(-1) - 1000)[..., None, None].expand(1, 2, 4, 2))
    assert float(estimate_advantages(seeing, 1.0, 1.0).explained_variance) == pytest.approx(1, abs=1e-3)


def test_a_batch_keeps_rollouts_and_time_with_mean_weights(generator):
    rollouts = random_rollouts(generator)
    batch, explained = make_batch(rollouts, SamplingConfig(discount=0.9, gae_lambda=0.8))
    for name in ("observations", "actions", "log_probs"):
        assert torch.equal(getattr(batch, name), getattr(rollouts, name))
    advantages, explained_by_task, _ = estimate_advantages(rollouts, 0.9, 0.8)
    torch.testing.assert_close(batch.advantages, normalize(advantages, rollouts.mask)[0])
    assert torch.equal(explained, explained_by_task)
    torch.testing.assert_close(batch.weights.sum((1, 2)), torch.ones(2))
    for task in range(2):
        assert set(batch.weights[task].unique().tolist()) <= {0.0, float(1 / rollouts.mask[task].sum())}
    assert torch.equal(batch.weights > 0, rollouts.mask > 0)


def test_returns_of_a_batch_are_discounted_and_beside_them_is_the_spread_of_the_advantages():
    """Two rollouts of one task, 3 steps and 1; by hand."""
    rewards = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]]])  # what padding holds is not counted
    mask = torch.tensor([[[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]])
    rollouts = rollouts_of(rewards, mask)._replace(rewards=rewards)
    batch, _ = make_batch(rollouts, SamplingConfig(discount=0.5, gae_lambda=1.0))
    raw = estimate_advantages(rollouts, 0.5, 1.0).advantages[mask > 0]
    spread = (raw - raw.mean()).square().mean().sqrt()
    torch.testing.assert_close(batch.returns, torch.tensor([[[2.75, 3.5, 3.0], [4.0, 0.0, 0.0]]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(batch.advantage_std, spread.expand(1, 2, 3), rtol=1e-6, atol=0)
    # so a return over it is in the units of the advantages: normalised ones times the spread are the raw ones
    torch.testing.assert_close(batch.advantages[mask > 0] * spread, raw - raw.mean(), rtol=1e-6, atol=1e-9)


def test_a_batch_has_the_precision_of_its_rollouts(generator):
    rollouts = Rollouts(*(leaf.float() for leaf in random_rollouts(generator)[:7]))  # type: ignore[arg-type]
    assert {leaf.dtype for leaf in make_batch(rollouts, SamplingConfig())[0]} == {torch.float32}


@pytest.mark.parametrize("field", ["rewards", "mask", "observations"])
@pytest.mark.parametrize(
    "wrong", [lambda leaf: leaf.flatten(0, 1), lambda leaf: leaf[:, :1], lambda leaf: leaf[:, :, :1]]
)
def test_wrong_shapes_are_named_where_they_enter(field, wrong, generator):
    rollouts = random_rollouts(generator)
    bad = rollouts._replace(**{field: wrong(getattr(rollouts, field))})
    for estimate in (lambda: estimate_advantages(bad, 0.9, 0.8), lambda: make_batch(bad, SamplingConfig())):
        with pytest.raises(ValueError, match=r"^(rewards|mask|observations) has shape"):
            estimate()
