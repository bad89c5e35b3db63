"""Several coroutines at once: the first that fails ends the others, and its own error is raised.

`asyncio.TaskGroup` alone would raise an exception group, which hides what a user is to read.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
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
