"""The pool of rollout replicas: any of them samples a prompt, all of them take new weights.

| who waits      | for whom                      | at most                 | then                  |
|----------------|-------------------------------|-------------------------|-----------------------|
| `sample`       | a healthy replica             | `start_seconds`         | Failure               |
| `sample`       | a less busy one that loads    | 5 s, twice its last load| another gets it       |
| `sample`       | its replica                   | `seconds`               | Failure, SUSPECT      |
| a late replica | its own answer to a ping      | 10 s                    | it restarts           |
|                | its engine's, below it        | 6 s                     | the same              |
| `load`, `sleep`| each replica                  | `load_seconds` and 30 s | that replica restarts |
| one passed by  | the learner's next version    | `load_seconds`          | it restarts           |
| `sleep`        | a replica that starts         | `start_seconds`         | TimeoutError          |

Laws: prompts go only to replicas that hold the pool's current weights, checked as they loaded them;
the prompt of a replica that died comes back as a Failure, never as zero; a replica that is slow to
load holds up no other, and takes the newest version when its own is passed by; a prompt that was
with `SUSPICIOUS` replicas when they died is sampled alone from then on, so that one that kills its
replica costs no other prompt its attempts. How replicas start, join and leave is `replica_fleet`'s.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from actors.engine.replica import Fetch, Place
from actors.pool.replica_fleet import LOAD_MARGIN_SECONDS, Fleet
from actors.pool.replica_state import Giver, Slot, State
from actors.weights.update_stream import EngineBroken, HandOverFailed, Loaded
from o3rl.config import ModelConfig, RolloutsConfig, SamplingConfig
from o3rl.ray_calls import DIED, answered, as_future, first_line
from o3rl.types import Failure, Group, Prompt, Version
from o3rl.weights.device_protocol import TrainedOn
from o3rl.weights.manifest import WeightSource

log = logging.getLogger(__name__)

PING_SECONDS = 10.0
SUSPICIOUS = 2  # deaths
PATIENCE_SECONDS = 5.0  # at least, with a replica that takes weights and has fewer prompts


class RolloutPool:
    """Sampling, whatever replica does it. Use it from one event loop.

    `fetch` gets frames by media key and must be picklable, as must `source`.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        sampling: SamplingConfig,
        rollouts: RolloutsConfig,
        fetch: Fetch,
        source: WeightSource | None,
        seed: int,
    ):
        self._sampling, self._rollouts, self._source = sampling, rollouts, source
        self._fleet = Fleet(model, sampling=sampling, rollouts=rollouts, fetch=fetch, seed=seed)
        self._fleet.bring = self._refresh
        self._load_limit = rollouts.load_seconds + LOAD_MARGIN_SECONDS
        self.giver: Giver | None = None  # where weights do not come from `source`
        self._current: Version | None = None
        self._adopted: Version | None = None  # what the replicas' own checkpoint is called
        self._late = 0  # groups past their time limit
        self._late_answers = 0  # of those, that came after all and were thrown away
        self._deaths: Counter[int] = Counter()  # of replicas, by the groups that they were sampling

    @property
    def states(self) -> tuple[State, ...]:
        """Of each replica."""
        return tuple(slot.state for slot in self._fleet.slots)

    @property
    def places(self) -> tuple[Place | None, ...]:
        """Of each replica; None while it has not started."""
        return tuple(slot.place for slot in self._fleet.slots)

    @property
    def counts(self) -> dict[str, int]:
        """Deaths, joined, left; late groups, late answers; `healthy` replicas, `members` of now.

        One that serves and just takes new weights counts as healthy.
        """
        healthy = sum(slot.state is State.HEALTHY or slot.updating for slot in self._fleet.slots)
        now = {"healthy": healthy, "members": len(self._fleet.staying)}
        late = {"late": self._late, "late_answers": self._late_answers}
        return self._fleet.counts | late | now

    def describe(self) -> list[dict[str, Any]]:
        """Each replica as plain values.

        `first_group`: the seconds from when it was asked for until it returned a group, or None.
        """
        return [
            {
                "replica": slot.index,
                "state": slot.state.value,
                "node": slot.place.node if slot.place else "",
                "version": str(slot.version or ""),
                "prompts": slot.running,
                "why": slot.why,
                "first_group": slot.first_group,
            }
            for slot in self._fleet.slots
        ]

    async def start(self) -> None:
        """See `Fleet.start`; replicas are STALE until `load` or `adopt`."""
        await self._fleet.start()

    async def scale(self, replicas: int) -> tuple[str, ...]:
        """See `Fleet.scale`."""
        return await self._fleet.scale(replicas)

    async def close(self) -> None:
        """End all replicas and give their places back."""
        await self._fleet.close()

    async def adopt(self, version: Version) -> None:
        """Serve the weights of `model.path` as `version`; replicas that restart do so too."""
        self._adopted = self._current = version
        await asyncio.gather(*(self._refresh(slot) for slot in self._fleet.live))

    async def load(self, version: Version) -> tuple[Loaded, ...]:
        """Bring every live replica to `version`; what each `Engine.load` that it took reports.

        Each serves again as soon as it is there itself. Raises ValueError or LookupError from a
        replica that refused the version: nothing is served then until a `load` succeeds. A replica
        that failed otherwise restarts; TimeoutError if none is left that could, or none serves
        within `start_seconds`.
        """
        if self._source is None and self.giver is None:
            raise ValueError(f"version {version}: the pool has no weight source to load from")
        self._current = version
        await self._fleet.announce()
        reports = await asyncio.gather(*(self._refresh(slot) for slot in self._fleet.live))
        if not await self._serves(version):
            raise TimeoutError(f"no replica took version {version}: {self._fleet.why}")
        return tuple(report for report in reports if report is not None)

    async def sleep(self) -> None:
        """Every replica gives its GPU's memory up until the next `load`; one that starts, first.

        Raises TimeoutError naming those that did not, ValueError from one that is sampling.
        """

        def settled() -> bool:
            return all(slot.state is not State.STARTING for slot in self._fleet.members)

        try:
            async with asyncio.timeout(self._rollouts.start_seconds), self._fleet.changed:
                await self._fleet.changed.wait_for(settled)
        except TimeoutError as error:
            raise TimeoutError(f"not every replica has started: {self._fleet.why}") from error
        asleep = await asyncio.gather(*(self._sleep(slot) for slot in self._fleet.live))
        if not all(asleep):
            raise TimeoutError(f"not every replica went to sleep: {self._fleet.why}")

    async def sample(self, prompt: Prompt) -> Group | Failure:
        """A group for training."""
        n, temperature = self._sampling.group_size, self._sampling.temperature
        return await self.evaluate(prompt, temperature=temperature, n=n)

    async def evaluate(self, prompt: Prompt, *, temperature: float, n: int) -> Group | Failure:
        """`n` rollouts at `temperature` (0: greedy) by the replica with the fewest prompts.

        An infrastructure fault is a Failure that names the replica. A bug raises, with the
        replica's own traceback; TimeoutError where no replica is left. Cancelled, it ends the
        sampling.
        """
        alone = self._deaths[prompt.group] >= SUSPICIOUS
        slot = await self._healthy(idle=alone)
        if slot is None and not self._fleet.members:
            raise TimeoutError(f"no rollout replica is left: {self._fleet.why}")
        if slot is None:
            return Failure.of_service(prompt, f"no healthy rollout replica: {self._fleet.why}")
        slot.running += 1
        slot.taken = alone
        name = str(slot)  # with its place, which it may have lost when it is told of
        call = slot.actor.sample.remote(prompt, temperature, n)
        try:
            result = await answered(call, self._rollouts.seconds)
        except asyncio.CancelledError:
            ray.cancel(call)
            raise
        except RayTaskError as error:  # before TimeoutError: one may have come from there
            reason = f"{name}: {first_line(error)}"
            if isinstance(error.cause, TimeoutError):
                return Failure.of_service(prompt, reason)
            if not isinstance(error.cause, EngineBroken):
                raise
            self._deaths[prompt.group] += slot.state is not State.LEAVING
            return Failure.of_service(prompt, self._fleet.died(slot, reason, excused=alone))
        except TimeoutError:
            self._late += 1
            reason = f"{name}: no group within {self._rollouts.seconds:.0f} s"
            self._fleet.beside(self._count_late(as_future(call)))
            ray.cancel(call)
            await self._fleet.see_to(self._suspect(slot, reason, excused=alone))
            self._deaths[prompt.group] += slot.state in (State.STARTING, State.DEAD)
            return Failure.of_service(prompt, reason)
        except DIED as error:
            self._deaths[prompt.group] += not (_taken_away(error) or slot.state is State.LEAVING)
            reason = self._lost(slot, error, f"{name} died", excused=alone)
            return Failure.of_service(prompt, reason)
        except ObjectLostError as error:  # with its node, after it was there
            return Failure.of_service(prompt, f"{name}: its answer was lost: {first_line(error)}")
        finally:
            slot.running -= 1
            slot.taken = False
            await self._fleet.announce()
        del self._deaths[prompt.group]
        slot.deaths = 0
        if slot.first_group is None:
            slot.first_group = time.monotonic() - slot.asked
            log.info("%s returned its first group after %.1f s", name, slot.first_group)
        return result

    async def checksums(self) -> list[list[dict[str, str]]]:
        """vLLM's weight checksums, replica by replica."""
        limit = self._rollouts.load_seconds
        calls = (slot.actor.checksums.remote() for slot in self._fleet.live)
        return [await answered(call, limit) for call in calls]

    async def _count_late(self, answer: Awaitable[Group | Failure]) -> None:
        """Of a call that was given up: its prompt is elsewhere by the time that a group comes."""
        with suppress(RayError):  # it was ended, as it should
            self._late_answers += isinstance(await answer, Group)

    async def _refresh(self, slot: Slot) -> Loaded | None:
        """Bring a live replica to the current version and to HEALTHY; None if it took nothing."""
        async with slot.loading:
            report = None
            while slot.state in (State.STALE, State.HEALTHY) and slot.version != self._current:
                slot.state, version = State.STALE, self._current
                slot.since = time.monotonic()
                assert version is not None
                try:
                    report = await self._bring(slot, version)
                except TrainedOn:
                    await self._next_version(slot, version)
                    continue
                except LookupError:
                    if version == self._current:
                        raise
                    log.info("%s: version %s was passed by while it loaded", slot, version)
                    continue
                if slot.version != version:
                    break  # it died of it
                slot.took = time.monotonic() - slot.since
            if slot.state is State.STALE and slot.version == self._current is not None:
                slot.state, slot.why = State.HEALTHY, ""
        await self._fleet.announce()
        return report

    async def _bring(self, slot: Slot, version: Version) -> Loaded | None:
        """Have a replica load or adopt; one that does not come through it is dead."""
        limit: float | None = self._load_limit
        if version == self._adopted:
            answer = as_future(slot.actor.adopt.remote(version))
        elif self.giver is not None:
            answer, limit = self.giver.give(slot, version), None  # it has limits of its own
        else:
            answer = as_future(slot.actor.load.remote(self._source, version))
        through, report = await self._answered(slot, answer, f"load version {version}", limit)
        if through:
            slot.version = version
        return report

    async def _next_version(self, slot: Slot, passed: Version) -> None:
        """Once the learner, which has trained on, names another; who waits in vain is dead."""
        log.info("%s: the learner has trained on from version %s", slot, passed)
        try:
            async with asyncio.timeout(self._rollouts.load_seconds), self._fleet.changed:
                await self._fleet.changed.wait_for(
                    lambda: self._current != passed or slot.state is not State.STALE
                )
        except TimeoutError:
            self._fleet.died(slot, f"{slot}: the learner named no version after {passed} in time")

    async def _sleep(self, slot: Slot) -> bool:
        async with slot.loading:
            if slot.state not in (State.STALE, State.HEALTHY):
                return False
            slot.state, slot.version = State.STALE, None  # it serves again after the next load
            asleep = as_future(slot.actor.sleep.remote())
            through, _ = await self._answered(slot, asleep, "go to sleep", self._load_limit)
        return through

    async def _answered(
        self, slot: Slot, answer: Awaitable[Any], what: str, limit: float | None
    ) -> tuple[bool, Any]:
        """Whether a replica came through a call, and its answer; one that did not is dead."""
        actor = slot.actor
        try:
            report = await asyncio.wait_for(answer, limit)
        except (HandOverFailed, RayTaskError, TimeoutError, *DIED) as error:
            if slot.actor is actor and slot.state is not State.LEAVING:  # else it was ended since
                self._failed(slot, error, what, limit)
            return False, None
        return slot.actor is actor, report

    def _failed(self, slot: Slot, error: Exception, what: str, limit: float | None) -> None:
        """It is dead; raises what is no fault of its own: the weight store's silence, a bug."""
        if isinstance(error, RayTaskError):  # before TimeoutError: the store's comes from there
            ours = isinstance(error.cause, TimeoutError)
            if ours or not isinstance(error.cause, (EngineBroken, OSError)):
                raise error
            self._fleet.died(slot, f"{slot}: {first_line(error)}")
        elif isinstance(error, HandOverFailed):
            self._fleet.died(slot, f"{slot} did not {what}: {error}")
        elif isinstance(error, RayError):
            self._lost(slot, error, f"{slot} died when it was to {what}")
        else:
            self._fleet.died(slot, f"{slot} did not {what} within {limit:.0f} s", silent=True)

    async def _serves(self, version: Version) -> bool:
        """Whether some replica serves a version, or it was passed by; waits while any may come."""

        def settled() -> bool:
            return served() or not self._fleet.members

        def served() -> bool:
            holds = (s.state is State.HEALTHY and s.version == version for s in self._fleet.slots)
            return self._current != version or any(holds)

        with suppress(TimeoutError):
            async with asyncio.timeout(self._rollouts.start_seconds), self._fleet.changed:
                await self._fleet.changed.wait_for(settled)
        return served()

    async def _healthy(self, *, idle: bool = False) -> Slot | None:
        """The healthy replica with the fewest prompts (`idle`: none); waits while any may come.

        One that has fewer and will be healthy soon is waited for: else the first to have taken new
        weights would get all prompts that waited for them.
        """

        def free() -> Slot | None:
            come = [
                slot
                for slot in self._fleet.slots
                if slot.state is State.HEALTHY or slot.soon(PATIENCE_SECONDS)
            ]
            fit = [slot for slot in come if not (slot.taken or (idle and slot.running))]
            best = min(fit, key=lambda s: (s.running, s.state is not State.HEALTHY), default=None)
            return best if best is not None and best.state is State.HEALTHY else None

        if self._current is None:
            raise ValueError("no weights were loaded or adopted; nothing can be sampled yet")
        try:
            async with asyncio.timeout(self._rollouts.start_seconds), self._fleet.changed:
                while (slot := free()) is None and self._fleet.members:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PATIENCE_SECONDS):
                            await self._fleet.changed.wait()
        except TimeoutError:
            return None
        return slot

    async def _suspect(self, slot: Slot, reason: str, *, excused: bool) -> None:
        """A late replica gets no prompts until it answers; one that does not is restarted."""
        if slot.state is not State.HEALTHY:
            return
        slot.state, slot.why = State.SUSPECT, reason
        try:
            await answered(slot.actor.ping.remote(), PING_SECONDS)
        except RayTaskError as error:
            self._fleet.died(slot, f"{reason}; {first_line(error)}", excused=excused)
            return
        except TimeoutError:
            told = f"{reason}, and no answer since"
            self._fleet.died(slot, told, excused=excused, silent=True)
            return
        except DIED as error:
            self._lost(slot, error, f"{reason}, and then it died", excused=excused)
            return
        if slot.state is State.SUSPECT:  # nothing else has become of it
            slot.state = State.STALE  # a newer version may have passed it by
            await self._refresh(slot)

    def _lost(self, slot: Slot, error: RayError, what: str, *, excused: bool = False) -> str:
        """A replica's process has ended; returns the reason."""
        if slot.state is State.LEAVING:
            return f"{slot} left the pool"
        reason = f"{what}: {first_line(error)}"
        return self._fleet.died(slot, reason, excused=excused or _taken_away(error))


def _taken_away(error: RayError) -> bool:
    """Whether the node went by notice, with all that was on it."""
    return isinstance(error, RayActorError) and error.preempted
