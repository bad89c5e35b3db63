"""The distributed program: which services a stage needs, started in order and ended in any case.

    media ── frames by key ──► rollouts, learner        store ◄── weights ── learner
    store ── weights ──► rollouts                       scorers: rewards by part

Handles are wired here and nowhere else; what uses them sees the protocols of `o3rl`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from actors.pool.rollout_pool import RolloutPool
from cluster.services.autoscaler import Membership
from cluster.services.device_broadcast import HandOver
from cluster.services.media import AsyncMedia, Media, start_media
from cluster.services.weight_store import WeightStore, start_store
from learners.group.learner_group import LearnerGroup
from learners.model.architecture import config_of
from learners.rank.settings import LearnerSettings, Optimisation
from o3rl.code_digest import source_digest
from o3rl.config import Placement, RunConfig, Transfer
from o3rl.text.boxes import BoxConvention, convention_of
from o3rl.types import Failure, Group, Prompt, ScoredGroup, Version
from rewards.pool import ScorerPool


@dataclass(frozen=True, slots=True)
class Sampling:
    """The rollout pool as loop and evaluation use it."""

    pool: RolloutPool

    async def sample(self, prompt: Prompt) -> Group | Failure:
        """A group for training."""
        return await self.pool.sample(prompt)

    async def answer(self, prompt: Prompt, *, samples: int, temperature: float) -> Group | Failure:
        """Answers outside training."""
        return await self.pool.evaluate(prompt, temperature=temperature, n=samples)

    async def load(self, version: Version) -> dict[str, float]:
        """Every replica takes `version`; the slowest one's seconds are reported."""
        reports = await self.pool.load(version)
        if not reports:  # all hold it already
            return {}
        return {
            "sync/fetch_seconds": max(report.seconds_fetch for report in reports),
            "sync/stall_seconds": max(report.seconds_stalled for report in reports),
            "sync/fetched_bytes": float(sum(report.fetched for report in reports)),
            "sync/replicas": len(reports),
        }


@dataclass(frozen=True, slots=True)
class Learning:
    """The learner group as the loop uses it.

    `sharer` has its GPU by turns with it; `direct` takes its weights while it publishes them.
    """

    group: LearnerGroup
    sharer: RolloutPool | None = None
    direct: Sampling | None = None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What the latest update refused to train."""
        return self.group.failures

    async def update(self, groups: Sequence[ScoredGroup]) -> dict[str, float]:
        """Learn from one batch."""
        if self.sharer is not None:
            await self.sharer.sleep()
        return await self.group.update(groups)

    async def publish(self, version: Version) -> dict[str, float]:
        """Make the weights available as `version`, or have the replicas take them."""
        if self.direct is None:
            return await self.group.publish(version)
        started = time.monotonic()
        self.group.name(version)
        metrics = await self.direct.load(version)
        if metrics:  # every one may have died of it, and come back since
            size = metrics["sync/fetched_bytes"] / metrics["sync/replicas"]
            metrics |= {"sync/bytes": size, "sync/sent_bytes": size}
        return metrics | {"sync/publish_seconds": time.monotonic() - started}

    async def save(self, folder: Path) -> None:
        """State to go on from."""
        await self.group.save(folder)

    async def export(self, folder: Path) -> None:
        """A Hugging Face folder."""
        await self.group.export(folder)


def box_convention(path: str) -> BoxConvention:
    """How the model at `path` writes boxes; ValueError for a family that nobody taught us."""
    return convention_of(model_type(path))


def model_type(path: str) -> str:
    """`qwen2_5_vl` and the like, from the model's own config."""
    return str(config_of(path).get("model_type", ""))


class Services:
    """Starts services of a run on demand; all that were started end with the block."""

    def __init__(self, run: RunConfig, folder: Path, stack: AsyncExitStack):
        self._run = run
        self._folder = folder
        self._stack = stack

    def media(self) -> AsyncMedia:
        """The media actor."""
        handle = start_media(
            Path(self._run.data.media),
            self._run.frames,
            folder=self._folder,
            alive_seconds=self._run.cluster.service_seconds,
        )
        self._stack.push_async_callback(asyncio.to_thread, handle.close)
        return AsyncMedia(handle)

    def store(self, *, kept: bool = True) -> WeightStore:
        """The weight store; its mirror is `kept` for the next start, or ends with the block."""
        mirror = self._folder / "weights"
        if not kept:
            passing = TemporaryDirectory(prefix="weights-", dir=self._folder)
            mirror = Path(self._stack.enter_context(passing))
        store = start_store(mirror, seconds=self._run.cluster.service_seconds)
        self._stack.push_async_callback(asyncio.to_thread, store.close)
        return store

    def scorers(self) -> ScorerPool:
        """The scorer pool."""
        pool = ScorerPool(
            self._run.rewards,
            model_type=model_type(self._run.model.path),
            source=source_digest(),
            start_seconds=self._run.cluster.start_seconds,
        )
        self._stack.push_async_callback(pool.close)
        return pool

    def rollouts(self, media: Media, store: WeightStore | None) -> RolloutPool:
        """The rollout pool, to be started; it serves once it has loaded or adopted weights.

        What lies in a `store` is pulled from it, also where training has its weights sent.
        """
        rollouts = self._run.rollouts
        if store is not None:
            rollouts = replace(rollouts, transfer=Transfer.object_store)
        pool = RolloutPool(
            self._run.model,
            sampling=self._run.sampling,
            rollouts=rollouts,
            fetch=media.frames,
            source=store,
            seed=self._run.seed,
        )
        self._stack.push_async_callback(pool.close)
        return pool

    def learning(self, pool: RolloutPool, group: LearnerGroup) -> Learning:
        """The learner group beside a pool: they may share a GPU, and weights go as configured."""
        rollouts = self._run.rollouts
        sharer = pool if rollouts.placement is Placement.colocated else None
        if rollouts.transfer is Transfer.object_store:
            return Learning(group, sharer)
        pool.giver = HandOver(group, rollouts)
        return Learning(group, sharer, Sampling(pool))

    def membership(self, pool: RolloutPool) -> Membership:
        """Who keeps the pool as large as it should be; it ends before the pool does."""
        membership = Membership(pool, self._run.rollouts)
        self._stack.push_async_callback(membership.close)
        return membership

    def learner(
        self,
        media: Media,
        store: WeightStore | None,
        *,
        optimisation: Optimisation,
        temperature: float = 1.0,
    ) -> LearnerGroup:
        """The learner group, to be started; `temperature` of what its rollouts are sampled at."""
        settings = LearnerSettings(
            model=self._run.model,
            learning=self._run.learning,
            optimisation=optimisation,
            seed=self._run.seed,
            on_gpu=self._run.cluster.gpus_per_rank > 0,
            shares_gpu=self._run.rollouts.placement is Placement.colocated,
            longest=self._run.sampling.max_tokens,
            temperature=temperature,
        )
        group = LearnerGroup(settings, self._run.cluster, fetch=media.frames, sink=store)
        self._stack.push_async_callback(group.close)
        return group


@asynccontextmanager
async def services(run: RunConfig, folder: Path) -> AsyncIterator[Services]:
    """`Services` of a stage whose own files lie in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        yield Services(run, folder, stack)
