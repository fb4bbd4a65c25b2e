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
    normalised = normalize(torch.randn(rollouts.mask.shape, generator=generator), rollouts.mask)
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


def test_constant_rewards_and_observations_stay_finite():
    ones = torch.ones(1, 2, 3)
    rollouts = Rollouts(
        torch.zeros(1, 2, 3, 1), torch.zeros(1, 2, 3, 1), ones, ones, ones * 0, ones, torch.zeros(1, 2, 1)
    )
    batch, metrics = make_batch(rollouts, SamplingConfig())
    assert batch.advantages.isfinite().all() and np.isfinite(metrics["baseline/explained_variance"])


def test_a_batch_lists_rows_rollout_by_rollout_with_mean_weights(generator):
    rollouts = random_rollouts(generator)
    batch, _ = make_batch(rollouts, SamplingConfig())
    torch.testing.assert_close(batch.observations[1, 6:12], rollouts.observations[1, 1])
    torch.testing.assert_close(batch.weights.sum(1), torch.ones(2))
    assert ((batch.weights > 0) == (rollouts.mask.flatten(1) > 0)).all()
