"""New weights for the replicas: each takes the newest version as soon as it can, and then serves.

| who waits       | for whom                    | at most                 | then                  |
|-----------------|-----------------------------|-------------------------|-----------------------|
| `load`, `sleep` | each replica                | `load_seconds` and 30 s | that replica restarts |
| `load`          | one that serves the version | `start_seconds`         | TimeoutError          |
| one passed by   | the learner's next version  | `load_seconds`          | it restarts           |
| `sleep`         | a replica that starts       | `start_seconds`         | TimeoutError          |

Laws: a replica serves only the version that is wanted, checked as it was loaded; one that is slow
to load holds up no other, and takes the newest version when its own is passed by.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

from ray.exceptions import RayError, RayTaskError

from actors.pool.replica_fleet import Fleet
from actors.pool.replica_state import Replica, State
from actors.weights.update_stream import EngineBroken, HandOverFailed, Loaded
from o3rl.config import RolloutsConfig
from o3rl.ray_calls import DIED, answered, first_line
from o3rl.types import Version
from o3rl.weights.device_protocol import TrainedOn
from o3rl.weights.manifest import WeightSource

log = logging.getLogger(__name__)

LOAD_MARGIN_SECONDS = 30.0  # beyond the engine's own limit


class WeightProvider(Protocol):
    """Where replicas have their weights from."""

    async def give(self, replica: Replica, version: Version) -> Loaded:
        """Have a replica take `version`, and serve it.

        Raises TrainedOn if the version can be had no more and another one will come, LookupError
        where it is not held, ValueError if the replica refuses the weights, HandOverFailed where
        they do not reach it, and what Ray raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pull:
    """Each replica pulls from `source`, which must be picklable, within `seconds`."""

    source: WeightSource
    seconds: float

    async def give(self, replica: Replica, version: Version) -> Loaded:
        """See `WeightProvider.give`."""
        return await answered(replica.actor.load.remote(self.source, version), self.seconds)


class WeightSync:
    """The fleet's weights. Use it from one event loop; `provider` is set before the first load."""

    def __init__(self, fleet: Fleet, rollouts: RolloutsConfig, source: WeightSource | None):
        self._fleet, self._rollouts = fleet, rollouts
        self._limit = rollouts.load_seconds + LOAD_MARGIN_SECONDS
        self.provider: WeightProvider | None = Pull(source, self._limit) if source else None
        self.wanted: Version | None = None
        self._adopted: Version | None = None  # what the replicas' own checkpoint is called
        fleet.refresh = self.refresh

    async def adopt(self, version: Version) -> None:
        """Serve the weights of `model.path` as `version`; replicas that restart do so too."""
        self._adopted = self.wanted = version
        await asyncio.gather(*(self.refresh(replica) for replica in self._fleet.live))

    async def load(self, version: Version) -> tuple[Loaded, ...]:
        """Bring every live replica to `version`; what each `Engine.load` that it took reports.

        Each serves again as soon as it is there itself. Raises ValueError or LookupError from a
        replica that refused the version: nothing is served then until a `load` succeeds. A replica
        that failed otherwise restarts; TimeoutError if none is left that could, or none serves
        within `start_seconds`.
        """
        if self.provider is None:
            raise ValueError(f"version {version}: the pool has no weight source to load from")
        self.wanted = version
        await self._fleet.announce()
        reports = await asyncio.gather(*(self.refresh(replica) for replica in self._fleet.live))
        if not await self._serves(version):
            raise TimeoutError(f"no replica took version {version}: {self._fleet.why}")
        return tuple(report for report in reports if report is not None)

    async def sleep(self) -> None:
        """Every replica gives its GPU's memory up until the next `load`; one that starts, first.

        Raises TimeoutError naming those that did not, ValueError from one that is sampling.
        """

        def settled() -> bool:
            return all(replica.state is not State.STARTING for replica in self._fleet.members)

        if not await self._fleet.reached(settled, self._rollouts.start_seconds):
            raise TimeoutError(f"not every replica has started: {self._fleet.why}")
        asleep = await asyncio.gather(*(self._sleep(replica) for replica in self._fleet.live))
        if not all(asleep):
            raise TimeoutError(f"not every replica went to sleep: {self._fleet.why}")

    async def checksums(self) -> list[list[dict[str, str]]]:
        """vLLM's weight checksums, replica by replica."""
        limit = self._rollouts.load_seconds
        calls = (replica.actor.checksums.remote() for replica in self._fleet.live)
        return [await answered(call, limit) for call in calls]

    async def refresh(self, replica: Replica) -> Loaded | None:
        """Bring a live replica to the wanted version and to HEALTHY; None if it took nothing."""
        async with replica.loading:
            report = None
            while replica.live and replica.version != self.wanted:
                version = self.wanted
                assert version is not None
                replica.outdated()
                try:
                    report = await self._brought(replica, version)
                except TrainedOn:
                    await self._next_version(replica, version)
                    continue
                except LookupError:
                    if version == self.wanted:
                        raise
                    log.info("%s: version %s was passed by while it loaded", replica, version)
                    continue
                if replica.version != version:
                    break  # it died of it
            if replica.version == self.wanted is not None:
                replica.serve()
        await self._fleet.announce()
        return report

    async def _brought(self, replica: Replica, version: Version) -> Loaded | None:
        """Have a replica load or adopt; one that does not come through it is dead."""
        if version == self._adopted:
            answer = answered(replica.actor.adopt.remote(version), self._limit)
        else:
            assert self.provider is not None
            answer = self.provider.give(replica, version)
        through, report = await self._came_through(replica, answer, f"load version {version}")
        if through:
            replica.loaded(version)
        return report

    async def _next_version(self, replica: Replica, passed: Version) -> None:
        """Once the learner, which has trained on, names another; who waits in vain is dead."""
        log.info("%s: the learner has trained on from version %s", replica, passed)

        def settled() -> bool:
            return self.wanted != passed or replica.state is not State.STALE

        if not await self._fleet.reached(settled, self._rollouts.load_seconds):
            told = f"{replica}: the learner named no version after {passed} in time"
            self._fleet.died(replica, told)

    async def _sleep(self, replica: Replica) -> bool:
        async with replica.loading:
            if not replica.live:
                return False
            replica.sleep()
            asleep = answered(replica.actor.sleep.remote(), self._limit)
            through, _ = await self._came_through(replica, asleep, "go to sleep")
        return through

    async def _came_through(
        self, replica: Replica, answer: Awaitable[Any], what: str
    ) -> tuple[bool, Any]:
        """Whether a replica came through a call, and its answer; one that did not is dead."""
        actor = replica.actor
        try:
            report = await answer
        except (HandOverFailed, RayTaskError, TimeoutError, *DIED) as error:
            if replica.actor is actor and not replica.leaving:  # else it was ended since
                self._failed(replica, error, what)
            return False, None
        return replica.actor is actor, report

    def _failed(self, replica: Replica, error: Exception, what: str) -> None:
        """It is dead; raises what is no fault of its own: the weight store's silence, a bug."""
        if isinstance(error, RayTaskError):  # before TimeoutError: the store's comes from there
            ours = isinstance(error.cause, TimeoutError)
            if ours or not isinstance(error.cause, (EngineBroken, OSError)):
                raise error
            self._fleet.died(replica, f"{replica}: {first_line(error)}")
        elif isinstance(error, HandOverFailed):
            self._fleet.died(replica, f"{replica} did not {what}: {error}")
        elif isinstance(error, RayError):
            self._fleet.lost(replica, error, f"{replica} died when it was to {what}")
        else:
            told = f"{replica} did not {what} within {self._limit:.0f} s"
            self._fleet.died(replica, told, silent=True)

    async def _serves(self, version: Version) -> bool:
        """Whether some replica serves a version, or it was passed by; waits while any may come."""

        def served() -> bool:
            holds = (
                replica.state is State.HEALTHY and replica.version == version
                for replica in self._fleet.replicas
            )
            return self.wanted != version or any(holds)

        def settled() -> bool:
            return served() or not self._fleet.members

        await self._fleet.reached(settled, self._rollouts.start_seconds)
        return served()
