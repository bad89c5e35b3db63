"""The pool follows who waits for whom, one change at a time, and is told of each step."""

import asyncio

import pytest

from cluster.services.autoscaler import Membership
from o3rl.config import RolloutsConfig
from o3rl.types import Version

WAITS = {"seconds/step": 1.0, "seconds/rollout": 0.5, "queue/idle_seconds": 0.0}


class Pool:
    """Remembers what it was asked for; `gate` holds a change up, `problems` is what came of it."""

    def __init__(self, *, problems: tuple[str, ...] = (), error: Exception | None = None):
        self.members, self.asked = 1, []
        self.fleet = self
        self.gate = asyncio.Event()
        self.gate.set()
        self._problems, self._error = problems, error

    @property
    def counts(self) -> dict[str, int]:
        return {"members": self.members, "healthy": self.members}

    async def scale(self, replicas: int) -> tuple[str, ...]:
        self.asked.append(replicas)
        await self.gate.wait()
        if self._error:
            raise self._error
        if not self._problems:
            self.members = replicas
        return self._problems


def membership(pool: Pool, **settings) -> Membership:
    return Membership(pool, RolloutsConfig(**{"max_replicas": 4, "scale_after": 2} | settings))


async def steps(members: Membership, count: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for step in range(count):
        metrics = dict(WAITS)
        await members.stepped(step, Version(0, step), [], metrics)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return metrics


def test_each_step_tells_of_the_pool():
    metrics = asyncio.run(steps(membership(Pool(), max_replicas=0), 1))
    assert (metrics["pool/members"], metrics["pool/healthy"]) == (1, 1)


def test_without_bounds_the_number_stays():
    pool = Pool()
    asyncio.run(steps(membership(pool, max_replicas=0), 20))
    assert pool.asked == []


def test_where_the_learner_waits_replicas_join_one_after_the_other():
    pool = Pool()
    asyncio.run(steps(membership(pool), 20))
    assert pool.asked == [2, 3, 4]


def test_while_a_change_goes_on_there_is_no_other():
    async def slow() -> list[int]:
        pool = Pool()
        pool.gate.clear()
        members = membership(pool)
        await steps(members, 10)
        held = list(pool.asked)
        await members.close()
        return held

    assert asyncio.run(slow()) == [2]


def test_one_that_found_no_room_is_not_asked_for_again_for_a_while():
    pool = Pool(problems=("no room",))
    members = membership(pool)

    async def refused() -> tuple[list[int], list[int]]:
        await steps(members, 20)
        soon = list(pool.asked)
        await steps(members, 10)
        return soon, pool.asked

    soon, later = asyncio.run(refused())
    assert soon == [2]
    assert later == [2, 2]


def test_what_a_change_raises_ends_the_run():
    pool = Pool(error=ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(steps(membership(pool), 4))
