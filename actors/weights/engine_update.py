"""A vLLM engine as far as weights go: which version it serves, and how it comes to the next.

    adopt, or load: fetch and check while serving, then pause (keep) ─► update ─► resume

Laws: a version serves only when all of it was checked and has been assigned; an error inside an
update ends the engine; one update at a time. Left out: where weights come from, and sampling.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
)
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from actors.weights.node_cache import Stage
from actors.weights.update_stream import Delivery, EngineBroken, Loaded
from o3rl.config import ModelConfig, RolloutsConfig, Spanning
from o3rl.types import Version
from o3rl.weights.manifest import Manifest, WeightSource


class UpdatedEngine:
    """Takes weights; `Engine` samples by them."""

    def __init__(self, llm: AsyncLLM, model: ModelConfig, rollouts: RolloutsConfig):
        self.rollouts, self.model = rollouts, model
        self.version: Version | None = None  # None: no weights were loaded or adopted yet
        self._llm = llm
        self._serving = asyncio.Event()
        self._update = asyncio.Lock()
        self._broken = ""
        self._asleep = False
        self._stage = Stage(seconds=rollouts.load_seconds)

    @property
    def running(self) -> int:
        """Samples that vLLM has not finished."""
        return self._llm.get_num_unfinished_requests()

    async def adopt(self, version: Version) -> None:
        """Serve the weights of `model.path`, that vLLM started with, under this version."""
        if self.version is not None:
            raise ValueError(f"the engine holds version {self.version}; only a new one can adopt")
        await self._llm.update_weight_version(str(version))
        self.version = version
        self._serving.set()

    async def load(self, source: WeightSource, version: Version | None = None) -> Loaded:
        """Take `version` (None: the newest) from `source` and serve it.

        Raises ValueError naming the tensor if the manifest does not cover the model or bytes differ
        from it, LookupError if the source lacks the version: the engine then serves what it served.
        Raises EngineBroken if the update itself fails.
        """
        async with self._update:
            self._refuse_broken()
            began = time.monotonic()
            manifest = await asyncio.to_thread(source.manifest, version)
            await self._check_names(manifest.version, manifest.names)
            with ExitStack() as stack:
                files = self._stage.files(source, manifest)
                staged = await asyncio.to_thread(stack.enter_context, files)
                fetched = time.monotonic()
                report = await self._replace(manifest.version, updates(manifest, staged.paths))
            return Loaded(
                version=manifest.version,
                digest=manifest.digest,
                tensors=report["tensors"],
                parameters=report["parameters"],
                size=report["bytes"],
                fetched=staged.fetched,
                seconds_fetch=fetched - began,
                seconds_stalled=time.monotonic() - fetched,
            )

    async def link(self, init: Mapping[str, Any]) -> None:
        """Connect to who sends weights straight to this GPU, as vLLM's back end wants it.

        Raises EngineBroken where that fails: its workers may wait for the other side for ever.
        """
        try:
            async with asyncio.timeout(self.rollouts.load_seconds):
                request = WeightTransferInitRequest(dict(init))
                await self._llm.init_weight_transfer_engine(request)
        except (Exception, asyncio.CancelledError) as error:
            self._broken = f"it cannot connect to the learner: {error or repr(error)}"
            raise EngineBroken(self._broken) from error

    async def take(self, delivery: Delivery) -> Loaded:
        """Take a version that is sent straight to this GPU, and serve it. Errors as in `load`."""
        async with self._update:
            self._refuse_broken()
            await self._check_names(delivery.version, delivery.names)
            began = time.monotonic()
            report = await self._replace(delivery.version, delivery.updates())
            return Loaded(
                version=delivery.version,
                digest=delivery.digest,
                tensors=report["tensors"],
                parameters=report["parameters"],
                size=report["bytes"],
                fetched=report["bytes"],
                seconds_fetch=0.0,
                seconds_stalled=time.monotonic() - began,
            )

    async def sleep(self) -> None:
        """Give the GPU's memory to others until the next `load`: weights wait in the machine's.

        Raises ValueError while something is being sampled, EngineBroken if vLLM does not sleep.
        """
        async with self._update:
            self._refuse_broken()
            if self.running:
                raise ValueError(f"{self.running} samples are being drawn; the engine cannot sleep")
            self._serving.clear()
            try:
                async with asyncio.timeout(self.rollouts.load_seconds):
                    await self._llm.sleep(level=1)
            except (Exception, asyncio.CancelledError) as error:
                self._broken = f"it did not go to sleep: {error or repr(error)}"
                self._serving.set()
                raise EngineBroken(self._broken) from error
            self._asleep = True

    async def checksums(self) -> list[dict[str, str]]:
        """vLLM's digests of its own (fused, repacked) parameters, one table per worker."""
        return await self._llm.compute_weight_checksums()

    async def _replace(
        self, version: Version, updates: AsyncIterator[Mapping[str, Any]]
    ) -> dict[str, int]:
        """Pause, take update by update, resume; running requests fare as `rollouts.spanning`."""
        llm, limit, spanning = self._llm, self.rollouts.load_seconds, self.rollouts.spanning
        self._serving.clear()
        try:
            async with asyncio.timeout(limit):
                mode = "abort" if spanning is Spanning.abort else "keep"
                await llm.pause_generation(mode=mode, clear_cache=False)
                if self._asleep:
                    await llm.wake_up(["weights"])
                await llm.start_weight_update()
                async for update in updates:
                    await llm.update_weights(WeightTransferUpdateRequest(dict(update)))
                await llm.finish_weight_update(str(version))
                [report, *_] = await llm.collective_rpc("o3rl_transfer_report")
                if self._asleep:  # not before: the update takes room of its own
                    await llm.wake_up(["kv_cache"])
                    self._asleep = False
                if not self.model.freeze_vision:
                    await llm.reset_encoder_cache()  # it holds images seen by the old tower
                if spanning is Spanning.recompute:
                    await self._forget_prefixes()
                await llm.resume_generation()
        except (Exception, asyncio.CancelledError) as error:
            self._broken = f"update to version {version} failed: {error or repr(error)}"
            self._serving.set()
            raise EngineBroken(self._broken) from error
        self.version = version
        self._serving.set()
        return report

    async def _forget_prefixes(self) -> None:
        """Running requests give up their caches; each is made anew when it goes on."""
        if not await self._llm.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("vLLM kept its caches, though it was to make them anew")

    async def _check_names(self, version: Version, names: Sequence[str]) -> None:
        with self._whole():
            problems = await self._llm.collective_rpc("o3rl_name_problems", args=(list(names),))
        if problems[0]:
            raise ValueError(f"weights of version {version}: {problems[0]}")

    async def _current(self) -> Version:
        """The version that serves; waits for an update to end."""
        self._refuse_broken()
        if self.version is None and not self._update.locked():
            raise ValueError("no weights were loaded or adopted; nothing can be sampled yet")
        limit = self.rollouts.load_seconds
        try:
            async with asyncio.timeout(limit):
                await self._serving.wait()
        except TimeoutError as error:
            raise TimeoutError(f"the engine was still updating weights after {limit} s") from error
        self._refuse_broken()
        assert self.version is not None
        return self.version

    def _refuse_broken(self) -> None:
        if not self._broken and self._llm.errored:
            self._broken = "vLLM's engine process ended"
        if self._broken:
            raise EngineBroken(f"the rollout engine cannot serve: {self._broken}")

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """EngineBroken where vLLM finds its engine's process ended meanwhile."""
        try:
            yield
        except EngineDeadError as error:
            self._broken = "vLLM's engine process ended"
            raise EngineBroken(self._broken) from error


async def updates(manifest: Manifest, paths: Sequence[Path]) -> AsyncIterator[Mapping[str, Any]]:
    """A version in files of this node, bucket by bucket: plain values, to cross by msgpack."""
    for bucket, path in zip(manifest.buckets, paths, strict=True):
        entries = [[e.name, e.dtype, list(e.shape), e.digest] for e in bucket.tensors]
        yield {"path": str(path), "index": bucket.index, "entries": entries}
