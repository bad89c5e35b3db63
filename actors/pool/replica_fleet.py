"""The fleet: rollout replicas that join, leave, die and come back while others go on.

Each is a Ray actor on a placement group of its own.

    STARTING ─► STALE ─► HEALTHY ─► SUSPECT ─► HEALTHY          LEAVING ─► gone
        ▲         ▲         │           │                          ▲
        │         └─ load ──┤           ▼                          └─ by `scale`, or a notice
        └──── restart ──────┴───────► DEAD

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
from ray.exceptions import RayTaskError
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.engine.replica import Fetch, Replica
from actors.pool.placement import notices, placed, reserve, some_placed
from actors.pool.replica_state import Slot, State
from o3rl.code_digest import source_digest
from o3rl.config import ModelConfig, Placement, RolloutsConfig, SamplingConfig, Transfer
from o3rl.ray_calls import DIED, answered, first_line, log_stacks_at

log = logging.getLogger(__name__)

DEATHS_IN_A_ROW = 3  # without a group in between; then a replica stays dead
CLOSE_SECONDS = 20.0
LOAD_MARGIN_SECONDS = 30.0  # beyond the engine's own limit
ROOM_SECONDS = 15.0  # for places of more than `min_replicas`, as a run starts
RETRY_SECONDS = 60.0  # before one that has time tries again to join
NOTICE_SECONDS = 5.0  # between looks for nodes that are to go
ENDING_SECONDS = 10.0  # before a node goes, for what is on it to end

FAULTS = (TimeoutError, RayTaskError, *DIED)


class Fleet:
    """The slots, in order of joining. Use it from one event loop.

    `fetch` gets frames by media key and must be picklable. `bring` brings a replica that has
    started to the current weights, and so to HEALTHY; it is set by the pool.
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
        self.slots: list[Slot] = []
        self.changed = asyncio.Condition()
        self.counts = {"deaths": 0, "joined": 0, "left": 0}  # of replicas
        self.bring: Callable[[Slot], Awaitable[object]]
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
    def members(self) -> list[Slot]:
        """Those that serve, or are on their way to it."""
        return [s for s in self.slots if s.state not in (State.DEAD, State.LEAVING)]

    @property
    def staying(self) -> list[Slot]:
        """Members whose nodes stay, as far as is known."""
        return [slot for slot in self.members if not slot.going]

    @property
    def live(self) -> list[Slot]:
        """Those that weights can be loaded into."""
        return [slot for slot in self.slots if slot.state in (State.STALE, State.HEALTHY)]

    @property
    def why(self) -> str:
        """The state of each, for an error."""
        return "; ".join(f"{slot} is {slot.state} {slot.why}".strip() for slot in self.slots)

    async def start(self) -> None:
        """Place and start the configured replicas; they are STALE until weights are brought.

        Where there is room for `min_replicas` at least, the others join when there is for them.
        Raises TimeoutError saying what was asked for and what there is; what a replica raises.
        """
        for _ in range(self._rollouts.replicas):
            self._add()
        least, limit = self._rollouts.min_replicas, self._rollouts.start_seconds
        try:
            here = await some_placed(self.slots, limit, least=least, soon=ROOM_SECONDS)
            await asyncio.gather(*(self._begin(slot) for slot in here))
        except BaseException:
            await self.close()
            raise
        for slot in self.slots:
            if slot not in here:
                log.warning("there is no room for %s; it joins when there is", slot)
                self._joining(slot, patient=True)
        if self._rollouts.placement is not Placement.colocated:  # where the learner goes as well
            self.beside(self._heed_notices())

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
            for slot in [slot for slot in self.slots if slot.state is State.DEAD]:
                remove_placement_group(slot.group)
                self._forget(slot)
            joining = [self._add() for _ in range(replicas - len(members))]
            leaving = sorted(members, key=_worth)[: max(0, len(members) - replicas)]
            limit = self._rollouts.leave_seconds
            problems = await asyncio.gather(
                *map(self._joined, joining), *(self._leave(slot, limit) for slot in leaving)
            )
        return tuple(problem for problem in problems if problem)

    def died(self, slot: Slot, reason: str, *, excused: bool = False, silent: bool = False) -> str:
        """Mark a replica dead and bring it back in the background; returns the reason.

        An `excused` death is not counted against it: its node was taken away, or a prompt that
        kills was alone with it. What a `silent` one is doing is logged.
        """
        if slot.state in (State.DEAD, State.STARTING, State.LEAVING) or slot not in self.slots:
            return reason  # another prompt of it was first to know, or it was to end
        log.warning("%s", reason)
        slot.state, slot.why, slot.version = State.DEAD, reason, None
        slot.deaths += not excused
        self.counts["deaths"] += 1
        if slot.deaths <= DEATHS_IN_A_ROW:
            slot.state = State.STARTING
            self.beside(self._restart(slot, silent=silent))
        return reason

    async def see_to(self, work: Coroutine[Any, Any, None]) -> None:
        """Have `work` done on a replica to its end, also where who asks for it is cancelled."""
        await asyncio.shield(self.beside(work))

    async def announce(self) -> None:
        """Wake those who wait for a change of `slots`."""
        async with self.changed:
            self.changed.notify_all()

    async def close(self) -> None:
        """End all replicas and give their places back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._end(slot) for slot in self.slots))
        for slot in self.slots:
            slot.state, slot.why = State.DEAD, "the pool was closed"

    def beside(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have `work` done while other things go on; it ends with the pool at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a replica could not be seen to", exc_info=error)

    def _add(self) -> Slot:
        slot = Slot(self._numbers, reserve(self._rollouts))
        self._numbers += 1
        self.slots.append(slot)
        return slot

    def _forget(self, slot: Slot) -> None:
        if slot in self.slots:
            self.slots.remove(slot)

    async def _heed_notices(self) -> None:
        """For ever: have others take the places of replicas whose nodes are to go."""
        while True:
            await asyncio.sleep(NOTICE_SECONDS)
            serving = [slot for slot in self.staying if slot.state is not State.STARTING]
            try:
                found = await asyncio.to_thread(notices, serving)
            except Exception as error:  # of Ray's private call: the replicas are lost with the node
                log.warning("nodes that are to go are not known: %s", first_line(error))
                continue
            for slot, ends in found:
                if slot in self.staying:
                    slot.going = True
                    self.beside(self._move(slot, ends))

    async def _move(self, slot: Slot, ends: float) -> None:
        """Another replica joins, then this one leaves: before its node goes at `ends` (a time)."""
        left = ends - time.time() - ENDING_SECONDS
        log.warning("%s: its node goes in %.0f s; another takes its place", slot, left)
        other, limit = self._add(), self._rollouts.leave_seconds
        self._joining(other, patient=True)

        def settled() -> bool:
            if other.state in (State.HEALTHY, State.DEAD):
                return True
            return other not in self.slots  # too many, after all

        with suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(left) else left - limit), self.changed:
                await self.changed.wait_for(settled)
        if slot in self.slots and slot.state is not State.LEAVING:
            await self._leave(slot, max(0.0, min(limit, ends - time.time() - ENDING_SECONDS)))

    async def _begin(self, slot: Slot) -> None:
        """From nothing to STALE."""
        slot.version, slot.place = None, None
        options = {
            "num_cpus": self._rollouts.cpus,
            "num_gpus": self._rollouts.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(slot.group, 0),
            "max_concurrency": 1000,
        }
        slot.actor = ray.remote(Replica).options(**options).remote(self._model, **self._arguments)
        limit = self._rollouts.start_seconds
        try:
            slot.place = await answered(slot.actor.start.remote(), limit)
        except TimeoutError as error:
            raise TimeoutError(f"{slot}: vLLM did not start within {limit:.0f} s") from error
        if slot.state is State.STARTING:  # else it is to leave
            slot.state = State.STALE

    async def _show(self, slot: Slot) -> None:
        """Log what a replica that says nothing is doing, before it is ended."""
        if slot.place is not None:
            there = PlacementGroupSchedulingStrategy(slot.group, 0)
            await log_stacks_at(str(slot), slot.place.pid, there)

    async def _restart(self, slot: Slot, *, silent: bool) -> None:
        """A new actor in the same place, brought to the current weights."""
        # Also where it said nothing: it may live, and what hangs be the engine below it.
        await asyncio.gather(_closed(slot), *([self._show(slot)] if silent else []))
        if slot.state is not State.STARTING:  # it is to leave
            return
        ray.kill(slot.actor)
        try:
            await self._begin(slot)
            await self.bring(slot)
        except FAULTS as error:
            if slot.state is not State.LEAVING:
                slot.state = State.STALE
                self.died(slot, f"{slot} did not come back: {first_line(error)}")
        await self.announce()

    def _joining(self, slot: Slot, *, patient: bool) -> asyncio.Task[str]:
        slot.joining = self.beside(self._join(slot, patient=patient))
        return slot.joining

    async def _joined(self, slot: Slot) -> str:
        joining = self._joining(slot, patient=False)
        await asyncio.wait([joining])
        return f"{slot} left before it had joined" if joining.cancelled() else joining.result()

    async def _join(self, slot: Slot, *, patient: bool) -> str:
        """A new replica, from its place to HEALTHY; why not, if it did not come so far.

        A `patient` one tries as long as the pool lives.
        """
        while True:
            try:
                await self._placed(slot, patient=patient)
                await self._begin(slot)
                await self.bring(slot)
                break
            except (*FAULTS, ValueError, LookupError) as error:
                problem = f"{slot} did not join: {first_line(error)}"
                log.warning("%s", problem)
            if slot.state is State.LEAVING:  # who has it leave ends it
                return problem
            slot.state, slot.why = State.STARTING, problem  # so that nobody brings it weights
            await self._end(slot)
            if not patient:
                self._forget(slot)
                await self.announce()
                return problem
            slot.actor = None
            await asyncio.sleep(RETRY_SECONDS)
            slot.group = reserve(self._rollouts)
        if slot.state not in (State.HEALTHY, State.STALE):  # stale: there are no weights yet
            return f"{slot} did not join at once, and is started again: {slot.why}"
        self.counts["joined"] += 1
        log.info("%s joined", slot)
        return ""

    async def _placed(self, slot: Slot, *, patient: bool) -> None:
        """Once it has its place, which a `patient` one waits for as long as the pool lives."""
        while True:
            try:
                return await placed(slot, self._rollouts.start_seconds)
            except TimeoutError as error:
                if not patient:
                    raise
                log.warning("%s; the others go on without it", error)

    async def _leave(self, slot: Slot, limit: float) -> str:
        """No more prompts; its own are finished within `limit`, or given back when it ends."""
        slot.state, slot.why = State.LEAVING, "it is to leave the pool"
        await self.announce()
        if self._rollouts.transfer is Transfer.nccl:  # others take weights together with it
            patience = limit if slot.going else max(limit, self._rollouts.load_seconds)
            await self._reached(lambda: not slot.loading.locked(), patience)
        if slot.joining is not None:
            slot.joining.cancel()
        if not await self._reached(lambda: not (slot.running or slot.loading.locked()), limit):
            log.warning("%s leaves; %d prompts are tried elsewhere", slot, slot.running)
        await self._end(slot)
        self._forget(slot)
        self.counts["left"] += 1
        await self.announce()
        log.info("%s left", slot)
        return ""

    async def _reached(self, state: Callable[[], bool], limit: float) -> bool:
        """Whether the slots come to that state within `limit` seconds."""
        try:
            async with asyncio.timeout(limit), self.changed:
                return await self.changed.wait_for(state)
        except TimeoutError:
            return False

    async def _end(self, slot: Slot) -> None:
        """End an actor, politely if it answers, and give its place back."""
        try:
            if slot.actor is not None:
                await _closed(slot)
                ray.kill(slot.actor)
        finally:
            remove_placement_group(slot.group)


async def _closed(slot: Slot) -> None:
    """Its engine is ended, if it answers."""
    try:
        await answered(slot.actor.close.remote(), CLOSE_SECONDS)
    except FAULTS as error:
        log.info("%s did not close by itself: %s", slot, first_line(error))


def _worth(slot: Slot) -> tuple[bool, int, int]:
    """Who leaves first: one that does not serve, then the one with the fewest prompts."""
    return slot.state is State.HEALTHY, slot.running, -slot.index
