"""The fleet: rollout replicas that join, leave, die and come back while others go on.

Each is a Ray actor on a placement group of its own.

    STARTING ─► STALE ─► HEALTHY ─► SUSPECT ─► HEALTHY          LEAVING ─► gone
        ▲         ▲         │           │                          ▲
        │         └─ load ──┤           ▼                          └─ from any state, by `scale`
        └──── restart ──────┴───────► DEAD

| who waits | for whom                               | at most          | then                     |
|-----------|----------------------------------------|------------------|--------------------------|
| `start`   | placement, and then vLLM               | `start_seconds`  | TimeoutError             |
| `scale`   | the same of each that joins, its load  | the same, a load | it does not join         |
| `scale`   | the prompts of each that leaves        | `leave_seconds`  | they are tried elsewhere |
| a restart | the old one's engine to end            | 20 s             | it is killed             |
| a restart | the stacks of one that says nothing    | 15 s             | the log goes without     |

Laws: one that dies is started again in its place, three times in a row at most; one that leaves
gets no more prompts, finishes its own or hands them back, and then gives its place back; one whose
node is to go leaves it while there is time, and another joins elsewhere. A placement group that
finds no room is a demand for nodes, which Ray's autoscaler sees.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import ray
from ray._private.state import state as cluster_state
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.replica import Replica
from actors.slot import Fetch, Slot, State
from o3rl.config import RESOURCE_SHARE, Model, Placement, Rollouts, Sampling
from o3rl.source import source_digest
from o3rl.stacks import stacks_of, tell_stacks

log = logging.getLogger(__name__)

DEATHS_IN_A_ROW = 3  # without a group in between; then a replica stays dead
CLOSE_SECONDS = 20.0
LOAD_MARGIN_SECONDS = 30.0  # beyond the engine's own limit
NOTICE_SECONDS = 5.0  # between looks for nodes that are to go

FAULTS = (TimeoutError, RayActorError, RayTaskError)


class Fleet:
    """The slots, in order of joining. Use it from one event loop.

    `fetch` gets frames by media key and must be picklable. `bring` brings a replica that has
    started to the current weights, and so to HEALTHY; it is set by the pool.
    """

    def __init__(
        self,
        model: Model,
        *,
        sampling: Sampling,
        rollouts: Rollouts,
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
    def live(self) -> list[Slot]:
        """Those that weights can be loaded into."""
        return [slot for slot in self.slots if slot.state in (State.STALE, State.HEALTHY)]

    @property
    def why(self) -> str:
        """The state of each, for an error."""
        return "; ".join(f"{slot} is {slot.state} {slot.why}".strip() for slot in self.slots)

    async def start(self) -> None:
        """Place and start the configured replicas; they are STALE until weights are brought.

        Raises TimeoutError saying what was asked for and what there is; what a replica raises.
        """
        for _ in range(self._rollouts.replicas):
            self._add()
        limit = self._rollouts.start_seconds
        try:
            await asyncio.gather(*(_placed(slot, limit) for slot in self.slots))
            await asyncio.gather(*(self._begin(slot) for slot in self.slots))
        except BaseException:
            await self.close()
            raise
        self._task(self._heed_notices())

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
            members = self.members
            for slot in [slot for slot in self.slots if slot.state is State.DEAD]:
                self._remove(slot)
            joining = [self._add() for _ in range(replicas - len(members))]
            leaving = sorted(members, key=_worth)[: max(0, len(members) - replicas)]
            problems = await asyncio.gather(
                *map(self._join, joining), *(self._leave(slot) for slot in leaving)
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
            self._task(self._restart(slot, silent=silent))
        return reason

    async def see_to(self, work: Coroutine[Any, Any, None]) -> None:
        """Have `work` done on a replica to its end, also where who asks for it is cancelled."""
        await asyncio.shield(self._task(work))

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

    def _task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _add(self) -> Slot:
        slot = Slot(self._numbers, _reserve(self._rollouts))
        self._numbers += 1
        self.slots.append(slot)
        return slot

    def _remove(self, slot: Slot) -> None:
        remove_placement_group(slot.group)
        self.slots.remove(slot)

    async def _heed_notices(self) -> None:
        """Replace, for ever, the replicas of nodes that are to go."""
        while True:
            await asyncio.sleep(NOTICE_SECONDS)
            try:
                going = await asyncio.to_thread(_on_draining_nodes, self.members)
            except (RayError, RuntimeError) as error:
                log.warning("nodes that are to go are not known: %s", first_line(error))
                continue
            for slot in going:
                if slot.state in (State.STALE, State.HEALTHY, State.SUSPECT):
                    log.warning("%s: its node is to go; another takes its place", slot)
                    slot.state = State.LEAVING  # now, so that it is replaced once
                    self._task(self._leave(slot))
                    self._task(self._join(self._add()))

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
            slot.place = await asyncio.wait_for(of(slot.actor.start.remote()), limit)
        except TimeoutError as error:
            raise TimeoutError(f"{slot}: vLLM did not start within {limit:.0f} s") from error
        if slot.state is State.STARTING:  # else it is to leave
            slot.state = State.STALE

    async def _show(self, slot: Slot) -> None:
        """Log what a replica that says nothing is doing, before it is ended."""
        if slot.place is None:
            return
        there = PlacementGroupSchedulingStrategy(slot.group, 0)
        task = ray.remote(stacks_of).options(num_cpus=0, scheduling_strategy=there)
        await tell_stacks(str(slot), of(task.remote(slot.place.pid)))

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

    async def _join(self, slot: Slot) -> str:
        """A new replica, from its place to HEALTHY; why not, if it did not come so far."""
        try:
            await _placed(slot, self._rollouts.start_seconds)
            await self._begin(slot)
            await self.bring(slot)
        except (*FAULTS, ValueError, LookupError) as error:
            problem = f"{slot} did not join: {first_line(error)}"
            log.warning("%s", problem)
            await self._end(slot)
            self.slots.remove(slot)
            await self.announce()
            return problem
        if slot.state not in (State.HEALTHY, State.STALE):  # stale: there are no weights yet
            return f"{slot} did not join at once, and is started again: {slot.why}"
        self.counts["joined"] += 1
        log.info("%s joined", slot)
        return ""

    async def _leave(self, slot: Slot) -> str:
        """No more prompts; its own are finished, or given back when it ends."""
        slot.state, slot.why = State.LEAVING, "it is to leave the pool"
        await self.announce()
        limit = self._rollouts.leave_seconds
        try:
            async with asyncio.timeout(limit), self.changed:
                await self.changed.wait_for(lambda: slot.running == 0)
        except TimeoutError:
            log.warning("%s leaves; %d prompts are tried elsewhere", slot, slot.running)
        await self._end(slot)
        self.slots.remove(slot)
        self.counts["left"] += 1
        await self.announce()
        log.info("%s left", slot)
        return ""

    async def _end(self, slot: Slot) -> None:
        """End an actor, politely if it answers, and give its place back."""
        if slot.actor is not None:
            await _closed(slot)
            ray.kill(slot.actor)
        remove_placement_group(slot.group)


async def _closed(slot: Slot) -> None:
    """Its engine is ended, if it answers."""
    try:
        await asyncio.wait_for(of(slot.actor.close.remote()), CLOSE_SECONDS)
    except FAULTS as error:
        log.info("%s did not close by itself: %s", slot, first_line(error))


def _worth(slot: Slot) -> tuple[bool, int, int]:
    """Who leaves first: one that does not serve, then the one with the fewest prompts."""
    return slot.state is State.HEALTHY, slot.running, -slot.index


def bundle(rollouts: Rollouts) -> dict[str, float]:
    """What a replica asks Ray for."""
    asked = {"CPU": float(rollouts.cpus)}
    if rollouts.gpus:
        asked["GPU"] = float(rollouts.gpus)
    if rollouts.resource:
        asked[rollouts.resource] = RESOURCE_SHARE
    return asked


def _reserve(rollouts: Rollouts) -> PlacementGroup:
    return placement_group([bundle(rollouts)], strategy="STRICT_PACK")


def _on_draining_nodes(slots: Sequence[Slot]) -> list[Slot]:
    """Those whose node Ray was told will go: by a provider's preemption, or `ray drain-node`.

    Blocks for a moment. Ray has no public call for it.
    """
    going = cluster_state.get_draining_nodes()
    if not going:
        return []
    nodes = [placement_group_table(slot.group)["bundles_to_node_id"].get(0) for slot in slots]
    return [slot for slot, node in zip(slots, nodes, strict=True) if node in going]


async def _placed(slot: Slot, limit: float) -> None:
    try:
        await asyncio.wait_for(of(slot.group.ready()), limit)
    except TimeoutError as error:
        have = ray.available_resources()
        raise TimeoutError(
            f"no room for {slot} within {limit:.0f} s: asked {slot.group.bundle_specs[0]}; "
            f"available CPU={have.get('CPU', 0):g}, GPU={have.get('GPU', 0):g}"
        ) from error


def of(reference: Any) -> Awaitable[Any]:
    """A Ray reference as a future of this event loop."""
    return asyncio.wrap_future(reference.future())


def first_line(error: BaseException) -> str:
    """One line of an error: Ray's carry whole tracebacks."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [repr(cause)]
    return f"{type(cause).__name__}: {lines[0]}"
