"""Which service of a run would be on which node: whole units, first fit, in the order of starting.

Ray may choose other nodes; what does not fit here does not fit there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from o3rl.config import SCORER_CPUS, RunConfig, Transfer

SLACK = 1e-9  # of sums of CPU shares such as 0.1


@dataclass(frozen=True, slots=True)
class Node:
    """A machine, alike for all of a cluster; `gpu_gib` is the memory of each of its GPUs."""

    cpus: float
    gpus: float
    gpu_gib: float


@dataclass(frozen=True, slots=True)
class Unit:
    """`count` alike, and what Ray reserves for each.

    >>> Unit("learner rank", 4, 1.0, 1.0)
    """

    name: str
    count: int
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Service:
    """A unit with how many of it are on each node; fewer than `count` where some fit nowhere."""

    unit: Unit
    by_node: tuple[int, ...]


def units_of(run: RunConfig) -> tuple[Unit, ...]:
    """The services of a training run as it begins, in the order in which they are placed."""
    stored = run.rollouts.transfer is Transfer.object_store
    return (
        Unit("controller", 1, 0.0, 0.0),
        Unit("media", 1, 0.0, 0.0),
        *((Unit("weight store", 1, 0.0, 0.0),) if stored else ()),
        Unit(
            "learner rank", run.learning.ranks, run.cluster.cpus_per_rank, run.cluster.gpus_per_rank
        ),
        Unit("rollout replica", run.rollouts.replicas, run.rollouts.cpus, run.rollouts.gpus),
        Unit("scorer", run.rewards.workers, SCORER_CPUS, 0.0),
    )


def sft_units_of(run: RunConfig) -> tuple[Unit, ...]:
    """The services of a cold start: its ranks have the machine to themselves."""
    cpus = run.sft.cpus_per_rank or run.cluster.cpus_per_rank
    return (Unit("SFT rank", run.learning.ranks, cpus, run.cluster.gpus_per_rank),)


def place(units: Sequence[Unit], node: Node, *, nodes: int) -> tuple[Service, ...]:
    """Where the units go on nodes like `node`; at most `nodes` of them, or with 0 as many as need
    be."""
    free = [[node.cpus, node.gpus] for _ in range(nodes or 1)]
    services: list[Service] = []
    for unit in units:
        where = [_take(unit, free, node, grow=not nodes) for _ in range(unit.count)]
        services.append(Service(unit, tuple(where.count(i) for i in range(len(free)))))
    return tuple(
        Service(each.unit, each.by_node + (0,) * (len(free) - len(each.by_node)))
        for each in services
    )


def misfits(services: Sequence[Service], node: Node, *, nodes: int) -> list[str]:
    """What has no room, and what would make it."""
    problems: list[str] = []
    for service in services:
        unit, left = service.unit, service.unit.count - sum(service.by_node)
        if not left:
            continue
        asked = f"{unit.cpus:g} CPUs and {unit.gpus:g} GPUs"
        have = f"{node.cpus:g} CPUs and {node.gpus:g} GPUs"
        if unit.cpus > node.cpus or unit.gpus > node.gpus:
            problems.append(
                f"{unit.name} asks for {asked}, more than a node has ({have}): it is never placed"
            )
            continue
        problems.append(
            f"{left} of {unit.count} {unit.name}s, {asked} each, have no room on "
            f"{nodes} node{'s' * (nodes != 1)} of {have}: give more nodes or ask less"
        )
    return problems


def _take(unit: Unit, free: list[list[float]], node: Node, *, grow: bool) -> int:
    """The node that the next of the unit takes its share from; -1 where none has it."""
    if unit.cpus > node.cpus + SLACK or unit.gpus > node.gpus + SLACK:
        return -1
    for index, (cpus, gpus) in enumerate(free):
        if unit.cpus <= cpus + SLACK and unit.gpus <= gpus + SLACK:
            free[index] = [cpus - unit.cpus, gpus - unit.gpus]
            return index
    if not grow:
        return -1
    free.append([node.cpus - unit.cpus, node.gpus - unit.gpus])
    return len(free) - 1
