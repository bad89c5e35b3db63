"""Media for a run: an actor that plans rows, decodes once and keeps frames in the object store.

    controller ── prepare ──► media ── frames under their key ──► rollout replicas, learner ranks

Pixels never pass through the controller. Laws: objects die with their owner, so the media actor
puts frames itself; what it planned is written down, so that a media actor that Ray starts again
decodes by key; it holds at most `frames.cache_mib` of frames, the longest unused are decoded again.

| who waits | for whom | how long |
|---|---|---|
| a call for frames that are held | nobody | |
| any other call | the files queued before its own, `frames.readers` at a time | the limit of each |
| a caller | the actor | a file's limit; then what is queued before it takes, as the actor says |
| | its word that it lives, meanwhile | `cluster.service_seconds` |
"""

import asyncio
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError, ObjectStoreFullError, OutOfDiskError

from o3rl.config import FramesConfig
from o3rl.media.decoder import START_SECONDS, MediaError, MediaLost, MediaUnready
from o3rl.media.frame_cache import FrameCache, Kept
from o3rl.media.reader import MediaReader, Planned
from o3rl.ray_calls import DIED, answer_within, beside_us
from o3rl.tracking.metrics_log import append_lines, drop_torn_line
from o3rl.types import Failure, FailureKind, FramePlan, Row

log = logging.getLogger(__name__)

ALIVE_SECONDS = 120.0  # limit for the actor's word on its queue, which waits for no file
CLOSE_SECONDS = 20.0
CALLS = 1000  # in the actor at the same time; those that wait cost no thread
MOST_READERS = 8  # by default


class MediaActor:
    """What runs in the media process, on its event loop; `Media` is what others hold."""

    def __init__(self, root: str, frames: FramesConfig, journal: str):
        readers = frames.readers or readers_here()
        self._reader = MediaReader(Path(root), frames, readers=readers)
        self._cache: FrameCache[ray.ObjectRef] = FrameCache(
            room=frames.cache_mib * 2**20, readers=readers
        )
        self._journal = Path(journal)
        self._planned = _read(self._journal)

    async def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str]:
        """The plan of a row and the key of its frames. Raises MediaError."""
        planned = await self._cache.in_turn(self._reader.plan, row, training=training)
        if planned.key not in self._planned:
            self._planned[planned.key] = planned
            try:
                append_lines(self._journal, [json.dumps(asdict(planned))])
            except OSError as error:  # missed only where this actor starts again
                log.error("the plan of %s is in memory only: %s", planned.key, error)
        return planned.plan, planned.key

    async def frames(self, key: str) -> list[ray.ObjectRef]:
        """Where the frames of a key lie; in a list, so that Ray hands on the reference.

        Raises MediaError, also for a key that was never prepared.
        """
        planned = self._planned.get(key)
        if planned is None:
            raise MediaError(key, "no frames are planned under this key")
        return [await self._cache.get(key, lambda: self._put(planned))]

    async def turns(self) -> int:
        """How many files' time it takes until a call that came before this one has its answer."""
        return self._cache.turns

    async def pid(self) -> int:
        """Of the media process."""
        return os.getpid()

    async def close(self) -> None:
        """End the readers."""
        self._cache.close()
        self._reader.close()

    def _put(self, planned: Planned) -> Kept[ray.ObjectRef]:
        pixels = self._reader.read(planned)
        try:
            return Kept(ray.put(pixels), pixels.nbytes)
        except (ObjectStoreFullError, OutOfDiskError) as error:
            raise MediaUnready(f"media: no room for the frames of {planned.media}") from error


@dataclass(frozen=True)
class Media:
    """A handle that may be sent anywhere. `seconds` is the limit for one file.

    A call waits that long, and where files are queued before its own, as long again for each turn.
    Raises TimeoutError for a file that is not read by then, MediaLost where the actor died or says
    nothing of its queue, and what `MediaReader` raises.
    """

    actor: Any
    seconds: float
    alive_seconds: float = ALIVE_SECONDS  # for its word on the queue

    def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str]:
        """The plan of a row and the key of its frames. Raises MediaError."""
        return self._in_turn(self.actor.prepare.remote(row, training=training), row.media)

    def decode(self, key: str) -> None:
        """Have the frames of a key decoded; they stay with the actor. Raises MediaError."""
        self._in_turn(self.actor.frames.remote(key), key)

    def frames(self, key: str) -> np.ndarray:
        """The frames of a key, read-only uint8 [F, H, W, 3]; they are mapped where they are local.

        Frames that were lost with a media actor are decoded again, once. Raises MediaError.
        """
        lost: ObjectLostError | None = None
        for _ in range(2):
            [reference] = self._in_turn(self.actor.frames.remote(key), key)
            try:
                return answer_within(reference, self.seconds, who="media", what=key)
            except ObjectLostError as error:
                lost = error
        raise TimeoutError(f"media: frames {key} were lost twice while they were read") from lost

    def close(self) -> None:
        """End the actor and its readers."""
        try:
            answer_within(self.actor.close.remote(), CLOSE_SECONDS, who="media", what="close")
        except TimeoutError as error:
            log.warning("%s; it is killed", error)
        finally:
            ray.kill(self.actor)

    def _in_turn(self, reference: Any, what: str) -> Any:
        """The answer of a call, when those before it have theirs."""
        seconds, turns = self.seconds, 0
        deadline = time.monotonic() + seconds
        while not ray.wait([reference], timeout=self._until(deadline))[0]:
            waiting = self._turns()  # it lives
            if time.monotonic() < deadline:
                continue
            if turns:
                raise TimeoutError(
                    f"media: no answer to {what!r}, in a queue of {turns} turns, within "
                    f"{seconds:.0f} s"
                )
            seconds, turns = waiting * self.seconds, waiting
            deadline = time.monotonic() + seconds
        try:
            return ray.get(reference)
        except DIED as error:
            raise MediaLost(f"media: it died and did not come back ({what})") from error

    def _until(self, deadline: float) -> float:
        """Seconds until then, or until it is to be asked whether it lives."""
        return max(0.0, min(self.alive_seconds, deadline - time.monotonic()))

    def _turns(self) -> int:
        """How long its queue is, by the actor. Raises MediaLost if it does not answer."""
        try:
            asked = self.actor.turns.remote()
            return answer_within(
                asked, self.alive_seconds, who="media", what="how long is your queue?"
            )
        except TimeoutError as error:
            raise MediaLost(str(error)) from error


def readers_here() -> int:
    """One for two of this machine's cores: the others are for those who wait for the frames."""
    return max(1, min(MOST_READERS, len(os.sched_getaffinity(0)) // 2))


def start_media(
    root: Path, frames: FramesConfig, *, folder: Path, alive_seconds: float = ALIVE_SECONDS
) -> Media:
    """Start the media actor for files below `root`; its journal lies in the run's `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    actor = (
        ray.remote(MediaActor)
        .options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,  # while it starts again; callers have their own limits
            max_concurrency=CALLS,
            scheduling_strategy=beside_us(),
        )
        .remote(str(root.absolute()), frames, str(folder.absolute() / "media-plans.jsonl"))
    )
    # A file has two tries, each of which may begin with a new child.
    return Media(actor, 2 * (START_SECONDS + frames.decode_seconds), alive_seconds)


def _read(journal: Path) -> dict[str, Planned]:
    """What was planned before; a last line that was cut short is dropped."""
    drop_torn_line(journal)
    planned: dict[str, Planned] = {}
    for line in journal.read_text().splitlines() if journal.exists() else ():
        entry = json.loads(line)
        planned[entry["key"]] = Planned(**entry | {"plan": _plan(entry["plan"])})
    return planned


def _plan(entry: dict[str, Any]) -> FramePlan:
    """JSON knows no tuples."""
    whole: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return FramePlan(**whole)


AT_ONCE = 64  # rows in the actor's queue; the limit of a call begins when it joins them


class AsyncMedia:
    """Waits in threads of its own, which queued rows cannot take from others."""

    def __init__(self, media: Media):
        self.media = media
        self._threads = ThreadPoolExecutor(AT_ONCE, "media")

    async def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str] | Failure:
        """(plan, key of the frames); a Failure with the reason and whose fault it is.

        The frames are decoded here, so that a file which cannot be read fails before it is sampled.
        Of the service are a time-out, a full store, a process that does not start. Raises MediaLost
        where the actor is gone.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._prepare, row, training)
        except MediaError as error:
            return Failure(None, None, f"media: {error.reason}", FailureKind.FILE)
        except TimeoutError as error:
            return Failure(None, None, str(error), FailureKind.SERVICE)

    async def frames(self, key: str) -> np.ndarray:
        """uint8 [F, height, width, 3]."""
        return await asyncio.to_thread(self.media.frames, key)

    def _prepare(self, row: Row, training: bool) -> tuple[FramePlan, str]:
        plan, key = self.media.prepare(row, training=training)
        self.media.decode(key)
        return plan, key
