"""The pool of rollout replicas: one engine an actor, each on its own placement group.

    STARTING ─► STALE ─► HEALTHY ─► SUSPECT ─► HEALTHY
        ▲         ▲         │           │
        │         └─ load ──┤           ▼
        └──── restart ──────┴───────► DEAD

| who waits      | for whom                      | at most                 | then                  |
|----------------|-------------------------------|-------------------------|-----------------------|
| `start`        | placement, vLLM               | `start_seconds`         | TimeoutError          |
| `sample`       | a healthy replica             | `start_seconds`         | Failure               |
| `sample`       | its replica                   | `seconds`               | Failure, SUSPECT      |
| `load`         | each replica                  | `load_seconds`          | that replica restarts |

Laws: a replica serves only the pool's current weights, checked as it loaded them; the prompt of a
replica that died comes back as a Failure, never as zero; a replica that dies over and over stays
dead. The only file of this package that knows Ray.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.outcome import EngineBroken, Loaded
from actors.replica import Replica
from actors.slot import Fetch, Place, Slot, State
from o3rl.config import Model, Rollouts, Sampling
from o3rl.flow import Failure, Group, Prompt, Version
from o3rl.source import source_digest
from o3rl.weights import WeightSource

log = logging.getLogger(__name__)

DEATHS_IN_A_ROW = 3  # without a group in between; then a replica stays dead
PING_SECONDS = 10.0
LOAD_MARGIN_SECONDS = 30.0  # beyond the engine's own limit


class RolloutPool:
    """Sampling, whatever replica does it. Use it from one event loop.

    `fetch` gets frames by media key and must be picklable, as must `source`.
    """

    def __init__(
        self,
        model: Model,
        *,
        sampling: Sampling,
        rollouts: Rollouts,
        fetch: Fetch,
        source: WeightSource | None,
        seed: int,
    ):
        self._model, self._sampling, self._rollouts = model, sampling, rollouts
        self._fetch, self._source, self._seed = fetch, source, seed
        self._slots: list[Slot] = []
        self._current: Version | None = None
        self._adopted: Version | None = None  # what the replicas' own checkpoint is called
        self._restarts: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self.counts = {"deaths": 0, "late": 0}  # of replicas; of groups past their time limit

    @property
    def states(self) -> tuple[State, ...]:
        """Of each replica."""
        return tuple(slot.state for slot in self._slots)

    @property
    def places(self) -> tuple[Place | None, ...]:
        """Of each replica; None while it has not started."""
        return tuple(slot.place for slot in self._slots)

    async def start(self) -> None:
        """Place and start all replicas; they are STALE until `load` or `adopt`.

        Raises TimeoutError saying what was asked for and what there is; what a replica raises.
        """
        for index in range(self._rollouts.replicas):
            self._slots.append(Slot(index, _reserve(self._rollouts)))
        limit = self._rollouts.start_seconds
        try:
            await asyncio.gather(*(_placed(slot, limit) for slot in self._slots))
            await asyncio.gather(*(self._begin(slot) for slot in self._slots))
        except BaseException:
            await self.close()
            raise

    async def adopt(self, version: Version) -> None:
        """Serve the weights of `model.path` as `version`; replicas that restart do so too."""
        self._adopted = self._current = version
        await asyncio.gather(*(self._refresh(slot) for slot in self._live()))

    async def load(self, version: Version) -> tuple[Loaded, ...]:
        """Bring every live replica to `version`; what each `Engine.load` that it took reports.

        Raises ValueError or LookupError from a replica that refused the version: nothing is served
        then until a `load` succeeds. Raises TimeoutError if no replica holds it now; a replica that
        failed otherwise restarts.
        """
        if self._source is None:
            raise ValueError(f"version {version}: the pool has no weight source to load from")
        self._current = version
        reports = await asyncio.gather(*(self._refresh(slot) for slot in self._live()))
        if not any(slot.state is State.HEALTHY for slot in self._slots):
            raise TimeoutError(f"no replica took version {version}: {self._why()}")
        return tuple(report for report in reports if report is not None)

    async def sample(self, prompt: Prompt) -> Group | Failure:
        """A group for training."""
        n, temperature = self._sampling.group_size, self._sampling.temperature
        return await self.evaluate(prompt, temperature=temperature, n=n)

    async def evaluate(self, prompt: Prompt, *, temperature: float, n: int) -> Group | Failure:
        """`n` rollouts at `temperature` (0: greedy) by the replica with the fewest prompts.

        An infrastructure fault is a Failure that names the replica. A bug raises, with the
        replica's own traceback.
        """
        slot = await self._healthy()
        if slot is None:
            return Failure(prompt.group, -1, f"no healthy rollout replica: {self._why()}")
        slot.running += 1
        call = slot.actor.sample.remote(prompt, temperature, n)
        try:
            result = await asyncio.wait_for(_of(call), self._rollouts.seconds)
        except asyncio.CancelledError:
            ray.cancel(call)  # nobody wants it any more
            raise
        except TimeoutError:
            self.counts["late"] += 1
            reason = f"{slot}: no group within {self._rollouts.seconds:.0f} s"
            await self._suspect(slot, call, reason)
            return Failure(prompt.group, -1, reason)
        except RayActorError as error:
            return Failure(prompt.group, -1, self._died(slot, f"{slot} died: {_first(error)}"))
        except RayTaskError as error:
            if not isinstance(error.cause, EngineBroken):
                raise
            return Failure(prompt.group, -1, self._died(slot, f"{slot}: {_first(error)}"))
        finally:
            slot.running -= 1
            await self._announce()
        slot.deaths = 0
        return result

    async def checksums(self) -> list[list[dict[str, str]]]:
        """vLLM's weight checksums, replica by replica."""
        limit = self._rollouts.load_seconds
        calls = (slot.actor.checksums.remote() for slot in self._live())
        return [await asyncio.wait_for(_of(call), limit) for call in calls]

    async def close(self) -> None:
        """End all replicas and give their places back."""
        for task in self._restarts:
            task.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        for slot in self._slots:
            await self._end(slot)
            slot.state, slot.why = State.DEAD, "the pool was closed"
            remove_placement_group(slot.group)

    def _live(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.state in (State.STALE, State.HEALTHY)]

    def _why(self) -> str:
        return "; ".join(f"{slot} is {slot.state} {slot.why}".strip() for slot in self._slots)

    async def _begin(self, slot: Slot) -> None:
        """From nothing to STALE."""
        strategy = PlacementGroupSchedulingStrategy(slot.group, 0)
        slot.state, slot.version, slot.place = State.STARTING, None, None
        slot.actor = (
            ray.remote(Replica)
            .options(
                num_cpus=self._rollouts.cpus,
                num_gpus=self._rollouts.gpus,
                scheduling_strategy=strategy,
                max_concurrency=1000,
            )
            .remote(
                self._model,
                sampling=self._sampling,
                rollouts=self._rollouts,
                fetch=self._fetch,
                seed=self._seed,
                source=source_digest(),
            )
        )
        limit = self._rollouts.start_seconds
        try:
            slot.place = await asyncio.wait_for(_of(slot.actor.start.remote()), limit)
        except TimeoutError as error:
            raise TimeoutError(f"{slot}: vLLM did not start within {limit:.0f} s") from error
        slot.state = State.STALE

    async def _refresh(self, slot: Slot) -> Loaded | None:
        """Bring a live replica to the current version and to HEALTHY; None if it took nothing."""
        async with slot.loading:
            version, report = self._current, None
            if version is not None and slot.version != version:
                slot.state = State.STALE
                report = await self._bring(slot, version)
            if slot.version is not None and slot.version == self._current:  # no newer one is due
                slot.state, slot.why = State.HEALTHY, ""
        await self._announce()
        return report

    async def _bring(self, slot: Slot, version: Version) -> Loaded | None:
        """Have a replica load or adopt; one that does not come through it is dead."""
        limit = self._rollouts.load_seconds + LOAD_MARGIN_SECONDS
        try:
            if version == self._adopted:
                report = await asyncio.wait_for(_of(slot.actor.adopt.remote(version)), limit)
            else:
                call = slot.actor.load.remote(self._source, version)
                report = await asyncio.wait_for(_of(call), limit)
        except TimeoutError:
            self._died(slot, f"{slot}: version {version} was not loaded within {limit:.0f} s")
            return None
        except RayActorError as error:
            self._died(slot, f"{slot} died while loading {version}: {_first(error)}")
            return None
        except RayTaskError as error:
            if not isinstance(error.cause, EngineBroken):
                raise
            self._died(slot, f"{slot}: {_first(error)}")
            return None
        slot.version = version
        return report

    async def _healthy(self) -> Slot | None:
        """The healthy replica with the fewest prompts; waits for one while any may come."""

        def ready() -> bool:
            return any(s.state is State.HEALTHY for s in self._slots) or all(
                s.state is State.DEAD for s in self._slots
            )

        if self._current is None:
            raise ValueError("no weights were loaded or adopted; nothing can be sampled yet")
        try:
            async with asyncio.timeout(self._rollouts.start_seconds), self._changed:
                await self._changed.wait_for(ready)
        except TimeoutError:
            return None
        healthy = [slot for slot in self._slots if slot.state is State.HEALTHY]
        return min(healthy, key=lambda slot: slot.running, default=None)

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _suspect(self, slot: Slot, call: Any, reason: str) -> None:
        """A late replica gets no prompts until it answers; one that does not is restarted."""
        ray.cancel(call)
        if slot.state is not State.HEALTHY:
            return
        slot.state, slot.why = State.SUSPECT, reason
        try:
            await asyncio.wait_for(_of(slot.actor.ping.remote()), PING_SECONDS)
        except (TimeoutError, RayActorError):
            self._died(slot, f"{reason}, and no answer since")
            return
        slot.state = State.STALE  # a newer version may have passed it by
        await self._refresh(slot)

    def _died(self, slot: Slot, reason: str) -> str:
        """Mark a replica dead and bring it back in the background; returns the reason."""
        if slot.state in (State.DEAD, State.STARTING):
            return reason  # another prompt of it was first to know
        log.warning("%s", reason)
        slot.state, slot.why, slot.version = State.DEAD, reason, None
        slot.deaths += 1
        self.counts["deaths"] += 1
        if slot.deaths <= DEATHS_IN_A_ROW:
            slot.state = State.STARTING
            task = asyncio.create_task(self._restart(slot))
            self._restarts.add(task)
            task.add_done_callback(self._restarts.discard)
        return reason

    async def _restart(self, slot: Slot) -> None:
        """A new actor in the same place, brought to the current weights."""
        ray.kill(slot.actor)
        try:
            await self._begin(slot)
            await self._refresh(slot)
        except (TimeoutError, RayActorError, RayTaskError) as error:
            slot.state = State.STALE
            self._died(slot, f"{slot} did not come back: {_first(error)}")
        await self._announce()

    async def _end(self, slot: Slot) -> None:
        if slot.actor is None:
            return
        try:
            await asyncio.wait_for(_of(slot.actor.close.remote()), PING_SECONDS * 2)
        except (TimeoutError, RayActorError, RayTaskError) as error:
            log.info("%s did not close by itself: %s", slot, _first(error))
        ray.kill(slot.actor)


def _reserve(rollouts: Rollouts) -> PlacementGroup:
    bundle = {"CPU": float(rollouts.cpus)}
    if rollouts.gpus:
        bundle["GPU"] = float(rollouts.gpus)
    return placement_group([bundle], strategy="STRICT_PACK")


async def _placed(slot: Slot, limit: float) -> None:
    try:
        await asyncio.wait_for(_of(slot.group.ready()), limit)
    except TimeoutError as error:
        have = ray.available_resources()
        raise TimeoutError(
            f"no room for {slot} within {limit:.0f} s: asked {slot.group.bundle_specs[0]}; "
            f"available CPU={have.get('CPU', 0):g}, GPU={have.get('GPU', 0):g}"
        ) from error


def _of(reference: Any) -> Awaitable[Any]:
    """A Ray reference as a future of this event loop."""
    return asyncio.wrap_future(reference.future())


def _first(error: BaseException) -> str:
    """One line of an error: Ray's carry whole tracebacks."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [repr(cause)]
    return f"{type(cause).__name__}: {lines[0]}"
