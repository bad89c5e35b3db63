"""`o3rl bench loop`: what the controller costs, and how well its halves overlap."""

import argparse
import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.table import Table

from cluster.bench.loop_on_fakes import FakePool, Overlap, Rate, Sleepers, overlap, payload, rate
from cluster.bench.report import Report, table
from o3rl.types import Version

KNEE = 0.95  # of linear
LINEAR = (1, 8, 64)
MOST = 4096
BATCH, REAL_BATCH = 8, 64


def run(options: argparse.Namespace) -> Report:
    """Measure, then tables or JSON."""
    if options.real:
        return _real(options)
    asleep = asyncio.run(_asleep(options.seconds, options.rounds))
    actors = [] if options.without_ray else _actors(options.seconds, options.rounds)
    overlaps = [asyncio.run(_overlap(staleness, options)) for staleness in (0, 1)]
    found = {"asyncio": asleep, "ray": actors, "overlap": [_plain(each) for each in overlaps]}
    each = f"of {options.seconds:g} s a group"
    shown = [_rates(f"Fake replicas {each} in one process", asleep)]
    if actors:
        shown.append(_rates(f"Ray actors {each}", actors))
    title = f"A step, of {options.seconds:g} s of rollouts and as much of learning"
    columns = ("max_staleness", "seconds", "of the longer half")
    rows = ((f"{o.staleness}", f"{o.step_seconds:.3f}", f"{o.ratio:.3f}") for o in overlaps)
    return found, [*shown, table(title, columns, rows)]


def _real(options: argparse.Namespace) -> Report:
    from cluster.bench.loop_real import real

    found = real(groups=REAL_BATCH, at_once=options.at_once, steps=options.rounds)
    words = (
        f"Apart, a batch of {REAL_BATCH} prompts takes {found.rollout_seconds:.2f} s to sample and "
        f"{found.learn_seconds:.2f} s to learn from. Overlapped, a step takes "
        f"{found.step_seconds:.2f} s: {found.ratio:.3f} of the longer one."
    )
    return _plain(found), [words]


def _plain(found: Overlap) -> dict[str, float]:
    return asdict(found) | {"ratio": found.ratio}


async def _asleep(seconds: float, rounds: int) -> list[Rate]:
    """At 1, 8 and 64, and on by doubling until less than `KNEE` of linear is left."""
    found: list[Rate] = []
    sizes = [*LINEAR]
    while sizes:
        replicas = sizes.pop(0)
        pool = FakePool(replicas, Sleepers(seconds))
        found.append(await rate(pool, replicas, seconds=seconds, rounds=rounds))
        if not sizes and found[-1].efficiency >= KNEE and 2 * replicas <= MOST:
            sizes.append(2 * replicas)
    return found


def _actors(seconds: float, rounds: int) -> list[Rate]:
    """The same over Ray, at 1 to 8 actors."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=1)
    try:
        return [asyncio.run(_ray_rate(n, seconds, rounds)) for n in (1, 2, 4, 8)]
    finally:
        ray.shutdown()


class _Sleeper:
    """What runs in an actor."""

    async def sample(self, seconds: float, version: Version) -> bytes:
        await asyncio.sleep(seconds)
        return payload(version)


async def _ray_rate(replicas: int, seconds: float, rounds: int) -> Rate:
    import ray

    from o3rl.ray_calls import answered

    actors: list[Any] = [ray.remote(_Sleeper).options(num_cpus=0).remote() for _ in range(replicas)]

    async def call(replica: int, version: Version) -> bytes:
        reference = actors[replica].sample.remote(seconds, version)
        return await answered(reference, 60 + 10 * seconds)

    await asyncio.gather(*(call(replica, Version(0, 0)) for replica in range(replicas)))  # start
    found = await rate(FakePool(replicas, call), replicas, seconds=seconds, rounds=rounds)
    for actor in actors:
        ray.kill(actor)
    return found


async def _overlap(staleness: int, options: argparse.Namespace) -> Overlap:
    steps = options.rounds + 3
    return await overlap(staleness=staleness, groups=BATCH, seconds=options.seconds, steps=steps)


def _rates(title: str, found: Iterable[Rate]) -> Table:
    rows = (
        (f"{r.replicas}", f"{r.groups}", f"{r.efficiency:.3f}", f"{r.controller_ms:.2f}")
        for r in found
    )
    return table(title, ("replicas", "groups", "time at work", "controller ms a group"), rows)
