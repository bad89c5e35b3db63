"""Which media can be read: many files probed in parallel by bounded child processes.

    paths ── threads, `readers` of them ──► a `Decoder` each ──► Probe, in the order they end

Laws: at most `readers` children live; no file holds one longer than `seconds` twice (probed, then
its first, middle and last frames decoded, as training decodes them), and one that fails is tried
again; a file that hangs or kills its reader costs itself. Nothing is raised for a file: what is
wrong with it is its `reason`.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from o3rl.media.decoder import START_SECONDS, Decoder, MediaError, inside
from o3rl.types import FramePlan

TINY = (32, 32)  # size to which frames are decoded: they are looked at by nobody
AHEAD = 4  # files a reader may be ahead of who takes the results


@dataclass(frozen=True, slots=True)
class Medium:
    """A file to probe: its path below the media root, and whether it is an image."""

    path: str
    is_image: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known of a file. `reason` says why it cannot be read; empty if it can.

    Size in pixels as shown; duration in seconds, 0 for an image; frames 1 for an image.
    """

    medium: Medium
    reason: str = ""
    frames: int = 0
    width: int = 0
    height: int = 0
    duration: float = 0.0
    doubts: tuple[tuple[str, str], ...] = ()  # reasons to count, and what was found


def probe_all(
    root: Path, media: Iterable[Medium], *, readers: int = 2, seconds: float = 60.0
) -> Iterator[Probe]:
    """Probe files below `root`, `readers` at a time, each within `seconds` for either look.

    Raises ValueError if the root is no folder, or on no readers.
    """
    if not root.is_dir():
        raise ValueError(f"the media root {root} is no folder")
    if readers < 1:
        raise ValueError(f"readers is {readers}; it must be 1 or more")
    return _results(root, iter(media), readers=readers, seconds=seconds)


def probe(decoder: Decoder, root: Path, medium: Medium) -> Probe:
    """Look at one file."""
    try:
        path = inside(root, medium.path)
        if medium.is_image:
            width, height = decoder.twice(lambda it: it.probe_image(path))
            decoder.twice(lambda it: it.decode_image(path, FramePlan((0,), (0.0,), TINY, 0.0)))
            return Probe(medium, "", 1, width, height)
        info = decoder.twice(lambda it: it.probe(path))
        at = tuple(sorted({0, info.frames // 2, info.frames - 1}))
        plan = FramePlan(at, tuple(info.times[i] for i in at), TINY, 0.0)
        decoder.twice(lambda it: it.decode(path, plan))
        doubts = decoder.doubts(path)
    except MediaError as error:
        return Probe(medium, error.reason)
    return Probe(medium, "", info.frames, info.width, info.height, info.duration, doubts)


def _results(
    root: Path, media: Iterator[Medium], *, readers: int, seconds: float
) -> Iterator[Probe]:
    done: queue.Queue[Probe | BaseException | None] = queue.Queue(readers * AHEAD)
    lock, stopped = threading.Lock(), threading.Event()
    patience = 2 * START_SECONDS + 4 * seconds + 30  # for both looks at a file, each twice

    def following() -> Medium | None:
        with lock:
            return None if stopped.is_set() else next(media, None)

    def give(result: Probe | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                done.put(result, timeout=0.5)
                return

    def read() -> None:
        decoder = Decoder(seconds)
        try:
            while (medium := following()) is not None:
                give(probe(decoder, root, medium))
            give(None)
        except BaseException as error:  # a reader that cannot start, a bug: raised by who takes
            give(error)
        finally:
            decoder.close()

    threads = [threading.Thread(target=read, name=f"probe-{i}") for i in range(readers)]
    for thread in threads:
        thread.start()
    try:
        yield from _until_all_ended(done, readers, patience)
    finally:
        stopped.set()
        for thread in threads:
            thread.join(patience)


def _until_all_ended(done: queue.Queue, readers: int, patience: float) -> Iterator[Probe]:
    while readers:
        try:
            result = done.get(timeout=patience)
        except queue.Empty:
            raise TimeoutError(
                f"none of the {readers} readers of media said anything within {patience:.0f} s"
            ) from None
        if result is None:
            readers -= 1
        elif isinstance(result, BaseException):
            raise result
        else:
            yield result
