from __future__ import annotations

import math

import pytest
import torch

from mamlrl.distributions import Categorical, DiagonalGaussian

GAUSSIAN, CATEGORICAL = DiagonalGaussian(3, min_std=0.2), Categorical(4)


def reference(distribution, outputs):
    if isinstance(distribution, Categorical):
        return torch.distributions.Categorical(logits=outputs)
    mean, log_std = outputs.split(3, dim=-1)
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp().clamp(min=0.2)), 1)


def random_outputs(distribution, generator):
    return torch.randn(5, 7, distribution.num_outputs, generator=generator)


both = pytest.mark.parametrize("distribution", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])


@both
def test_log_prob_entropy_and_kl_equal_torch_distributions(distribution, generator):
    old, new = random_outputs(distribution, generator), random_outputs(distribution, generator)
    actions = reference(distribution, old).sample()
    torch.testing.assert_close(distribution.log_prob(new, actions), reference(distribution, new).log_prob(actions))
    torch.testing.assert_close(distribution.entropy(new), reference(distribution, new).entropy())
    expected = torch.distributions.kl_divergence(reference(distribution, old), reference(distribution, new))
    torch.testing.assert_close(distribution.kl(old, new), expected)


@both
def test_fisher_product_is_the_hessian_of_the_kl(distribution, generator):
    for outputs in random_outputs(distribution, generator).flatten(0, 1):
        hessian = torch.func.hessian(lambda z, old=outputs: distribution.kl(old, z))(outputs)
        tangent = torch.randn(outputs.shape, generator=generator)
        torch.testing.assert_close(distribution.fisher_product(outputs, tangent), hessian @ tangent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("min_std", [1e-6, 0.2, 0.3, 1.0])
@pytest.mark.parametrize("offset", [-0.1, 0.0, 0.1])
def test_fisher_product_at_the_lowest_std_is_the_hessian_of_the_kl(offset, min_std, dtype):
    """At the bound itself the gradient of the clamp passes, as above it; below there is none."""
    distribution = DiagonalGaussian(1, min_std=min_std)
    outputs = torch.tensor([0.3, 0.0], dtype=dtype)
    outputs[1] = math.log(min_std)  # as a policy whose initial std is its lowest one
    outputs[1] += offset
    hessian = torch.func.hessian(lambda z: distribution.kl(outputs, z))(outputs)
    product = distribution.fisher_product(outputs, torch.ones(2, dtype=dtype))
    torch.testing.assert_close(product, hessian @ torch.ones(2, dtype=dtype), rtol=1e-5, atol=0)
    assert product[1].item() == pytest.approx(2.0 if offset >= 0 else 0.0)


def test_modes_are_the_likeliest_actions(generator):
    outputs = random_outputs(GAUSSIAN, generator)
    assert torch.equal(GAUSSIAN.mode(outputs), outputs[..., :3])
    logits = random_outputs(CATEGORICAL, generator)
    log_probs = torch.stack([CATEGORICAL.log_prob(logits, torch.full((5, 7), a)) for a in range(4)], -1)
    assert torch.equal(CATEGORICAL.mode(logits), log_probs.argmax(-1))
    assert CATEGORICAL.mode(logits).dtype == torch.int64


def test_categorical_samples_with_its_probabilities(generator):
    outputs = torch.randn(4, generator=generator)
    actions = CATEGORICAL.sample(outputs.expand(100_000, 4), torch.rand(100_000, generator=generator))
    frequencies = torch.bincount(actions, minlength=4) / 100_000
    # five standard errors of a frequency
    torch.testing.assert_close(frequencies, outputs.softmax(0), atol=5 * 0.5 / 100_000**0.5, rtol=0)


def test_gaussian_sample_is_mean_plus_scaled_noise():
    outputs = torch.tensor([1.0, 2.0, 3.0, 0.0, 2.0, -9.0]).unsqueeze(0)
    outputs[0, 3:] = torch.tensor([1.0, 2.0, 1e-9]).log()
    noise = torch.tensor([[1.0, -1.0, 1.0]])
    torch.testing.assert_close(GAUSSIAN.sample(outputs, noise), torch.tensor([[2.0, 0.0, 3.2]]))
