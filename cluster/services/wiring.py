"""The distributed program: which services a stage needs, started in order and ended in any case.

    media ── frames by key ──► rollouts, learner        store ◄── weights ── learner
    store ── weights ──► rollouts                       scorers: rewards by part

Handles are wired here and nowhere else; what uses them sees the protocols of `o3rl`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from actors.pool.rollout_pool import RolloutPool
from cluster.services.autoscaler import Membership
from cluster.services.media import AsyncMedia, Media, start_media
from cluster.services.weight_store import WeightStore, start_store
from cluster.services.weight_transfer import DeviceTransfer, StoreTransfer
from learners.group.learner_group import LearnerGroup
from learners.model.architecture import config_of
from learners.rank.settings import LearnerSettings, Optimisation
from o3rl.code_digest import source_digest
from o3rl.config import Placement, RunConfig, Transfer
from o3rl.text.boxes import BoxConvention, convention_of
from rewards.pool import ScorerPool


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

    def store(self) -> WeightStore:
        """The weight store."""
        store = start_store(seconds=self._run.cluster.service_seconds)
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
        self._stack.push_async_callback(pool.fleet.close)
        return pool

    def transfer(self, pool: RolloutPool, group: LearnerGroup) -> StoreTransfer | DeviceTransfer:
        """The way of the weights from the learner to the pool, as configured."""
        rollouts = self._run.rollouts
        if rollouts.transfer is Transfer.object_store:
            return StoreTransfer(group, pool.weights)
        return DeviceTransfer(group, pool.weights, rollouts)

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
        pool: RolloutPool | None = None,
    ) -> LearnerGroup:
        """The learner group, to be started.

        `temperature` is what its rollouts are sampled at; a `pool` that shares its GPU sleeps
        as it learns.
        """
        colocated = self._run.rollouts.placement is Placement.colocated
        settings = LearnerSettings(
            model=self._run.model,
            learning=self._run.learning,
            optimisation=optimisation,
            seed=self._run.seed,
            on_gpu=self._run.cluster.gpus_per_rank > 0,
            shares_gpu=colocated,
            longest=self._run.sampling.max_tokens,
            temperature=temperature,
        )
        group = LearnerGroup(
            settings,
            self._run.cluster,
            fetch=media.frames,
            sink=store,
            make_room=pool.weights.sleep if pool and colocated else None,
        )
        self._stack.push_async_callback(group.close)
        return group


@asynccontextmanager
async def services(run: RunConfig, folder: Path) -> AsyncIterator[Services]:
    """`Services` of a stage whose own files lie in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        yield Services(run, folder, stack)
