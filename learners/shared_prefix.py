"""One forward pass for whole groups: `[prompt | c1 | … | cG]`, the vision tower once a group.

Each completion attends to the prompt and to itself, and its positions go on where the prompt's
end, so log-probabilities and gradients are exactly those of one pass per completion. A pack holds
one such row per segment (an SFT row is a segment with one completion), padded to the longest.
Logits exist only where a completion's token is predicted, a chunk of positions at a time, and are
made again for the backward pass instead of being kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

LOGITS_AT_ONCE = 2**27  # elements: 512 MiB in float32


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """What the model reads of one prompt: tokens with image placeholders expanded, and pixels.

    `positions_3P` are M-RoPE's. `pixels_ND` holds the patches of all frames, `grid_I3` the grid
    (time, height, width) of each image.
    """

    tokens_P: Tensor
    positions_3P: Tensor
    pixels_ND: Tensor
    grid_I3: Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """A prompt and its completions, token ids."""

    prompt: PromptInputs
    completions_G: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        if not self.completions_G or not all(self.completions_G):
            raise ValueError("a segment needs completions of one token or more")

    @property
    def tokens(self) -> int:
        """Length of its row: the last token of a completion predicts nothing and is not read."""
        return len(self.prompt.tokens_P) + sum(len(c) - 1 for c in self.completions_G)


@dataclass(frozen=True, slots=True)
class Pack:
    """Segments as tensors: B rows of L positions, S sequences (completions) of at most T tokens.

    `segment_BL` is 0 in the prompt, g + 1 in completion g, −1 in the padding. `predictor_N` is the
    position (row · L + column) whose output predicts the n-th completion token, `target_N`; that
    token is number `place_N` of sequence `sequence_N`.
    """

    tokens_BL: Tensor
    positions_3BL: Tensor
    segment_BL: Tensor
    pixels_ND: Tensor
    grid_I3: Tensor
    predictor_N: Tensor
    target_N: Tensor
    sequence_N: Tensor
    place_N: Tensor
    mask_ST: Tensor

    def to(self, device: torch.device) -> "Pack":
        """The same on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def scatter(self, values_N: Tensor) -> Tensor:
        """Values of the completion tokens as [S, T], 0 where there is no token."""
        values_ST = values_N.new_zeros(self.mask_ST.shape)
        return values_ST.index_put((self.sequence_N, self.place_N), values_N)


def pack(segments_B: Sequence[Segment], *, padding: int) -> Pack:
    """Put segments side by side, one a row; `padding` is any token id but an image's."""
    length = max(segment.tokens for segment in segments_B)
    shape = (len(segments_B), length)
    tokens_BL = torch.full(shape, padding, dtype=torch.long)
    positions_3BL = torch.zeros((3, *shape), dtype=torch.long)
    segment_BL = torch.full(shape, -1, dtype=torch.long)
    predictors: list[Tensor] = []
    targets: list[Tensor] = []
    for row, segment in enumerate(segments_B):
        prompt = segment.prompt
        end = len(prompt.tokens_P)
        tokens_BL[row, :end] = prompt.tokens_P
        positions_3BL[:, row, :end] = prompt.positions_3P
        segment_BL[row, :end] = 0
        first_position = int(prompt.positions_3P.max()) + 1
        last_of_prompt = end - 1
        for g, completion in enumerate(segment.completions_G):
            completion_T = torch.tensor(completion)
            read = len(completion) - 1
            here = slice(end, end + read)
            tokens_BL[row, here] = completion_T[:-1]
            positions_3BL[:, row, here] = torch.arange(first_position, first_position + read)
            segment_BL[row, here] = g + 1
            columns_T = torch.arange(end - 1, end + read)
            columns_T[0] = last_of_prompt
            predictors.append(row * length + columns_T)
            targets.append(completion_T)
            end += read
    lengths_S = torch.tensor([len(target) for target in targets])
    mask_ST = torch.arange(int(lengths_S.max())) < lengths_S[:, None]
    sequence_N, place_N = mask_ST.nonzero(as_tuple=True)
    return Pack(
        tokens_BL=tokens_BL,
        positions_3BL=positions_3BL,
        segment_BL=segment_BL,
        pixels_ND=torch.cat([segment.prompt.pixels_ND for segment in segments_B]),
        grid_I3=torch.cat([segment.prompt.grid_I3 for segment in segments_B]),
        predictor_N=torch.cat(predictors),
        target_N=torch.cat(targets),
        sequence_N=sequence_N,
        place_N=place_N,
        mask_ST=mask_ST,
    )


def attention_mask(segment_BL: Tensor) -> Tensor:
    """Who sees whom, [B, 1, L, L] of booleans: what came before in the prompt or in one's own part.

    Padding sees padding only, so that no row of the softmax is empty.
    """
    query, key = segment_BL[:, :, None], segment_BL[:, None, :]
    visible_BLL = (query == key) | ((key == 0) & (query > 0))
    length = segment_BL.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=segment_BL.device).tril()
    return (visible_BLL & causal_LL)[:, None]


class PackedPolicy(nn.Module):
    """A policy whose forward pass gives the log-probabilities of a pack's completions.

    It shares the parameters of the policy that it was made from and does not change that.
    """

    def __init__(self, policy: PreTrainedModel, *, logits_at_once: int = LOGITS_AT_ONCE):
        super().__init__()
        head = policy.get_submodule("lm_head")
        assert isinstance(head, nn.Linear), head
        assert head.bias is None, head
        self.core = policy.get_submodule("model")
        self.head = LogprobHead(head.weight, logits_at_once=logits_at_once)

    def forward(self, batch: Pack) -> tuple[Tensor, Tensor]:
        """Log-probabilities (with graph) and entropies (without), each [S, T], 0 where masked."""
        hidden_BLH = self.core(
            input_ids=batch.tokens_BL,
            attention_mask={"full_attention": attention_mask(batch.segment_BL)},
            position_ids=batch.positions_3BL,
            pixel_values=batch.pixels_ND,
            image_grid_thw=batch.grid_I3,
            use_cache=False,
        ).last_hidden_state
        hidden_NH = hidden_BLH.flatten(0, 1).index_select(0, batch.predictor_N)
        logprobs_N, entropy_N = self.head(hidden_NH, batch.target_N)
        return batch.scatter(logprobs_N), batch.scatter(entropy_N)


class LogprobHead(nn.Module):
    """log softmax(W·h) at the target, and the entropy, chunk by chunk.

    A module of its own with the weight as its parameter, because ZeRO-3 gathers parameters by
    module, and because every rank must call it once a pass, whatever the number of its chunks.
    """

    def __init__(self, weight_VH: Tensor, *, logits_at_once: int):
        super().__init__()
        self.weight = weight_VH
        self.chunk = max(1, logits_at_once // weight_VH.shape[0])

    def forward(self, hidden_NH: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        """Float32, [N] each; only the log-probabilities carry a gradient."""
        logprobs_N, entropy_N = _ChunkedLogprobs.apply(  # pyright: ignore
            hidden_NH, self.weight, target_N, self.chunk
        )
        return logprobs_N, entropy_N


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, target_N, chunk):
        logprobs, entropies, normalisers = [], [], []
        for hidden, target in zip(hidden_NH.split(chunk), target_N.split(chunk), strict=True):
            logits = (hidden @ weight_VH.T).float()
            normaliser = logits.logsumexp(-1)
            logprobs.append(logits.gather(-1, target[:, None])[:, 0] - normaliser)
            share = (logits - normaliser[:, None]).exp_()
            entropies.append(normaliser - share.mul_(logits).sum(-1))
            normalisers.append(normaliser)
        ctx.chunk = chunk
        ctx.save_for_backward(hidden_NH, weight_VH, target_N, torch.cat(normalisers))
        entropy_N = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy_N)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(ctx, *gradients):
        """∂ log p(target) / ∂ logits = onehot(target) − softmax."""
        gradient_N = gradients[0]
        hidden_NH, weight_VH, target_N, normaliser_N = ctx.saved_tensors
        chunk = ctx.chunk
        hidden_gradients = []
        trains_weight = ctx.needs_input_grad[1]
        weight_gradient = torch.zeros_like(weight_VH) if trains_weight else None
        for hidden, target, normaliser, gradient in zip(
            hidden_NH.split(chunk),
            target_N.split(chunk),
            normaliser_N.split(chunk),
            gradient_N.split(chunk),
            strict=True,
        ):
            share = ((hidden @ weight_VH.T).float() - normaliser[:, None]).exp_()
            by_logits = share.mul_(-gradient[:, None])
            by_logits.scatter_add_(1, target[:, None], gradient[:, None])
            by_logits = by_logits.to(weight_VH.dtype)
            hidden_gradients.append(by_logits @ weight_VH)
            if weight_gradient is not None:
                weight_gradient.addmm_(by_logits.T, hidden)
        return torch.cat(hidden_gradients), weight_gradient, None, None
