"""Frames under their keys: read once however many ask, kept while there is room.

    get ──► held? ──► being read? wait for it ──► queue ──► one of `readers` threads ──► held

Laws, all on one event loop, so without a lock: what is held is answered at once, whatever is
queued; callers of a key that is being read share that reading and its error; the queue is first
come, first served; what was read last is held even if it is larger than the room.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """Frames as they are handed out, and their size."""

    value: T
    bytes: int


class FrameCache(Generic[T]):
    """At most `room` bytes of what was read, by `readers` threads; the longest unused go first."""

    def __init__(self, *, room: int, readers: int):
        self._room = room
        self._readers = readers
        self._threads = ThreadPoolExecutor(readers, "reader")
        self._queued = 0  # and running
        self._held: OrderedDict[str, Kept[T]] = OrderedDict()
        self._coming: dict[str, asyncio.Task[T]] = {}

    @property
    def turns(self) -> int:
        """After how many files a reader has come to one that is queued now; at least 1."""
        return 1 + self._queued // self._readers

    @property
    def held_bytes(self) -> int:
        """Of frames that are kept."""
        return sum(kept.bytes for kept in self._held.values())

    async def get(self, key: str, read: Callable[[], Kept[T]]) -> T:
        """What is kept under `key`, or what `read` gives; its error goes to all who wait for it."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key].value
        if key not in self._coming:
            self._coming[key] = asyncio.create_task(self._read(key, read))
        return await asyncio.shield(self._coming[key])  # one who gives up leaves it to the others

    async def in_turn(self, work: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
        """What `work` returns, run by a reader when those queued before it are done."""
        self._queued += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: work(*args, **options))
        finally:
            self._queued -= 1

    def close(self) -> None:
        """Drop what is queued; what runs goes on to its end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self, key: str, read: Callable[[], Kept[T]]) -> T:
        try:
            kept = await self.in_turn(read)
        finally:
            del self._coming[key]
        self._held[key] = kept
        while len(self._held) > 1 and self.held_bytes > self._room:
            self._held.popitem(last=False)
        return kept.value
