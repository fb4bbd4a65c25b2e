from __future__ import annotations

import pytest
import torch

from mamlrl.objectives import INNER_LOSSES, likelihood_ratio_loss, log_prob_loss, mean_kl
from tests.core.problems import make_policy, random_batch, random_params

both = pytest.mark.parametrize("kind", ["gaussian", "categorical"])


@both
def test_losses_share_the_gradient_at_the_sampling_policy(kind, generator):
    policy = make_policy(kind)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    outputs = policy.outputs(params, batch.observations)

    def gradient(loss):
        return torch.func.grad(lambda z: loss(policy.distribution, z, batch).sum())(outputs)

    torch.testing.assert_close(gradient(log_prob_loss), gradient(likelihood_ratio_loss))


def test_likelihood_ratio_adds_the_outer_product_of_the_score(generator):
    policy = make_policy("gaussian")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 1, generator)
    row = 0
    outputs = policy.outputs(params, batch.observations)[0, row]
    single = batch._replace(**{name: leaf[:, row : row + 1] for name, leaf in batch._asdict().items()})

    def hessian(loss):
        return torch.func.hessian(lambda z: loss(policy.distribution, z.view(1, 1, -1), single).sum())(outputs)

    score = torch.func.grad(lambda z: policy.distribution.log_prob(z, single.actions[0, 0]))(outputs)
    factor = single.weights[0, 0] * single.advantages[0, 0]
    expected = hessian(log_prob_loss) - factor * torch.outer(score, score)
    torch.testing.assert_close(hessian(likelihood_ratio_loss), expected)


@both
@pytest.mark.parametrize("loss", INNER_LOSSES)
def test_a_loss_is_the_mean_over_valid_rows(kind, loss, generator):
    policy = make_policy(kind)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    outputs = policy.outputs(params, batch.observations)
    losses = INNER_LOSSES[loss](policy.distribution, outputs, batch)
    for task in range(2):
        valid = batch.weights[task] > 0
        log_probs = policy.distribution.log_prob(outputs, batch.actions)[task, valid]
        credit = torch.ones_like(log_probs) if loss == "likelihood_ratio" else log_probs  # the ratio is 1 here
        torch.testing.assert_close(losses[task], -(credit * batch.advantages[task, valid]).mean())


@both
def test_padding_changes_nothing(kind, generator):
    policy = make_policy(kind)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    garbage = batch._replace(
        advantages=torch.where(batch.weights > 0, batch.advantages, 1e3),
        observations=torch.where(batch.weights.unsqueeze(-1) > 0, batch.observations, 7.0),
    )
    results = []
    for rows in (batch, garbage):
        outputs = policy.outputs(params, rows.observations)
        shifted = policy.outputs({name: leaf + 0.1 for name, leaf in params.items()}, rows.observations)
        results.append(
            (
                likelihood_ratio_loss(policy.distribution, outputs, rows),
                log_prob_loss(policy.distribution, outputs, rows),
                mean_kl(policy.distribution, outputs, shifted, rows.weights),
            )
        )
    torch.testing.assert_close(results[0], results[1])
