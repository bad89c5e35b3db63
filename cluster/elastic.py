"""Keeps the rollout pool as large as it should be while a run trains, and tells of it each step."""

import asyncio
import logging
from collections.abc import Sequence

from actors.rollout import RolloutPool
from o3rl.config import Rollouts
from o3rl.elastic import ScalePolicy
from o3rl.flow import ScoredGroup, Version

logger = logging.getLogger(__name__)


class Membership:
    """An observer: adds `pool/…` to the metrics, and scales between the configured bounds."""

    def __init__(self, pool: RolloutPool, rollouts: Rollouts):
        self._pool = pool
        self._policy: ScalePolicy | None = None
        if rollouts.max_replicas:
            least = rollouts.min_replicas
            self._policy = ScalePolicy(least, rollouts.max_replicas, steps=rollouts.scale_after)
        self._scaling: asyncio.Task[None] | None = None

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """After a step; a change of the pool goes on while the next ones are taken."""
        del version, groups
        metrics |= {f"pool/{name}": value for name, value in self._pool.counts.items()}
        if self._policy is None or (self._scaling and not self._scaling.done()):
            return
        if self._scaling:
            self._scaling.result()  # what it raised
        members = self._pool.counts["members"]
        wanted = self._policy.want(
            members,
            waited=metrics["seconds/rollout"] / metrics["seconds/step"],
            idle=metrics["queue/idle_seconds"] / metrics["seconds/step"],
        )
        if wanted != members:
            logger.info("step %d: from %d rollout replicas to %d", step, members, wanted)
            self._scaling = asyncio.create_task(self._scale(wanted))

    async def _scale(self, wanted: int) -> None:
        problems = await self._pool.scale(wanted)
        if problems and self._policy is not None:
            self._policy.refused()

    async def close(self) -> None:
        """Give up a change that goes on; the pool's own end cleans up after it."""
        if self._scaling is not None:
            self._scaling.cancel()
            await asyncio.gather(self._scaling, return_exceptions=True)
