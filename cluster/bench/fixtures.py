"""A random policy as a folder, and prompts of an exact length: what two systems can both load."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration as Policy

from cluster.bench.random_models import random_config
from learners.model import tiny
from learners.model.policy import load_processor
from learners.rank.settings import LearnerSettings, Optimisation
from o3rl.config import LearningConfig, ModelConfig, PromptStyle
from o3rl.loop.advantages import group_advantages
from o3rl.synth.questions import vocabulary
from o3rl.text.boxes import ABSOLUTE
from o3rl.text.prompts import messages
from o3rl.types import FramePlan, Group, Prompt, Reward, Row, ScoredGroup, Task, Truth

LONG = 1000  # tokens of a prompt from which on its pictures are large
LARGE, SMALL = 336, 112  # pixels a side: 144 and 16 image tokens
WORD = " red"  # one token


def build_folder(folder: Path, name: str) -> Path:
    """Write the Hugging Face folder of a policy of `random_models.SIZES`, and return it."""
    tokenizer = tiny.build_tokenizer(vocabulary())
    token = tokenizer.get_vocab().__getitem__
    config = random_config(
        name,
        tokens={
            "vision_start_token_id": token("<|vision_start|>"),
            "vision_end_token_id": token("<|vision_end|>"),
            "image_token_id": token("<|image_pad|>"),
            "video_token_id": token("<|video_pad|>"),
        },
        ends={"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id},
    )
    torch.manual_seed(0)
    policy = Policy(config)
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    policy.save_pretrained(folder)
    tiny.build_processor(tokenizer).save_pretrained(folder)
    return folder


def policy_of(folder: Path) -> ModelConfig:
    """Its section of a configuration: float32, all parameters trained, checkpointing."""
    return ModelConfig(path=str(folder), dtype="float32", prompt_style=PromptStyle.brief)


def build_prompts(folder: Path, tokens: int, count: int) -> list[tuple[Prompt, np.ndarray]]:
    """Prompts of so many tokens with random frames, uint8 [F, H, W, 3], others in each.

    As many pictures as there is room for, and words. Raises ValueError where none fits.
    """
    processor: Any = load_processor(policy_of(folder))
    side = LARGE if tokens >= LONG else SMALL
    pictures = 0
    while _length(processor, _prompt(0, pictures + 1, side, words=0), side) <= tokens:
        pictures += 1
    if not pictures:
        raise ValueError(f"a prompt of {tokens} tokens has no room for a picture; give it more")
    words = tokens - _length(processor, _prompt(0, pictures, side, words=0), side)
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        prompt = _prompt(number, pictures, side, words=words)
        assert _length(processor, prompt, side) == tokens, (tokens, pictures, words)
        frames = random.integers(0, 256, (pictures, side, side, 3), dtype=np.uint8)
        found.append((prompt, frames))
    return found


def prompt_chat(prompt: Prompt) -> list[dict[str, Any]]:
    """Its messages, pictures as places only."""
    return messages(prompt.row, prompt.plan, style=PromptStyle.brief, convention=ABSOLUTE)


def rewards_of(completions_G: Sequence[Sequence[int]]) -> list[float]:
    """The share of even tokens: costs nothing and differs within a group."""
    return [sum(token % 2 == 0 for token in tokens) / len(tokens) for tokens in completions_G]


def _prompt(number: int, pictures: int, side: int, *, words: int) -> Prompt:
    question = "Where is the red circle?" + WORD * words
    row = Row(f"row-{number}", Task.FREE_FORM, "random", question, "v.mp4", Truth("here"))
    times = tuple(float(second) for second in range(pictures))
    plan = FramePlan(tuple(range(pictures)), times, (side, side), float(max(pictures, 1)))
    return Prompt(number, row, plan, f"random-{number}", 0.0)


def _length(processor: Any, prompt: Prompt, side: int) -> int:
    """Tokens with the pictures in their places."""
    text = processor.apply_chat_template(
        prompt_chat(prompt), tokenize=False, add_generation_prompt=True
    )
    places = processor.tokenizer(text)["input_ids"]
    factor = processor.image_processor.patch_size * processor.image_processor.merge_size
    return len(places) + len(prompt.plan.times_F) * ((side // factor) ** 2 - 1)


def alone(model: ModelConfig, learning: LearningConfig) -> LearnerSettings:
    """Of one rank on CPU; sets the environment in which it finds itself alone."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    optimisation = Optimisation.of_learning(learning, batches=1)
    return LearnerSettings(model, learning, optimisation, seed=0, on_gpu=False)


def scored_group(group: Group) -> ScoredGroup:
    """With a reward that costs nothing."""
    rewards = rewards_of([rollout.tokens_T for rollout in group.rollouts_G])
    parts = tuple(Reward({"even": reward}, reward) for reward in rewards)
    return ScoredGroup(group, parts, group_advantages(rewards))
