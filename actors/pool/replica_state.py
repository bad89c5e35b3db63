"""A rollout replica as the pool sees it, and every way from one of its states to another.

    STARTING ─► STALE ─► HEALTHY ─► SUSPECT          LEAVING (from any state) ─► gone
        ▲         ▲         │           │
        │         ├─ new weights, sleep │
        │         └─────────┴───────────┘ it answers
        └──── died, and is started again; DEAD, where that was too often

Who starts and ends it: `replica_fleet`; who brings it new weights: `weight_sync`; who gives it
prompts: `rollout_pool`. They ask for a transition by its name; none of them writes a state.
"""

import asyncio
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from actors.engine.replica import ProcessLocation
from o3rl.types import Version

DEATHS_IN_A_ROW = 3  # without a group in between; then a replica stays dead


class State(StrEnum):
    """Of a replica; only a HEALTHY one is given prompts."""

    STARTING = "starting"
    STALE = "stale"
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    LEAVING = "leaving"
    DEAD = "dead"


@dataclass(eq=False)
class Replica:
    """One replica as the pool sees it."""

    index: int
    group: Any  # its placement group
    actor: Any = None
    state: State = State.STARTING
    why: str = ""  # it is not healthy
    location: ProcessLocation | None = None
    version: Version | None = None
    running: int = 0  # prompts
    exclusive: bool = False  # it has one prompt that is to be alone
    deaths: int = 0  # since it last returned a group
    draining: bool = False  # its node will be taken away; it leaves when another serves instead
    requested_at: float = field(default_factory=time.monotonic)
    first_group: float | None = None  # seconds from then until it returned one
    joining: asyncio.Task[str] | None = None
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    load_began_at: float = 0.0
    load_seconds: float = 0.0  # the last time

    @property
    def live(self) -> bool:
        """Whether weights can be loaded into it."""
        return self.state in (State.STALE, State.HEALTHY)

    @property
    def member(self) -> bool:
        """Whether it serves, or is on its way to it."""
        return self.state not in (State.DEAD, State.LEAVING)

    @property
    def leaving(self) -> bool:
        """Whether it is to go, whatever becomes of it."""
        return self.state is State.LEAVING

    @property
    def updating(self) -> bool:
        """Whether it takes weights, having held others."""
        return self.state is State.STALE and self.version is not None and self.loading.locked()

    def serves_soon(self, patience: float) -> bool:
        """Whether it takes weights, and not for much longer than the last time, or `patience` s."""
        limit = max(patience, 2 * self.load_seconds)
        return self.updating and time.monotonic() - self.load_began_at < limit

    def describe(self) -> dict[str, Any]:
        """Itself as plain values.

        `first_group`: the seconds from when it was asked for until it returned a group, or None.
        """
        return {
            "replica": self.index,
            "state": self.state.value,
            "node": self.location.node if self.location else "",
            "version": str(self.version or ""),
            "prompts": self.running,
            "why": self.why,
            "first_group": self.first_group,
        }

    def begin(self) -> None:
        """A new process is to be started for it."""
        self.version, self.location = None, None

    def started(self, location: ProcessLocation) -> None:
        """Its process runs, and waits for weights; one that is to leave is left at that."""
        self.location = location
        if self.state is State.STARTING:
            self.state = State.STALE

    def outdated(self) -> None:
        """It is live, and takes no more prompts until it holds the weights that now come."""
        assert self.live, self
        self.state, self.load_began_at = State.STALE, time.monotonic()

    def loaded(self, version: Version) -> None:
        """It holds a version; whether that is the one to serve is another's to say."""
        self.version = version
        self.load_seconds = time.monotonic() - self.load_began_at

    def serve(self) -> None:
        """What it holds is what is wanted."""
        if self.state is State.STALE:
            self.state, self.why = State.HEALTHY, ""

    def sleep(self) -> None:
        """It gives its weights up, and serves again after the next load."""
        assert self.live, self
        self.state, self.version = State.STALE, None

    def suspect(self, reason: str) -> bool:
        """No prompts until it has answered; False where it was not healthy anyway."""
        if self.state is not State.HEALTHY:
            return False
        self.state, self.why = State.SUSPECT, reason
        return True

    def answered(self) -> bool:
        """It lives; a newer version may have passed it by. False if something else became of it."""
        if self.state is not State.SUSPECT:
            return False
        self.state = State.STALE
        return True

    def died(self, reason: str, *, excused: bool) -> bool:
        """Its process is of no more use; whether it is to be started again.

        `excused`, it is not held against it. After `DEATHS_IN_A_ROW` it stays dead.
        """
        assert not self.leaving, self
        self.why, self.version = reason, None
        self.deaths += not excused
        self.state = State.DEAD if self.deaths > DEATHS_IN_A_ROW else State.STARTING
        return self.state is State.STARTING

    def start_anew(self, problem: str) -> None:
        """It did not come as far as it should: nobody is to bring it weights."""
        assert not self.leaving, self
        self.state, self.why = State.STARTING, problem

    def leave(self) -> None:
        """It gets no more prompts."""
        self.state, self.why = State.LEAVING, "it is to leave the pool"

    def end(self, why: str) -> None:
        """It is no more, and does not come back."""
        self.state, self.why = State.DEAD, why

    def returned_group(self) -> bool:
        """What came before is forgiven; whether it was its first."""
        self.deaths = 0
        if self.first_group is not None:
            return False
        self.first_group = time.monotonic() - self.requested_at
        return True

    def __str__(self) -> str:
        at = self.location
        return f"rollout replica {self.index}" + (f" on {at.node}, pid {at.pid}" if at else "")
