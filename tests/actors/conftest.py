"""A tiny policy, its frames, and one started engine that all tests here share."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from actors.pool.replica_state import State
from actors.pool.rollout_pool import RolloutPool
from o3rl.config import ModelConfig, PromptStyle, RolloutsConfig, SamplingConfig
from o3rl.types import FramePlan, Group, Prompt, Row, Task, Truth, Version
from o3rl.weights.buckets import RawTensor, unpack
from o3rl.weights.manifest import publish
from o3rl.weights.versions import MemoryWeights

T = TypeVar("T")

FRAMES, SIDE = 4, 112
SEED = 7
SAMPLING = SamplingConfig(group_size=4, max_tokens=24)
ROLLOUTS = RolloutsConfig(
    gpus=0,
    cpus=1,
    max_model_tokens=512,
    max_batched_tokens=1024,
    start_seconds=900,
    seconds=300,
    load_seconds=200,
)


def model(folder: Path) -> ModelConfig:
    return ModelConfig(path=str(folder), dtype="float32", prompt_style=PromptStyle.brief)


def states(pool: RolloutPool) -> tuple[State, ...]:
    """Of each replica."""
    return tuple(replica.state for replica in pool.fleet.replicas)


def locations(pool: RolloutPool) -> tuple[Any, ...]:
    """Of each replica; None while it has not started."""
    return tuple(replica.location for replica in pool.fleet.replicas)


def prompt(group: int, *, question: str = "Where is the red circle?") -> Prompt:
    row = Row(f"row{group}", Task.FREE_FORM, "synth", question, "v.mp4", Truth("here"))
    times = tuple(float(second) for second in range(FRAMES))
    plan = FramePlan(tuple(range(FRAMES)), times, (SIDE, SIDE), float(FRAMES))
    return Prompt(group, row, plan, f"key{group}", 0.0)


def frames(key: str) -> np.ndarray:
    """Made from the key alone, so that any process sees the same."""
    number = int(key.removeprefix("key"))
    pixels = np.random.default_rng(number).integers(0, 256, (FRAMES, SIDE, SIDE, 3))
    return pixels.astype(np.uint8)


@pytest.fixture(scope="session")
def run() -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """Runs a coroutine on the one event loop on which the engine lives."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(1000)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@dataclass(frozen=True)
class Policies:
    """Hugging Face folders: random weights, and the same changed everywhere, vision tower too."""

    base: Path
    changed: Path


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Policies:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from learners.model.tiny import build_tiny
    from learners.weights.export import export

    base = build_tiny(tmp_path_factory.mktemp("base"), seed=3)
    changed = tmp_path_factory.mktemp("changed")
    policy = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    export(policy, AutoProcessor.from_pretrained(base), changed)
    return Policies(base, changed)


def tensors(folder: Path) -> dict[str, RawTensor]:
    """The weights of a Hugging Face folder."""
    return unpack((folder / "model.safetensors").read_bytes())


def published(weights: dict[str, RawTensor], version: Version) -> MemoryWeights:
    """A source that holds just this version, in several buckets."""
    source = MemoryWeights()
    publish(weights, source, version=version, limit=500_000)
    return source


@pytest.fixture(scope="module")
def engine(run, policies) -> Iterator[Any]:
    """Started from the base weights, serving nothing yet."""
    from actors.engine.engine import Engine

    async def start() -> Engine:
        started = Engine(model(policies.base), sampling=SAMPLING, rollouts=ROLLOUTS)
        await started.warm_up()
        return started

    started = run(start())
    yield started
    run(started.close())


def reference_logprobs(folder: Path, group: Group) -> list[np.ndarray]:
    """By transformers alone: of each rollout's tokens, given the group's prompt and its frames."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    policy = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    images = [Image.fromarray(frame) for frame in frames(group.prompt.media_key)]
    seen = processor.image_processor(images=images, return_tensors="pt")
    results = []
    for rollout in group.rollouts_G:
        ids = torch.tensor([[*group.prompt_tokens_T, *rollout.tokens_T]])
        with torch.no_grad():
            logits = policy(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == policy.config.image_token_id).int(),
                **seen,
            ).logits
        logprobs = logits[0, len(group.prompt_tokens_T) - 1 : -1].log_softmax(-1)
        taken = logprobs.gather(1, torch.tensor(rollout.tokens_T)[:, None])
        results.append(taken[:, 0].numpy())
    return results


def learner_logprobs(folder: Path, group: Group) -> list[np.ndarray]:
    """By the learner: the group as one pack, its prompt once."""
    import torch

    from learners.model.packing import PackedPolicy, Segment, pack
    from learners.model.policy import load_policy, load_processor
    from learners.rank.inputs import Reader

    settings = model(folder)
    policy = load_policy(settings).eval()
    reader = Reader.of(
        policy, load_processor(settings), style=settings.prompt_style, max_tokens=4096
    )
    segment = reader.group(group, frames)
    assert isinstance(segment, Segment), segment
    with torch.no_grad():
        logprobs_ST, _ = PackedPolicy(policy)(pack([segment]))
    return [
        logprobs_T[: len(rollout.tokens_T)].numpy()
        for logprobs_T, rollout in zip(logprobs_ST, group.rollouts_G, strict=True)
    ]
