"""The controller: a named actor that holds the loop of one run, and answers while a step runs.

    o3rl train ── starts, watches ──► controller `o3rl-controller-RUN` ── owns ──► all other actors
    o3rl status, scale, stop, … ────► (asyncio: one run, many calls beside it)

Laws: one controller a run, by its name, and one attempt at a time on the run's folder, by a lease;
a controller runs the source that the supervisor runs; what it started dies with it, for Ray ends
the actors of a dead owner. It stays on the supervisor's node, where relative paths mean the same.
"""

import asyncio
import logging
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.run.run_control import Control, Phase, RunLost, Status
from cluster.run.train import Trained, train
from learners.group.answers import LearnerLost
from o3rl.code_digest import source_digest
from o3rl.config import RunConfig
from o3rl.media.decoder import MediaLost
from o3rl.persistence.checkpoints import sound_of
from o3rl.persistence.lease import take
from o3rl.ray_calls import beside_us, in_a_line

NAMESPACE = "o3rl"
PREFIX = "o3rl-controller-"
LINES = 1000  # of the log that wait for the supervisor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """How a supervisor has its run begun: `after` was the folder's last attempt when it came."""

    resume: bool  # from the last sound checkpoint, where there is one
    owner: str  # the supervisor
    after: int
    record: Path | None = None  # for the batches


@dataclass(frozen=True, slots=True)
class Line:
    """One record of the controller's log."""

    level: int
    logger: str
    text: str


@dataclass(frozen=True, slots=True)
class Look:
    """What the supervisor sees at once: the status, the log from a place on, whether to stop."""

    status: Status
    lines: tuple[Line, ...]
    next: int  # place of the line after those
    pid: int  # of the controller
    stopping: bool  # on request


class Controller:
    """What runs in the controller's process."""

    def __init__(self, run: RunConfig, *, directory: str, level: int):
        os.chdir(directory)
        self._log = Log(level)
        logging.getLogger().addHandler(self._log)
        logging.getLogger().setLevel(level)
        self._config = run
        self._control = Control(run.name, str(Path(run.folder).absolute()))
        self._task: asyncio.Task[Trained] | None = None

    async def run(self, start: Start, *, source: str) -> Trained:
        """Train; `source` is the supervisor's digest.

        Raises ValueError if this process runs other code, or if another attempt holds the folder,
        RunLost where another start may help, and else what `train` raises.
        """
        if source != source_digest():
            raise ValueError(
                f"the controller runs source {source_digest()}, the driver {source}: install one "
                "wheel on every node"
            )
        self._task = asyncio.create_task(self._train(start))
        return await self._task

    async def look(self, place: int) -> Look:
        """The status, and the log from `place` on."""
        lines, after = self._log.since(place)
        return Look(self._control.status(), lines, after, os.getpid(), self._control.stopping)

    async def status(self) -> Status:
        """See `Control.status`."""
        return self._control.status()

    async def scale(self, rollouts: int) -> tuple[str, ...]:
        """See `Control.scale`; takes as long as replicas take to start or to end."""
        return await self._control.scale(rollouts)

    async def checkpoint(self) -> str:
        """See `Control.checkpoint`; returns its path."""
        return str(await self._control.checkpoint())

    async def pause(self) -> None:
        """See `Control.pause`."""
        self._control.pause()

    async def resume(self) -> None:
        """See `Control.resume`."""
        self._control.resume()

    async def stop(self) -> None:
        """See `Control.stop`; returns at once."""
        self._control.stop()

    async def interrupt(self) -> None:
        """End in the middle of a step, all services in order; returns when they are ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _train(self, start: Start) -> Trained:
        folder = Path(self._config.folder) / "rl"
        lease = await asyncio.to_thread(take, folder, owner=start.owner, after=start.after)
        with lease:
            self._control.attempt = lease.attempt
            try:
                checkpoint = await asyncio.to_thread(sound_of, folder) if start.resume else None
                return await train(
                    self._config,
                    self._control,
                    checkpoint=checkpoint,
                    fence=lease.fence,
                    record=start.record,
                )
            except Exception as error:
                trained = start.resume or self._control.status().step > 0
                if what := lost(error, trained=trained):
                    raise RunLost(f"{what}: {in_a_line(error)}") from error
                raise
            finally:
                self._control.enter(Phase.ENDED)


def lost(error: Exception, *, trained: bool) -> str:
    """What a run has lost with `error`, so that another start may help; empty if it was no loss.

    Of a run that never `trained`, a service that does not start is no loss, but asks for too much.
    """
    if isinstance(error, LearnerLost):
        return "the learner was lost"
    if isinstance(error, MediaLost):
        return "the media were lost"
    if isinstance(error, TimeoutError) and trained:
        return "a service did not answer"
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        return "a service was lost"
    return ""


class Log(logging.Handler):
    """Keeps the latest records for the supervisor, who shows them to the user."""

    def __init__(self, level: int):
        super().__init__(level)
        self._lines: deque[Line] = deque(maxlen=LINES)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; called by any thread, under the handler's lock."""
        self._lines.append(Line(record.levelno, record.name, self.format(record)))
        self._count += 1

    def since(self, place: int) -> tuple[tuple[Line, ...], int]:
        """The records from number `place` on that are still kept, and the next number."""
        self.acquire()
        try:
            fresh = min(self._count - place, len(self._lines))
            return tuple(self._lines)[len(self._lines) - fresh :], self._count
        finally:
            self.release()


def start_controller(run: RunConfig, *, level: int) -> Any:
    """Start the controller of `run` on this node. Raises ValueError if one is running."""
    environment = {"DS_ACCELERATOR": "cpu"} if not run.cluster.gpus_per_rank else {}
    options = ray.remote(Controller).options(
        name=PREFIX + run.name,
        namespace=NAMESPACE,
        num_cpus=0,
        max_restarts=0,
        scheduling_strategy=beside_us(),
        runtime_env={"env_vars": environment},
    )
    try:
        return options.remote(run, directory=os.getcwd(), level=level)
    except ValueError as error:
        raise ValueError(
            f"run {run.name!r} is running on this cluster already; stop it, or give this one "
            "another name=…"
        ) from error
