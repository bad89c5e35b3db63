"""Where to look, taught directly: one head to find the thing asked about, one to find it now.

Which of the things in sight a name means is what a tiny model learns last: until then it reads the
box of some thing perfectly, and of the wrong one. The attention of a head of the second layer is
taught to lie on the thing, in any frame; that of one of the third on the thing in the frame that
the answer speaks of. What is told from there is learned from the answers alone.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from learners.model.attention import shared_prefix_attention

NAME = "o3rl_watched"
FINDS, FINDS_NOW = 1, 2  # layers, from 0, whose first head is taught

Watched = dict[int, tuple[Tensor, Tensor]]
"""Queries and keys [1, heads, L, D] by layer, with their rotation."""


def use(model: PreTrainedModel) -> None:
    """Let the language model attend by layout, and note its queries and keys where asked to."""
    AttentionInterface.register(NAME, _watched_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation({"text_config": NAME})


def _watched_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    watched: Watched | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    if watched is not None:
        watched[module.layer_idx] = (query, key)
    return shared_prefix_attention(module, query, key, value, attention_mask, **others)


def gaze_loss(watched: Watched, batch: dict[str, Any], image_L: Tensor) -> Tensor:
    """The mean of −log of the attention, among the opening, that lies where it should.

    `image_L` says which positions are image tokens. 0 for a batch that speaks of no thing.
    """
    losses = []
    for span, gaze in zip(batch["layout"], batch["gazes"], strict=True):
        if gaze is None:
            continue
        opening = slice(span.start, span.prompt_end)
        image = image_L[opening]
        for layer, target in ((FINDS, gaze.there), (FINDS_NOW, gaze.now)):
            query, key = (part[0, 0] for part in watched[layer])
            scores = query[span.start + gaze.places] @ key[opening].T / query.shape[-1] ** 0.5
            wanted = scores[:, image].masked_fill(~target, -torch.inf).logsumexp(-1)
            losses.append(scores.logsumexp(-1) - wanted)
    return torch.cat(losses).mean() if losses else torch.zeros(())
