"""The fleet: rollout replicas that join, leave, die and come back while others go on.

Each is a Ray actor on a placement group of its own; its states are `replica_state`'s.

| who waits | for whom                               | at most          | then                     |
|-----------|----------------------------------------|------------------|--------------------------|
| `start`   | places of `min_replicas`, then vLLM    | `start_seconds`  | TimeoutError             |
| `start`   | places of the others                   | `ROOM_SECONDS`   | they join later          |
| `scale`   | the same of each that joins, its load  | the same, a load | it does not join         |
| `scale`   | the prompts of each that leaves        | `leave_seconds`  | they are tried elsewhere |
| a notice  | another one to serve in its place      | the node's end   | it leaves all the same   |
| a restart | the old one's engine to end            | 20 s             | it is killed             |
| a restart | the stacks of one that says nothing    | 15 s             | the log goes without     |

Laws: one that dies is started again in its place, three times in a row at most; one that leaves
gets no more prompts, finishes its own or hands them back, and then gives its place back; one whose
node is to go leaves when another serves in its place. Who joins without being asked for by name, at
the start or after a notice, asks for a place and starts until it has both. A placement group that
finds no room is a demand for nodes, which Ray's autoscaler sees.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.engine.replica import Fetch, ReplicaActor
from actors.pool.placement import notices, placed, reserve, some_placed
from actors.pool.replica_state import Replica, State
from o3rl.code_digest import source_digest
from o3rl.config import ModelConfig, Placement, RolloutsConfig, SamplingConfig, Transfer
from o3rl.ray_calls import DIED, answered, first_line, log_stacks_at

log = logging.getLogger(__name__)

CLOSE_SECONDS = 20.0
ROOM_SECONDS = 15.0  # for places of more than `min_replicas`, as a run starts
RETRY_SECONDS = 60.0  # before one that has time tries again to join
NOTICE_SECONDS = 5.0  # between looks for nodes that are to go
ENDING_SECONDS = 10.0  # before a node goes, for what is on it to end

FAULTS = (TimeoutError, RayTaskError, *DIED)


class Fleet:
    """The replicas, in order of joining. Use it from one event loop.

    `fetch` gets frames by media key and must be picklable. `refresh` brings a replica that has
    started to the current weights, and so to HEALTHY; it is set by who has them.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        sampling: SamplingConfig,
        rollouts: RolloutsConfig,
        fetch: Fetch,
        seed: int,
    ):
        self.replicas: list[Replica] = []
        self.changed = asyncio.Condition()
        self.counts = {"deaths": 0, "joined": 0, "left": 0}  # of replicas
        self.refresh: Callable[[Replica], Awaitable[object]]
        self._arguments: dict[str, Any] = {
            "sampling": sampling,
            "rollouts": rollouts,
            "fetch": fetch,
            "seed": seed,
            "source": source_digest(),
        }
        self._model, self._rollouts = model, rollouts
        self._numbers = 0
        self._tasks: set[asyncio.Task[Any]] = set()  # that see to a replica: restarts, probes
        self._scaling = asyncio.Lock()

    @property
    def members(self) -> list[Replica]:
        """Those that serve, or are on their way to it."""
        return [replica for replica in self.replicas if replica.member]

    @property
    def staying(self) -> list[Replica]:
        """Members whose nodes stay, as far as is known."""
        return [replica for replica in self.members if not replica.draining]

    @property
    def live(self) -> list[Replica]:
        """Those that weights can be loaded into."""
        return [replica for replica in self.replicas if replica.live]

    @property
    def why(self) -> str:
        """The state of each, for an error."""
        return "; ".join(
            f"{replica} is {replica.state} {replica.why}".strip() for replica in self.replicas
        )

    def describe(self) -> list[dict[str, Any]]:
        """Each replica as plain values."""
        return [replica.describe() for replica in self.replicas]

    async def start(self) -> None:
        """Place and start the configured replicas; they are STALE until weights are brought.

        Where there is room for `min_replicas` at least, the others join when there is for them.
        Raises TimeoutError saying what was asked for and what there is; what a replica raises.
        """
        for _ in range(self._rollouts.replicas):
            self._add()
        least, limit = self._rollouts.min_replicas, self._rollouts.start_seconds
        try:
            here = await some_placed(self.replicas, limit, least=least, patience=ROOM_SECONDS)
            await asyncio.gather(*(self._begin(replica) for replica in here))
        except BaseException:
            await self.close()
            raise
        for replica in self.replicas:
            if replica not in here:
                log.warning("there is no room for %s; it joins when there is", replica)
                self._joining(replica, patient=True)
        if self._rollouts.placement is not Placement.colocated:  # where the learner goes as well
            self.spawn(self._heed_notices())

    async def scale(self, replicas: int) -> tuple[str, ...]:
        """Have `replicas` members; returns what stood in the way of some, by replica.

        Those that stay serve meanwhile. Calls are taken one after the other.
        """
        if replicas < 1:
            raise ValueError(f"{replicas} replicas are wanted; it must be 1 or more")
        if replicas > 1 and self._rollouts.placement is Placement.colocated:
            raise ValueError(
                f"{replicas} replicas are wanted; rollouts.placement is colocated, and one engine "
                "shares the learner's GPU"
            )
        async with self._scaling:
            members = self.staying
            for replica in [replica for replica in self.replicas if replica.state is State.DEAD]:
                remove_placement_group(replica.group)
                self._forget(replica)
            joining = [self._add() for _ in range(replicas - len(members))]
            leaving = sorted(members, key=_worth)[: max(0, len(members) - replicas)]
            limit = self._rollouts.leave_seconds
            problems = await asyncio.gather(
                *map(self._joined, joining), *(self._leave(replica, limit) for replica in leaving)
            )
        return tuple(problem for problem in problems if problem)

    def died(
        self, replica: Replica, reason: str, *, excused: bool = False, silent: bool = False
    ) -> str:
        """Mark a replica dead and bring it back in the background; returns the reason.

        An `excused` death is not counted against it: its node was taken away, or a prompt that
        kills was alone with it. What a `silent` one is doing is logged.
        """
        # Else another prompt of it was first to know, or it was to end.
        if replica in self.replicas and (replica.live or replica.state is State.SUSPECT):
            self._died(replica, reason, excused=excused, silent=silent)
        return reason

    def lost(self, replica: Replica, error: RayError, what: str, *, excused: bool = False) -> str:
        """Its process has ended, as Ray says; returns the reason."""
        if replica.leaving:
            return f"{replica} left the pool"
        reason = f"{what}: {first_line(error)}"
        return self.died(replica, reason, excused=excused or taken_away(error))

    def _died(
        self, replica: Replica, reason: str, *, excused: bool = False, silent: bool = False
    ) -> None:
        log.warning("%s", reason)
        self.counts["deaths"] += 1
        if replica.died(reason, excused=excused):
            self.spawn(self._restart(replica, silent=silent))

    async def shielded(self, work: Coroutine[Any, Any, None]) -> None:
        """Have `work` done on a replica to its end, also where who asks for it is cancelled."""
        await asyncio.shield(self.spawn(work))

    async def announce(self) -> None:
        """Wake those who wait for a change of `replicas`."""
        async with self.changed:
            self.changed.notify_all()

    async def close(self) -> None:
        """End all replicas and give their places back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._end(replica) for replica in self.replicas))
        for replica in self.replicas:
            replica.end("the pool was closed")

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have `work` done while other things go on; it ends with the pool at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a replica could not be seen to", exc_info=error)

    def _add(self) -> Replica:
        replica = Replica(self._numbers, reserve(self._rollouts))
        self._numbers += 1
        self.replicas.append(replica)
        return replica

    def _forget(self, replica: Replica) -> None:
        if replica in self.replicas:
            self.replicas.remove(replica)

    async def _heed_notices(self) -> None:
        """For ever: have others take the places of replicas whose nodes are to go."""
        while True:
            await asyncio.sleep(NOTICE_SECONDS)
            serving = [replica for replica in self.staying if replica.state is not State.STARTING]
            try:
                found = await asyncio.to_thread(notices, serving)
            except Exception as error:  # of Ray's private call: the replicas are lost with the node
                log.warning("nodes that are to go are not known: %s", first_line(error))
                continue
            for replica, ends in found:
                if replica in self.staying:
                    replica.draining = True
                    self.spawn(self._move(replica, ends))

    async def _move(self, replica: Replica, ends: float) -> None:
        """Another replica joins, then this one leaves: before its node goes at `ends` (a time)."""
        left = ends - time.time() - ENDING_SECONDS
        log.warning("%s: its node goes in %.0f s; another takes its place", replica, left)
        other, limit = self._add(), self._rollouts.leave_seconds
        self._joining(other, patient=True)

        def settled() -> bool:
            if other.state in (State.HEALTHY, State.DEAD):
                return True
            return other not in self.replicas  # too many, after all

        with suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(left) else left - limit), self.changed:
                await self.changed.wait_for(settled)
        if replica in self.replicas and not replica.leaving:
            await self._leave(replica, max(0.0, min(limit, ends - time.time() - ENDING_SECONDS)))

    async def _begin(self, replica: Replica) -> None:
        """From nothing to STALE."""
        replica.begin()
        options = {
            "num_cpus": self._rollouts.cpus,
            "num_gpus": self._rollouts.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(replica.group, 0),
            "max_concurrency": 1000,
        }
        replica.actor = (
            ray.remote(ReplicaActor).options(**options).remote(self._model, **self._arguments)
        )
        limit = self._rollouts.start_seconds
        try:
            replica.started(await answered(replica.actor.start.remote(), limit))
        except TimeoutError as error:
            raise TimeoutError(f"{replica}: vLLM did not start within {limit:.0f} s") from error

    async def _show(self, replica: Replica) -> None:
        """Log what a replica that says nothing is doing, before it is ended."""
        if replica.location is not None:
            there = PlacementGroupSchedulingStrategy(replica.group, 0)
            await log_stacks_at(str(replica), replica.location.pid, there)

    async def _restart(self, replica: Replica, *, silent: bool) -> None:
        """A new actor in the same place, brought to the current weights."""
        # Also where it said nothing: it may live, and what hangs be the engine below it.
        await asyncio.gather(_closed(replica), *([self._show(replica)] if silent else []))
        if replica.state is not State.STARTING:  # it is to leave
            return
        ray.kill(replica.actor)
        try:
            await self._begin(replica)
            await self.refresh(replica)
        except FAULTS as error:
            if replica in self.replicas and not replica.leaving:
                self._died(replica, f"{replica} did not come back: {first_line(error)}")
        await self.announce()

    def _joining(self, replica: Replica, *, patient: bool) -> asyncio.Task[str]:
        replica.joining = self.spawn(self._join(replica, patient=patient))
        return replica.joining

    async def _joined(self, replica: Replica) -> str:
        joining = self._joining(replica, patient=False)
        await asyncio.wait([joining])
        return f"{replica} left before it had joined" if joining.cancelled() else joining.result()

    async def _join(self, replica: Replica, *, patient: bool) -> str:
        """A new replica, from its place to HEALTHY; why not, if it did not come so far.

        A `patient` one tries as long as the pool lives.
        """
        while True:
            try:
                await self._placed(replica, patient=patient)
                await self._begin(replica)
                await self.refresh(replica)
                break
            except (*FAULTS, ValueError, LookupError) as error:
                problem = f"{replica} did not join: {first_line(error)}"
                log.warning("%s", problem)
            if replica.leaving:  # who has it leave ends it
                return problem
            replica.start_anew(problem)
            await self._end(replica)
            if not patient:
                self._forget(replica)
                await self.announce()
                return problem
            replica.actor = None
            await asyncio.sleep(RETRY_SECONDS)
            replica.group = reserve(self._rollouts)
        if not replica.live:  # stale: there are no weights yet
            return f"{replica} did not join at once, and is started again: {replica.why}"
        self.counts["joined"] += 1
        log.info("%s joined", replica)
        return ""

    async def _placed(self, replica: Replica, *, patient: bool) -> None:
        """Once it has its place, which a `patient` one waits for as long as the pool lives."""
        while True:
            try:
                return await placed(replica, self._rollouts.start_seconds)
            except TimeoutError as error:
                if not patient:
                    raise
                log.warning("%s; the others go on without it", error)

    async def _leave(self, replica: Replica, limit: float) -> str:
        """No more prompts; its own are finished within `limit`, or given back when it ends."""
        replica.leave()
        await self.announce()
        if self._rollouts.transfer is Transfer.nccl:  # others take weights together with it
            patience = limit if replica.draining else max(limit, self._rollouts.load_seconds)
            await self.reached(lambda: not replica.loading.locked(), patience)
        if replica.joining is not None:
            replica.joining.cancel()
        if not await self.reached(lambda: not (replica.running or replica.loading.locked()), limit):
            log.warning("%s leaves; %d prompts are tried elsewhere", replica, replica.running)
        await self._end(replica)
        self._forget(replica)
        self.counts["left"] += 1
        await self.announce()
        log.info("%s left", replica)
        return ""

    async def reached(self, settled: Callable[[], bool], limit: float) -> bool:
        """Whether the replicas come to that within `limit` seconds."""
        try:
            async with asyncio.timeout(limit), self.changed:
                return await self.changed.wait_for(settled)
        except TimeoutError:
            return False

    async def _end(self, replica: Replica) -> None:
        """End an actor, politely if it answers, and give its place back."""
        try:
            if replica.actor is not None:
                await _closed(replica)
                ray.kill(replica.actor)
        finally:
            remove_placement_group(replica.group)


async def _closed(replica: Replica) -> None:
    """Its engine is ended, if it answers."""
    try:
        await answered(replica.actor.close.remote(), CLOSE_SECONDS)
    except FAULTS as error:
        log.info("%s did not close by itself: %s", replica, first_line(error))


def taken_away(error: RayError) -> bool:
    """Whether the node went by notice, with all that was on it."""
    return isinstance(error, RayActorError) and error.preempted


def _worth(replica: Replica) -> tuple[bool, int, int]:
    """Who leaves first: one that does not serve, then the one with the fewest prompts."""
    return replica.state is State.HEALTHY, replica.running, -replica.index
