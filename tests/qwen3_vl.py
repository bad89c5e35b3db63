"""A small random Qwen3-VL that always thinks, with its family's special tokens and template."""

from pathlib import Path

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from learners.model.tiny import CHAT_TEMPLATE, build_tokenizer
from o3rl.synth.questions import vocabulary

FACTOR = 32  # patches of 16 px, two by two a token
LEAST, MOST = 65_536, 16_777_216  # pixels of a picture, by the family's processor
TEMPLATE = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
assert TEMPLATE != CHAT_TEMPLATE


def build_thinker(folder: Path, *, seed: int) -> Path:
    """Write its Hugging Face folder, and return it."""
    tokenizer = build_tokenizer(vocabulary())
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config_of(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    images = Qwen2VLImageProcessor(
        patch_size=16, merge_size=2, size={"shortest_edge": LEAST, "longest_edge": MOST}
    )
    videos = Qwen3VLVideoProcessor(patch_size=16, merge_size=2)
    Qwen3VLProcessor(images, tokenizer, videos, chat_template=TEMPLATE).save_pretrained(folder)
    return folder


def config_of(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """Two text layers of width 64; features of the first vision layer go into the first of them."""
    token = tokenizer.get_vocab().__getitem__
    return Qwen3VLConfig(
        text_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "initializer_range": 0.1,
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 6, 6],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.1,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
