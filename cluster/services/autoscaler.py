"""Keeps the rollout pool as large as it should be while a run trains, and tells of it each step."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from actors.pool.rollout_pool import RolloutPool
from o3rl.config import RolloutsConfig
from o3rl.types import ScoredGroup, Version

logger = logging.getLogger(__name__)


class Membership:
    """An observer: adds `pool/…` to the metrics, and scales between the configured bounds."""

    def __init__(self, pool: RolloutPool, rollouts: RolloutsConfig):
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
        problems = await self._pool.fleet.scale(wanted)
        if problems and self._policy is not None:
            self._policy.refused()

    async def close(self) -> None:
        """Give up a change that goes on; the pool's own end cleans up after it."""
        if self._scaling is not None:
            self._scaling.cancel()
            await asyncio.gather(self._scaling, return_exceptions=True)


GROW = 0.25  # of a step that the learner waits


CONTENT = 0.05  # of a step, below which it hardly waits


BUSY = 0.9  # of their time that the replicas left over may be at work


REFUSED = 10  # times as long until one that found no room is asked for again


class ScalePolicy:
    """Wants between `least` and `most` replicas; moves after `steps` steps in a row that agree."""

    def __init__(self, least: int, most: int, *, steps: int):
        self._least, self._most, self._steps = least, most, steps
        self._seen: deque[int] = deque(maxlen=steps)
        self._patience = 0

    def want(self, replicas: int, *, waited: float, idle: float) -> int:
        """The number to have after a step of which the learner `waited` and the replicas idled."""
        if not self._least <= replicas <= self._most:
            return min(max(replicas, self._least), self._most)
        if self._patience:
            self._patience -= 1
            return replicas
        self._seen.append(self._direction(replicas, waited, idle))
        if len(self._seen) < self._steps or len(set(self._seen)) > 1:
            return replicas
        wanted = min(max(replicas + self._seen[0], self._least), self._most)
        if wanted != replicas:
            self._seen.clear()
        return wanted

    def refused(self) -> None:
        """What was wanted could not be had."""
        self._patience = REFUSED * self._steps

    def _direction(self, replicas: int, waited: float, idle: float) -> int:
        if waited > GROW:
            return 1
        if waited < CONTENT and replicas > 1 and (1 - idle) * replicas / (replicas - 1) < BUSY:
            return -1
        return 0
