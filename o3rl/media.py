"""Frames of rows by content key: planned, decoded once, kept while there is room.

`MediaCache` may be used by many threads. Laws: no lock is held while a file is read; a key that one
thread decodes is waited for by the others, no longer than its decoding may take; a key is the same
on every machine that has the same files, and frames that were dropped are decoded again by it.
"""

import hashlib
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from o3rl.config import Frames
from o3rl.decode import Decoder, MediaError, check_file, inside
from o3rl.flow import FramePlan, KeyFrame, Row, Task
from o3rl.frames import VideoInfo, plan_image, plan_video

log = logging.getLogger(__name__)

SAMPLE_BYTES = 2**18  # read at the start, the middle and the end of a file to tell it from others
PROBES_KEPT = 256


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make the frames of a key."""

    path: Path
    plan: FramePlan
    images: tuple[Path | None, ...]
    is_image: bool


class MediaCache:
    """Plans rows and holds their frames, at most `frames.cache_mib` of them.

    `readers` child processes decode at the same time. `close` ends them.
    """

    def __init__(self, root: Path, frames: Frames, *, readers: int = 1):
        if readers < 1:
            raise ValueError(f"readers is {readers}; it must be 1 or more")
        self._root = root
        self._frames = frames
        self._room = frames.cache_mib * 2**20
        self._decoders = [Decoder(frames.decode_seconds) for _ in range(readers)]
        self._idle: queue.Queue[Decoder] = queue.Queue()
        for decoder in self._decoders:
            self._idle.put(decoder)
        self._changed = threading.Condition()
        # All below are guarded by `_changed`.
        self._recipes: dict[str, Recipe] = {}
        self._held: OrderedDict[str, np.ndarray] = OrderedDict()
        self._held_bytes = 0
        self._being_decoded: set[str] = set()
        self._probes: OrderedDict[str, VideoInfo | tuple[int, int]] = OrderedDict()
        self._waiting = 0

    def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str]:
        """The plan of a row and the key of its frames; nothing is decoded yet.

        In training the annotated key frames are among the frames. Raises MediaError.
        """
        path = inside(self._root, row.media)
        identity = self._identity(path, row.media)
        try:
            plan = self._plan(row, path, identity, training=training)
        except MediaError:
            raise
        except ValueError as error:  # a size that no plan can have
            log.info("%s: %s", path, error)
            raise MediaError(path, "impossible size") from error
        return plan, self._remember(row.media, row.task is Task.VISUAL, plan, identity)

    def remember(self, key: str, plan: FramePlan, *, media: str, is_image: bool) -> None:
        """Make `frames(key)` possible where another cache prepared a row with this plan.

        Raises MediaError if the files here are others than those that the key was made from.
        """
        with self._changed:
            if key in self._recipes:
                return
        identity = self._identity(inside(self._root, media), media)
        if self._remember(media, is_image, plan, identity) != key:
            raise MediaError(media, "differs from the file that was planned")

    def frames(self, key: str) -> np.ndarray:
        """The frames of a prepared key, read-only uint8 [F, height, width, 3].

        Raises MediaError, and KeyError for a key that was never prepared or remembered here.
        """
        with self._changed:
            if key not in self._recipes:
                raise KeyError(f"no frames are planned under {key!r}; prepare or remember its row")
            recipe = self._recipes[key]
            self._wait_for(key, recipe)
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            self._being_decoded.add(key)
        try:
            pixels = self._decode(recipe)
            with self._changed:
                self._hold(key, pixels)
            return pixels
        finally:
            with self._changed:
                self._being_decoded.discard(key)
                self._changed.notify_all()

    def close(self) -> None:
        """End the child processes."""
        for decoder in self._decoders:
            decoder.close()

    def _plan(self, row: Row, path: Path, identity: str, *, training: bool) -> FramePlan:
        if row.task is Task.VISUAL:
            size = self._probe(identity, path, lambda decoder: decoder.probe_image(path))
            assert isinstance(size, tuple)
            return plan_image(*size, self._frames)
        info = self._probe(identity, path, lambda decoder: decoder.probe(path))
        assert isinstance(info, VideoInfo)
        merged = training and row.task is Task.TEMPORAL_SPATIAL
        key_frames = tuple(map(self._with_image, row.truth.key_frames)) if merged else ()
        return plan_video(info, self._frames, key_frames=key_frames)

    def _with_image(self, key_frame: KeyFrame) -> KeyFrame:
        """Without its path where there is no such image: then the video's own frame serves."""
        if key_frame.path is None:
            return key_frame
        try:
            check_file(inside(self._root, key_frame.path))
        except MediaError as error:
            log.info("key frame at %s s is taken from the video: %s", key_frame.time, error)
            return replace(key_frame, path=None)
        return key_frame

    def _probe(
        self, identity: str, path: Path, probe: Callable[[Decoder], VideoInfo | tuple[int, int]]
    ) -> VideoInfo | tuple[int, int]:
        kept = f"{identity} {path}"
        with self._changed:
            if kept in self._probes:
                self._probes.move_to_end(kept)
                return self._probes[kept]
        with self._decoder(path) as decoder:
            info = probe(decoder)
        with self._changed:
            self._probes[kept] = info
            while len(self._probes) > PROBES_KEPT:
                self._probes.popitem(last=False)
        return info

    def _remember(self, media: str, is_image: bool, plan: FramePlan, identity: str) -> str:
        """Keep the recipe of a plan; its key."""
        images = tuple(
            inside(self._root, image) if image is not None else None for image in plan.images_F
        )
        parts = [identity, repr(sorted(asdict(plan).items())), str(is_image)]
        parts += [
            self._identity(path, name or "")
            for path, name in zip(images, plan.images_F, strict=True)
            if path is not None
        ]
        key = hashlib.blake2b("\n".join(parts).encode("utf-8", "surrogatepass"), digest_size=16)
        path = inside(self._root, media)
        with self._changed:
            self._recipes[key.hexdigest()] = Recipe(path, plan, images, is_image)
        return key.hexdigest()

    def _identity(self, path: Path, name: str) -> str:
        """A digest of a file's name below the root, size and samples of its content."""
        size = check_file(path).st_size
        found = hashlib.blake2b(f"{name}\n{size}\n".encode("utf-8", "surrogatepass"))
        try:
            with path.open("rb") as file:
                for at in sorted({0, max(0, size // 2), max(0, size - SAMPLE_BYTES)}):
                    file.seek(at)
                    found.update(file.read(SAMPLE_BYTES))
        except OSError as error:
            raise MediaError(path, "cannot be opened") from error
        return found.hexdigest()

    def _decode(self, recipe: Recipe) -> np.ndarray:
        with self._decoder(recipe.path) as decoder:
            if recipe.is_image:
                pixels = decoder.decode_image(recipe.path, recipe.plan)
            else:
                pixels = decoder.decode(recipe.path, recipe.plan, images=recipe.images)
        pixels.setflags(write=False)
        return pixels

    @contextmanager
    def _decoder(self, path: Path) -> Iterator[Decoder]:
        """An idle reader; those before us in the queue take at most their limit each."""
        with self._changed:
            self._waiting += 1
            patience = self._patience()
        try:
            decoder = self._idle.get(timeout=patience)
        except queue.Empty:
            raise MediaError(path, "no reader was free in time") from None
        finally:
            with self._changed:
                self._waiting -= 1
        try:
            yield decoder
        finally:
            self._idle.put(decoder)

    def _patience(self) -> float:
        """Seconds in which every file waited for has been read or given up."""
        turns = 2 + self._waiting // len(self._decoders)
        return turns * (self._frames.decode_seconds + 10)

    def _wait_for(self, key: str, recipe: Recipe) -> None:
        """Until no other thread decodes `key`."""
        limit = self._patience() + self._frames.decode_seconds
        if not self._changed.wait_for(lambda: key not in self._being_decoded, timeout=limit):
            raise MediaError(recipe.path, "another thread's decoding did not end in time")

    def _hold(self, key: str, pixels: np.ndarray) -> None:
        if pixels.nbytes > self._room:
            return
        self._held[key] = pixels
        self._held_bytes += pixels.nbytes
        while self._held_bytes > self._room:
            _, dropped = self._held.popitem(last=False)
            self._held_bytes -= dropped.nbytes


def digest(array: np.ndarray) -> str:
    """16 hexadecimal digits that tell whether two sides saw the same frames."""
    found = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=8)
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
