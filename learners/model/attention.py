"""Attention of a pack, block by block: no mask of its length squared, no block that is masked.

A pack is one row of segments `[prompt | c1 | … | cG]`, and each completion sees the prompt and
itself. So a segment's attention is two kinds of block: everything on its prompt, causal (a query
behind the prompt sees all of it), and each completion on itself, causal. A completion's two results
are merged exactly by their log-sum-exp: softmax over a union of keys is the mean of the softmaxes
over its parts, weighted by their normalisers. Given the merged output and normaliser, each block's
gradient is that of the whole.

On CPU these are torch's own flash kernels, on a GPU one call of flex attention with a block mask.
transformers calls `shared_prefix_attention` by the name `NAME`, which `use` sets; the layout comes
as the keyword `shared_prefix`, and without it this is plain SDPA.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "o3rl_shared_prefix"
BLOCK = 128  # side of flex attention's blocks, its default


@dataclass(frozen=True, slots=True)
class Span:
    """A segment's place in its pack: the prompt from `start`, then one completion after the other.

    `ends_G` are where the completions end; an empty one (a completion of one token, which predicts
    nothing and is not read) ends where it begins.
    """

    start: int
    prompt_end: int
    ends_G: tuple[int, ...]

    def __post_init__(self):
        ends = (self.start, self.prompt_end, *self.ends_G)
        assert list(ends) == sorted(ends), self
        assert self.start < self.prompt_end, self

    @property
    def end(self) -> int:
        """Behind the last completion."""
        return self.ends_G[-1] if self.ends_G else self.prompt_end

    def completions(self) -> Iterator[slice]:
        """Where each completion lies, the empty ones left out."""
        start = self.prompt_end
        for end in self.ends_G:
            if end > start:
                yield slice(start, end)
            start = end


Layout = tuple[Span, ...]
"""The segments of a pack, side by side from 0 on."""


def attention_mask(layout: Layout) -> Tensor:
    """Who sees whom, [L, L] of booleans: the law that the blocks obey, for tests and pictures."""
    length = layout[-1].end
    seen_LL = torch.zeros(length, length, dtype=torch.bool)
    for span in layout:
        seen_LL[span.start : span.end, span.start : span.prompt_end] = True
        for part in span.completions():
            seen_LL[part, part] = True
    return seen_LL.tril()


def use(policy: PreTrainedModel) -> None:
    """Let the policy's language model attend by layout, where it is given one."""
    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    policy.set_attn_implementation({"text_config": NAME})


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    shared_prefix: Layout | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Queries [1, heads, L, D] to outputs [1, L, heads, D], called as transformers calls attention.

    Keys and values may have fewer heads, each for a run of query heads.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    assert query.shape[0] == 1, query.shape
    assert query.shape[2] == shared_prefix[-1].end, (query.shape, shared_prefix[-1])
    assert dropout == 0, dropout
    assert attention_mask is None, "a mask was made, and the layout says who sees whom"
    if query.is_cuda:
        mask = block_mask(shared_prefix, query.device)
        output, _ = flex_attention_forward(module, query, key, value, mask, scaling=scaling)
        return output, None
    output = _Blocks.apply(query, key, value, shared_prefix, scaling)
    return output.transpose(1, 2), None  # pyright: ignore


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _Blocks(torch.autograd.Function):
    """Per segment a causal call on the prompt's keys and one on each completion's own.

    The kernel's causal mask is aligned at the top left, so that with more queries than keys the
    later queries see every key: the completions, all at once, see the prompt. A single completion
    makes no difference to plain causal attention and is one call.
    """

    @staticmethod
    def forward(ctx, query, key, value, layout: Layout, scaling: float):
        output = torch.empty_like(query)
        exact = torch.promote_types(query.dtype, torch.float32)
        normaliser = query.new_empty(query.shape[:3], dtype=exact)
        for span in layout:
            for queries, keys in _blocks(span):
                out, lse = _flash(
                    query[:, :, queries],
                    key[:, :, keys],
                    value[:, :, keys],
                    0.0,
                    True,
                    scale=scaling,
                )
                if queries.start == span.start:
                    output[:, :, queries] = out
                    normaliser[:, :, queries] = lse
                    continue
                before = normaliser[:, :, queries]
                both = torch.logaddexp(before, lse)
                weight = (lse - both).exp_()[..., None].to(out.dtype)
                output[:, :, queries].lerp_(out, weight)
                before.copy_(both)
        ctx.layout, ctx.scaling = layout, scaling
        ctx.save_for_backward(query, key, value, output, normaliser)
        return output

    @staticmethod
    def backward(ctx, *gradients):
        gradient = gradients[0]
        query, key, value, output, normaliser = ctx.saved_tensors
        by_query, by_key, by_value = (torch.empty_like(x) for x in (query, key, value))
        for span in ctx.layout:
            for queries, keys in _blocks(span):
                dq, dk, dv = _flash_backward(
                    gradient[:, :, queries],
                    query[:, :, queries],
                    key[:, :, keys],
                    value[:, :, keys],
                    output[:, :, queries],
                    normaliser[:, :, queries],
                    0.0,
                    True,
                    scale=ctx.scaling,
                )
                if queries.start == span.start:
                    by_query[:, :, queries] = dq
                else:
                    by_query[:, :, queries] += dq
                by_key[:, :, keys] = dk
                by_value[:, :, keys] = dv
        return by_query, by_key, by_value, None, None


def _blocks(span: Span) -> list[tuple[slice, slice]]:
    """Queries and keys of each call; every key is in one, the prompt's come first."""
    whole = slice(span.start, span.end)
    parts = list(span.completions())
    if len(parts) < 2:
        return [(whole, whole)]
    return [(whole, slice(span.start, span.prompt_end)), *((part, part) for part in parts)]


@lru_cache(maxsize=2)
def block_mask(layout: Layout, device: torch.device) -> BlockMask:
    """The layout for flex attention: which blocks of 128 × 128 are computed, which need the mask.

    Made from the spans, so that nothing of the pack's length squared is held, only of its number
    of blocks squared. Made once a pack: every layer asks for it.
    """
    length = layout[-1].end
    side = -(-length // BLOCK)
    some = torch.zeros(side, side, dtype=torch.bool)
    full = torch.zeros(side, side, dtype=torch.bool)
    for span in layout:
        parts = list(span.completions())
        causal = [(part, part) for part in parts]
        causal.append((slice(span.start, span.end), slice(span.start, span.prompt_end)))
        causal += [(slice(span.start, part.stop),) * 2 for part in parts[:1]]  # like one text
        for queries, keys in causal:
            some[_touched(queries), _touched(keys)] = True
            full[_filled(queries), _filled(keys)] = True
    below = torch.ones(side, side, dtype=torch.bool).tril(-1)
    some = some & (below | torch.eye(side, dtype=torch.bool))
    full = full & below
    start_L, part_L = _ids(layout, side * BLOCK, device)

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = part_L[query] == part_L[key]
        on_prompt = part_L[key] == start_L[query]
        return (same | on_prompt) & (query >= key)

    return BlockMask.from_kv_blocks(
        *_indices(some & ~full, device),
        *_indices(full, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(length, length),
    )


def _ids(layout: Layout, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Per position where its segment starts, and where its part (prompt or completion) starts."""
    start_L = torch.full((length,), -1, dtype=torch.int32)
    part_L = torch.full((length,), -1, dtype=torch.int32)
    for span in layout:
        start_L[span.start : span.end] = span.start
        part_L[span.start : span.prompt_end] = span.start
        for part in span.completions():
            part_L[part] = part.start
    return start_L.to(device), part_L.to(device)


def _touched(part: slice) -> slice:
    """Blocks that hold any of these positions."""
    return slice(part.start // BLOCK, -(-part.stop // BLOCK))


def _filled(part: slice) -> slice:
    """Blocks that hold nothing but these positions."""
    return slice(-(-part.start // BLOCK), part.stop // BLOCK)


def _indices(blocks: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Per row of blocks how many are set, and the columns with those first."""
    count = blocks.sum(1, dtype=torch.int32)
    columns = blocks.int().argsort(dim=1, descending=True, stable=True).int()
    return count[None, None].to(device), columns[None, None].contiguous().to(device)
