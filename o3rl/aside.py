"""A context manager that blocks, for those who must go on answering meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def aside(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """`manager`, entered and left in threads while the event loop goes on."""
    entering = asyncio.ensure_future(asyncio.to_thread(manager.__enter__))
    try:
        value = await asyncio.shield(entering)
    except asyncio.CancelledError as error:  # the thread cannot be stopped
        await asyncio.wait([entering])
        if entering.exception() is None:
            await asyncio.shield(_left(manager, error))
        raise
    try:
        yield value
    except BaseException as error:  # the block's own, whatever it is: the manager is shown it
        if not await asyncio.shield(_left(manager, error)):
            raise
    else:
        await asyncio.shield(_left(manager, None))


async def _left(manager: AbstractContextManager[T], error: BaseException | None) -> bool | None:
    """What its exit returns, or raises."""
    of = (None, None, None) if error is None else (type(error), error, error.__traceback__)
    return await asyncio.to_thread(manager.__exit__, *of)
