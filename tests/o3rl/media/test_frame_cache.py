import asyncio
import threading
from collections import Counter
from concurrent.futures import Future

import pytest

from o3rl.media.frame_cache import FrameCache, Kept

SECONDS = 20


class Files:
    """Reads names, `size` bytes each; those of `gates` when their gate opens."""

    def __init__(self, size: int = 1):
        self.reads: Counter[str] = Counter()
        self.gates: dict[str, Future[None]] = {}
        self.size = size

    def gate(self, name: str) -> Future[None]:
        self.gates[name] = Future()
        return self.gates[name]

    def read(self, name: str) -> Kept[str]:
        self.reads[name] += 1
        if name in self.gates:
            self.gates[name].result(SECONDS)
        return Kept(f"frames of {name}", self.size)


def play(cache: FrameCache, scene) -> None:
    async def whole():
        async with asyncio.timeout(SECONDS):
            await scene()

    try:
        asyncio.run(whole())
    finally:
        cache.close()


@pytest.mark.parametrize("readers", [1, 4])
@pytest.mark.parametrize("size", [1, 2**20, 50 * 2**20])  # the last: larger than all the room
def test_many_callers_of_a_key_cost_one_reading(size, readers):
    cache, files = FrameCache[str](room=2**21, readers=readers), Files(size)
    gate = files.gate("a")

    async def scene():
        asyncio.get_running_loop().call_later(0.05, gate.set_result, None)
        got = await asyncio.gather(*(cache.get("a", lambda: files.read("a")) for _ in range(100)))
        assert set(got) == {"frames of a"}
        assert await cache.get("a", lambda: files.read("a")) == "frames of a"
        assert files.reads == {"a": 1}

    play(cache, scene)


def test_what_is_held_is_answered_while_every_reader_is_busy_and_many_files_wait():
    cache, files = FrameCache[str](room=10, readers=2), Files()
    gate = files.gate("slow")

    async def scene():
        await cache.get("held", lambda: files.read("held"))
        queued = [asyncio.create_task(cache.in_turn(files.read, "slow")) for _ in range(50)]
        await asyncio.sleep(0)
        assert cache.turns == 26  # 50 files before it, two at a time
        assert await cache.get("held", lambda: files.read("held")) == "frames of held"
        assert not any(task.done() for task in queued)
        gate.set_result(None)
        await asyncio.gather(*queued)
        assert cache.turns == 1

    play(cache, scene)


def test_the_queue_is_first_come_first_served_with_no_more_threads_than_readers():
    cache, began, running = FrameCache[str](room=10, readers=2), [], []
    room, lock = threading.Semaphore(2), threading.Lock()

    def work(number: int) -> None:
        with lock:
            began.append(number)
        assert room.acquire(blocking=False), "a third thread"
        running.append(number)
        room.release()

    async def scene():
        await asyncio.gather(*(cache.in_turn(work, number) for number in range(40)))

    play(cache, scene)
    assert began == list(range(40))
    assert len(running) == 40


def test_an_error_goes_to_all_who_wait_and_the_next_one_tries_again():
    cache, files = FrameCache[str](room=10, readers=1), Files()
    gate = files.gate("a")

    async def scene():
        asyncio.get_running_loop().call_later(0.05, gate.set_exception, OSError("torn"))
        calls = (cache.get("a", lambda: files.read("a")) for _ in range(5))
        got = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(error) for error in got] == ["torn"] * 5
        assert files.reads == {"a": 1}
        del files.gates["a"]
        assert await cache.get("a", lambda: files.read("a")) == "frames of a"

    play(cache, scene)


def test_one_who_gives_up_leaves_the_reading_to_the_others():
    cache, files = FrameCache[str](room=10, readers=1), Files()
    gate = files.gate("a")

    async def scene():
        first, second = (
            asyncio.create_task(cache.get("a", lambda: files.read("a"))) for _ in range(2)
        )
        await asyncio.sleep(0.01)
        first.cancel()
        gate.set_result(None)
        assert await second == "frames of a"
        assert first.cancelled()

    play(cache, scene)
    assert files.reads == {"a": 1}


def test_the_longest_unused_go_when_the_room_is_full():
    cache, files = FrameCache[str](room=3, readers=1), Files()

    async def scene():
        for name in ["a", "b", "c", "a", "d"]:  # 4 of 3: b, the longest unused, goes
            await cache.get(name, lambda name=name: files.read(name))
        assert cache.held_bytes == 3
        for name in ["a", "c", "d", "b"]:
            await cache.get(name, lambda name=name: files.read(name))
        assert files.reads == {"a": 1, "b": 2, "c": 1, "d": 1}

    play(cache, scene)
