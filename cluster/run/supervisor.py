"""`o3rl train`: starts a run's controller, shows its progress, starts it again if it is lost.

| who waits    | for whom                 | at most                      | then              |
|--------------|--------------------------|------------------------------|-------------------|
| `supervise`  | the controller's start   | `cluster.start_seconds`      | it counts as lost |
| `supervise`  | its answer after that    | `cluster.controller_seconds` | it counts as lost |
| an interrupt | the services to end      | `INTERRUPT_SECONDS`          | it is killed      |

Laws: a lost controller goes on from the last checkpoint, at most `cluster.controller_restarts`
times without a new one, unless it was to stop; each start is a Ray job of its own, so that Ray ends
all that the one before has left; a run that another attempt has taken over is not taken back.
Errors of the data and the configuration reach the user as the one line that they are.
"""

import argparse
import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cluster.progress import Show, bar
from cluster.run.run_control import RunLost
from cluster.run.train import Trained
from o3rl.config import RunConfig
from o3rl.config.shipped import load_named
from o3rl.data.parquet import read_tasks
from o3rl.persistence.batch_log import recorded_steps
from o3rl.persistence.checkpoints import Checkpoint, last_of, start_from
from o3rl.persistence.lease import holder_of
from o3rl.stacks import dump_stacks, log_stacks

if TYPE_CHECKING:  # a wrong configuration is told before Ray is imported
    from cluster.run.controller import Start
    from cluster.run.run_control import Status
    from cluster.services.session import Session

POLL_SECONDS = 0.5
INTERRUPT_SECONDS = 120.0
ASLEEP_SECONDS = 2.0  # that a wait takes longer than its limit only if this process was stopped

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Check the configuration, then train."""
    config = load_named(options.config, options.overrides)
    folder = Path(config.folder) / "rl"
    resume = options.again or options.resume
    if options.replay and (resume or options.record):
        raise ValueError("--replay trains anew, on what was recorded; no --resume, no --record")
    # What is wrong is told at once, before a Ray is started or an attempt entered.
    if options.replay:
        start_from(Path(config.folder) / "replay", resume=False)
        recorded_steps(options.replay)
    elif not options.again:
        start_from(folder, resume=options.resume)
    read_tasks(config.data.train, limit=1)
    from cluster.services.session import ray_session

    with ray_session(config.cluster) as session:
        if options.replay:
            from cluster.run.replay import replay

            trained = asyncio.run(replay(config, options.replay))
        else:
            work = supervise(config, session, resume=resume, record=options.record)
            trained = asyncio.run(work)
    if trained.stopped:
        said = f"stopped after {trained.steps} steps; --resume goes on"
    else:
        said = f"{trained.steps} steps"
    sys.stdout.write(f"{said}; the model is in {trained.model}\n")
    return 0


async def supervise(
    config: RunConfig, session: "Session", *, resume: bool = False, record: Path | None = None
) -> Trained:
    """Train `config` by a controller in `session`, which is begun anew where that one is lost.

    `resume` goes on from the last sound checkpoint, if there is one; batches are written to
    `record`. Raises RuntimeError when the controller is lost too often, and what `train` raises.
    """
    from cluster.run.controller import Start, start_controller

    folder = Path(config.folder) / "rl"
    last = holder_of(folder)
    owner, after = uuid4().hex, last.attempt if last else 0
    losses = Losses()
    while True:
        eye = _Eye(start_controller(config, level=log.getEffectiveLevel()))
        try:
            return await _trained(eye, config, Start(resume, owner, after, record))
        except RunLost as error:
            checkpoint = last_of(folder)
            if eye.stopping:
                found = f"checkpoint {checkpoint.path}" if checkpoint else "no checkpoint"
                raise RuntimeError(f"{error}; it was to stop, and there is {found}") from error
            lost = losses.add(checkpoint)
            if lost > config.cluster.controller_restarts:
                raise RuntimeError(
                    f"{error}; that was {lost} times without a new checkpoint, and "
                    f"cluster.controller_restarts is {config.cluster.controller_restarts}"
                ) from error
            place = checkpoint.path if checkpoint else "the beginning"
            log.warning("%s; it starts again from %s", error, place)
        resume = True
        session.renew()


class Losses:
    """Counts how often a run was lost since it last came further, by its checkpoints."""

    def __init__(self) -> None:
        self._count = 0
        self._reached = 0  # step of the last checkpoint that was ever there

    def add(self, checkpoint: Checkpoint | None) -> int:
        """A loss, after which `checkpoint` is the last one; how many those are by now."""
        step = checkpoint.step if checkpoint else 0
        self._count = 1 if step > self._reached else self._count + 1
        self._reached = max(step, self._reached)
        return self._count


async def _trained(eye: "_Eye", config: RunConfig, start: "Start") -> Trained:
    """What one controller gives; it is ended in any case."""
    import ray

    from o3rl.code_digest import source_digest
    from o3rl.ray_calls import as_future

    call = eye.controller.run.remote(start, source=source_digest())
    ending = as_future(call)
    try:
        await _watch(eye, ending, config)
        return await _result(ending)
    except asyncio.CancelledError:
        await _interrupt(eye.controller)
        raise
    finally:
        ending.cancel()
        ray.kill(eye.controller)


async def _watch(eye: "_Eye", ending: asyncio.Future[Trained], config: RunConfig) -> None:
    """Show log and progress until the run ends. Raises RunLost if there is no answer."""
    cluster = config.cluster
    status = await eye.look(cluster.start_seconds)
    while not status.steps and not ending.done():
        await asyncio.wait([ending], timeout=POLL_SECONDS)
        status = await eye.look(cluster.start_seconds)
    if not status.steps:
        return
    with bar("training", status.steps) as show:
        while not ending.done():
            _show(show, status)
            await asyncio.wait([ending], timeout=POLL_SECONDS)
            # Imports, and hashing data, hold it up before it has its parts.
            seconds = cluster.controller_seconds if status.loop else cluster.start_seconds
            status = await eye.look(seconds)
        _show(show, status)


class _Eye:
    """Looks at a controller, and brings its log into ours."""

    def __init__(self, controller: Any):
        self.controller = controller
        self.stopping = False  # on request
        self._place = 0
        self._pid: int | None = None

    async def look(self, seconds: float) -> "Status":
        """Its status. Raises RunLost if it is dead or says nothing within `seconds`."""
        from o3rl.ray_calls import DIED, answered, in_a_line

        began = time.monotonic()
        try:
            found = await answered(self.controller.look.remote(self._place), seconds)
        except TimeoutError as error:
            if time.monotonic() > began + seconds + ASLEEP_SECONDS:
                log.warning("this process was stopped for a while; the controller is asked again")
                return await self.look(seconds)
            if self._pid is not None:  # on this node
                await log_stacks("the controller", asyncio.to_thread(dump_stacks, self._pid))
            raise RunLost(f"the controller has not answered for {seconds:.0f} s") from error
        except DIED as error:
            raise RunLost(f"the controller died: {in_a_line(error)}") from error
        self._place, self._pid = found.next, found.pid
        self.stopping = found.stopping
        for line in found.lines:
            logging.getLogger(line.logger).log(line.level, line.text)
        return found.status


async def _result(ending: asyncio.Future[Trained]) -> Trained:
    """What the run gave. Raises RunLost where another start may help, and what it raised."""
    from ray.exceptions import RayTaskError

    from o3rl.ray_calls import DIED, in_a_line

    try:
        return await ending
    except DIED as error:
        raise RunLost(f"the controller died: {in_a_line(error)}") from error
    except RayTaskError as error:
        cause: BaseException = error
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        if isinstance(cause, (RunLost, ValueError, OSError)):
            raise cause from error
        raise


async def _interrupt(controller: Any) -> None:
    """Have all services end in order."""
    from ray.exceptions import RayError

    from o3rl.ray_calls import answered, in_a_line

    try:
        await answered(controller.interrupt.remote(), INTERRUPT_SECONDS)
    except (TimeoutError, RayError) as error:
        log.warning("the controller did not end in order: %s", in_a_line(error))


def _show(show: Show, status: "Status") -> None:
    words = [] if status.phase == "training" else [status.phase]
    for name, key in (("reward", "reward/total"), ("validation", "validation/total")):
        if key in status.metrics:
            words.append(f"{name} {status.metrics[key]:.2f}")
    show(status.step, ", ".join(words))
