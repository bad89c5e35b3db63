"""Random groups, several a pack: one shared pass against one plain pass per completion."""

import copy
from dataclasses import replace

import numpy as np
import plain
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from learners.model.packing import PackedPolicy, pack


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def plain_logprobs(policy, segments) -> torch.Tensor:
    found = [plain.logprobs(policy, s, c) for s in segments for c in s.completions_G]
    return pad_sequence(found, batch_first=True)


@pytest.mark.parametrize("family", plain.FAMILIES)
def test_logprobs_and_gradients(family):
    """Of one group and of three a pack, in one piece, and checkpointed with logits in chunks."""
    whole = plain.build(family, seed=0)
    cut, reference = copy.deepcopy(whole), copy.deepcopy(whole)
    cut.gradient_checkpointing_enable({"use_reentrant": False})
    packed = PackedPolicy(whole), PackedPolicy(cut, logits_at_once=20 * 96)
    random = np.random.default_rng(0)
    for groups in (1, 3):
        segments = [plain.random_segment(whole, random, most=5) for _ in range(groups)]
        assert max(len(segment.completions_G) for segment in segments) > 1
        theirs_ST = plain_logprobs(reference, segments)
        weights_ST = torch.from_numpy(random.standard_normal(theirs_ST.shape, np.float32))
        (theirs_ST * weights_ST).sum().backward()
        for ours in packed:
            ours_ST, entropy_ST = ours(pack(segments))
            assert relative(ours_ST, theirs_ST) < 1e-5
            assert entropy_ST.max() > 0
            (ours_ST * weights_ST).sum().backward()
        for policy in (whole, cut):
            for (name, one), other in zip(
                policy.named_parameters(), reference.parameters(), strict=True
            ):
                assert one.grad is not None, name
                assert relative(one.grad, other.grad) < 1e-5, name
            policy.zero_grad()
        reference.zero_grad()


def objective(logprobs_ST: torch.Tensor, sign_S: torch.Tensor) -> torch.Tensor:
    """Some completions likelier, others less, bounded as a ratio's clip would."""
    return (logprobs_ST.sum(1) * sign_S).div(50).tanh().mean()


@pytest.mark.parametrize("family", plain.FAMILIES)
def test_ten_sgd_steps(family):
    policy = plain.build(family, seed=1)
    reference = copy.deepcopy(policy)
    before = flat(policy)
    packed = PackedPolicy(policy)
    optimizers = [torch.optim.SGD(p.parameters(), lr=0.5) for p in (policy, reference)]
    random = np.random.default_rng(2)
    for _ in range(10):
        segments = [plain.random_segment(policy, random, most=2) for _ in range(2)]
        sign_S = torch.tensor([(-1.0) ** g for s in segments for g in range(len(s.completions_G))])
        objective(packed(pack(segments))[0], sign_S).backward()
        objective(plain_logprobs(reference, segments), sign_S).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert relative(flat(reference), before) > 1e-3  # it learned
    assert relative(flat(policy), flat(reference)) < 1e-5


@pytest.mark.parametrize("family", plain.FAMILIES)
def test_ten_adamw_steps_drift_no_more_than_the_order_of_a_sum(family):
    """Three learners from the same weights: ours, one pass per completion, and the same passes with
    their gradients added up in another order.

    Differences are added up, not squared: Adam turns rounding into a step where a gradient is all
    but zero, and by the Euclidean norm a single such weight decides (of eight runs the drift was
    0.8 to 2 times that of the order in six, 7 and 12 times in two).
    """
    ours, theirs, permuted = (plain.build(family, seed=5) for _ in range(3))
    before = flat(theirs)
    packed = PackedPolicy(ours)
    optimizers = [torch.optim.AdamW(p.parameters(), lr=1e-3) for p in (ours, theirs, permuted)]
    random = np.random.default_rng(6)
    for _ in range(10):
        segments = [plain.random_segment(ours, random, most=4) for _ in range(2)]
        parts = [(s, c) for s in segments for c in s.completions_G]
        weights = random.standard_normal(len(parts)).tolist()
        logprobs_ST, _ = packed(pack(segments))
        (logprobs_ST.sum(1) * torch.tensor(weights)).sum().backward()
        for policy, order in (
            (theirs, range(len(parts))),
            (permuted, random.permutation(len(parts))),
        ):
            for index in order:
                (plain.logprobs(policy, *parts[index]).sum() * weights[index]).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert relative(flat(theirs), before) > 1e-2  # it learned
    due = (flat(permuted) - flat(theirs)).abs().sum()
    assert 0 < (flat(ours) - flat(theirs)).abs().sum() < 10 * due


def flat(policy: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach().clone()


@pytest.mark.parametrize("family", plain.FAMILIES)
def test_pictures_seen_once_give_the_same(family):
    policy = plain.build(family, seed=3)
    packed = PackedPolicy(policy)
    random = np.random.default_rng(4)
    segments = [plain.random_segment(policy, random) for _ in range(3)]
    expected, _ = packed(pack(segments))
    features = packed.look([s.prompt for s in segments], torch.device("cpu"))
    seen = [
        replace(segment, prompt=segment.prompt.seen_as(each))
        for segment, each in zip(segments, features, strict=True)
    ]
    assert all(len(segment.prompt.pixels_ND) == 0 for segment in seen)
    found, _ = packed(pack(seen))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
