"""Small random policies of both families, random groups, and one plain pass per completion."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from learners.model.packing import PromptInputs, Segment

VOCABULARY = 96
TOKENS = {"vision_start_token_id": 90, "vision_end_token_id": 91}
TOKENS |= {"image_token_id": 92, "video_token_id": 93}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": 94,
    "pad_token_id": 95,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "initializer_range": 0.1,
}


def qwen2_5_vl() -> PreTrainedModel:
    """Windows of two by two image tokens in its first layer."""
    vision = VISION | {"window_size": 16, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(text_config=dict(TEXT), vision_config=vision, **TOKENS)
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl() -> PreTrainedModel:
    """Features of its first vision layer are added behind the first text layer."""
    vision = VISION | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    text = TEXT | {"head_dim": 16}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **TOKENS)
    return Qwen3VLForConditionalGeneration(config)


FAMILIES = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}


def build(family: str, *, seed: int) -> PreTrainedModel:
    """A policy with random weights, the same for the same seed."""
    torch.manual_seed(seed)
    return FAMILIES[family]().train()


def random_segment(policy: Any, random: np.random.Generator, *, most: int = 16) -> Segment:
    """One to three pictures of several sizes; 1 to `most` completions of 1 to 24 tokens."""
    tokens = random.integers(0, 90, random.integers(1, 8)).tolist()
    grids, patches = [], 0
    for _ in range(random.integers(1, 4)):
        height, width = (2 * int(side) for side in random.integers(1, 5, 2))
        grids.append((1, height, width))
        patches += height * width
        tokens += [90, *[92] * (height * width // 4), 91]
        tokens += random.integers(0, 90, random.integers(1, 5)).tolist()
    tokens_P = torch.tensor(tokens)
    grid_I3 = torch.tensor(grids)
    positions_31P, _ = policy.model.get_rope_index(
        tokens_P[None], mm_token_type_ids=(tokens_P == 92).int()[None], image_grid_thw=grid_I3
    )
    pixels_ND = torch.from_numpy(random.standard_normal((patches, 3 * 2 * 4 * 4), np.float32))
    completions = tuple(
        tuple(random.integers(0, 90, random.integers(1, 25)).tolist())
        for _ in range(random.integers(1, most + 1))
    )
    return Segment(PromptInputs(tokens_P, positions_31P[:, 0], pixels_ND, grid_I3), completions)


def logprobs(policy, segment: Segment, completion: tuple[int, ...]) -> Tensor:
    """By the model's own forward pass over prompt and completion, positions of its own."""
    prompt = segment.prompt
    tokens = torch.cat([prompt.tokens_P, torch.tensor(completion)])[None]
    logits = policy(
        input_ids=tokens,
        pixel_values=prompt.pixels_ND,
        image_grid_thw=prompt.grid_I3,
        mm_token_type_ids=(tokens == policy.config.image_token_id).int(),
    ).logits[0, len(prompt.tokens_P) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
