"""Blocks of attention against the whole mask: values, gradients, what is never made."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask
from torch.utils._python_dispatch import TorchDispatchMode

from learners.model.attention import Span, attention_mask, block_mask, shared_prefix_attention

SMALL = (Span(0, 2, (4, 4, 5)), Span(5, 6, (6,)))
LAYOUTS = {
    "small": SMALL,
    "one completion": (Span(0, 3, (9,)),),
    "all empty": (Span(0, 3, (3, 3)), Span(3, 8, (10,))),
    "one long": (Span(0, 200, (600, 700)),),
    "long": (Span(0, 300, (301, 450, 640)), Span(640, 800, (801, 801, 1000)), Span(1000, 1130, ())),
}


def inputs(layout, *, heads: int, key_heads: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    length = layout[-1].end
    shapes = [(1, heads, length, 8)] + [(1, key_heads, length, 8)] * 2
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def blockwise(layout, query, key, value) -> torch.Tensor:
    module = torch.nn.Module()
    output, _ = shared_prefix_attention(
        module, query, key, value, None, scaling=0.3, shared_prefix=layout
    )
    return output.transpose(1, 2)


def test_a_completion_sees_the_prompt_and_itself():
    # Prompt of two, completions of two, none and one; then a prompt of one, which sees itself.
    assert attention_mask(SMALL).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2)])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_blocks_equal_the_mask(layout, heads, key_heads):
    tensors = inputs(layout, heads=heads, key_heads=key_heads)
    found = blockwise(layout, *tensors)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *tensors, attn_mask=attention_mask(layout), scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    weights = torch.randn_like(found)
    ours = torch.autograd.grad((found * weights).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), tensors)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operation gives back."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return found


def test_nothing_of_the_length_squared_is_made():
    layout = LAYOUTS["long"]
    tensors = inputs(layout, heads=2, key_heads=2)
    with Largest() as largest:
        blockwise(layout, *tensors).sum().backward()
    assert largest.elements == tensors[0].numel()  # heads · L · D = 18,080, far below L² = 1.3 M


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_flex_blocks_equal_the_mask(layout):
    mask = block_mask(layout, torch.device("cpu"))
    length = layout[-1].end
    seen = attention_mask(layout)
    assert mask.mask_mod is not None
    law = create_mask(mask.mask_mod, 1, 1, length, length, device="cpu")[0, 0]
    assert torch.equal(law, seen)
    side = mask.kv_num_blocks.shape[-1]
    padded = torch.zeros(side * 128, side * 128, dtype=torch.bool)
    padded[:length, :length] = seen
    blocks = padded.view(side, 128, side, 128).transpose(1, 2).flatten(2)
    computed = mask.to_dense()[0, 0].bool()
    assert torch.equal(computed, blocks.any(-1))
    full = torch.zeros(side, side, dtype=torch.bool)
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_indices is not None
    for row in range(side):
        count = int(mask.full_kv_num_blocks[0, 0, row])
        full[row, mask.full_kv_indices[0, 0, row, :count].long()] = True
    assert torch.equal(full, blocks.all(-1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention trains on a GPU only")
@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (6, 2)])
def test_flex_attention_equals_the_mask(heads, key_heads):
    layout = LAYOUTS["long"]
    torch.manual_seed(0)
    length = layout[-1].end
    shapes = [(1, heads, length, 64)] + [(1, key_heads, length, 64)] * 2
    tensors = [torch.randn(shape, device="cuda", requires_grad=True) for shape in shapes]
    found = blockwise(layout, *tensors)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *tensors, attn_mask=attention_mask(layout).cuda(), scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)  # TF32
    weights = torch.randn_like(found)
    ours = torch.autograd.grad((found * weights).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), tensors)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() / other.norm() < 1e-2
