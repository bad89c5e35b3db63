"""`o3rl bench loop`: what the controller costs, and how well its halves overlap."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.bench.loop_on_fakes import Overlap, Rate, Sleepers, StandIns, overlap, payload, rate
from o3rl.types import Version

KNEE = 0.95  # of linear
LINEAR = (1, 8, 64)
MOST = 4096
BATCH, REAL_BATCH = 8, 64


def run(options: argparse.Namespace) -> int:
    """Measure, then tables or JSON."""
    if options.seconds <= 0:
        raise ValueError(f"--seconds is {options.seconds:g}; it must be more than 0")
    if options.rounds < 2:
        raise ValueError(f"--rounds is {options.rounds}; it must be 2 or more")
    if options.real:
        return _real(options)
    asleep = asyncio.run(_asleep(options.seconds, options.rounds))
    actors = [] if options.without_ray else _actors(options.seconds, options.rounds)
    overlaps = [asyncio.run(_overlap(staleness, options)) for staleness in (0, 1)]
    if options.json:
        found = {
            "asyncio": [asdict(each) for each in asleep],
            "ray": [asdict(each) for each in actors],
            "overlap": [asdict(each) | {"ratio": each.ratio} for each in overlaps],
        }
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return 0
    console = Console()
    console.print(_rates(f"Stand-ins of {options.seconds:g} s a group in one process", asleep))
    if actors:
        console.print(_rates(f"Ray actors of {options.seconds:g} s a group", actors))
    console.print(_overlaps(overlaps))
    return 0


def _real(options: argparse.Namespace) -> int:
    from cluster.bench.loop_real import real

    if options.at_once < 1:
        raise ValueError(f"--at-once is {options.at_once}; it must be 1 or more")
    found = real(groups=REAL_BATCH, at_once=options.at_once, steps=options.rounds)
    if options.json:
        sys.stdout.write(json.dumps(asdict(found) | {"ratio": found.ratio}, indent=1) + "\n")
        return 0
    sys.stdout.write(
        f"Apart, a batch of {REAL_BATCH} prompts takes {found.rollout_seconds:.2f} s to sample and "
        f"{found.learn_seconds:.2f} s to learn from. Overlapped, a step takes "
        f"{found.step_seconds:.2f} s: {found.ratio:.3f} of the longer one.\n"
    )
    return 0


async def _asleep(seconds: float, rounds: int) -> list[Rate]:
    """At 1, 8 and 64, and on by doubling until less than `KNEE` of linear is left."""
    found: list[Rate] = []
    sizes = [*LINEAR]
    while sizes:
        replicas = sizes.pop(0)
        stand_ins = StandIns(replicas, Sleepers(seconds))
        found.append(await rate(stand_ins, replicas, seconds=seconds, rounds=rounds))
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

    actors: list[Any] = [ray.remote(_Sleeper).options(num_cpus=0).remote() for _ in range(replicas)]

    async def call(replica: int, version: Version) -> bytes:
        reference = actors[replica].sample.remote(seconds, version)
        return await asyncio.wait_for(asyncio.wrap_future(reference.future()), 60 + 10 * seconds)

    await asyncio.gather(*(call(replica, Version(0, 0)) for replica in range(replicas)))  # start
    found = await rate(StandIns(replicas, call), replicas, seconds=seconds, rounds=rounds)
    for actor in actors:
        ray.kill(actor)
    return found


async def _overlap(staleness: int, options: argparse.Namespace) -> Overlap:
    steps = options.rounds + 3
    return await overlap(staleness=staleness, groups=BATCH, seconds=options.seconds, steps=steps)


def _rates(title: str, found: Sequence[Rate]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for column in ("replicas", "groups", "time at work", "controller ms a group"):
        table.add_column(column, justify="right")
    for each in found:
        table.add_row(
            f"{each.replicas}",
            f"{each.groups}",
            f"{each.efficiency:.3f}",
            f"{each.controller_ms:.2f}",
        )
    return table


def _overlaps(found: Sequence[Overlap]) -> Table:
    title = f"A step, of {found[0].rollout_seconds:g} s of rollouts and as much of learning"
    table = Table(title=title, title_justify="left", box=None)
    for column in ("max_staleness", "seconds", "of the longer half"):
        table.add_column(column, justify="right")
    for each in found:
        table.add_row(f"{each.staleness}", f"{each.step_seconds:.3f}", f"{each.ratio:.3f}")
    return table
