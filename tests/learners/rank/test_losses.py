"""Objectives against hand-worked numbers and a plain reference from the paper's formula."""

import math

import pytest
import torch

from learners.rank.losses import (
    aggregated,
    cispo_loss,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    importance_factor,
    k3,
    mean_over_tokens,
    sequence_log_ratio,
    token_importance_factor,
)
from o3rl.config import Aggregation

MASK_BT = torch.tensor([[True, True, False], [True, True, True]])


def reference_gspo(new, old, lengths, advantages, low, high):
    """GSPO's equations, one sequence after the other."""
    losses = []
    for i, length in enumerate(lengths):
        log_ratio = 0.0
        for t in range(length):
            log_ratio = log_ratio + new[i, t] - old[i, t]
        s = torch.exp(log_ratio / length)
        clipped = torch.clamp(s, 1 - low, 1 + high)
        losses.append(-torch.minimum(s * advantages[i], clipped * advantages[i]))
    return torch.stack(losses)


def test_gspo_by_hand():
    # log ratios ln 4 and 0 over 2 tokens: s = 2; all 0: s = 1. A = 1 with s = 2 is cut at 1.2.
    new = torch.tensor([[math.log(4.0), 0.0, 9.0], [0.0, 0.0, 0.0]])
    found = gspo_loss(
        new,
        torch.zeros(2, 3),
        mask_BT=MASK_BT,
        advantage_B=torch.tensor([1.0, -1.0]),
        clip=(0.2, 0.2),
    )
    assert found.losses_B.tolist() == pytest.approx([-1.2, 1.0])
    assert found.ratio_B.tolist() == pytest.approx([2.0, 1.0])
    assert found.clipped_B.tolist() == [1.0, 0.0]


def test_grpo_by_hand():
    # Ratios 4 and 1, cut at 1.2 and 1: mean 1.1; with A = −1 nothing is cut: (4 + 1)/2.
    new = torch.tensor([[math.log(4.0), 0.0, 9.0], [math.log(4.0), 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    found = grpo_loss(
        new,
        torch.zeros(2, 3),
        mask_BT=mask,
        advantage_B=torch.tensor([1.0, -1.0]),
        clip=(0.2, 0.2),
    )
    assert found.losses_B.tolist() == pytest.approx([-1.1, 2.5])
    assert found.clipped_B.tolist() == pytest.approx([0.5, 0.0])
    assert found.outside_B.tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped", "outside"),
    [
        (1.0011, 1.0, 1.0, 1.0),  # above 1 + 1e-3 and to be raised: held
        (1.0009, 1.0, 0.0, 0.0),
        (1.0011, -1.0, 0.0, 1.0),  # above, but to be lowered: free
        (0.9989, -1.0, 1.0, 1.0),
        (0.9991, -1.0, 0.0, 0.0),
        (0.9989, 1.0, 0.0, 1.0),
    ],
)
def test_clip_is_active_just_where_it_takes_the_gradient(ratio, advantage, clipped, outside):
    new = torch.full((1, 4), math.log(ratio), dtype=torch.float64, requires_grad=True)
    found = gspo_loss(
        new,
        torch.zeros(1, 4, dtype=torch.float64),
        mask_BT=torch.ones(1, 4, dtype=torch.bool),
        advantage_B=torch.tensor([advantage], dtype=torch.float64),
        clip=(1e-3, 1e-3),
    )
    found.losses_B.sum().backward()
    assert (found.clipped_B.item(), found.outside_B.item()) == (clipped, outside)
    assert bool(new.grad.abs().sum() == 0) is bool(clipped)


def test_gspo_and_its_gradient_equal_the_plain_reference():
    torch.manual_seed(0)
    lengths = [1, 7, 4, 9, 2, 5]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    old = -torch.rand(6, 9, dtype=torch.float64)
    new = (old + 0.3 * torch.randn(6, 9, dtype=torch.float64)).requires_grad_()
    advantages = torch.randn(6, dtype=torch.float64)
    found = gspo_loss(new, old, mask_BT=mask, advantage_B=advantages, clip=(0.05, 0.07))
    [gradient] = torch.autograd.grad(found.losses_B.mean(), new)
    expected = reference_gspo(new, old, lengths, advantages, 0.05, 0.07)
    [expected_gradient] = torch.autograd.grad(expected.mean(), new)
    assert 0 < found.clipped_B.mean() < 1
    torch.testing.assert_close(found.losses_B, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-15)


def test_gspo_token_is_gspo_in_value_and_gradient():
    torch.manual_seed(1)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 5])[:, None]
    old = -torch.rand(4, 6, dtype=torch.float64)
    new = (old + 0.1 * torch.randn(4, 6, dtype=torch.float64)).requires_grad_()
    given = {"mask_BT": mask, "advantage_B": torch.tensor([1.0, -1.0, 2.0, -0.5]).double()}
    one = gspo_loss(new, old, clip=(0.03, 0.04), **given)
    other = gspo_token_loss(new, old, clip=(0.03, 0.04), **given)
    assert 0 < one.clipped_B.mean() < 1
    torch.testing.assert_close(other.losses_B, one.losses_B)
    torch.testing.assert_close(other.clipped_B, one.clipped_B)
    gradients = [torch.autograd.grad(x.losses_B.sum(), new)[0] for x in (one, other)]
    torch.testing.assert_close(*gradients)


def test_cispo_by_hand():
    # Ratios 8, cut at 5, and ½: weights; losses −(5·ln 8 + ½·ln ½)/2·A, gradients −5/2·A, −¼·A.
    new = torch.tensor([[math.log(8.0), math.log(0.5), 9.0]], requires_grad=True)
    terms = cispo_loss(
        new,
        torch.zeros(1, 3),
        mask_BT=torch.tensor([[True, True, False]]),
        advantage_B=torch.tensor([2.0]),
        clip=(1.0, 4.0),
    )
    assert terms.losses_B.item() == pytest.approx(-(5 * math.log(8) + 0.5 * math.log(0.5)))
    assert terms.clipped_B.item() == 0.5
    terms.losses_B.sum().backward()
    assert new.grad is not None
    assert new.grad[0].tolist() == pytest.approx([-5.0, -0.5, 0.0])


def test_a_factor_weighs_tokens():
    # Ratios 1 and 1, A = 1, factors 2 and ½: (2 + ½)/2 by all that have terms of tokens; CISPO's
    # log π_θ are −1 and −3: (2·1 + ½·3)/2.
    new = torch.tensor([[-1.0, -3.0, 0.0]])
    given = {"mask_BT": torch.tensor([[True, True, False]]), "advantage_B": torch.ones(1)}
    given |= {"clip": (0.2, 0.2), "factor_BT": torch.tensor([[2.0, 0.5, 1.0]])}
    for loss in (gspo_token_loss, grpo_loss):
        assert loss(new, new, **given).losses_B.item() == pytest.approx(-1.25)
    assert cispo_loss(new, new, **given).losses_B.item() == pytest.approx(1.75)


def test_sums_by_hand():
    # Means 3 over 2 tokens and 1 over 3; a completion has at most 6.
    losses, tokens = torch.tensor([3.0, 1.0]), 6
    expected = {
        Aggregation.sequence_mean: [3.0, 1.0],
        Aggregation.token_mean: [6.0, 3.0],
        Aggregation.constant_length: [1.0, 0.5],
    }
    for aggregation, parts in expected.items():
        assert aggregated(losses, MASK_BT, aggregation, longest=tokens).tolist() == parts


@pytest.mark.parametrize("loss", [gspo_loss, gspo_token_loss, grpo_loss])
def test_untouched_policy_has_ratio_one(loss):
    old = -torch.rand(2, 3)
    found = loss(
        old.clone().requires_grad_(),
        old,
        mask_BT=MASK_BT,
        advantage_B=torch.tensor([0.5, -2.0]),
        clip=(3e-4, 4e-4),
    )
    assert found.ratio_B.tolist() == [1.0, 1.0]
    assert found.clipped_B.sum() == found.outside_B.sum() == 0
    assert found.losses_B.tolist() == pytest.approx([-0.5, 2.0])


def test_a_row_without_tokens_has_ratio_one_and_no_gradient():
    new = torch.ones(1, 3, requires_grad=True)
    found = gspo_loss(
        new,
        torch.zeros(1, 3),
        mask_BT=torch.zeros(1, 3, dtype=torch.bool),
        advantage_B=torch.ones(1),
        clip=(0.2, 0.2),
    )
    found.losses_B.sum().backward()
    assert found.ratio_B.item() == 1
    assert new.grad.abs().sum() == 0


def test_k3_by_hand():
    # Token 1: log r = ln 2, 2 − 1 − ln 2 = 0.306853; token 2: 0. Mean over two tokens.
    reference = torch.tensor([[math.log(2.0), 0.0, 5.0]])
    found = k3(torch.zeros(1, 3), reference, mask_BT=torch.tensor([[True, True, False]]))
    assert found.item() == pytest.approx(0.306853 / 2, abs=1e-6)


def test_importance_factor_is_cut_and_detached():
    recomputed = torch.tensor([[1.0, 1.0, 0.0], [0.1, 0.2, 0.3]], requires_grad=True)
    factor = importance_factor(recomputed, torch.zeros(2, 3), mask_BT=MASK_BT)
    # e^1 is cut at 2; (0.1 + 0.2 + 0.3)/3 = 0.2.
    assert factor.tolist() == pytest.approx([2.0, math.exp(0.2)])
    assert not factor.requires_grad


def test_importance_of_tokens_is_cut_each_by_itself_and_detached():
    recomputed = torch.tensor([[1.0, -1.0, 7.0], [0.0, 0.1, 0.2]], requires_grad=True)
    factor = token_importance_factor(recomputed, torch.zeros(2, 3), mask_BT=MASK_BT)
    expected = [[2.0, math.exp(-1), 1.0], [1.0, math.exp(0.1), math.exp(0.2)]]
    torch.testing.assert_close(factor, torch.tensor(expected))
    assert not factor.requires_grad


def test_log_ratio_and_mean_ignore_masked_entries():
    values = torch.tensor([[1.0, 3.0, float("inf")], [1.0, 2.0, 6.0]])
    assert mean_over_tokens(values, MASK_BT).tolist() == [2.0, 3.0]
    assert sequence_log_ratio(values, torch.zeros(2, 3), mask_BT=MASK_BT).tolist() == [2.0, 3.0]
