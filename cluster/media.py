"""Media for a run: an actor that plans rows, decodes once and keeps frames in the object store.

    controller ── prepare ──► media ── frames under their key ──► rollout replicas, learner ranks

Pixels never pass through the controller. Laws: objects die with their owner, so the media actor
puts frames itself; what it planned is written down, so that a media actor that Ray starts again
decodes by key; it holds at most `frames.cache_mib` of frames, the longest unused are decoded again.
"""

import json
import logging
import os
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError

from cluster.calls import answer_of
from o3rl.config import Frames
from o3rl.flow import FramePlan, Row, Task
from o3rl.journal import drop_torn_line
from o3rl.media import MediaCache

log = logging.getLogger(__name__)

CLOSE_SECONDS = 20.0
CALLS = 16  # that the actor answers at the same time


@dataclass(frozen=True, slots=True)
class Planned:
    """What the frames of a key are made from."""

    media: str  # relative to the media root
    is_image: bool
    plan: FramePlan


class MediaActor:
    """What runs in the media process; `Media` is what others hold."""

    def __init__(self, root: str, frames: Frames, journal: str, *, readers: int):
        self._cache = MediaCache(Path(root), replace(frames, cache_mib=1), readers=readers)
        self._room = frames.cache_mib * 2**20
        self._journal = Path(journal)
        self._lock = threading.Lock()
        # All below are guarded by the lock.
        self._held: OrderedDict[str, tuple[ray.ObjectRef, int]] = OrderedDict()
        self._held_bytes = 0
        self._planned = _read(self._journal)

    def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str]:
        """The plan of a row and the key of its frames. Raises MediaError."""
        plan, key = self._cache.prepare(row, training=training)
        with self._lock:
            if key not in self._planned:
                self._planned[key] = Planned(row.media, row.task is Task.VISUAL, plan)
                with self._journal.open("a") as file:
                    file.write(json.dumps({"key": key} | asdict(self._planned[key])) + "\n")
        return plan, key

    def frames(self, key: str) -> list[ray.ObjectRef]:
        """Where the frames of a key lie; in a list, so that Ray hands on the reference.

        Raises MediaError, and KeyError for a key that was never prepared.
        """
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return [self._held[key][0]]
            planned = self._planned.get(key)
        if planned is not None:
            media, is_image = planned.media, planned.is_image
            self._cache.remember(key, planned.plan, media=media, is_image=is_image)
        pixels = self._cache.frames(key)
        reference = ray.put(pixels)
        with self._lock:
            if key not in self._held:
                self._hold(key, reference, pixels.nbytes)
        return [reference]

    def pid(self) -> int:
        """Of the media process."""
        return os.getpid()

    def close(self) -> None:
        """End the readers."""
        self._cache.close()

    def _hold(self, key: str, reference: ray.ObjectRef, size: int) -> None:
        self._held[key] = (reference, size)
        self._held_bytes += size
        while self._held_bytes > self._room and len(self._held) > 1:
            _, (_, dropped) = self._held.popitem(last=False)
            self._held_bytes -= dropped


@dataclass(frozen=True)
class Media:
    """A handle that may be sent anywhere; every call waits at most `seconds`.

    Raises TimeoutError naming the media actor, and what `MediaCache` raises.
    """

    actor: Any
    seconds: float

    def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str]:
        """The plan of a row and the key of its frames. Raises MediaError."""
        return self._answer(self.actor.prepare.remote(row, training=training), row.media)

    def decode(self, key: str) -> None:
        """Have the frames of a key decoded; they stay with the actor. Raises MediaError."""
        self._answer(self.actor.frames.remote(key), key)

    def frames(self, key: str) -> np.ndarray:
        """The frames of a key, read-only uint8 [F, H, W, 3]; they are mapped where they are local.

        Frames that were lost with a media actor are decoded again, once. Raises MediaError.
        """
        lost: ObjectLostError | None = None
        for _ in range(2):
            [reference] = self._answer(self.actor.frames.remote(key), key)
            try:
                return self._answer(reference, key)
            except ObjectLostError as error:
                lost = error
        raise TimeoutError(f"media: frames {key} were lost twice while they were read") from lost

    def close(self) -> None:
        """End the actor and its readers."""
        try:
            answer_of(self.actor.close.remote(), CLOSE_SECONDS, who="media", what="close")
        except TimeoutError as error:
            log.warning("%s; it is killed", error)
        finally:
            ray.kill(self.actor)

    def _answer(self, reference: Any, what: str) -> Any:
        return answer_of(reference, self.seconds, who="media", what=what)


def start_media(
    root: Path, frames: Frames, *, folder: Path, seconds: float, readers: int = 1
) -> Media:
    """Start the media actor for files below `root`; its journal lies in the run's `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    actor = (
        ray.remote(MediaActor)
        .options(num_cpus=0, max_restarts=-1, max_task_retries=2, max_concurrency=CALLS)
        .remote(
            str(root.absolute()),
            frames,
            str(folder.absolute() / "media-plans.jsonl"),
            readers=readers,
        )
    )
    return Media(actor, seconds)


def _read(journal: Path) -> dict[str, Planned]:
    """What was planned before; a last line that was cut short is dropped."""
    drop_torn_line(journal)
    planned: dict[str, Planned] = {}
    for line in journal.read_text().splitlines() if journal.exists() else ():
        entry = json.loads(line)
        planned[entry["key"]] = Planned(entry["media"], entry["is_image"], _plan(entry["plan"]))
    return planned


def _plan(entry: dict[str, Any]) -> FramePlan:
    """JSON knows no tuples."""
    whole: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return FramePlan(**whole)
