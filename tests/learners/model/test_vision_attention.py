"""The tower in one call a layer against transformers' loop: values, gradients, number of calls."""

import copy

import numpy as np
import plain
import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from learners.model import vision_attention
from learners.model.vision_attention import PatchProduct, attention_of_runs


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def features(policy, pixels_ND: torch.Tensor, grids: list[tuple[int, int, int]]) -> torch.Tensor:
    seen = policy.model.get_image_features(pixels_ND, torch.tensor(grids), return_dict=True)
    return torch.cat(tuple(seen.pooler_output))


def pixels(grids: list[tuple[int, int, int]], values: int) -> torch.Tensor:
    count = sum(t * h * w for t, h, w in grids)
    random = np.random.default_rng(0)
    return torch.from_numpy(random.standard_normal((count, values), np.float32))


@pytest.mark.parametrize(
    "grids",
    [
        [(1, 4, 4), (1, 4, 4)],  # windows of a size
        [(1, 6, 10), (1, 4, 2), (1, 8, 8)],  # cut windows, pictures of several sizes
        [(1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 16, 16)],  # padding would be most of it
    ],
    ids=["even", "cut", "unequal"],
)
@pytest.mark.parametrize("family", plain.FAMILIES)
def test_output_and_gradients_equal_the_loop_by_sdpa(family, grids):
    policy = plain.build(family, seed=0)
    reference = copy.deepcopy(policy)
    vision_attention.use(policy)
    pixels_ND = pixels(grids, 3 * 2 * 4 * 4)
    ours, theirs = features(policy, pixels_ND, grids), features(reference, pixels_ND, grids)
    assert relative(ours, theirs) < 1e-6
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    tower, other = (p.get_submodule("model.visual") for p in (policy, reference))
    for (name, one), two in zip(tower.named_parameters(), other.parameters(), strict=True):
        if two.grad is None:
            assert one.grad is None, name  # the merger of the layer behind which nothing is read
            continue
        assert one.grad is not None, name
        assert (one.grad - two.grad).norm() <= 1e-5 * two.grad.norm() + 1e-6, name


@pytest.mark.parametrize(("one_call", "frames", "calls"), [(False, 1, 340), (True, 4, 32)])
def test_calls_in_the_shape_of_the_published_tower(one_call, frames, calls, monkeypatch):
    # 252 × 420 px are 18 × 30 patches: 3 × 4 windows of up to 8 × 8. 28 layers look at windows and
    # 4 at whole frames: 28 · 12 + 4 calls a frame one by one, or one a layer for all frames.
    vision = plain.VISION | {"depth": 32, "window_size": 112, "patch_size": 14, "hidden_size": 8}
    vision |= {"intermediate_size": 8, "fullatt_block_indexes": [7, 15, 23, 31]}
    config = Qwen2_5_VLConfig(text_config=plain.TEXT, vision_config=vision, **plain.TOKENS)
    policy = Qwen2_5_VLForConditionalGeneration(config)
    if one_call:
        vision_attention.use(policy)
    counted = []
    kernel = F.scaled_dot_product_attention

    def count(*arguments, **keywords):
        counted.append(1)
        return kernel(*arguments, **keywords)

    monkeypatch.setattr(F, "scaled_dot_product_attention", count)
    grids = [(1, 18, 30)] * frames
    with torch.no_grad():
        features(policy, pixels(grids, 3 * 2 * 14 * 14), grids)
    assert len(counted) == calls


def test_a_run_sees_itself_only():
    # Runs of 1 and 2: the first's output is its value; equal keys give the second's mean, 3.
    value_1HND = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1).expand(1, 1, 3, 8)
    zeros = torch.zeros_like(value_1HND)
    output_1NHD, _ = attention_of_runs(
        torch.nn.Identity(),
        zeros,
        zeros,
        value_1HND,
        None,
        scaling=1.0,
        cu_seq_lens_q=torch.tensor([0, 1, 3], dtype=torch.int32),
        max_length_q=2,
    )
    assert output_1NHD[0, :, 0, 0].tolist() == pytest.approx([1.0, 3.0, 3.0])


@pytest.mark.parametrize("bias", [False, True])
def test_a_kernel_as_large_as_its_input_is_a_product(bias):
    torch.manual_seed(0)
    plain_one = torch.nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4), bias=bias).double()
    product = copy.deepcopy(plain_one)
    product.__class__ = PatchProduct
    patches = torch.randn(5, 3, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(product(patches), plain_one(patches), atol=1e-14, rtol=1e-12)
    assert list(product.state_dict()) == list(plain_one.state_dict())
