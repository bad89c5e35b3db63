"""The learner's weights to the rollout replicas: one verb, `hand_over`, and two ways.

    StoreTransfer   learner ── publish ──► weight store ◄── pull, when it can ── each replica
    DeviceTransfer  learner's GPU ── send ──► all replicas at once

| who waits   | for whom                          | at most                              |
|-------------|-----------------------------------|--------------------------------------|
| `hand_over` | the learner: publish, send        | `learning.seconds`                   |
| `give`      | the learner's call of the moment  | that one's limit                     |
| rank 0      | each step of every replica        | `rollouts.load_seconds`, 30 s beyond |
| rank 0      | every engine, to connect (`nccl`) | 300 s (vLLM's)                       |

Laws: a store that died has lost what it held, so the learner publishes it again, as long as its
weights are that version; whoever needs it later waits for the next. Straight to the replicas: those
who ask at about the same time take the version together; the learner does not train while it sends;
where one of them fails, all of them are started again; weights that one refuses are an error of the
run.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ray.exceptions import RayTaskError

from actors.pool.replica_state import Replica
from actors.pool.weight_sync import LOAD_MARGIN_SECONDS, WeightProvider, WeightSync
from actors.weights.update_stream import HandOverFailed, Loaded
from cluster.services.device_broadcast import ReplicaReceivers
from learners.group.learner_group import LearnerGroup
from o3rl.config import RolloutsConfig
from o3rl.types import Version

GATHER_SECONDS = 0.05  # for all who are told of a version to ask for it

log = logging.getLogger(__name__)


class StoreTransfer:
    """Through the weight store. Use it from one event loop.

    `weights` are the replicas', whose provider this is from now on; it asks the one before, which
    has them pull.
    """

    def __init__(self, group: LearnerGroup, weights: WeightSync):
        assert weights.provider is not None, "the pool was made without a store"
        self._group, self._weights = group, weights
        self._pull: WeightProvider = weights.provider
        weights.provider = self
        self._version: Version | None = None
        self._again = asyncio.Lock()
        self._repeats = 0  # publications of what the store has lost

    async def hand_over(
        self, version: Version
    ) -> tuple[Mapping[str, float], asyncio.Task[Mapping[str, float]]]:
        """Publish the weights as `version`; the replicas take them while the learner goes on."""
        try:
            metrics = await self._group.publish(version)
        except LookupError as error:  # the store died in the middle of it
            log.warning("version %s is published again: %s", version, error)
            metrics = await self._group.publish_again(version)
        self._version = version
        loading = asyncio.create_task(self._load(version))
        await asyncio.sleep(0)  # it has begun: nothing starts on older weights from now on
        return metrics, loading

    async def give(self, replica: Replica, version: Version) -> Loaded:
        """See `WeightProvider.give`; what the store has lost is published again."""
        repeats = self._repeats
        try:
            return await self._pull.give(replica, version)
        except LookupError as error:
            if version != self._version:  # it was passed by
                raise
            async with self._again:
                if repeats == self._repeats:
                    log.warning("%s: %s; the learner publishes it again", replica, error)
                    await self._group.publish_again(version)
                    self._repeats += 1
        return await self._pull.give(replica, version)

    async def _load(self, version: Version) -> Mapping[str, float]:
        return sync_metrics(await self._weights.load(version))


@dataclass
class _Asking:
    """Those who take a version together."""

    version: Version
    replicas: list[Replica] = field(default_factory=list)
    sent: asyncio.Task[dict[int, Loaded]] | None = None


class DeviceTransfer:
    """From the learner's GPU to the replicas'. Use it from one event loop.

    `weights` are the replicas', whose provider this is from now on.
    """

    def __init__(self, group: LearnerGroup, weights: WeightSync, rollouts: RolloutsConfig):
        self._group, self._weights, self._rollouts = group, weights, rollouts
        weights.provider = self
        self._asking: _Asking | None = None

    async def hand_over(
        self, version: Version
    ) -> tuple[Mapping[str, float], asyncio.Future[Mapping[str, float]]]:
        """Have every replica take the weights as `version`: nothing is left to wait for then."""
        started = time.monotonic()
        self._group.name(version)
        metrics = sync_metrics(await self._weights.load(version))
        if metrics:  # every one may have died of it, and come back since
            size = metrics["sync/fetched_bytes"] / metrics["sync/replicas"]
            metrics |= {"sync/bytes": size, "sync/sent_bytes": size}
        arrived: asyncio.Future[Mapping[str, float]] = asyncio.get_running_loop().create_future()
        arrived.set_result({})
        return metrics | {"sync/publish_seconds": time.monotonic() - started}, arrived

    async def give(self, replica: Replica, version: Version) -> Loaded:
        """See `WeightProvider.give`; HandOverFailed also if another one that took part fails."""
        asking = self._asking
        if asking is None or asking.version != version:
            asking = self._asking = _Asking(version)
            asking.sent = asyncio.create_task(self._send(asking))
        asking.replicas.append(replica)
        assert asking.sent is not None
        reports = await asyncio.shield(asking.sent)
        return reports[replica.index]

    async def _send(self, asking: _Asking) -> dict[int, Loaded]:
        await asyncio.sleep(GATHER_SECONDS)
        if self._asking is asking:
            self._asking = None
        receivers = ReplicaReceivers(
            members=tuple(str(replica) for replica in asking.replicas),
            actors=tuple(replica.actor for replica in asking.replicas),
            transfer=self._rollouts.transfer,
            tensor_parallel=self._rollouts.tensor_parallel,
            seconds=self._rollouts.load_seconds + LOAD_MARGIN_SECONDS,
        )
        try:
            reports = await self._group.send(asking.version, receivers)
        except RayTaskError as error:
            if isinstance(error.cause, HandOverFailed):
                raise HandOverFailed(str(error.cause)) from error
            raise
        asked = [replica.index for replica in asking.replicas]
        return dict(zip(asked, reports, strict=True))


def sync_metrics(reports: Sequence[Loaded]) -> dict[str, float]:
    """What the replicas tell of one version, the slowest one's seconds; empty if all held it."""
    if not reports:
        return {}
    return {
        "sync/fetch_seconds": max(report.seconds_fetch for report in reports),
        "sync/stall_seconds": max(report.seconds_stalled for report in reports),
        "sync/fetched_bytes": float(sum(report.fetched for report in reports)),
        "sync/replicas": len(reports),
    }
