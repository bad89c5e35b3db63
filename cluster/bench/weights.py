"""`o3rl bench weights`: new weights from a learner rank to a busy engine, all or what changed.

A random bfloat16 policy with float32 masters takes optimiser steps, and after each its weights go
through the weight store to a vLLM that samples all the while. The same steps once for each way of
publishing; the weights must be the same, by the digests of every version and by vLLM's own.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from actors.engine.engine import Engine
from cluster.bench.fixtures import alone, build_folder, build_prompts, policy_of, scored_group
from cluster.bench.report import Report, table
from cluster.services.session import ray_session
from cluster.services.weight_store import start_store
from learners.rank.worker import RankWorker
from o3rl.config import (
    ClusterConfig,
    LearningConfig,
    ModelConfig,
    Publish,
    RolloutsConfig,
    SamplingConfig,
    Schedule,
)
from o3rl.types import Failure, Group, Prompt, Version

Prompts = list[tuple[Prompt, np.ndarray]]  # each with its frames

PROMPT, COMPLETION, GROUP = 356, 128, 8  # tokens, tokens, samples: what the engine is busy with
STORE_SECONDS = 300.0
COLUMNS = ("", "publish s", "fetch s", "stall s", "sent MB", "fetched MB", "of all", "changed")


@dataclass(frozen=True, slots=True)
class Measured:
    """One version's way: seconds and bytes."""

    publish_seconds: float  # the learner gathers, compares, sends
    fetch_seconds: float  # the replica fetches and checks; it serves meanwhile
    stall_seconds: float  # it does not
    size: int  # of all weights
    sent: int
    fetched: int
    changed: float | None  # share of values
    digest: str  # of the manifest


def run(options: argparse.Namespace) -> Report:
    """Measure, then a table or JSON. Raises ValueError where two ways give other weights."""
    with TemporaryDirectory(prefix="o3rl-") as made:
        way = measured(Path(made), options.model, steps=options.steps, rate=options.rate)
        found = asyncio.run(way)
    report = {"model": options.model, "rate": options.rate, "ways": found}
    title = f"{options.model} in bfloat16, rate {options.rate:g}"
    rows = (_row(kind, steps) for kind, steps in found.items())
    return report, [table(title, COLUMNS, rows)]


def _row(kind: str, steps: Sequence[Measured]) -> tuple[str, ...]:
    """Of one way: medians over the steps."""

    def middle(of: Callable[[Measured], float]) -> float:
        return median(map(of, steps))

    changed = [each.changed for each in steps if each.changed is not None]
    return (
        kind,
        f"{middle(lambda each: each.publish_seconds):.2f}",
        f"{middle(lambda each: each.fetch_seconds):.2f}",
        f"{middle(lambda each: each.stall_seconds):.2f}",
        f"{middle(lambda each: each.sent) / 1e6:.1f}",
        f"{middle(lambda each: each.fetched) / 1e6:.1f}",
        f"{middle(lambda each: each.fetched / each.size):.1%}",
        f"{median(changed):.2%}" if changed else "",
    )


async def measured(
    folder: Path, name: str, *, steps: int, rate: float
) -> dict[str, list[Measured]]:
    """By way of publishing, the hand-over after each of `steps` steps of the policy `name`."""
    policy = replace(policy_of(build_folder(folder / "policy", name)), dtype="bfloat16")
    prompts = build_prompts(folder / "policy", PROMPT, steps)
    tokens = PROMPT + COMPLETION
    rollouts = RolloutsConfig(
        gpus=0, cpus=1, max_model_tokens=tokens, max_batched_tokens=GROUP * tokens
    )
    sampling = SamplingConfig(group_size=GROUP, max_tokens=COMPLETION, max_prompt_tokens=PROMPT)
    engine = Engine(policy, sampling=sampling, rollouts=rollouts)
    found: dict[str, list[Measured]] = {}
    sums = []
    try:
        engine.forbid_end()
        await engine.warm_up()
        await engine.adopt(Version(0, 0))
        groups = [await _group(engine, prompt, frames) for prompt, frames in prompts]
        async with _busy(engine, prompts):
            with ray_session(ClusterConfig(cpus=1)):
                for kind in Publish:
                    worker = _worker(policy, prompts, publish=kind, rate=rate)
                    found[kind.value] = await _way(engine, worker, groups)
                    sums.append(await engine.checksums())
        worker.close()
    finally:
        await engine.close()
    digests = {kind: [each.digest for each in way] for kind, way in found.items()}
    if sums[0] != sums[1] or digests[Publish.full] != digests[Publish.changes]:
        raise ValueError(f"the two ways gave other weights: {digests}, {sums}")
    return found


def _worker(policy: ModelConfig, prompts: Prompts, *, publish: Publish, rate: float) -> RankWorker:
    frames = {prompt.media_key: shown for prompt, shown in prompts}
    learning = LearningConfig(
        rate=rate, schedule=Schedule.constant, mini_batches=1, publish=publish
    )
    return RankWorker(alone(policy, learning), frames.__getitem__)


async def _way(engine: Engine, worker: RankWorker, groups: list[Group]) -> list[Measured]:
    """All steps by one way; what the weights were before is sent and taken first, uncounted."""
    store = start_store(seconds=STORE_SECONDS)
    assert engine.version is not None
    incarnation = engine.version.incarnation + 1
    found = []
    try:
        for number in range(len(groups) + 1):
            if number:
                batch = [scored_group(groups[number - 1])]
                await asyncio.to_thread(worker.update, [batch])
            version, started = Version(incarnation, number), perf_counter()
            published = await asyncio.to_thread(worker.publish, version, store)
            assert published is not None
            publish_seconds = perf_counter() - started
            loaded = await engine.load(store, version)
            found.append(
                Measured(
                    publish_seconds,
                    loaded.seconds_fetch,
                    loaded.seconds_stalled,
                    published.manifest.size,
                    published.sent,
                    loaded.fetched,
                    published.changed,
                    loaded.digest,
                )
            )
    finally:
        store.close()
    return found[1:]


async def _group(engine: Engine, prompt: Prompt, frames: np.ndarray) -> Group:
    group = await engine.generate(prompt, frames, seed=prompt.group)
    if isinstance(group, Failure):
        raise RuntimeError(f"the engine did not sample: {group.reason}")
    return group


@asynccontextmanager
async def _busy(engine: Engine, prompts: Prompts) -> AsyncIterator[None]:
    """The engine samples one group after the other until the end of the block."""

    async def sample_on() -> None:
        for seed in count(1):
            prompt, frames = prompts[seed % len(prompts)]
            await engine.generate(prompt, frames, seed=seed)

    sampling = asyncio.create_task(sample_on())
    try:
        yield
        if sampling.done():
            sampling.result()  # why it samples no more
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
