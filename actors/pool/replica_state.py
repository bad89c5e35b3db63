"""A rollout replica as the pool sees it: where it is, how it is, which weights it holds."""

import asyncio
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from actors.engine.replica import Place
from actors.weights.update_stream import Loaded
from o3rl.types import Version


class State(StrEnum):
    """Of a replica; only a HEALTHY one is given prompts."""

    STARTING = "starting"
    STALE = "stale"
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    LEAVING = "leaving"
    DEAD = "dead"


@dataclass(eq=False)
class Slot:
    """One replica as the pool sees it."""

    index: int
    group: Any  # its placement group
    actor: Any = None
    place: Place | None = None
    state: State = State.STARTING
    version: Version | None = None
    running: int = 0  # prompts
    taken: bool = False  # by one prompt that is to be alone
    deaths: int = 0  # since it last returned a group
    why: str = ""  # it is not healthy
    asked: float = field(default_factory=time.monotonic)
    first_group: float | None = None  # seconds from then until it returned one
    going: bool = False  # its node will be taken away, and it leaves when another serves instead
    joining: asyncio.Task[str] | None = None
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    since: float = 0.0  # when it last began to take weights
    took: float = 0.0  # seconds, the last time

    @property
    def updating(self) -> bool:
        """Whether it takes weights, having held others."""
        return self.state is State.STALE and self.version is not None and self.loading.locked()

    def soon(self, patience: float) -> bool:
        """Whether it takes weights, and not for much longer than the last time, or `patience` s."""
        return self.updating and time.monotonic() - self.since < max(patience, 2 * self.took)

    def __str__(self) -> str:
        where = f" on {self.place.node}, pid {self.place.pid}" if self.place else ""
        return f"rollout replica {self.index}{where}"


class Giver(Protocol):
    """Has the learner send its weights to a replica."""

    async def give(self, slot: Slot, version: Version) -> Loaded:
        """Have it take `version`, and serve it.

        Raises TrainedOn if the learner has trained on, ValueError if the replica refuses the
        weights, HandOverFailed where they do not reach it.
        """
        ...
