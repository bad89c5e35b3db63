"""What blocks is entered and left aside, and sees how the block ended."""

import asyncio
import time
from contextlib import contextmanager

import pytest

from o3rl.concurrency import in_thread


@contextmanager
def slow(told: list[str]):
    time.sleep(0.2)
    try:
        yield "value"
        told.append("well")
    except ValueError as error:
        told.append(str(error))
        raise
    finally:
        time.sleep(0.2)


def test_one_that_is_cancelled_while_it_enters_is_left_in_order():
    told: list[str] = []

    @contextmanager
    def entering():
        time.sleep(0.3)
        try:
            yield
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async def work():
        async with in_thread(entering()):
            told.append("never")

    async def cancel():
        task = asyncio.create_task(work())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert told == ["cancelled"]


@pytest.mark.parametrize("error", ["", "not so well"])
def test_the_loop_goes_on_while_it_blocks(error):
    told: list[str] = []
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    async def work():
        ticking = asyncio.create_task(tick())
        try:
            async with in_thread(slow(told)) as value:
                assert value == "value"
                if error:
                    raise ValueError(error)
        finally:
            ticking.cancel()

    if error:
        with pytest.raises(ValueError, match=error):
            asyncio.run(work())
    else:
        asyncio.run(work())
    assert told == [error or "well"]
    assert ticks > 10
