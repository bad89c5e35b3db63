"""Several coroutines at once: the first that fails ends the others, and its own error is raised.

`asyncio.TaskGroup` alone would raise an exception group, which hides what a user is to read.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_first_error(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results, in order."""
    failures: tuple[Exception, ...] = ()
    running: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each) for each in coroutines]
    except ExceptionGroup as errors:
        failures = errors.exceptions
    if failures:
        raise failures[0]
    return [task.result() for task in running]


T = TypeVar("T")


@asynccontextmanager
async def in_thread(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
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
