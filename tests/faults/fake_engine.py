"""An engine without a model: rollouts of the right form after a set time, to try all the rest.

Everything around the policy is real: frames are fetched and checked, prompts are tokenised and
expanded as vLLM does, weights are fetched, staged and checked against their manifest, sampling
stands still while they are taken, spans name the versions. Only the tokens are made up: half of the
completions, by the request's seed, are a well-formed answer with the truth, the others are not, so
that rewards have spread. `rollouts.engine=tests.faults.fake_engine:FakeEngine` asks for it; nothing
learned with it is worth anything. A question that holds a mark below brings that about.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from actors.engine.seeds import seed_of
from actors.weights.node_cache import Stage
from actors.weights.update_stream import Delivery, Loaded
from o3rl.config import ModelConfig, RolloutsConfig, SamplingConfig
from o3rl.media.reader import frames_digest
from o3rl.text.boxes import convention_of
from o3rl.text.prompts import messages, rendered
from o3rl.types import Failure, FailureKind, FinishReason, Group, Prompt, Rollout, Version
from o3rl.weights.buckets import unpack
from o3rl.weights.manifest import Manifest, WeightSource

DIES = "[kills the replica]"
EMPTY = "[empty completions]"
OVERFLOWS = "[ratio overflows]"  # and with it the gradient
LOGPROB = -0.5  # of every token


class FakeEngine:
    """Answers one prompt after the other, each after `seconds`, half to twice as long by its seed:
    an engine that has no room for two.
    """

    seconds = 0.2

    def __init__(self, model: ModelConfig, *, sampling: SamplingConfig, rollouts: RolloutsConfig):
        self.version: Version | None = None
        self._model, self._sampling, self._rollouts = model, sampling, rollouts
        # Not by transformers' Auto classes, whose imports take longer than all else of its start.
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(model.path)
        config = json.loads(Path(cached_file(model.path, "config.json") or "").read_text())
        vision = config["vision_config"]
        self._convention = convention_of(config["model_type"])
        self._image = config["image_token_id"]
        self._factor = vision["patch_size"] * vision["spatial_merge_size"]
        self._serving = asyncio.Event()
        self._update = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._digests: dict[str, str] = {}
        self._stage = Stage(seconds=rollouts.load_seconds)

    async def ping(self) -> None:
        """It lives."""

    async def warm_up(self) -> None:
        """It is warm."""

    async def adopt(self, version: Version) -> None:
        """Serve as `version`."""
        self.version = version
        self._serving.set()

    async def load(self, source: WeightSource, version: Version | None = None) -> Loaded:
        """Fetch, stage and check as `Engine.load` does; raises what it raises."""
        async with self._update:
            began = time.monotonic()
            manifest = await asyncio.to_thread(source.manifest, version)
            with ExitStack() as stack:
                files = self._stage.files(source, manifest)
                staged = await asyncio.to_thread(stack.enter_context, files)
                fetched = time.monotonic()
                self._serving.clear()
                parameters = await asyncio.to_thread(_parameters, staged.paths)
            self._digests = _digests(manifest)
            self.version = manifest.version
            self._serving.set()
            return Loaded(
                version=manifest.version,
                digest=manifest.digest,
                tensors=len(self._digests),
                parameters=parameters,
                size=manifest.size,
                fetched=staged.fetched,
                seconds_fetch=fetched - began,
                seconds_stalled=time.monotonic() - fetched,
            )

    async def link(self, init: Mapping[str, Any]) -> None:
        """It needs no connection."""
        del init

    async def take(self, delivery: Delivery) -> Loaded:
        """Take and count what the learner sends; holds no sums against it, for it has no GPU."""
        async with self._update:
            began = time.monotonic()
            self._serving.clear()
            async with asyncio.timeout(self._rollouts.load_seconds):
                async for _ in delivery.updates():
                    pass
            self._digests = dict.fromkeys(delivery.names, delivery.digest)
            self.version = delivery.version
            self._serving.set()
            return Loaded(
                version=delivery.version,
                digest=delivery.digest,
                tensors=len(delivery.names),
                parameters=0,
                size=0,
                fetched=0,
                seconds_fetch=0.0,
                seconds_stalled=time.monotonic() - began,
            )

    async def sleep(self) -> None:
        """It holds nothing, and stands still until the next `load`."""
        self._serving.clear()

    async def sample(
        self, prompt: Prompt, frames: np.ndarray, *, seed: int, temperature: float, n: int
    ) -> Group | Failure:
        """`n` rollouts, all at once after the time is over."""
        del temperature
        async with asyncio.timeout(self._rollouts.load_seconds):
            await self._serving.wait()
        if DIES in prompt.row.question:
            os.kill(os.getpid(), signal.SIGKILL)
        started = self.version
        assert started is not None
        luck = Random(seed_of(seed, prompt, 0))
        async with self._turn:
            await asyncio.sleep(self.seconds * luck.uniform(0.5, 2.0))
        async with asyncio.timeout(self._rollouts.load_seconds):
            await self._serving.wait()
        if EMPTY in prompt.row.question:
            return Failure(prompt.group, None, "all completions are empty", FailureKind.COMPLETION)
        ended = self.version
        assert ended is not None
        rollouts = [
            self._rollout(prompt, index, seed=seed, started=started, ended=ended)
            for index in range(n)
        ]
        tokens = self._prompt_tokens(prompt, frames)
        return Group(prompt, tuple(rollouts), tokens, frames_digest(frames))

    async def checksums(self) -> list[dict[str, str]]:
        """The digests of what it holds, by tensor name."""
        return [self._digests]

    async def close(self) -> None:
        """Let go of staged weights."""
        self._stage.close()

    def _rollout(
        self, prompt: Prompt, index: int, *, seed: int, started: Version, ended: Version
    ) -> Rollout:
        good = Random(seed_of(seed, prompt, index)).random() < 0.5
        answer = f"<think>I look at it.</think>\n<answer>{prompt.row.truth.text}</answer>"
        text = answer if good else f"I do not know, {index}."
        tokens = self._tokenizer.encode(text)[: self._sampling.max_tokens - 1]
        tokens = (*tokens, self._tokenizer.eos_token_id)
        spans = ((0, started),)
        if ended != started:
            spans = (*spans, (len(tokens) // 2, ended))
        logprobs = (-1e30 if OVERFLOWS in prompt.row.question else LOGPROB,) * len(tokens)
        return Rollout(prompt.group, index, tokens, logprobs, spans, FinishReason.STOP, text)

    def _prompt_tokens(self, prompt: Prompt, frames: np.ndarray) -> tuple[int, ...]:
        chat = messages(
            prompt.row, prompt.plan, style=self._model.prompt_style, convention=self._convention
        )
        tokens = self._tokenizer.encode(rendered(self._tokenizer, chat), add_special_tokens=False)
        a_frame = prompt.plan.tokens(self._factor) // len(frames)
        return tuple(
            t for token in tokens for t in [token] * (a_frame if token == self._image else 1)
        )


class Quick(FakeEngine):
    """Where nothing happens meanwhile."""

    seconds = 0.05


class Slow(FakeEngine):
    """Where much has to happen meanwhile."""

    seconds = 0.6


class Slower(FakeEngine):
    """Where replicas alone set the pace of a run."""

    seconds = 0.8


def _parameters(paths: tuple[Path, ...]) -> int:
    """Of all tensors in the staged buckets."""
    tensors = (raw for path in paths for raw in unpack(path.read_bytes()).values())
    return sum(int(np.prod(raw.shape)) for raw in tensors)


def _digests(manifest: Manifest) -> dict[str, str]:
    return {entry.name: entry.digest for bucket in manifest.buckets for entry in bucket.tensors}
