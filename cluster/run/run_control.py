"""A run as others see it and steer it, answered while a step runs: status, scale, pause, stop.

An observer of the loop, the last one: what cannot be done in the middle of a step (a checkpoint, a
pause) is done there, between two steps. Knows no Ray; the controller actor lends it to others.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from o3rl.persistence.checkpoints import Checkpoint, Unsaved
from o3rl.types import ScoredGroup, Version

WINDOW = 20  # steps that rates are taken over


class RunLost(RuntimeError):
    """What a run stands on is no more; another start may go on from its last checkpoint."""


class Phase(StrEnum):
    """Of a run, in order; `paused` goes back to `training`."""

    STARTING = "starting"
    TRAINING = "training"
    PAUSED = "paused"
    STOPPING = "stopping"
    WRITING = "writing the model"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Status:
    """What a run tells of itself. Unknown: 0 for numbers, empty for texts."""

    run: str
    folder: str
    attempt: int
    phase: str
    step: int = 0
    steps: int = 0
    step_seconds: float = 0.0  # of a step, over the latest ones
    tokens_per_second: float = 0.0
    eta_seconds: float = 0.0
    replicas: Sequence[Mapping[str, Any]] = ()  # see `Replica.describe`
    loop: Mapping[str, int | str] = field(default_factory=dict)  # see `Loop.status`
    mlflow_run: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the last step


class Looped(Protocol):
    """The loop."""

    step: int

    def status(self) -> Mapping[str, int | str]:
        """Plain numbers: version, queue lengths, running prompts."""
        ...

    def stop(self) -> None:
        """Return after the running step."""
        ...


class Replicas(Protocol):
    """The rollout pool."""

    def describe(self) -> list[dict[str, Any]]:
        """Each replica as plain values."""
        ...

    async def scale(self, replicas: int) -> tuple[str, ...]:
        """Have so many; returns what stood in the way of some."""
        ...


@dataclass(frozen=True, slots=True)
class Running:
    """What a run that has started consists of, as far as it is steered."""

    loop: Looped
    replicas: Replicas
    save: Callable[[int], Awaitable[Checkpoint]]  # after a step
    mlflow_run: Callable[[], str]


class Control:
    """One run's; use it from one event loop. `clock` in seconds."""

    def __init__(self, run: str, folder: str, *, clock: Callable[[], float] = monotonic):
        self.attempt = 0  # until the run's folder is ours
        self.steps = 0  # until the data have been read
        self.stopping = False  # on request
        self._run, self._folder = run, folder
        self._clock = clock
        self._phase = Phase.STARTING
        self._parts: Running | None = None
        self._metrics: dict[str, float] = {}
        self._stamps: deque[tuple[float, float]] = deque(maxlen=WINDOW + 1)  # time, its tokens
        self._going = asyncio.Event()
        self._going.set()
        self._wanted: list[asyncio.Future[Path]] = []  # checkpoints
        self._woken = asyncio.Event()

    def started(self, parts: Running) -> None:
        """All services are up, and training begins."""
        self._parts = parts
        self._stamps.append((self._clock(), 0.0))
        if self.stopping:
            parts.loop.stop()
        else:
            self._phase = Phase.TRAINING if self._going.is_set() else Phase.PAUSED

    def enter(self, phase: Phase) -> None:
        """The run has come to `phase`: what was asked for and not done is refused."""
        self._phase = phase
        for wanted in self._wanted:
            if not wanted.done():
                wanted.set_exception(ValueError(f"run {self._run} is {phase}: no step follows"))
        self._wanted.clear()

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """Between two steps: take the checkpoints that were asked for, and wait while paused."""
        del version, groups
        self._metrics = dict(metrics)
        self._stamps.append((self._clock(), metrics["tokens/sampled"]))
        await self._save(step)
        while not self._going.is_set():
            self._woken.clear()
            await self._woken.wait()
            await self._save(step)

    def status(self) -> Status:
        """As it is now."""
        if self._parts is None:
            return Status(self._run, self._folder, self.attempt, self._phase, steps=self.steps)
        step = self._parts.loop.step
        step_seconds, tokens_per_second = self._rates()
        return Status(
            run=self._run,
            folder=self._folder,
            attempt=self.attempt,
            phase=self._phase,
            step=step,
            steps=self.steps,
            step_seconds=step_seconds,
            tokens_per_second=tokens_per_second,
            eta_seconds=step_seconds * (self.steps - step),
            replicas=self._parts.replicas.describe(),
            loop=dict(self._parts.loop.status()),
            mlflow_run=self._parts.mlflow_run(),
            metrics=self._metrics,
        )

    async def scale(self, rollouts: int) -> tuple[str, ...]:
        """Have so many rollout replicas; returns what stood in the way of some.

        Raises ValueError unless the run trains, and for a number below 1.
        """
        return await self._trains().replicas.scale(rollouts)

    async def checkpoint(self) -> Path:
        """The checkpoint after the running step, once it is whole.

        Raises ValueError unless the run trains, Unsaved where the disk refuses. Bounded by the
        limits of what a step waits for.
        """
        self._trains()
        wanted: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
        self._wanted.append(wanted)
        self._woken.set()
        return await wanted

    def pause(self) -> None:
        """Train no further step after the running one, until `resume` or `stop`."""
        self._trains()
        self._phase = Phase.PAUSED
        self._going.clear()

    def resume(self) -> None:
        """Go on after `pause`. Raises ValueError unless the run trains."""
        self._trains()
        self._phase = Phase.TRAINING
        self._stamps.clear()
        self._stamps.append((self._clock(), 0.0))
        self._go()

    def stop(self) -> None:
        """Finish the running step, write a checkpoint, end. Raises ValueError if it ends anyway."""
        if self._phase in (Phase.WRITING, Phase.ENDED):
            raise ValueError(f"run {self._run} is {self._phase}")
        self.stopping = True
        self._phase = Phase.STOPPING
        if self._parts is not None:
            self._parts.loop.stop()
        self._go()

    def _go(self) -> None:
        self._going.set()
        self._woken.set()

    def _trains(self) -> Running:
        if self._parts is None or self._phase not in (Phase.TRAINING, Phase.PAUSED):
            raise ValueError(f"run {self._run} is {self._phase}; ask again while it trains")
        return self._parts

    async def _save(self, step: int) -> None:
        """What was asked for before the checkpoint began is answered by it."""
        wanted = tuple(self._wanted)
        if not wanted:
            return
        assert self._parts is not None, "no step without its parts"
        try:
            saved: Path | Unsaved = (await self._parts.save(step)).path
        except Unsaved as error:
            saved = error
        del self._wanted[: len(wanted)]
        for each in wanted:
            if each.done():  # who asked may have gone
                continue
            if isinstance(saved, Unsaved):
                each.set_exception(saved)
            else:
                each.set_result(saved)

    def _rates(self) -> tuple[float, float]:
        """(seconds a step, tokens a second) over the latest steps; zeros before the first."""
        if len(self._stamps) < 2:
            return 0.0, 0.0
        seconds = self._stamps[-1][0] - self._stamps[0][0]
        tokens = sum(count for _, count in list(self._stamps)[1:])
        return seconds / (len(self._stamps) - 1), tokens / max(seconds, 1e-9)
