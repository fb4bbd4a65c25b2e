from __future__ import annotations

import math

import pytest
import torch

from mamlrl.distributions import DiagonalGaussian
from mamlrl.objectives import INNER_LOSSES, clipped_loss, dice_loss, likelihood_ratio_loss, log_prob_loss, mean_kl
from mamlrl.structs import Batch
from tests.core.problems import make_policy, one_task, padded, random_batch, random_params

both = pytest.mark.parametrize("kind", ["gaussian", "categorical"])


@both
def test_losses_share_the_gradient_at_the_sampling_policy(kind, generator):
    policy = make_policy(kind)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    outputs = policy.outputs(params, batch.observations)

    def gradient(loss):
        return torch.func.grad(lambda z: loss(policy.distribution, z, batch).sum())(outputs)

    for loss in (likelihood_ratio_loss, dice_loss, lambda *args: clipped_loss(*args, clip=0.2)):
        torch.testing.assert_close(gradient(loss), gradient(log_prob_loss))


@both
def test_second_derivative_of_dice_couples_the_time_steps_of_a_rollout(kind, generator):
    """-mean A_t (s_t s_t' + grad s_t + s_t S_t' + S_t s_t'), s the score, S_t the sum of those before, in loops."""
    policy = make_policy(kind)
    params = random_params(policy, generator)
    batch = one_task(random_batch(policy, params, 2, generator), 1)
    outputs = policy.outputs(params, batch.observations)[0].detach()  # [B, T, Z]

    hessian = torch.autograd.functional.hessian(
        lambda z: dice_loss(policy.distribution, z.unsqueeze(0), batch).sum(), outputs, vectorize=True
    )
    assert isinstance(hessian, torch.Tensor)
    expected = torch.zeros_like(hessian)  # [B, T, Z, B, T, Z]
    for rollout, row in enumerate(outputs):
        for time in range(int((batch.weights[0, rollout] > 0).sum())):

            def log_prob(z, rollout=rollout, time=time):
                return policy.distribution.log_prob(z, batch.actions[0, rollout, time])

            credit = batch.weights[0, rollout, time] * batch.advantages[0, rollout, time]
            score = torch.func.grad(log_prob)(row[time])
            own = torch.outer(score, score) + torch.func.hessian(log_prob)(row[time])
            expected[rollout, time, :, rollout, time] -= credit * own
            for before in range(time):
                earlier = torch.func.grad(lambda z, t=before: log_prob(z, time=t))(row[before])
                expected[rollout, time, :, rollout, before] -= credit * torch.outer(score, earlier)
                expected[rollout, before, :, rollout, time] -= credit * torch.outer(earlier, score)
    assert expected[0, 1, :, 0, 0].abs().max() > 1e-3
    torch.testing.assert_close(hessian, expected)

    # and likelihood_ratio leaves out the coupling alone
    ratio = torch.autograd.functional.hessian(
        lambda z: likelihood_ratio_loss(policy.distribution, z.unsqueeze(0), batch).sum(), outputs, vectorize=True
    )
    same_time = torch.eye(outputs.shape[1])[None, :, None, None, :, None]
    torch.testing.assert_close(ratio, expected * same_time)


def test_likelihood_ratio_adds_the_outer_product_of_the_score(generator):
    policy = make_policy("gaussian")
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 1, generator)
    outputs = policy.outputs(params, batch.observations)[0, 0, 0]
    single = Batch(*(leaf[:, :1, :1] for leaf in batch))

    def hessian(loss):
        return torch.func.hessian(lambda z: loss(policy.distribution, z.view(1, 1, 1, -1), single).sum())(outputs)

    score = torch.func.grad(lambda z: policy.distribution.log_prob(z, single.actions[0, 0, 0]))(outputs)
    factor = single.weights[0, 0, 0] * single.advantages[0, 0, 0]
    expected = hessian(log_prob_loss) - factor * torch.outer(score, score)
    torch.testing.assert_close(hessian(likelihood_ratio_loss), expected)


@both
@pytest.mark.parametrize("loss", INNER_LOSSES)
def test_a_loss_is_the_mean_over_valid_time_steps(kind, loss, generator):
    policy = make_policy(kind)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    outputs = policy.outputs(params, batch.observations)
    losses = INNER_LOSSES[loss](policy.distribution, outputs, batch)
    assert losses.shape == (2,)
    for task in range(2):
        valid = batch.weights[task] > 0
        log_probs = policy.distribution.log_prob(outputs, batch.actions)[task, valid]
        # the ratio is 1 here, and that of dice, box_t - box_{t-1}, is 0
        credit = {"log_prob": log_probs, "likelihood_ratio": torch.ones_like(log_probs)}.get(loss, 0 * log_probs)
        torch.testing.assert_close(
            losses[task], -(credit * batch.advantages[task, valid]).mean(), atol=1e-15, rtol=1e-7
        )


def hand_worked() -> tuple[DiagonalGaussian, torch.Tensor, Batch]:
    """One task, two rollouts, of which the second ends after one step; mean 0, std 1, actions 1, 2 and 0."""
    ones = torch.ones(1, 2, 2)
    batch = Batch(
        observations=ones.unsqueeze(-1),
        actions=torch.tensor([[[1.0, 2.0], [0.0, 9.0]]]).unsqueeze(-1),
        log_probs=torch.tensor([[[-1.0, -2.0], [-0.5, 0.0]]]),
        advantages=torch.tensor([[[3.0, -1.0], [2.0, 5.0]]]),
        weights=torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]) / 3,
        returns=torch.zeros(1, 2, 2),
        advantage_std=torch.ones(1, 2, 2),
    )
    return DiagonalGaussian(1), torch.zeros(1, 2, 2, 2), batch


def test_losses_of_a_hand_worked_batch():
    constant = 0.5 * math.log(2 * math.pi)  # log N(a; 0, 1) = -a^2 / 2 - constant
    log_probs = [-0.5 - constant, -2.0 - constant, -constant]
    mean = (3 * log_probs[0] - log_probs[1] + 2 * log_probs[2]) / 3
    ratios = [math.exp(log_probs[0] + 1), math.exp(log_probs[1] + 2), math.exp(log_probs[2] + 0.5)]
    assert log_prob_loss(*hand_worked()).item() == pytest.approx(-mean)
    expected = -(3 * ratios[0] - ratios[1] + 2 * ratios[2]) / 3
    assert likelihood_ratio_loss(*hand_worked()).item() == pytest.approx(expected)
    # dice: the second ratio of the first rollout is that of both of its actions, less that of the first
    boxes = [ratios[0] - 1, ratios[0] * ratios[1] - ratios[0], ratios[2] - 1]
    assert dice_loss(*hand_worked()).item() == pytest.approx(-(3 * boxes[0] - boxes[1] + 2 * boxes[2]) / 3)


@pytest.mark.parametrize("clip", [0.05, 0.2, 0.7])
def test_the_clipped_loss_of_a_hand_worked_batch_and_where_its_gradient_vanishes(clip):
    """Ratios 0.66, 0.40 and 0.66: the first and third gain by growing, and do; the second, of a bad action, shrank."""
    distribution, outputs, batch = hand_worked()
    valid, outputs = batch.weights > 0, outputs.clone().requires_grad_()
    ratios = (distribution.log_prob(outputs, batch.actions) - batch.log_probs).exp()[valid].tolist()
    advantages = batch.advantages[valid].tolist()
    pairs = list(zip(ratios, advantages, strict=True))
    clipped = [min(max(ratio, 1 - clip), 1 + clip) for ratio in ratios]
    gains = [min(ratio * a, bound * a) for (ratio, a), bound in zip(pairs, clipped, strict=True)]
    loss = clipped_loss(distribution, outputs, batch, clip)
    assert loss.item() == pytest.approx(-sum(gains) / 3)
    (gradient,) = torch.autograd.grad(loss.sum(), outputs)
    moves = (gradient[valid].abs().sum(-1) > 0).tolist()
    gone_too_far = [(a > 0 and ratio > 1 + clip) or (a < 0 and ratio < 1 - clip) for ratio, a in pairs]
    assert moves == [not far for far in gone_too_far]
    assert (gradient[~valid] == 0).all()


@both
def test_beyond_the_clip_a_loss_has_no_gradient_and_within_it_that_of_the_ratio(kind, generator):
    policy = make_policy(kind)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    outputs = policy.outputs({name: leaf + 0.1 for name, leaf in params.items()}, batch.observations)
    ratios = (policy.distribution.log_prob(outputs, batch.actions) - batch.log_probs).exp()
    clip = float((ratios[batch.weights > 0] - 1).abs().median())  # half of them are beyond

    def gradient(loss):
        return torch.func.grad(lambda z: loss(policy.distribution, z, batch).sum())(outputs)

    clipped, free = gradient(lambda *args: clipped_loss(*args, clip=clip)), gradient(likelihood_ratio_loss)
    gained = torch.sign(batch.advantages) * (ratios - 1) > clip  # it is better already, by as much as is trusted
    assert gained[batch.weights > 0].any() and not gained[batch.weights > 0].all()
    torch.testing.assert_close(clipped, torch.where(gained.unsqueeze(-1), 0.0, free))


def test_kl_of_a_hand_worked_batch():
    distribution, outputs, batch = hand_worked()
    new_outputs = outputs + torch.tensor([1.0, math.log(2.0)])  # mean 1, std 2
    # log 2 + (1 + 1) / (2 * 4) - 1 / 2
    assert mean_kl(distribution, outputs, new_outputs, batch.weights).item() == pytest.approx(math.log(2) - 0.25)


@both
def test_padding_changes_nothing(kind, generator):
    policy = make_policy(kind)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    results = []
    for each in (batch, padded(batch)):
        outputs = policy.outputs(params, each.observations)
        shifted = policy.outputs({name: leaf + 0.1 for name, leaf in params.items()}, each.observations)
        results.append(
            (
                likelihood_ratio_loss(policy.distribution, outputs, each),
                likelihood_ratio_loss(policy.distribution, shifted, each),
                log_prob_loss(policy.distribution, outputs, each),
                dice_loss(policy.distribution, shifted, each),
                clipped_loss(policy.distribution, shifted, each, 0.1),
                mean_kl(policy.distribution, outputs, shifted, each.weights),
            )
        )
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", INNER_LOSSES)
def test_padding_of_zeros_stays_finite_however_small_the_std(loss, dtype):
    """`join` pads with zeros. There the density of 17 actions of std 1e-6 or 1e-30 is beyond all numbers."""
    for log_std in (math.log(1e-6), math.log(1e-30)):
        distribution = DiagonalGaussian(17, min_std=1e-30)
        outputs = torch.zeros(1, 2, 3, 34, dtype=dtype)
        outputs[..., 17:] = log_std
        actions = torch.zeros(1, 2, 3, 17, dtype=dtype)
        log_probs = distribution.log_prob(outputs, actions)
        weights = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]], dtype=dtype) / 3
        log_probs = torch.where(weights > 0, log_probs, 0.0)
        ones = torch.where(weights > 0, 1.0, 0.0).to(dtype)
        batch = Batch(outputs[..., :2], actions, log_probs, ones, weights, weights, ones)
        outputs.requires_grad_()
        value = INNER_LOSSES[loss](distribution, outputs, batch)
        (gradient,) = torch.autograd.grad(value.sum(), outputs, create_graph=True)
        (second,) = torch.autograd.grad(gradient[..., 17:].sum(), outputs)
        assert value.isfinite().all() and gradient.isfinite().all() and second.isfinite().all()
        if loss == "likelihood_ratio":
            assert value.item() == pytest.approx(-1, rel=1e-6)  # ratios of 1, advantages of 1
        assert (gradient[weights == 0] == 0).all()


WRONG = {
    "weights": lambda leaf: leaf.flatten(1),
    "log_probs": lambda leaf: leaf[:, :, :1],
    "advantages": lambda leaf: leaf[:1],
    "actions": lambda leaf: leaf[:, :1],
}


@both
@pytest.mark.parametrize("loss", INNER_LOSSES)
@pytest.mark.parametrize("field", WRONG)
def test_a_loss_names_the_tensor_of_a_wrong_shape(kind, loss, field, generator):
    policy = make_policy(kind)
    params = random_params(policy, generator)
    batch = random_batch(policy, params, 2, generator)
    outputs = policy.outputs(params, batch.observations)
    wrong = batch._replace(**{field: WRONG[field](getattr(batch, field))})
    with pytest.raises(ValueError, match=rf"^(outputs|{field}) has shape"):
        INNER_LOSSES[loss](policy.distribution, outputs, wrong)
    with pytest.raises(ValueError, match=r"^outputs has shape"):
        INNER_LOSSES[loss](policy.distribution, outputs.flatten(1, 2), batch)
    with pytest.raises(ValueError, match=r"^outputs has shape .* Z = "):
        INNER_LOSSES[loss](policy.distribution, outputs[..., :-1], batch)


@pytest.mark.parametrize("loss", INNER_LOSSES)
def test_actions_that_would_broadcast_are_refused(loss):
    """M = B = T = A: there actions without one of their dimensions fit by accident."""
    distribution, threes = DiagonalGaussian(3), torch.ones(3, 3, 3)
    outputs = torch.zeros(3, 3, 3, 6)
    batch = Batch(threes.unsqueeze(-1), torch.ones(3, 3, 3, 3), threes, threes, threes / 9, threes, threes)
    INNER_LOSSES[loss](distribution, outputs, batch)
    for actions in (torch.ones(3, 3), torch.ones(3, 3, 3), torch.ones(3, 3, 3, 1), torch.ones(3, 3, 1, 3)):
        with pytest.raises(ValueError, match=r"actions has shape .*; it must be \[M, B, T, A\] with .*A = 3"):
            INNER_LOSSES[loss](distribution, outputs, batch._replace(actions=actions))


def test_mean_kl_names_the_tensor_of_a_wrong_shape():
    distribution, outputs, batch = hand_worked()
    for wrong, name in [
        ((outputs[0], outputs, batch.weights), "outputs"),
        ((outputs, outputs[:, :1], batch.weights), "new_outputs"),
        ((outputs, outputs, batch.weights.unsqueeze(-1)), "weights"),
        ((outputs, outputs, batch.weights[:, :, :1]), "weights"),
        ((outputs[..., :1], outputs[..., :1], batch.weights), "outputs"),
    ]:
        with pytest.raises(ValueError, match=f"^{name} has shape"):
            mean_kl(distribution, *wrong)


@both
def test_a_policy_names_observations_of_a_wrong_shape(kind):
    policy = make_policy(kind)
    params = policy.init_params(torch.Generator())
    for wrong in (torch.ones(4), torch.ones(2, 4), torch.ones(2, 3, 4), torch.ones(2, 3, 4, 4, 4)):
        for call in (policy.outputs, policy.linearize):
            with pytest.raises(ValueError, match=r"^observations has shape .*\[M, B, T, O\]"):
                call(params, wrong)


def test_observations_are_not_broadcast_over_their_scales():
    from mamlrl.config import PolicyConfig
    from mamlrl.policies.mlp_policies import gaussian_mlp

    policy = gaussian_mlp(PolicyConfig(observation_scale=(1.0, 0.1, 0.5)), 3, 2)
    params = {name: leaf.double() for name, leaf in policy.init_params(torch.Generator()).items()}
    assert policy.outputs(params, torch.ones(2, 1, 1, 3)).shape == (2, 1, 1, 4)
    with pytest.raises(
        ValueError, match=r"^observations has shape \[2, 1, 1, 1\]; it must be \[M, B, T, O\] with O = 3"
    ):
        policy.outputs(params, torch.ones(2, 1, 1, 1))
