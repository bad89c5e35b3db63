"""Both ways of the weights, with a learner and replicas made up: no Ray."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from actors.pool.replica_state import Replica
from actors.weights.update_stream import Loaded
from cluster.services.weight_transfer import DeviceTransfer, StoreTransfer
from o3rl.config import RolloutsConfig
from o3rl.types import Version
from o3rl.weights.device_protocol import TrainedOn

V1, V2 = Version(0, 1), Version(0, 2)


class Learner:
    """Publishes into a store that may lose what it has been given."""

    def __init__(self, told: list[str]):
        self.told, self.version, self.held = told, V1, set[Version]()
        self.torn = False  # the store dies in the middle of the next publication

    def name(self, version: Version) -> None:
        self.told.append(f"named {version}")
        self.version = version

    async def publish(self, version: Version) -> dict[str, float]:
        self.version = version
        return await self.publish_again(version)

    async def publish_again(self, version: Version) -> dict[str, float]:
        if version != self.version:
            raise TrainedOn(f"version {version}")
        self.told.append(f"published {version}")
        if self.torn:
            self.torn = False
            raise LookupError("bucket 0 of the manifest was not put")
        self.held.add(version)
        return {"sync/bytes": 8.0}


class Weights:
    """What a pool has of them: two replicas, which ask the provider."""

    def __init__(self, told: list[str], learner: Learner):
        self.told, self.learner, self.provider = told, learner, self
        self.wanted: Version | None = None

    async def load(self, version: Version) -> list[Loaded]:
        self.wanted = version
        self.told.append(f"wanted {version}")
        asked = [self.provider.give(Replica(index, None), version) for index in range(2)]
        return await asyncio.gather(*asked)

    async def give(self, replica: Replica, version: Version) -> Loaded:
        """Pulled from the store."""
        await asyncio.sleep(0)
        if version not in self.learner.held:
            raise LookupError(f"{replica}: no weights were published yet")
        return Loaded(version, "digest", 2, 2, 16, 16, 0.25, 0.5)


def made() -> tuple[list[str], Learner, Any]:
    told: list[str] = []
    learner = Learner(told)
    return told, learner, Weights(told, learner)


def test_through_the_store_the_replicas_load_as_the_learner_goes_on():
    told, learner, weights = made()
    transfer = StoreTransfer(learner, weights)  # pyright: ignore[reportArgumentType]

    async def hand_over():
        metrics, loading = await transfer.hand_over(V1)
        assert (weights.wanted, loading.done()) == (V1, False)
        return metrics, await loading

    metrics, loaded = asyncio.run(hand_over())
    assert metrics == {"sync/bytes": 8.0}
    assert loaded == {
        "sync/fetch_seconds": 0.25,
        "sync/stall_seconds": 0.5,
        "sync/fetched_bytes": 32.0,
        "sync/replicas": 2,
    }
    assert told == ["published 0.1", "wanted 0.1"]


def test_what_a_store_has_lost_is_published_again_once_for_all():
    told, learner, weights = made()
    transfer = StoreTransfer(learner, weights)  # pyright: ignore[reportArgumentType]

    async def lose():
        _, loading = await transfer.hand_over(V1)
        learner.held.clear()
        return await loading

    assert asyncio.run(lose())["sync/replicas"] == 2
    assert told == ["published 0.1", "wanted 0.1", "published 0.1"]


def test_what_a_store_loses_in_the_middle_of_a_publication_is_published_again():
    told, learner, weights = made()
    learner.torn = True
    transfer = StoreTransfer(learner, weights)  # pyright: ignore[reportArgumentType]

    async def hand_over():
        return await (await transfer.hand_over(V1))[1]

    assert asyncio.run(hand_over())["sync/replicas"] == 2
    assert told == ["published 0.1", "published 0.1", "wanted 0.1"]


def test_once_the_learner_has_trained_on_nothing_is_published_under_an_old_name():
    told, learner, weights = made()
    transfer = StoreTransfer(learner, weights)  # pyright: ignore[reportArgumentType]

    async def lose():
        _, loading = await transfer.hand_over(V1)
        learner.held.clear()
        learner.version = V2
        await loading

    with pytest.raises(TrainedOn):
        asyncio.run(lose())
    assert told == ["published 0.1", "wanted 0.1"]


def test_a_version_that_was_passed_by_is_not_published_again():
    told, learner, weights = made()
    transfer = StoreTransfer(learner, weights)  # pyright: ignore[reportArgumentType]

    async def late():
        await (await transfer.hand_over(V2))[1]
        await transfer.give(Replica(0, None), V1)

    with pytest.raises(LookupError, match="no weights"):
        asyncio.run(late())
    assert told == ["published 0.2", "wanted 0.2"]


def test_between_devices_all_take_a_version_together_before_the_learner_goes_on():
    told, learner, weights = made()
    sent: list[tuple[Version, tuple[str, ...]]] = []

    async def send(version: Version, receivers: Any) -> list[Loaded]:
        sent.append((version, receivers.members))
        return [Loaded(version, "digest", 2, 2, 16, 16, 0.0, 0.5)] * 2

    group: Any = SimpleNamespace(name=learner.name, send=send)
    transfer = DeviceTransfer(group, weights, RolloutsConfig())

    async def hand_over():
        metrics, arrived = await transfer.hand_over(V1)
        assert arrived.done()
        return metrics, await arrived

    metrics, later = asyncio.run(hand_over())
    assert told == ["named 0.1", "wanted 0.1"]
    assert sent == [(V1, ("rollout replica 0", "rollout replica 1"))]
    assert metrics["sync/stall_seconds"] == 0.5
    assert metrics["sync/bytes"] == metrics["sync/sent_bytes"] == 16.0
    assert metrics["sync/publish_seconds"] > 0
    assert later == {}
