"""Rows to frames: what a row needs is planned under a content key, and read by it.

Laws: a key is the same on every machine that has the same files, and names the same frames for
ever: a file that became another since it was planned is refused. Files are read in child processes
(`o3rl.media.decoder`); frames are kept elsewhere (`o3rl.media.frame_cache`).
"""

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from o3rl.config import FramesConfig
from o3rl.media.decoder import Decoder, MediaError, check_file, inside
from o3rl.media.frame_plan import VideoInfo, part_of, plan_image, plan_video
from o3rl.types import FramePlan, Interval, KeyFrame, Row, Task

log = logging.getLogger(__name__)

SAMPLE_BYTES = 2**18  # read at the start, the middle and the end of a file to tell it from others
PROBES_KEPT = 256


@dataclass(frozen=True, slots=True)
class Planned:
    """What the frames under a key are made from.

    >>> Planned("5f0c…", "videos/a.mp4", False, FramePlan((0, 15), (0.0, 0.5), (280, 196), 1.0))
    """

    key: str
    media: str  # path below the media root
    is_image: bool
    plan: FramePlan


class MediaReader:
    """Plans rows and reads planned frames, for at most `readers` threads at the same time.

    Each of them has a child process, for which `frames.decode_seconds` is the limit; `close` ends
    these.
    """

    def __init__(self, root: Path, frames: FramesConfig, *, readers: int = 1):
        if readers < 1:
            raise ValueError(f"readers is {readers}; it must be 1 or more")
        self._root = root
        self._frames = frames
        self._decoders = [
            Decoder(frames.decode_seconds, reader=frames.reader) for _ in range(readers)
        ]
        self._idle = self._decoders.copy()  # its append and pop need no lock
        self._lock = threading.Lock()
        self._probes: OrderedDict[str, VideoInfo | tuple[int, int]] = OrderedDict()  # by the lock

    def plan(self, row: Row, *, training: bool) -> Planned:
        """Which frames a row needs; nothing is decoded yet.

        In training the annotated key frames are among them. Raises MediaError, or MediaUnready
        where it is no fault of the file.
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
        is_image = row.task is Task.VISUAL
        return Planned(self._key(plan, identity, is_image=is_image), row.media, is_image, plan)

    def read(self, planned: Planned) -> np.ndarray:
        """The frames, read-only uint8 [F, height, width, 3].

        Raises MediaError, also if the files are others than those that were planned, and
        MediaUnready.
        """
        path = inside(self._root, planned.media)
        identity = self._identity(path, planned.media)
        if self._key(planned.plan, identity, is_image=planned.is_image) != planned.key:
            raise MediaError(planned.media, "differs from the file that was planned")
        with self._decoder() as decoder:
            if planned.is_image:
                pixels = decoder.twice(lambda it: it.decode_image(path, planned.plan))
            else:
                images = self._images(planned.plan)
                pixels = decoder.twice(lambda it: it.decode(path, planned.plan, images=images))
        pixels.setflags(write=False)
        return pixels

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
        if row.part is not None:
            return self._plan_part(info, row.part, path)
        merged = training and row.task is Task.TEMPORAL_SPATIAL
        key_frames = tuple(map(self._with_image, row.truth.key_frames)) if merged else ()
        return plan_video(info, self._frames, key_frames=key_frames)

    def _plan_part(self, info: VideoInfo, part: Interval, path: Path) -> FramePlan:
        try:
            shown, first = part_of(info, *part)
        except ValueError as error:
            log.info("%s: %s", path, error)
            raise MediaError(path, "no frames in the row's part") from error
        return plan_video(shown, self._frames, first=first)

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
        with self._lock:
            if kept in self._probes:
                self._probes.move_to_end(kept)
                return self._probes[kept]
        with self._decoder() as decoder:
            info = decoder.twice(probe)
        with self._lock:
            self._probes[kept] = info
            while len(self._probes) > PROBES_KEPT:
                self._probes.popitem(last=False)
        return info

    def _images(self, plan: FramePlan) -> tuple[Path | None, ...]:
        return tuple(
            inside(self._root, name) if name is not None else None for name in plan.images_F
        )

    def _key(self, plan: FramePlan, identity: str, *, is_image: bool) -> str:
        """32 hexadecimal digits of the content, the plan and the images of a row."""
        parts = [identity, repr(sorted(asdict(plan).items())), str(is_image), self._frames.reader]
        parts += [
            self._identity(path, name or "")
            for path, name in zip(self._images(plan), plan.images_F, strict=True)
            if path is not None
        ]
        text = "\n".join(parts).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=16).hexdigest()

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

    @contextmanager
    def _decoder(self) -> Iterator[Decoder]:
        assert self._idle, f"more threads than the {len(self._decoders)} readers"
        decoder = self._idle.pop()
        try:
            yield decoder
        finally:
            self._idle.append(decoder)


def frames_digest(array: np.ndarray) -> str:
    """16 hexadecimal digits that tell whether two sides saw the same frames."""
    found = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=8)
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
