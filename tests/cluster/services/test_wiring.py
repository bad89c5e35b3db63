"""How the services of a run are handed to its loop."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from actors.weights.update_stream import Loaded
from cluster.services.device_broadcast import HandOver
from cluster.services.wiring import Learning, Sampling, Services
from o3rl.config import load
from o3rl.types import Version


class Noted:
    """A pool or a learner group that notes what it is asked."""

    def __init__(self, asked: list[str]):
        self._asked = asked

    async def sleep(self) -> None:
        self._asked.append("sleep")

    async def update(self, groups: list[Any]) -> dict[str, float]:
        self._asked.append(f"learn from {len(groups)}")
        return {"loss": 1.0}

    def name(self, version: Version) -> None:
        self._asked.append(f"named {version}")

    async def publish(self, version: Version) -> dict[str, float]:
        self._asked.append(f"published {version}")
        return {"sync/bytes": 8.0}

    async def load(self, version: Version) -> tuple[Loaded, ...]:
        self._asked.append(f"loaded {version}")
        return (Loaded(version, "digest", 2, 2, 16, 16, 0.0, 0.5),)


@pytest.mark.parametrize("by_turns", [False, True])
def test_an_engine_on_the_learners_gpu_sleeps_before_it_learns(by_turns):
    asked: list[str] = []
    learning: Any = Learning(Noted(asked), Noted(asked) if by_turns else None)  # pyright: ignore
    assert asyncio.run(learning.update([])) == {"loss": 1.0}
    assert asked == ["sleep"] * by_turns + ["learn from 0"]


def test_weights_that_go_straight_are_taken_before_the_learner_goes_on():
    """By `publish`: the loop's own load then finds that all hold them."""
    asked: list[str] = []
    learning: Any = Learning(Noted(asked), direct=Sampling(Noted(asked)))  # pyright: ignore
    metrics = asyncio.run(learning.publish(Version(0, 1)))
    assert asked == ["named 0.1", "loaded 0.1"]
    assert metrics["sync/stall_seconds"] == 0.5
    assert metrics["sync/bytes"] == metrics["sync/sent_bytes"] == 16.0
    assert metrics["sync/publish_seconds"] > 0


DIRECT = ["rollouts.transfer=nccl"]
TURNS = [
    "rollouts.transfer=ipc",
    "rollouts.placement=colocated",
    "rollouts.gpus=0.5",
    "cluster.gpus_per_rank=0.5",
    "learning.optimizer_offload=true",
    "loop.max_staleness=0",
]


@pytest.mark.parametrize(("overrides", "direct"), [([], False), (DIRECT, True), (TURNS, True)])
def test_the_pool_takes_weights_as_the_configuration_says(overrides, direct, tmp_path):
    class Pool:
        giver = None

    pool, group = Pool(), Noted([])
    made = Services(load(None, overrides), tmp_path, None)  # pyright: ignore[reportArgumentType]
    learning: Any = made.learning(pool, group)  # pyright: ignore[reportArgumentType]
    assert isinstance(pool.giver, HandOver) is direct
    assert (learning.direct is not None) is direct
    assert (learning.sharer is pool) is (overrides is TURNS)


@pytest.mark.parametrize("stored", [True, False])
def test_an_evaluation_pulls_from_its_store_whatever_training_does(stored, tmp_path):
    """Several models are loaded one after the other, and there is no learner."""
    run = load(None, DIRECT)
    store: Any = object() if stored else None
    media: Any = SimpleNamespace(frames=None)
    pool = Services(run, tmp_path, AsyncExitStack()).rollouts(media, store)
    assert pool._rollouts.transfer == ("object_store" if stored else "nccl")
