"""Counted costs against torch's own counter, and by hand."""

import numpy as np
import plain
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from learners.model.architecture import Architecture
from learners.model.flops import Flops


@pytest.mark.parametrize("family", plain.FAMILIES)
def test_a_forward_pass_costs_what_torch_counts(family):
    policy = plain.build(family, seed=0)
    policy.set_attn_implementation("eager")  # counted as products, all pairs
    segment = plain.random_segment(policy, np.random.default_rng(5))
    prompt = segment.prompt
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain.logprobs(policy, segment, segment.completions_G[0])
    sizes = Architecture.of(policy.config.to_dict())
    flops = Flops.of(sizes)
    tokens = len(prompt.tokens_P) + len(segment.completions_G[0])
    grids = [(int(t), int(h), int(w)) for t, h, w in prompt.grid_I3]
    frozen = Flops.of(sizes, vision_trained=False)  # its forward pass only
    text = flops.token * tokens + flops.pair * tokens**2 + flops.target * tokens
    # Rotary angles are a product too, of outer vectors: next to nothing.
    assert counter.get_total_flops() == pytest.approx(text + frozen.vision(grids), rel=2e-3)


def test_shared_and_separate_by_hand():
    # One token 10, one pair 1, one target 5, one patch 2, one pair of patches 0.
    flops = Flops(10, 1, 5, 2, 0, 1, 0, 0, 14, 4)
    # P = 4, two completions of 3 (2 read): tokens 8, pairs 10 + 2·(8 + 3) = 32, targets 6;
    # forward and gradient: 3·10·8 + 3.5·32 + 3·5·6 = 442, and a picture of 4 patches 3·2·4 = 24.
    assert flops.shared(4, [3, 3], [(1, 2, 2)]) == pytest.approx(466)
    # Each of its own: tokens 6, pairs 21, targets 3: 180 + 73.5 + 45 + 24 = 322.5.
    assert flops.separate(4, [3, 3], [(1, 2, 2)]) == pytest.approx(645)


def test_windows_cut_a_picture():
    # 10 × 8 patches by windows of 8: (64 + 4) · 64 pairs in one layer, 80² in the other.
    flops = Flops(0, 0, 0, 0, 1, 2, 1, 8, 14, 4, vision_trained=False)
    assert flops.vision([(1, 10, 8)]) == 68 * 64 + 6400
