"""The learner group: one rank per actor, all or none. Only this file and `answers.py` have Ray.

    controller ── update, sft_step, save, … ──► rank 0 … rank R−1 (one `RankWorker` each)
                                                 └─ collectives (gloo or NCCL) ─┘

Laws: every call goes to all ranks, and is over when all have answered; one rank that fails or dies
ends the call at once, for the others may wait for it in a collective; after that the group is only
good to be closed, but where all ranks have come out of it: a write that a disk refuses, a send that
a replica fails.

| who waits | for whom | limit |
|---|---|---|
| start | placement; the ranks | `cluster.start_seconds` |
| any call | the call before it | that one's limit |
| update, sft_step, publish, send, save, restore, export | all ranks | `learning.seconds` |
| a rank in a collective | the other ranks | `learning.seconds` |
| who hears nothing | the stacks of the silent ranks, for the log | 15 s |
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from learners.group.answers import LearnerLost, all_answers
from learners.model.architecture import Architecture, config_of
from learners.model.flops import Flops
from learners.model.memory import trains_vision
from learners.rank.batching import group_cost, mini_batches, row_cost, shares
from learners.rank.clip_noise import ClipNoise
from learners.rank.settings import Fetch, LearnerSettings
from o3rl.code_digest import source_digest
from o3rl.config import ClusterConfig
from o3rl.ray_calls import bundle, free, log_stacks_at
from o3rl.types import Failure, Prompt, ScoredGroup, Version
from o3rl.weights.device_protocol import Receivers, TrainedOn
from o3rl.weights.manifest import WeightSink

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0  # with a wait for room, until it is told
PID_SECONDS = 30.0


class _Rank:
    """What runs in a rank's process."""

    def __init__(self, rank: int):
        from learners.rank.worker import (
            RankWorker,  # torch and DeepSpeed: here, and not in who calls
        )

        self._rank, self._make = rank, RankWorker
        self._worker: RankWorker | None = None

    def pid(self) -> int:
        """Of this rank's process."""
        return os.getpid()

    def address(self) -> tuple[str, int]:
        """This node's address and a port that is free on it."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as found:
            found.bind(("", 0))
            return host, found.getsockname()[1]

    def start(
        self, settings: LearnerSettings, fetch: Fetch, *, host: str, port: int, source: str
    ) -> None:
        """Join the other ranks. Raises ValueError if this process runs other code."""
        own = source_digest()
        if own != source:
            raise ValueError(
                f"learner rank {self._rank} runs source {own}, the driver {source}: install one "
                "wheel on every node"
            )
        os.environ |= {
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
            "RANK": str(self._rank),
            "WORLD_SIZE": str(settings.learning.ranks),
            "LOCAL_RANK": "0",  # Ray shows each actor its own GPU only
        }
        self._worker = self._make(settings, fetch)

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """One of the worker's methods."""
        assert self._worker is not None, "not started"
        return getattr(self._worker, method)(*arguments, **keywords)

    def failures(self) -> tuple[Failure, ...]:
        """What the latest update or SFT step refused, on all ranks."""
        assert self._worker is not None, "not started"
        return self._worker.failures


class LearnerGroup:
    """The ranks as one learner. Use it from one event loop; calls are taken one after the other.

    `fetch` gives frames by media key and is sent to the ranks; `sink` takes published weights.
    `make_room` is awaited before a batch: who else is on the GPUs leaves them.
    `failures` are what the latest update or SFT step refused to train, to be reported.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        cluster: ClusterConfig,
        *,
        fetch: Fetch,
        sink: WeightSink | None = None,
        make_room: Callable[[], Awaitable[None]] | None = None,
    ):
        self.failures: tuple[Failure, ...] = ()
        self._settings = settings
        self._cluster = cluster
        self._fetch = fetch
        self._sink = sink
        self._make_room = make_room
        self._noise = ClipNoise(settings.learning)
        self._batches = 0
        self._version: Version | None = None  # what the weights are; None once they are trained on
        self._turn = asyncio.Lock()
        self._placement: PlacementGroup | None = None
        self._ranks: list[Any] = []  # Ray's handles carry no type
        self._pids: list[int] = []

    async def start(self) -> None:
        """Place and start all ranks.

        Raises TimeoutError where there is no room or a rank does not come up, LearnerLost if one
        dies, ValueError if one runs other code or refuses the settings. What was started is ended.
        """
        try:
            self._placement = await self._reserve()
            self._ranks = [self._build(rank) for rank in range(self._settings.learning.ranks)]
            limit = self._cluster.start_seconds
            calls = [self._ranks[0].address.remote()]
            [(host, port)] = await all_answers(calls, what="learner start", seconds=limit)
            calls = [
                rank.start.remote(
                    self._settings, self._fetch, host=host, port=port, source=source_digest()
                )
                for rank in self._ranks
            ]
            await all_answers(calls, what="learner start", seconds=limit)
            self._pids = await self.pids()
        except BaseException:
            await self.close()
            raise

    async def update(self, groups: Sequence[ScoredGroup]) -> dict[str, float]:
        """Train one batch, cut into mini-batches in its order; returns metrics over all ranks."""
        if self._make_room is not None:
            await self._make_room()
        count = len(self._ranks)
        flops = self._flops
        by_mini_batch = [
            shares(part, count, cost=lambda scored: group_cost(scored, flops))
            for part in mini_batches(groups, self._settings.learning.mini_batches)
        ]
        by_rank = [([part[rank] for part in by_mini_batch],) for rank in range(count)]
        return await self._learn("update", by_rank, version=self._version)

    async def sft_step(self, prompts: Sequence[Prompt]) -> dict[str, float]:
        """Train one batch of rows with reasoning; returns metrics over all ranks."""
        flops = self._flops
        count = len(self._ranks)
        parts = shares(prompts, count, cost=lambda prompt: row_cost(prompt, flops))
        return await self._learn("sft_step", [(part,) for part in parts])

    async def publish(self, version: Version) -> dict[str, float]:
        """Make the weights available as `version`; returns seconds, bytes, what changed."""
        self.name(version)
        return await self.publish_again(version)

    async def publish_again(self, version: Version) -> dict[str, float]:
        """`publish` what the store has lost. Raises TrainedOn if the weights are another's now."""
        if self._sink is None:
            raise ValueError("this learner was started without a weight store; nothing to publish")
        started = time.monotonic()
        async with self._turn:
            self._hold(version)
            calls = [rank.call.remote("publish", version, self._sink) for rank in self._ranks]
            published, *_ = await self._answers(calls, "publish")
        metrics = {
            "sync/publish_seconds": time.monotonic() - started,
            "sync/bytes": float(published.manifest.size),
            "sync/sent_bytes": float(published.sent),
        }
        if published.changed is not None:
            metrics["sync/changed_share"] = published.changed
        return metrics

    def name(self, version: Version) -> None:
        """The weights are `version` from now on; to be told before a `send` of it."""
        self._version = version

    async def send(self, version: Version, receivers: Receivers) -> tuple[Any, ...]:
        """Send the weights straight to `receivers`; returns what each of them reports.

        Raises TrainedOn if the weights are no longer `version`; what a receiver raises.
        """
        async with self._turn:
            self._hold(version)
            [place] = await self._answers([self._ranks[0].address.remote()], "address")
            calls = [rank.call.remote("send", version, receivers, place) for rank in self._ranks]
            try:
                reports, *_ = await self._answers(calls, "send")
            except RayTaskError as error:
                if _still_at(calls):
                    raise LearnerLost(f"learner send: a rank left the others: {error}") from error
                raise
        return reports

    def _hold(self, version: Version) -> None:
        if self._version != version:
            raise TrainedOn(f"version {version} is not held: the learner has trained on")

    async def save(self, folder: Path) -> None:
        """Write the learner's state, whole when this returns. Raises OSError as the disk does."""
        await self._write("save", folder)

    async def restore(self, folder: Path) -> None:
        """Go on from a saved state. Errors as in `learners.weights.checkpoint.load_state`."""
        await self._call("restore", folder.absolute())

    async def export(self, folder: Path) -> None:
        """Write a Hugging Face folder: model (adapters merged), tokenizer, processor.

        Raises OSError as the disk does.
        """
        await self._write("export", folder)

    @cached_property
    def _flops(self) -> Flops:
        """What the ranks' passes cost."""
        model = self._settings.model
        return Flops.of(
            Architecture.of(config_of(model.path)),
            checkpointing=model.gradient_checkpointing,
            vision_trained=trains_vision(model),
        )

    async def pids(self) -> list[int]:
        """Of the ranks' processes."""
        calls = [rank.pid.remote() for rank in self._ranks]
        return await all_answers(calls, what="pid", seconds=PID_SECONDS)

    async def close(self) -> None:
        """End all ranks and give their room back. May be called again."""
        if self._batches > 1 and (warning := self._noise.warning()):
            log.warning("over %d batches: %s", self._batches, warning)
        self._batches = 0
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []
        if self._placement is not None:
            remove_placement_group(self._placement)
            self._placement = None

    async def _learn(
        self, method: str, by_rank: Sequence[tuple[Any, ...]], **keywords: Any
    ) -> dict[str, float]:
        async with self._turn:
            started = time.monotonic()
            self._version = None
            calls = [
                rank.call.remote(method, *arguments, **keywords)
                for rank, arguments in zip(self._ranks, by_rank, strict=True)
            ]
            metrics, *_ = await self._answers(calls, method)
            [self.failures] = await self._answers([self._ranks[0].failures.remote()], method)
        metrics |= {"learner/seconds": time.monotonic() - started} | self._noise.note(metrics)
        if not self._batches and (warning := self._noise.warning()):
            log.warning("after the first batch: %s", warning)
        self._batches += 1
        return metrics

    async def _call(self, method: str, *arguments: Any) -> list[Any]:
        async with self._turn:
            calls = [rank.call.remote(method, *arguments) for rank in self._ranks]
            return await self._answers(calls, method)

    async def _answers(self, calls: Sequence[Any], method: str) -> list[Any]:
        """Of the ranks, as `all_answers` has them; what the silent ones are doing is logged."""
        seconds = self._settings.learning.seconds
        try:
            return await all_answers(calls, what=f"learner {method}", seconds=seconds)
        except LearnerLost as error:
            await asyncio.gather(*(self._show(rank) for rank in error.silent))
            raise

    async def _show(self, rank: int) -> None:
        """Log what a silent rank is doing."""
        assert self._placement is not None
        there = PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=rank)
        await log_stacks_at(f"learner rank {rank}", self._pids[rank], there)

    async def _write(self, method: str, folder: Path) -> None:
        async with self._turn:
            calls = [rank.call.remote(method, folder.absolute()) for rank in self._ranks]
            try:
                await self._answers(calls, method)
            except RayTaskError as error:
                if not isinstance(error.cause, OSError):
                    raise
                if _still_at(calls):
                    said = f"learner {method}: a rank could not write while others wait for it"
                    raise LearnerLost(f"{said}: {error.cause}") from error
                raise OSError(str(error.cause)) from error  # without the ranks' tracebacks

    async def _reserve(self) -> PlacementGroup:
        """All bundles or none: a half-started group would hang on its first collective."""
        gpus = self._cluster.gpus_per_rank if self._settings.on_gpu else 0
        resource = self._cluster.learner_resource
        asked = bundle(cpus=self._cluster.cpus_per_rank, gpus=gpus, resource=resource)
        ranks, seconds = self._settings.learning.ranks, self._cluster.start_seconds
        group = placement_group([asked] * ranks, strategy="PACK")
        wanted = f"{ranks} learner ranks of {asked}"
        patience = min(PATIENCE_SECONDS, seconds)
        if await asyncio.to_thread(group.wait, patience):
            return group
        log.warning("no room for %s within %.0f s; free: %s", wanted, patience, free())
        if await asyncio.to_thread(group.wait, seconds - patience):
            return group
        remove_placement_group(group)
        raise TimeoutError(f"no room for {wanted} within {seconds:.0f} s; free: {free()}")

    def _build(self, rank: int) -> Any:
        assert self._placement is not None
        gpus = self._cluster.gpus_per_rank if self._settings.on_gpu else 0
        strategy = PlacementGroupSchedulingStrategy(
            self._placement, placement_group_bundle_index=rank
        )
        return (
            ray.remote(_Rank)
            .options(
                num_cpus=self._cluster.cpus_per_rank,
                num_gpus=gpus,
                max_restarts=0,
                scheduling_strategy=strategy,
                runtime_env={"env_vars": _environment(self._cluster, on_gpu=self._settings.on_gpu)},
            )
            .remote(rank)
        )


def _environment(cluster: ClusterConfig, *, on_gpu: bool) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": str(max(1, int(cluster.cpus_per_rank)))}
    return threads if on_gpu else threads | {"DS_ACCELERATOR": "cpu"}


def _still_at(calls: Sequence[Any]) -> bool:
    """Whether a rank has not answered."""
    _, waiting = ray.wait(list(calls), num_returns=len(calls), timeout=0)
    return bool(waiting)
