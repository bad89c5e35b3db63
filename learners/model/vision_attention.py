"""The vision tower's attention in one call a layer, and its first layer as a matrix product.

A layer looks at windows, or at whole pictures: runs of patches, side by side, of which none sees
another. Under SDPA transformers calls the kernel once a run, 5,440 times for 16 frames of 252 × 420
in Qwen2.5-VL's 32 layers. Here runs are a batch: torch's variable-length kernel on a GPU, elsewhere
padded to the longest, where that no more than doubles the work, else those of a length together.

transformers passes on where runs begin to what it takes for flash attention, by "flash" in `NAME`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

NAME = "o3rl_flash_runs"


class PatchProduct(nn.Conv3d):
    """A convolution whose kernel is as large as its input: one product, which it is computed as.

    In bfloat16 some versions of cuDNN take very long for the convolution.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, channels, time, height, width] to [N, features, 1, 1, 1]."""
        features_NE = F.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return features_NE[..., None, None, None]


def use(policy: PreTrainedModel) -> None:
    """Let the policy's vision tower compute so; parameters and their names stay."""
    tower: Any = policy.get_submodule("model.visual")
    AttentionInterface.register(NAME, attention_of_runs)
    tower.config._attn_implementation = NAME
    tower.patch_embed.proj.__class__ = PatchProduct


def attention_of_runs(
    module: nn.Module,  # noqa: ARG001 - transformers passes it on
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """[1, heads, N, D] to [1, N, heads, D], called as transformers calls flash attention.

    Patch n is of run r where `cu_seq_lens_q`[r] ≤ n < [r + 1]; the longest has `max_length_q`.
    """
    assert attention_mask is None, "runs say who sees whom"
    query_NHD, key_NHD, value_NHD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        runs, most = cu_seq_lens_q.int(), int(max_length_q)
        value_NHD = value_NHD.contiguous()  # else the product that held q, k and v is kept
        output_NHD = varlen_attn(
            query_NHD, key_NHD, value_NHD, runs, runs, most, most, scale=scaling
        )
        assert isinstance(output_NHD, Tensor)
        return output_NHD[None], None
    starts_R, lengths_R = cu_seq_lens_q[:-1], cu_seq_lens_q.diff()
    outputs, places = [], []
    for these in _together(lengths_R, int(max_length_q)):
        index_RM, seen_RM = _padded(starts_R[these], lengths_R[these])
        whole = bool(seen_RM.all())
        batched = [t[index_RM].transpose(1, 2) for t in (query_NHD, key_NHD, value_NHD)]
        mask = None if whole else seen_RM[:, None, None]
        output_RHMD = F.scaled_dot_product_attention(*batched, attn_mask=mask, scale=scaling)
        outputs.append(output_RHMD.transpose(1, 2)[seen_RM])
        places.append(index_RM[seen_RM])
    output_NHD = torch.cat(outputs)
    if len(outputs) > 1:
        output_NHD = output_NHD[torch.cat(places).argsort()]
    return output_NHD[None], None


def _together(lengths_R: Tensor, most: int) -> list[Tensor]:
    """Which runs go in one call: all, or those of a length where padding is too much."""
    if most**2 * len(lengths_R) <= 2 * int(lengths_R.square().sum()):
        return [torch.ones_like(lengths_R, dtype=torch.bool)]
    return [lengths_R == length for length in lengths_R.unique()]


def _padded(starts_R: Tensor, lengths_R: Tensor) -> tuple[Tensor, Tensor]:
    """Patches of each run as [R, M], and which of them are not padding."""
    place_M = torch.arange(int(lengths_R.max()), device=starts_R.device)
    seen_RM = place_M < lengths_R[:, None]
    return starts_R[:, None] + place_M.where(seen_RM, 0), seen_RM
