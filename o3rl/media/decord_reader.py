"""Frames of a video by decord, for those who ask for it: `frames.reader: decord`.

decord 0.6.0 is wrong on edit lists, MPEG-TS, AVI and MPEG-4 with B-frames, MPEG-2 and short GOPs of
HEVC, and reads no AV1: `o3rl data check` tells which files of yours it would show otherwise.

Runs in the process that reads media: imports decord, Pillow and numpy only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import decord
import numpy as np
from PIL import Image

from o3rl.media.pictures import MAX_PIXELS, Unreadable

MAX_FRAMES = 2**21
NARROW = 64  # decord pads a row of pixels to 64 bytes: below this width it miscounts channels
FRAMES_AT_ONCE = 4

decord.logging.set_level(decord.logging.QUIET)


@dataclass(frozen=True, slots=True)
class Index:
    """The frames of a video as decord counts them."""

    times_F: np.ndarray  # seconds from the first one on, float64
    duration: float  # seconds
    size: tuple[int, int]  # width, height


def index(path: str) -> Index:
    """Which frames a video has, and when. Raises Unreadable."""
    reader, size = _opened(path)
    spans = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
    if not np.isfinite(spans).all() or np.abs(spans).max() > 7 * 24 * 3600:
        raise Unreadable("impossible duration")
    # decord keeps times in single precision: 0.1 ms is what it can tell over a quarter of an hour.
    starts = np.round(np.maximum.accumulate(spans[:, 0] - spans[0, 0]), 4)
    end = round(float(spans[-1, 1] - spans[0, 0]), 4)
    if end <= starts[-1]:  # the last frame has no duration: take the mean one
        rate = reader.get_avg_fps()
        end = float(starts[-1]) + (1 / rate if np.isfinite(rate) and rate > 0 else 1.0)
    return Index(starts, end, size)


def read(path: str, known: Index, indices: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """Each frame once, with its index. Raises Unreadable."""
    reader, _ = _opened(path)
    order = sorted(set(indices))
    if order[-1] >= min(len(reader), len(known.times_F)):
        raise Unreadable("fewer frames than planned")
    for start in range(0, len(order), FRAMES_AT_ONCE):
        chunk = order[start : start + FRAMES_AT_ONCE]
        try:
            pixels = reader.get_batch(chunk).asnumpy()
        except (decord.DECORDError, RuntimeError) as error:
            raise Unreadable("frames cannot be decoded") from error
        yield from zip(chunk, map(Image.fromarray, pixels), strict=True)


def _opened(path: str) -> tuple[decord.VideoReader, tuple[int, int]]:
    """A reader of three-channel frames, upright as the file's metadata says; width and height."""
    try:
        reader = decord.VideoReader(path, num_threads=1)
        if len(reader) < 1:
            raise Unreadable("no frames")
        if len(reader) > MAX_FRAMES:
            raise Unreadable("too many frames")
        height, width = reader[0].shape[:2]
        if width * height > MAX_PIXELS:
            raise Unreadable("too large")
        if width < NARROW:
            times = -(-NARROW // width)
            reader = decord.VideoReader(
                path, num_threads=1, width=width * times, height=height * times
            )
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise Unreadable("no readable video") from error
    return reader, (width, height)
