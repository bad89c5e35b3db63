"""Which replica gets a prompt, with replicas and calls made up: no Ray, no engine."""

import asyncio
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayTaskError

from actors.pool import rollout_pool
from actors.pool.replica_state import Replica, State
from actors.pool.rollout_pool import RolloutPool
from actors.pool.weight_sync import Pull
from actors.weights.update_stream import EngineBroken
from o3rl.benchmarks.runner import Sampling
from o3rl.config import ModelConfig, RolloutsConfig, SamplingConfig
from o3rl.types import Failure, Group, Version
from tests.actors.conftest import prompt

OLD, NEW = Version(0, 0), Version(0, 1)


class Actor:
    """Answers a call when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Future[str]] = []

    @property
    def sample(self) -> "Actor":
        return self

    @property
    def ask(self) -> "Actor":
        return self

    def remote(self, *_: object) -> "Call":
        self.calls.append(Future())
        return Call(self.calls[-1])


class Call:
    def __init__(self, answer: Future[str]):
        self._answer = answer

    def future(self) -> Future[str]:
        """One of its own each time, as Ray's."""
        found: Future[str] = Future()

        def pass_on(answer: Future[str]) -> None:
            if found.cancelled():
                return
            if error := answer.exception():
                found.set_exception(error)
            else:
                found.set_result(answer.result())

        self._answer.add_done_callback(pass_on)
        return found


def pool_of(*states: State) -> RolloutPool:
    pool = RolloutPool(
        ModelConfig(path="none"),
        sampling=SamplingConfig(),
        rollouts=RolloutsConfig(start_seconds=20),
        fetch=lambda _: None,  # pyright: ignore
        source=None,
        seed=0,
    )
    pool.weights.wanted = NEW
    for index, state in enumerate(states):
        replica = Replica(index, None, actor=Actor(), state=state)
        replica.version = NEW if state is State.HEALTHY else OLD
        pool.fleet.replicas.append(replica)
    return pool


def calls(pool: RolloutPool) -> list[int]:
    return [len(replica.actor.calls) for replica in pool.fleet.replicas]


def of_task(error: Exception) -> Exception:
    """As Ray raises it."""
    return RayTaskError("sample", "", error).as_instanceof_cause()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def ask(pool: RolloutPool, count: int) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(pool.sample(prompt(number))) for number in range(count)]


async def answered(pool: RolloutPool, tasks: list[asyncio.Task[Any]]) -> list[Any]:
    async with asyncio.timeout(20):
        while not all(task.done() for task in tasks):
            for replica in pool.fleet.replicas:
                for call in replica.actor.calls:
                    if not call.done():
                        call.set_result("group")
            await asyncio.sleep(0.01)
    return [task.result() for task in tasks]


def test_the_first_to_have_new_weights_does_not_get_all_that_waited():
    async def share() -> tuple[list[int], list[int], list[Any]]:
        pool = pool_of(State.STALE, State.STALE, State.STALE)
        replicas = pool.fleet.replicas
        for replica in replicas:
            await replica.loading.acquire()
            replica.load_began_at = asyncio.get_running_loop().time()
        tasks = ask(pool, 6)
        await settle()
        replicas[1].state, replicas[1].version = State.HEALTHY, NEW
        await pool.fleet.announce()
        await settle()
        at_first = calls(pool)
        for replica in (replicas[0], replicas[2]):
            replica.state, replica.version = State.HEALTHY, NEW
        await pool.fleet.announce()
        await settle()
        return at_first, calls(pool), await answered(pool, tasks)

    at_first, shared, results = asyncio.run(share())
    assert at_first == [0, 1, 0]
    assert shared == [2, 2, 2]
    assert results == ["group"] * 6


def test_one_that_takes_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(rollout_pool, "PATIENCE_SECONDS", 0.1)

    async def share() -> list[int]:
        pool = pool_of(State.HEALTHY, State.STALE)
        slow = pool.fleet.replicas[1]
        await slow.loading.acquire()
        slow.load_began_at = asyncio.get_running_loop().time()
        tasks = ask(pool, 4)
        await settle()
        assert calls(pool) == [1, 0]
        await asyncio.sleep(0.3)
        found = calls(pool)
        assert await answered(pool, tasks) == ["group"] * 4
        return found

    assert asyncio.run(share()) == [4, 0]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (of_task(TimeoutError("still updating weights")), "still updating weights"),
        (ObjectLostError("00", None, "gone with its node"), "its answer was lost: "),
    ],
)
def test_what_is_no_fault_of_the_replica_is_tried_again_and_leaves_it_healthy(error, told):
    async def fail() -> tuple[Any, State]:
        pool = pool_of(State.HEALTHY)
        [task] = ask(pool, 1)
        await settle()
        [replica] = pool.fleet.replicas
        replica.actor.calls[0].set_exception(error)
        return await task, replica.state

    result, state = asyncio.run(fail())
    assert isinstance(result, Failure)
    assert told in result.reason
    assert state is State.HEALTHY


def test_a_late_answer_is_counted_and_thrown_away(monkeypatch):
    """The replica wakes up and answers when its prompt is elsewhere already."""
    monkeypatch.setattr(rollout_pool.ray, "cancel", lambda _: None)  # it comes too late

    group = Group(prompt(0), (), (1,), "digest")

    async def late() -> tuple[Any, Any, dict[str, int]]:
        pool = pool_of(State.HEALTHY, State.HEALTHY)
        pool._rollouts = RolloutsConfig(start_seconds=20, seconds=0.1)
        frozen, other = pool.fleet.replicas
        monkeypatch.setattr(frozen.actor, "ping", frozen.actor, raising=False)
        [first] = ask(pool, 1)
        await settle()
        while len(frozen.actor.calls) < 2:
            await asyncio.sleep(0.01)
        sampled, ping = frozen.actor.calls
        ping.set_result("late, but alive")
        failed = await first
        [again] = ask(pool, 1)
        other.running, frozen.running = 0, 1
        await settle()
        other.actor.calls[0].set_result("group")
        sampled.set_result(group)
        result = await again
        await settle()
        return failed, result, pool.counts

    failed, result, counts = asyncio.run(late())
    assert isinstance(failed, Failure)
    assert result == "group"
    assert (counts["late"], counts["late_answers"]) == (1, 1)


def test_a_death_with_a_prompt_that_kills_is_not_counted_against_its_replica(monkeypatch):
    async def die() -> list[int]:
        pool = pool_of(State.HEALTHY)
        [replica] = pool.fleet.replicas
        monkeypatch.setattr(pool.fleet, "_restart", lambda *_, **__: asyncio.sleep(0))
        deaths = []
        for _ in range(3):  # the third time it is alone
            replica.state, replica.version = State.HEALTHY, NEW
            [task] = ask(pool, 1)
            await settle()
            replica.actor.calls[-1].set_exception(of_task(EngineBroken("it is dead")))
            assert isinstance(await task, Failure)
            deaths.append(replica.deaths)
        return deaths

    assert asyncio.run(die()) == [1, 2, 2]


def test_one_that_ray_ended_for_memory_is_started_again(monkeypatch):
    async def die() -> tuple[Any, State, int]:
        pool = pool_of(State.HEALTHY)
        [replica] = pool.fleet.replicas
        monkeypatch.setattr(pool.fleet, "_restart", lambda *_, **__: asyncio.sleep(0))
        [task] = ask(pool, 1)
        await settle()
        replica.actor.calls[0].set_exception(OutOfMemoryError("the node runs out of memory"))
        return await task, replica.state, pool.counts["deaths"]

    result, state, deaths = asyncio.run(die())
    assert isinstance(result, Failure)
    assert "the node runs out of memory" in result.reason
    assert (state, deaths) == (State.STARTING, 1)


@pytest.mark.parametrize(
    ("error", "restarts"),
    [(OSError("No space left on device"), 1), (TimeoutError("the weight store"), 0)],
)
def test_a_disk_of_one_replica_costs_that_one_and_the_store_costs_all(monkeypatch, error, restarts):
    async def load() -> tuple[int, State]:
        pool = pool_of(State.HEALTHY, State.HEALTHY)
        pool.weights.provider = Pull(object(), 20)  # pyright: ignore
        full, other = pool.fleet.replicas
        monkeypatch.setattr(Actor, "load", property(lambda self: self), raising=False)
        monkeypatch.setattr(pool.fleet, "_restart", lambda *_, **__: asyncio.sleep(0))
        task = asyncio.create_task(pool.weights.load(Version(0, 2)))
        await settle()
        full.actor.calls[0].set_exception(of_task(error))
        other.actor.calls[0].set_result("loaded")
        if not restarts:
            with pytest.raises(TimeoutError) as raised:
                await task
            assert raised.value.cause is error  # pyright: ignore
        else:
            assert await task == ("loaded",)
        return pool.counts["deaths"], other.state

    assert asyncio.run(load()) == (restarts, State.HEALTHY)


def test_new_weights_have_arrived_though_their_replica_is_taken(monkeypatch):
    """By a prompt that is to be alone, which says nothing of the weights."""

    async def load() -> Any:
        pool = pool_of(State.HEALTHY)
        pool.weights.provider = Pull(object(), 20)  # pyright: ignore
        [replica] = pool.fleet.replicas
        replica.exclusive, replica.running = True, 1
        monkeypatch.setattr(Actor, "load", property(lambda self: self), raising=False)
        task = asyncio.create_task(pool.weights.load(Version(0, 2)))
        await settle()
        replica.actor.calls[0].set_result("loaded")
        return await asyncio.wait_for(task, 5)

    assert asyncio.run(load()) == ("loaded",)


@pytest.mark.parametrize("states", [(State.DEAD,), ()])
def test_where_no_replica_is_left_that_is_said(states):
    pool = pool_of(*states)
    with pytest.raises(TimeoutError, match="no rollout replica is left"):
        asyncio.run(asyncio.wait_for(pool.sample(prompt(0)), 10))


ASKED = Sampling(frames=2, pixels=0, max_tokens=8)
CHAT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]


def question(pool: RolloutPool, brightness: int) -> "asyncio.Task[list[str]]":
    image = np.full((2, 2, 3), brightness, np.uint8)
    return asyncio.create_task(pool.ask(CHAT, [image], ASKED))


def test_questions_about_the_same_frames_go_to_the_same_replica_while_it_is_no_busier():
    async def trial():
        pool = pool_of(State.HEALTHY, State.HEALTHY)
        first = [question(pool, 1), question(pool, 2)]
        await settle()
        assert calls(pool) == [1, 1]
        for replica in pool.fleet.replicas:
            replica.actor.calls[0].set_result(["yes"])  # pyright: ignore
        assert await asyncio.gather(*first) == [["yes"], ["yes"]]
        again = question(pool, 2)
        await settle()
        assert calls(pool) == [1, 2]  # where the second was
        busy = question(pool, 2)
        await settle()
        assert calls(pool) == [2, 2]  # not behind another
        for replica in pool.fleet.replicas:
            replica.actor.calls[1].set_result(["no"])  # pyright: ignore
        assert await asyncio.gather(again, busy) == [["no"], ["no"]]

    asyncio.run(trial())


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (ValueError("too long"), ValueError, "^too long$"),
        (EngineBroken("gone"), ConnectionError, "rollout replica 0: .*gone"),
        (TimeoutError("frames"), ConnectionError, "frames"),
    ],
)
def test_a_question_that_fails_says_whose_fault_it_is(fault, kind, told):
    async def trial():
        pool = pool_of(State.HEALTHY)
        pool.fleet._restart = lambda *_, **__: settle()  # pyright: ignore
        asked = question(pool, 1)
        await settle()
        error = RayTaskError("ask", "traceback\n" + repr(fault), fault)
        pool.fleet.replicas[0].actor.calls[0].set_exception(error)  # pyright: ignore
        with pytest.raises(kind, match=told):
            await asked

    asyncio.run(trial())
