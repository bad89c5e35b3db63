"""A context manager that blocks, for those who must go on answering meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def aside(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """`manager`, entered and left in threads while the event loop goes on."""
    value = await asyncio.to_thread(manager.__enter__)
    try:
        yield value
    except BaseException as error:  # the block's own, whatever it is: the manager is shown it
        left = asyncio.to_thread(manager.__exit__, type(error), error, error.__traceback__)
        if not await left:
            raise
    else:
        await asyncio.to_thread(manager.__exit__, None, None, None)
