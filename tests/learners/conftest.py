"""A tiny policy on disk, prompts with frames, groups that it sampled, one rank in this process."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners.model import tiny
from learners.model.packing import PackedPolicy, Segment, pack
from learners.model.policy import load_policy, load_processor
from learners.rank.inputs import Reader
from learners.rank.settings import LearnerSettings, Optimisation
from o3rl.config import LearningConfig, ModelConfig, PromptStyle, Schedule
from o3rl.loop.advantages import group_advantages
from o3rl.media.reader import frames_digest
from o3rl.types import (
    FinishReason,
    FramePlan,
    Group,
    Interval,
    Prompt,
    Reward,
    Rollout,
    Row,
    ScoredGroup,
    Task,
    Truth,
    Version,
)

torch.set_num_threads(1)  # nothing here is large enough for two; they would wait for each other

VIDEOS = 6
WORDS = ["When is the red green blue square seen? From to Frame at The video is in total seconds"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A Hugging Face folder of a random policy."""
    return tiny.build_tiny(tmp_path_factory.mktemp("tiny"), seed=3, words=WORDS)


@pytest.fixture(scope="session")
def model(folder: Path) -> ModelConfig:
    return ModelConfig(
        path=str(folder),
        dtype="float32",
        prompt_style=PromptStyle.brief,
        gradient_checkpointing=False,
        lora_alpha=8,
    )


@pytest.fixture(scope="session")
def rank_alone() -> None:
    """This process as the only rank."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "DS_ACCELERATOR": "cpu",
    }


@pytest.fixture(scope="session")
def frames() -> dict[str, np.ndarray]:
    """Frames by media key: two to four frames of noise each, of two sizes; one picture alone."""
    random = np.random.default_rng(0)
    found = {
        f"video-{i}": random.integers(0, 255, (2 + i % 3, 56, 56 + 28 * (i % 2), 3), dtype=np.uint8)
        for i in range(VIDEOS)
    }
    return found | {f"video-{VIDEOS}": random.integers(0, 255, (1, 84, 56, 3), dtype=np.uint8)}


def make_prompt(number: int, frames_FHW3: np.ndarray, *, interval: Interval = (1.0, 2.0)) -> Prompt:
    """A temporal question about frames one second apart."""
    count, height, width, _ = frames_FHW3.shape
    row = Row(
        id=f"row-{number}",
        task=Task.TEMPORAL,
        source="synthetic",
        question="When is the red square seen?",
        media=f"video-{number}.mp4",
        truth=Truth(f"[{interval[0]}, {interval[1]}]", interval=interval),
        reasoning="red square at<t>1.0</t>s to<t>2.0</t>s" + " seen" * number,
    )
    plan = FramePlan(
        tuple(range(count)), tuple(map(float, range(count))), (width, height), float(count)
    )
    return Prompt(number, row, plan, f"video-{number}", 0.0)


@pytest.fixture(scope="session")
def prompts(frames) -> list[Prompt]:
    return [make_prompt(i, frames[f"video-{i}"]) for i in range(VIDEOS)]


@pytest.fixture(scope="session")
def groups(model, prompts, frames) -> list[ScoredGroup]:
    """A group of three to four random completions for every prompt, log-probabilities exact."""
    return sampled(model, prompts, frames, seed=1)


@pytest.fixture(scope="session")
def picture(model, frames) -> ScoredGroup:
    """A group about one picture."""
    prompt = make_prompt(VIDEOS, frames[f"video-{VIDEOS}"])
    prompt = replace(prompt, plan=replace(prompt.plan, duration=0.0))
    [found] = sampled(model, [prompt], frames, seed=2)
    return found


def sampled(model: ModelConfig, prompts, frames, *, seed: int) -> list[ScoredGroup]:
    policy, processor = load_policy(model), load_processor(model)
    reader = Reader.of(policy, processor, style=PromptStyle.brief, max_tokens=4096)
    packed = PackedPolicy(policy)
    random = np.random.default_rng(seed)
    found = []
    for prompt in prompts:
        inputs = reader.prompt(prompt, frames[prompt.media_key])
        completions = tuple(
            tuple(int(token) for token in random.integers(10, 250, random.integers(1, 12)))
            for _ in range(3 + prompt.group % 2)
        )
        with torch.no_grad():
            logprobs_ST, _ = packed(pack([Segment(inputs, completions)]))
        rewards = [float(value) for value in random.integers(0, 4, len(completions))]
        rollouts = tuple(
            Rollout(
                prompt.group,
                sample,
                tokens,
                tuple(logprobs_ST[sample, : len(tokens)].tolist()),
                ((0, Version(0, 0)),),
                FinishReason.STOP,
                "",
            )
            for sample, tokens in enumerate(completions)
        )
        group = Group(
            prompt,
            rollouts,
            tuple(inputs.tokens_P.tolist()),
            frames_digest(frames[prompt.media_key]),
        )
        found.append(
            ScoredGroup(
                group,
                tuple(Reward({"answer": value}, value) for value in rewards),
                group_advantages(rewards),
            )
        )
    return found


@pytest.fixture(scope="session")
def settings(model) -> Callable[..., LearnerSettings]:
    """Settings of a learner; keywords are fields of `Learning` or, with `model=`, the model."""

    def build(*, model: ModelConfig = model, **fields: Any) -> LearnerSettings:
        learning = LearningConfig(
            **{
                "clip_low": 0.05,
                "clip_high": 0.05,
                "mini_batches": 2,
                "rate": 1e-3,
                "schedule": Schedule.constant,
                "seconds": 60.0,
            }
            | fields
        )
        return LearnerSettings(
            model, learning, Optimisation.of_learning(learning, batches=10), seed=0, on_gpu=False
        )

    return build


@pytest.fixture(scope="session")
def reader(model) -> Reader:
    return Reader.of(
        load_policy(model), load_processor(model), style=model.prompt_style, max_tokens=4096
    )


@pytest.fixture(scope="session")
def fetch(frames) -> Callable[[str], np.ndarray]:
    return frames.__getitem__
