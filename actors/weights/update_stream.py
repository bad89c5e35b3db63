"""A version on its way straight into an engine: who sends puts updates, the engine takes them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from o3rl.types import Version


class EngineBroken(RuntimeError):
    """The engine cannot serve any more: its process died or an update failed half-way."""


class HandOverFailed(RuntimeError):
    """Weights that the learner sent did not reach a replica, which it names."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a weight update did: sizes in bytes, times in seconds."""

    version: Version
    digest: str  # of the manifest
    tensors: int
    parameters: int  # of the engine, all of them assigned
    size: int
    fetched: int  # of it, over the network: less where only changes came, or a neighbour has it
    seconds_fetch: float  # the replica served meanwhile
    seconds_stalled: float  # it did not


Update = Mapping[str, Any]


class Delivery:
    """Between one sender, whose calls return once the engine has done what they ask, and `take`.

    Every call raises what `take` raised, if it ended before its time. Limits are `take`'s.
    """

    def __init__(self, version: Version, names: Sequence[str]):
        self.version, self.names = version, tuple(names)
        self.digest = ""  # of the manifest, once `finish` was called
        self._updates: asyncio.Queue[tuple[Update | None, asyncio.Future[None]]] = asyncio.Queue()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._taking: asyncio.Future[Loaded] | None = None

    async def open(self, take: Callable[["Delivery"], Awaitable[Loaded]]) -> None:
        """Begin; returns when the engine asks for the first update."""
        self._taking = asyncio.ensure_future(take(self))
        self._taking.add_done_callback(_seen)  # the engine keeps what went wrong, too
        await self._through(self._opened)

    async def feed(self, update: Update) -> None:
        """Hand over one update; returns when the engine has it."""
        await self._put(update)

    async def finish(self, digest: str) -> Loaded:
        """There are no more; returns when the engine serves them."""
        self.digest = digest
        await self._put(None)
        assert self._taking is not None, "not opened"
        return await asyncio.shield(self._taking)

    async def updates(self) -> AsyncIterator[Update]:
        """For the engine, which asks for the next when it has taken one."""
        self._opened.set_result(None)
        while True:
            update, taken = await self._updates.get()
            if update is not None:
                yield update
            taken.set_result(None)
            if update is None:
                return

    async def _put(self, update: Update | None) -> None:
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._updates.put_nowait((update, taken))
        await self._through(taken)

    async def _through(self, step: asyncio.Future[None]) -> None:
        assert self._taking is not None, "not opened"
        await asyncio.wait([step, self._taking], return_when=asyncio.FIRST_COMPLETED)
        if not step.done():
            await self._taking  # raises
            raise EngineBroken(f"version {self.version} was taken before all of it had come")


def _seen(taking: asyncio.Future[Loaded]) -> None:
    if not taking.cancelled():
        taking.exception()
