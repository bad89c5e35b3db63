"""Random policies and random groups to measure: sizes like the real ones, nothing to download."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration as Policy

from learners.model.architecture import KNOWN
from learners.model.packing import PromptInputs, Segment

SMALL_PROMPT = 200  # tokens, below which one picture of one token is all
SIDE = 24  # patches a side of a picture: 336 px, 144 image tokens
IDS: dict[str, Any] = {
    "vision_start_token_id": 1,
    "vision_end_token_id": 2,
    "image_token_id": 3,
    "video_token_id": 4,
}
ENDS = {"eos_token_id": 5, "pad_token_id": 6}


def _text(
    hidden: int, inner: int, *, layers: int, heads: int, keys: int, words: int
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": words,
        "tie_word_embeddings": True,
    }


def _tower(
    hidden: int, inner: int, *, depth: int, heads: int, whole: Sequence[int]
) -> dict[str, Any]:
    """`whole` are the blocks whose attention is not within windows."""
    sizes = {"depth": depth, "hidden_size": hidden, "intermediate_size": inner, "num_heads": heads}
    return sizes | {"fullatt_block_indexes": list(whole)}


def _published(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Text and vision of a published model."""
    config = KNOWN[name]
    tied = {"tie_word_embeddings": config["tie_word_embeddings"]}
    return config["text_config"] | tied, config["vision_config"]


SIZES = {
    "1m": (
        _text(128, 384, layers=4, heads=4, keys=2, words=512),
        _tower(64, 192, depth=4, heads=2, whole=(1, 3)),
    ),
    # About 80 M parameters in the proportions of the 3B: 15 % each for the head and the tower.
    "80m": (
        _text(768, 2304, layers=8, heads=12, keys=4, words=16384),
        _tower(384, 1024, depth=6, heads=6, whole=(2, 5)),
    ),
    "3b": _published("Qwen/Qwen2.5-VL-3B-Instruct"),
    "7b": _published("Qwen/Qwen2.5-VL-7B-Instruct"),
}


BASELINES = ("sequential", "batched")


@dataclass(frozen=True, slots=True)
class Shape:
    """P tokens of prompt, G completions of C."""

    prompt: int
    completion: int
    group: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Of `PxCxG`, for instance 2400x256x8; ValueError otherwise."""
        parts = text.strip().split("x")
        if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
            raise ValueError(f"shape is {text!r}; it must be PxCxG, for instance 2400x256x8")
        prompt, completion, group = map(int, parts)
        if prompt < 8 or completion < 2:
            raise ValueError(f"shape is {text!r}; P must be 8 or more, C 2 or more")
        return cls(prompt, completion, group)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all variants share: `model` of `SIZES`, device, checkpointing."""

    model: str
    device: str
    checkpointing: bool

    @property
    def variants(self) -> tuple[str, ...]:
        """What is measured, ours first."""
        return ("shared", "masked", *BASELINES) if self.device == "cuda" else ("shared", *BASELINES)


def random_config(
    model: str, *, tokens: Mapping[str, Any] = IDS, ends: Mapping[str, Any] = ENDS
) -> Qwen2_5_VLConfig:
    """A Qwen2.5-VL of one of `SIZES`, special tokens as given; ValueError for another name."""
    if model not in SIZES:
        raise ValueError(f"--model is {model!r}; it must be one of {', '.join(SIZES)}")
    text, vision = SIZES[model]
    head = text["hidden_size"] // text["num_attention_heads"]
    sections = [head // 8, head * 3 // 16, head * 3 // 16]  # of half a head: time, height, width
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    return Qwen2_5_VLConfig(
        text_config=text
        | {"bos_token_id": None, **ends}
        | {"rope_parameters": rope, "max_position_embeddings": 32768},
        vision_config=vision
        | {
            "out_hidden_size": text["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
        },
        tie_word_embeddings=text["tie_word_embeddings"],
        **tokens,
    )


def build_policy(setting: Setting) -> PreTrainedModel:
    """Random weights on the setting's device: float32 on CPU, bfloat16 on a GPU."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if setting.device == "cuda" else torch.float32
    with torch.device(setting.device):
        family: Any = Policy
        policy: Any = family._from_config(random_config(setting.model), dtype=dtype)
    if setting.checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    return policy.to(setting.device).train()


def build_segment(policy: Any, shape: Shape) -> Segment:
    """A random group: as many pictures of 144 tokens as the prompt has room for, the rest text."""
    random = torch.Generator().manual_seed(1)
    side = SIDE if shape.prompt >= SMALL_PROMPT else 2
    picture = side**2 // 4
    pictures = (shape.prompt - 4) // (picture + 2) if side == SIDE else 1

    def text(count: int) -> list[int]:
        return torch.randint(
            7, policy.config.text_config.vocab_size, (count,), generator=random
        ).tolist()

    one = [IDS["vision_start_token_id"], *[IDS["image_token_id"]] * picture]
    tokens = [*one, IDS["vision_end_token_id"]] * pictures
    tokens_P = torch.tensor(tokens + text(shape.prompt - len(tokens)))
    grid_I3 = torch.tensor([[1, side, side]] * pictures)
    positions_31P, _ = policy.model.get_rope_index(
        tokens_P[None],
        mm_token_type_ids=(tokens_P == IDS["image_token_id"]).int()[None],
        image_grid_thw=grid_I3,
    )
    prompt = PromptInputs(
        tokens_P=tokens_P,
        positions_3P=positions_31P[:, 0],
        pixels_ND=torch.randn(pictures * side**2, 3 * 2 * 14**2, generator=random),
        grid_I3=grid_I3,
    )
    completions = tuple(tuple(text(shape.completion)) for _ in range(shape.group))
    return Segment(prompt, completions)


def grids_of(segment: Segment) -> list[tuple[int, int, int]]:
    """Time, height and width in patches of its pictures."""
    return [(int(t), int(h), int(w)) for t, h, w in segment.prompt.grid_I3]
