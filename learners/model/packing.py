"""One forward pass for whole groups: `[prompt | c1 | … | cG]`, the vision tower once a group.

Each completion attends to the prompt and to itself, and its positions go on where the prompt's
end, so log-probabilities and gradients are exactly those of one pass per completion. A pack is one
row of such segments, end to end without padding (an SFT row is a segment with one completion);
no segment sees another. Attention goes by blocks (`attention`), logits exist only where a
completion's token is predicted, a chunk of positions at a time (`logprob_head`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from learners.model import attention, vision_attention
from learners.model.attention import Layout, Span
from learners.model.logprob_head import LOGITS_AT_ONCE, LogprobHead

FAMILIES = ("qwen2_5_vl", "qwen3_vl")  # whose language models hand `shared_prefix` on to attention


@dataclass(frozen=True, slots=True)
class VisionFeatures:
    """What the vision tower makes of some pictures, N image tokens, in the form of transformers.

    `deepstack_features` are added to the hidden states of the first layers (Qwen3-VL); one tensor
    a layer, each in a list of its own.
    """

    pooler_output: tuple[Tensor, ...]
    deepstack_features: tuple[tuple[Tensor, ...], ...] = ()

    @classmethod
    def joined(cls, parts: Sequence["VisionFeatures"]) -> "VisionFeatures":
        """Those of several prompts, in order."""
        layers = zip(*(part.deepstack_features for part in parts), strict=True)
        return cls(
            tuple(tensor for part in parts for tensor in part.pooler_output),
            tuple(tuple(t for tensors in layer for t in tensors) for layer in layers),
        )

    def split(self, pictures: Sequence[int]) -> list["VisionFeatures"]:
        """Apart again, by the number of pictures of each part."""
        found = []
        first = 0
        for count in pictures:
            here = slice(first, first + count)
            layers = tuple(layer[here] for layer in self.deepstack_features)
            found.append(VisionFeatures(self.pooler_output[here], layers))
            first += count
        return found

    def to(self, device: torch.device) -> "VisionFeatures":
        """The same on another device."""
        return VisionFeatures(
            tuple(tensor.to(device) for tensor in self.pooler_output),
            tuple(tuple(t.to(device) for t in layer) for layer in self.deepstack_features),
        )


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """What the model reads of one prompt: tokens with image placeholders expanded, and pixels.

    `positions_3P` are M-RoPE's. `pixels_ND` holds the patches of all frames, `grid_I3` the grid
    (time, height, width) of each image. `features` stand in for the pixels where a frozen vision
    tower has seen them already.
    """

    tokens_P: Tensor
    positions_3P: Tensor
    pixels_ND: Tensor
    grid_I3: Tensor
    features: VisionFeatures | None = None

    def seen_as(self, features: VisionFeatures) -> "PromptInputs":
        """The same with features for pixels, which are let go."""
        return replace(self, features=features, pixels_ND=self.pixels_ND[:0])


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
        """Positions it takes: the last token of a completion predicts nothing and is not read."""
        return len(self.prompt.tokens_P) + sum(len(c) - 1 for c in self.completions_G)


@dataclass(frozen=True, slots=True)
class Pack:
    """Segments as tensors: one row of L positions, S sequences (completions) of at most T tokens.

    `layout` says where the segments lie. `predictor_N` is the position whose output predicts the
    n-th completion token, `target_N`; that token is number `place_N` of sequence `sequence_N`.
    """

    tokens_1L: Tensor
    positions_31L: Tensor
    layout: Layout
    pixels_ND: Tensor
    grid_I3: Tensor
    predictor_N: Tensor
    target_N: Tensor
    sequence_N: Tensor
    place_N: Tensor
    mask_ST: Tensor
    features: VisionFeatures | None = None

    def to(self, device: torch.device) -> "Pack":
        """The same on another device."""
        moved: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Tensor | VisionFeatures):
                moved[name] = value.to(device)
        return replace(self, **moved)

    def scatter(self, values_N: Tensor) -> Tensor:
        """Values of the completion tokens as [S, T], 0 where there is no token."""
        values_ST = values_N.new_zeros(self.mask_ST.shape)
        return values_ST.index_put((self.sequence_N, self.place_N), values_N)


def pack(segments_B: Sequence[Segment]) -> Pack:
    """Put segments end to end. Either all of their prompts have features, or none has."""
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    predictors: list[Tensor] = []
    targets: list[Tensor] = []
    spans: list[Span] = []
    end = 0
    for segment in segments_B:
        prompt = segment.prompt
        start, prompt_end = end, end + len(prompt.tokens_P)
        tokens.append(prompt.tokens_P)
        positions.append(prompt.positions_3P)
        first_position = int(prompt.positions_3P.max()) + 1
        ends: list[int] = []
        end = prompt_end
        for completion in segment.completions_G:
            completion_T = torch.tensor(completion)
            read = len(completion) - 1
            tokens.append(completion_T[:-1])
            positions.append(torch.arange(first_position, first_position + read).expand(3, read))
            columns_T = torch.arange(end - 1, end + read)
            columns_T[0] = prompt_end - 1
            predictors.append(columns_T)
            targets.append(completion_T)
            end += read
            ends.append(end)
        spans.append(Span(start, prompt_end, tuple(ends)))
    lengths_S = torch.tensor([len(target) for target in targets])
    mask_ST = torch.arange(int(lengths_S.max())) < lengths_S[:, None]
    sequence_N, place_N = mask_ST.nonzero(as_tuple=True)
    prompts = [segment.prompt for segment in segments_B]
    seen = [prompt.features for prompt in prompts if prompt.features is not None]
    assert len(seen) in (0, len(prompts)), (len(seen), len(prompts))
    return Pack(
        tokens_1L=torch.cat(tokens)[None],
        positions_31L=torch.cat(positions, 1)[:, None],
        layout=tuple(spans),
        pixels_ND=torch.cat([prompt.pixels_ND for prompt in prompts]),
        grid_I3=torch.cat([prompt.grid_I3 for prompt in prompts]),
        predictor_N=torch.cat(predictors),
        target_N=torch.cat(targets),
        sequence_N=sequence_N,
        place_N=place_N,
        mask_ST=mask_ST,
        features=VisionFeatures.joined(seen) if seen else None,
    )


class PackedPolicy(nn.Module):
    """A policy whose forward pass gives the log-probabilities of a pack's completions.

    It shares the parameters of the policy that it was made from, whose language model it makes
    attend by layout where one is given, and whose tower in one call a layer; the policy's own
    forward pass gives what it gave. Raises ValueError for a model of another family.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        *,
        logits_at_once: int = LOGITS_AT_ONCE,
        temperature: float = 1.0,
    ):
        super().__init__()
        if policy.config.model_type not in FAMILIES:
            raise ValueError(
                f"model_type is {policy.config.model_type!r}; the learner knows how "
                f"{' and '.join(FAMILIES)} attend, and no other"
            )
        head = policy.get_submodule("lm_head")
        assert isinstance(head, nn.Linear), head
        assert head.bias is None, head
        attention.use(policy)
        vision_attention.use(policy)
        self.core: Any = policy.get_submodule("model")
        self.head = LogprobHead(head.weight, logits_at_once=logits_at_once, temperature=temperature)

    def forward(self, batch: Pack) -> tuple[Tensor, Tensor]:
        """Log-probabilities (with graph) and entropies (without), each [S, T], 0 where masked.

        Both are of softmax(logits / temperature). Entropies are empty without gradients.
        """
        if batch.features is None:
            vision = {"pixel_values": batch.pixels_ND, "image_grid_thw": batch.grid_I3}
        else:
            vision = {"mm_encoder_outputs": {"image": batch.features}}
        hidden_1LH = self.core(
            input_ids=batch.tokens_1L,
            position_ids=batch.positions_31L,
            use_cache=False,
            shared_prefix=batch.layout,
            **vision,
        ).last_hidden_state
        hidden_NH = hidden_1LH[0].index_select(0, batch.predictor_N)
        logprobs_N, entropy_N = self.head(hidden_NH, batch.target_N)
        entropy_ST = batch.scatter(entropy_N) if len(entropy_N) else entropy_N
        return batch.scatter(logprobs_N), entropy_ST

    @torch.no_grad()
    def look(self, prompts: Sequence[PromptInputs], device: torch.device) -> list[VisionFeatures]:
        """What the vision tower makes of each prompt's pictures, where it is not trained."""
        seen = self.core.get_image_features(
            torch.cat([prompt.pixels_ND for prompt in prompts]).to(device),
            torch.cat([prompt.grid_I3 for prompt in prompts]).to(device),
            return_dict=True,
        )
        deep = tuple(tuple(layer) for layer in getattr(seen, "deepstack_features", None) or ())
        whole = VisionFeatures(tuple(seen.pooler_output), deep)
        return whole.split([len(prompt.grid_I3) for prompt in prompts])
