"""A delivery: the sender's calls return when the engine has done what they ask, or raise."""

import asyncio

import pytest

from actors.weights.update_stream import Delivery, EngineBroken, Loaded
from o3rl.types import Version

V = Version(0, 1)


def loaded(delivery: Delivery) -> Loaded:
    return Loaded(delivery.version, delivery.digest, 0, 0, 0, 0, 0.0, 0.0)


def test_each_step_waits_for_the_engine():
    took = []

    async def take(delivery: Delivery) -> Loaded:
        async for update in delivery.updates():
            await asyncio.sleep(0)
            took.append(update["n"])
        return loaded(delivery)

    async def send():
        delivery = Delivery(V, ["a"])
        await delivery.open(take)
        for n in range(3):
            await delivery.feed({"n": n})
            assert took == list(range(n + 1))
        return await delivery.finish("digest")

    assert asyncio.run(send()) == Loaded(V, "digest", 0, 0, 0, 0, 0.0, 0.0)


@pytest.mark.parametrize("at", ["open", "feed", "finish"])
def test_what_the_engine_raises_comes_out_of_the_call_that_asked(at):
    async def take(delivery: Delivery) -> Loaded:
        if at == "open":
            raise ValueError("no such tensors")
        async for _ in delivery.updates():
            if at == "feed":
                raise ValueError("no such tensors")
        raise ValueError("no such tensors")

    async def send():
        delivery = Delivery(V, ["a"])
        if at != "open":
            await delivery.open(take)
        if at == "finish":
            await delivery.feed({})
        step = {
            "open": lambda: delivery.open(take),
            "feed": lambda: delivery.feed({}),
            "finish": lambda: delivery.finish(""),
        }[at]
        with pytest.raises(ValueError, match="no such tensors"):
            await step()
        if at == "feed":
            with pytest.raises(ValueError, match="no such tensors"):
                await delivery.feed({})

    asyncio.run(asyncio.wait_for(send(), 5))


def test_an_engine_that_asks_for_no_more_is_told():
    async def take(delivery: Delivery) -> Loaded:
        async for _ in delivery.updates():
            break
        return loaded(delivery)

    async def send():
        delivery = Delivery(V, ["a"])
        await delivery.open(take)
        with pytest.raises(EngineBroken, match=r"0\.1 was taken before all of it had come"):
            await delivery.feed({})

    asyncio.run(asyncio.wait_for(send(), 5))
