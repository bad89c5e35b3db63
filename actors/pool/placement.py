"""Places for replicas: a placement group each, and notices that a place will be taken away."""

import asyncio
import math
from collections.abc import Sequence

from ray._private.state import state as cluster_state
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table

from actors.pool.replica_state import Slot
from o3rl.config import RolloutsConfig
from o3rl.ray_calls import answered, bundle, free


def reserve(rollouts: RolloutsConfig) -> PlacementGroup:
    """A place that Ray finds, or that waits and is a demand for nodes to its autoscaler."""
    asked = bundle(cpus=rollouts.cpus, gpus=rollouts.gpus, resource=rollouts.resource)
    return placement_group([asked], strategy="STRICT_PACK")


async def placed(slot: Slot, limit: float) -> None:
    """Once the slot has its place. Raises TimeoutError saying what was asked and what there is."""
    try:
        await answered(slot.group.ready(), limit)
    except TimeoutError as error:
        asked = slot.group.bundle_specs[0]
        raise TimeoutError(
            f"no room for {slot} within {limit:.0f} s: asked {asked}; free: {free()}"
        ) from error


async def some_placed(
    slots: Sequence[Slot], limit: float, *, least: int, soon: float
) -> list[Slot]:
    """Those that have a place: all, or after `soon` seconds at least `least` of them.

    Raises the TimeoutError of one where they are fewer within `limit`.
    """
    waits = {asyncio.create_task(placed(slot, limit)): slot for slot in slots}
    try:
        done, waiting = await asyncio.wait(waits, timeout=soon)
        while waiting and len(there := _well(done)) < least:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        there = _well(done)
        if len(there) < least:
            for task in done:
                task.result()
        return [slot for task, slot in waits.items() if task in there]
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def _well(done: set[asyncio.Task[None]]) -> list[asyncio.Task[None]]:
    return [task for task in done if task.exception() is None]


def notices(slots: Sequence[Slot]) -> list[tuple[Slot, float]]:
    """(slot, when its node goes) of those whose node Ray was told will go, in seconds of the clock.

    By a provider's preemption, or by `ray drain-node`; infinity where no time was named. Blocks for
    a moment. Ray has no public call for it.
    """
    going: dict[str, int] = cluster_state.get_draining_nodes()
    found: list[tuple[Slot, float]] = []
    for slot in slots if going else ():
        node = placement_group_table(slot.group).get("bundles_to_node_id", {}).get(0)
        if node in going:
            found.append((slot, going[node] / 1000 or math.inf))
    return found
