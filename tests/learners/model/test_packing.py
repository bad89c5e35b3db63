"""One pass for a group against one plain pass per completion."""

import copy

import plain
import pytest
import torch
from plain import FAMILIES

from learners.model.packing import PackedPolicy, Segment, pack
from learners.model.policy import load_policy
from learners.rank.batching import split_segment
from learners.rank.training_rows import dummy_row


@pytest.fixture(scope="module")
def policy(model):
    return load_policy(model)


@pytest.fixture(scope="module")
def segments(groups, frames, reader) -> list[Segment]:
    return [
        Segment(
            reader.prompt(scored.group.prompt, frames[scored.group.prompt.media_key]),
            tuple(rollout.tokens_T for rollout in scored.group.rollouts_G),
        )
        for scored in groups[:3]
    ]


def gradients(policy, value: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(value, list(policy.parameters()))
    return torch.cat([gradient.flatten() for gradient in found])


def test_equals_one_plain_pass_per_completion(policy, segments):
    batch = pack(segments)
    logprobs_ST, entropy_ST = PackedPolicy(policy)(batch)
    alone = [plain.logprobs(policy, s, c) for s in segments for c in s.completions_G]
    weights = torch.linspace(-1, 1, len(alone))
    expected = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True)
    torch.testing.assert_close(logprobs_ST, expected, atol=1e-5, rtol=0)
    assert (logprobs_ST[~batch.mask_ST] == 0).all()
    assert (entropy_ST[batch.mask_ST] > 0).all()
    assert not entropy_ST.requires_grad
    ours = gradients(policy, (logprobs_ST.sum(1) * weights).sum())
    theirs = gradients(policy, (expected.sum(1) * weights).sum())
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_chunks_change_nothing(policy, segments):
    batch = pack(segments)
    vocabulary = policy.config.text_config.vocab_size
    whole, entropy = PackedPolicy(policy)(batch)
    cut, cut_entropy = PackedPolicy(policy, logits_at_once=7 * vocabulary)(batch)
    # A product of fewer rows may add up in another order, and floats near 10 are 9.5e-7 apart.
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(cut_entropy, entropy, atol=1e-5, rtol=0)
    ours, theirs = gradients(policy, cut.square().sum()), gradients(policy, whole.square().sum())
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_entropy_is_that_of_the_whole_distribution(policy, segments):
    batch = pack(segments[:1])
    _, entropy_ST = PackedPolicy(policy)(batch)
    prompt = segments[0].prompt
    tokens = prompt.tokens_P[None]
    logits = policy(
        input_ids=tokens,
        pixel_values=prompt.pixels_ND,
        image_grid_thw=prompt.grid_I3,
        mm_token_type_ids=(tokens == policy.config.image_token_id).int(),
    ).logits[0, -1]
    expected = torch.distributions.Categorical(logits=logits).entropy()
    assert entropy_ST[:, 0].tolist() == pytest.approx([expected.item()] * len(entropy_ST), abs=1e-4)


def test_parts_of_a_group_equal_the_whole(policy, segments):
    packed = PackedPolicy(policy)
    whole, _ = packed(pack(segments[:1]))
    segment = segments[0]
    limit = len(segment.prompt.tokens_P) + max(len(c) for c in segment.completions_G)
    parts = split_segment(segment, limit=limit)
    assert len(parts) > 1
    assert [g for part in parts for g in part] == list(range(len(segment.completions_G)))
    for part in parts:
        completions = tuple(segment.completions_G[g] for g in part)
        found, _ = packed(pack([Segment(segment.prompt, completions)]))
        expected = whole[list(part), : found.shape[1]]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_dummy_row_passes_through(family):
    policy = FAMILIES[family]()
    logprobs_ST, _ = PackedPolicy(policy)(pack([dummy_row(policy.config).segment]))
    assert logprobs_ST.shape == (1, 1)
    assert torch.isfinite(logprobs_ST).all()


def test_a_model_of_a_family_that_nobody_tried_is_refused(policy):
    other = copy.copy(policy)
    other.config = copy.copy(policy.config)
    other.config.model_type = "qwen2_vl"
    with pytest.raises(ValueError, match="'qwen2_vl'; the learner knows how qwen2_5_vl and qwen3"):
        PackedPolicy(other)


def test_empty_completions_are_refused(segments):
    with pytest.raises(ValueError, match="one token or more"):
        Segment(segments[0].prompt, ((1, 2), ()))
