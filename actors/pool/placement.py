"""Placement groups, one a replica, and notices that the node of one will be taken away."""

import asyncio
import math
from collections.abc import Sequence

from ray._private.state import state as cluster_state
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table

from actors.pool.replica_state import Replica
from o3rl.config import RolloutsConfig
from o3rl.ray_calls import answered, bundle, free


def reserve(rollouts: RolloutsConfig) -> PlacementGroup:
    """A placement group: Ray finds room for it, or it waits, and its autoscaler sees a demand."""
    asked = bundle(cpus=rollouts.cpus, gpus=rollouts.gpus, resource=rollouts.resource)
    return placement_group([asked], strategy="STRICT_PACK")


async def placed(replica: Replica, limit: float) -> None:
    """Once the replica has room. Raises TimeoutError saying what was asked and what there is."""
    try:
        await answered(replica.group.ready(), limit)
    except TimeoutError as error:
        asked = replica.group.bundle_specs[0]
        raise TimeoutError(
            f"no room for {replica} within {limit:.0f} s: asked {asked}; free: {free()}"
        ) from error


async def some_placed(
    replicas: Sequence[Replica], limit: float, *, least: int, patience: float
) -> list[Replica]:
    """Those that have room: all, or after `patience` seconds at least `least` of them.

    Raises the TimeoutError of one where they are fewer within `limit`.
    """
    waits = {asyncio.create_task(placed(replica, limit)): replica for replica in replicas}
    try:
        done, waiting = await asyncio.wait(waits, timeout=patience)
        while waiting and len(there := _well(done)) < least:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        there = _well(done)
        if len(there) < least:
            for task in done:
                task.result()
        return [replica for task, replica in waits.items() if task in there]
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def _well(done: set[asyncio.Task[None]]) -> list[asyncio.Task[None]]:
    return [task for task in done if task.exception() is None]


def notices(replicas: Sequence[Replica]) -> list[tuple[Replica, float]]:
    """(replica, when its node goes) where Ray was told that it will, in seconds of the clock.

    By a provider's preemption, or by `ray drain-node`; infinity where no time was named. Blocks for
    a moment. Ray has no public call for it.
    """
    going: dict[str, int] = cluster_state.get_draining_nodes()
    found: list[tuple[Replica, float]] = []
    for replica in replicas if going else ():
        node = placement_group_table(replica.group).get("bundles_to_node_id", {}).get(0)
        if node in going:
            found.append((replica, going[node] / 1000 or math.inf))
    return found
