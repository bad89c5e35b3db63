"""Frames of a video by PyAV: which there are and when, and any of them by the shortest way.

An index is made of the packets, without decoding. A frame is decoded from the key frame before it
and known by its presentation stamp; where a key frame does not lead to it, from an earlier one. Of
a container that keeps no presentation stamps (AVI, MPEG program streams, bare streams) all frames
are decoded, and counted. One thread decodes: pixels are the same each time, bit for bit.

Runs in the process that reads media: imports PyAV, Pillow and numpy only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from o3rl.media.pictures import MAX_PIXELS, Unreadable, in_rgb, upright

MAX_FRAMES = 2**21  # of one video: nearly ten hours at 60 fps
MAX_SECONDS = 7 * 24 * 3600.0
MAX_RATE = 5000.0  # frames a second: more means that the times are no times
REORDERED = 64  # frames by which decoding and showing may differ in order; codecs allow 16
CONFIRMED = 8  # first frames that must come out as the packets say
STAMPED = {"mov", "matroska", "mpegts", "flv", "asf", "gif", "ogg", "nut", "mxf", "apng", "ivf"}
LISTS = (b"#EXTM3U", b"ffconcat", b"<")  # files that name other files
REFERENCED = {"h264", "hevc"}  # codecs whose decoders leave out what nothing refers to, exactly


@dataclass(frozen=True, slots=True)
class Index:
    """The frames of a video in the order in which they are shown."""

    times_F: np.ndarray  # seconds from the first one on, float64
    duration: float  # seconds, to the end of the last frame
    size: tuple[int, int]  # width, height as shown: turned, with square pixels
    stamps_F: np.ndarray  # presentation stamps, int64; empty where frames are counted
    keys: tuple[tuple[int, int], ...]  # of key frames: presentation stamp, where to seek


@dataclass(frozen=True, slots=True)
class _Packets:
    """What demuxing tells of the packets that are shown, in their order in the file."""

    stamps: list[int | None]
    decoded_at: list[int | None]
    keys: list[tuple[int, int]]
    span: int  # of the one that is shown last; 0 where it is not told


def index(path: str) -> Index:
    """Which frames a video has, and when. Raises Unreadable."""
    with _opened(path) as (container, stream):
        packets = _packets(container, stream)
        count = len(packets.stamps)
        if count == 0:
            raise Unreadable("no frames")
        if count > MAX_FRAMES:
            raise Unreadable("too many frames")
        if container.format.name.startswith("mov") and count < _promised(stream):
            raise Unreadable("no readable video")
        base, rate = stream.time_base or Fraction(1), stream.average_rate or Fraction(1)
    stamps, size = _stamps_and_size(path, packets)
    counted = stamps is None
    if stamps is None:
        stamps, base, size = _stamps_of_all(path, packets)
    times = (stamps - stamps[0]) * float(base)
    mean = float(times[-1] / (len(times) - 1) if len(times) > 1 else 1 / rate)
    last = 0.0 if counted else packets.span * float(base)
    duration = float(times[-1]) + (last if 0 < last <= max(10 * mean, 1.0) else mean)
    if not 0 < duration <= MAX_SECONDS or len(times) / duration > MAX_RATE:
        raise Unreadable("impossible duration")
    return Index(times, duration, size, stamps[:0] if counted else stamps, tuple(packets.keys))


def read(path: str, known: Index, indices: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """Each frame once, upright, with its index, in no promised order. Raises Unreadable."""
    order = sorted(set(indices))
    if order[-1] >= len(known.times_F):
        raise Unreadable("fewer frames than planned")
    with _opened(path) as (container, stream):
        if not len(known.stamps_F):
            yield from _counted(container, stream, order)
            return
        starts = [stamp for stamp, _ in known.keys]
        groups: dict[int, dict[int, int]] = {}  # by key frame: index by stamp
        for number in order:
            stamp = int(known.stamps_F[number])
            key = int(np.searchsorted(starts, stamp, side="right")) - 1
            groups.setdefault(key, {})[stamp] = number
        for key, wanted in groups.items():
            for start in (each for each in (key, key - 1, key - 4) if each >= 0):
                if wanted:
                    yield from _from_key(container, stream, known.keys[start], wanted)
            if wanted:
                yield from _from_start(path, wanted)


def shown(path: str) -> Iterator[tuple[float, Image.Image]]:
    """Every frame in order, upright, with its seconds from the first one. Raises Unreadable."""
    with _opened(path) as (container, stream):
        rate, first = float(stream.average_rate or 25), None
        for number, frame in enumerate(_decoded(container.demux(stream), stream)):
            told = frame.time
            first = told if first is None else first
            time = number / rate if told is None or first is None else told - first
            yield time, picture(frame)


def told_duration(path: str) -> float | None:
    """Seconds that the container tells of the video; None where it tells nothing of it alone."""
    with _opened(path) as (container, stream):
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        alone = len(container.streams) == 1 and container.duration
        return container.duration / av.time_base if alone and container.duration else None


def picture(frame: VideoFrame) -> Image.Image:
    """A frame in RGB, turned and mirrored as its display matrix says."""
    clear = any(component.is_alpha for component in frame.format.components)
    form = "rgba" if clear else "rgb24"
    image = Image.fromarray(frame.reformat(format=form, threads=1).to_ndarray())
    return in_rgb(upright(image, _matrix(frame)))


def _matrix(frame: VideoFrame) -> list[int]:
    """Its display matrix; that of an upright one where it has none."""
    told: Mapping[str, Any] = frame.side_data
    if "DISPLAYMATRIX" not in told:
        return [1, 0, 0, 0, 1]
    return np.frombuffer(bytes(told["DISPLAYMATRIX"]), np.int32).tolist()


@contextmanager
def _opened(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its video: no cover, nothing of another file."""
    with open(path, "rb") as file:
        if file.read(64).lstrip().startswith(LISTS):
            raise Unreadable("no readable video")
    try:
        with av.open(
            path, options={"protocol_whitelist": "file"}, metadata_errors="ignore"
        ) as container:
            best = container.streams.best("video")
            streams = sorted(container.streams.video, key=lambda each: each is not best)
            shown = [each for each in streams if not each.disposition & Disposition.attached_pic]
            if not shown or shown[0].codec_context is None:
                raise Unreadable("no readable video")
            context = shown[0].codec_context
            if context.width * context.height > MAX_PIXELS:
                raise Unreadable("too large")
            context.thread_type, context.thread_count = "NONE", 1
            yield container, shown[0]
    except (FFmpegError, UnicodeDecodeError) as error:
        raise Unreadable("no readable video") from error


def _packets(container: InputContainer, stream: VideoStream) -> _Packets:
    stamps, decoded_at, keys = [], [], []
    hidden_ones = stream.codec_context.codec.name in ("vp8", "libvpx")
    span, latest = 0, None
    for packet in container.demux(stream):
        if packet.size == 0 or (hidden_ones and not memoryview(packet)[0] >> 4 & 1):
            continue
        stamp = packet.pts
        if packet.is_keyframe and stamp is not None:
            at = stamp if packet.dts is None else min(stamp, packet.dts)
            keys.append((stamp, at))
        if packet.is_discard:
            continue
        stamps.append(stamp)
        decoded_at.append(packet.dts)
        if stamp is not None and (latest is None or stamp > latest):
            latest, span = stamp, packet.duration or 0
    return _Packets(stamps, decoded_at, sorted(keys), span)


def _promised(stream: VideoStream) -> int:
    """How many packets that are shown its index tells of."""
    return sum(not entry.is_discard for entry in stream.index_entries)


def _stamps_and_size(path: str, packets: _Packets) -> tuple[np.ndarray | None, tuple[int, int]]:
    """Presentation stamps in order, without frames that do not come out; size as shown.

    None for the stamps where the packets do not tell them.
    """
    with _opened(path) as (container, stream):
        kind = container.format.name.split(",")[0]
        frames = _decoded(container.demux(stream), stream)
        first = next(frames, None)
        if first is None:
            raise Unreadable("no readable video")
        size = _size(first, stream)
        reorders = stream.codec_context.has_b_frames
        if None in packets.stamps or (reorders and kind not in STAMPED):
            return None, size
        told = np.asarray(packets.stamps, dtype=np.int64)
        order = np.argsort(told, kind="stable")
        if np.abs(order - np.arange(len(told))).max() > REORDERED:
            raise Unreadable("frame times go back")
        stamps = told[order]
        head = [first.pts, *(f.pts for f, _ in zip(frames, range(CONFIRMED - 1), strict=False))]
    begin = int(np.searchsorted(stamps, head[0])) if head[0] is not None else len(stamps)
    distinct = len(stamps) < 2 or np.diff(stamps).min() > 0
    if not distinct or stamps[begin : begin + len(head)].tolist() != head:
        return None, size
    return stamps[begin:], size


def _stamps_of_all(path: str, packets: _Packets) -> tuple[np.ndarray, Fraction, tuple[int, int]]:
    """The same by decoding all, with the unit of the stamps."""
    with _opened(path) as (container, stream):
        stamps: list[int | None] = []
        size = (0, 0)
        for frame in _decoded(container.demux(stream), stream):
            size = size if stamps else _size(frame, stream)
            stamps.append(frame.pts)
        base = stream.time_base or Fraction(1)
        rate = stream.codec_context.framerate or stream.average_rate or Fraction(25)
    for told in (packets.decoded_at, stamps):
        known = sorted(stamp for stamp in told if stamp is not None)
        if len(known) == len(stamps) == len(set(known)):
            return np.asarray(known, dtype=np.int64), base, size
    return np.arange(len(stamps), dtype=np.int64), 1 / rate, size


def _size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width and height as shown: pixels that are not square are stretched."""
    width, height = frame.width, frame.height
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if 1 < aspect < 10:
        width = round(width * aspect)
    elif Fraction(1, 10) < aspect < 1:
        height = round(height / aspect)
    a, b = _matrix(frame)[:2]
    return (height, width) if abs(b) > abs(a) else (width, height)


def _decoded(packets: Iterable[av.Packet], stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames as they come out; packets that the decoder refuses give none."""
    for packet in packets:
        try:
            yield from stream.codec_context.decode(packet)
        except InvalidDataError:
            continue


def _counted(
    container: InputContainer, stream: VideoStream, order: Sequence[int]
) -> Iterator[tuple[int, Image.Image]]:
    wanted = set(order)
    for number, frame in enumerate(_decoded(container.demux(stream), stream)):
        if number in wanted:
            yield number, picture(frame)
            wanted.remove(number)
            if not wanted:
                return
    raise Unreadable("frames cannot be decoded")


def _from_key(
    container: InputContainer, stream: VideoStream, key: tuple[int, int], wanted: dict[int, int]
) -> Iterator[tuple[int, Image.Image]]:
    """Frames of these stamps as far as they come out, decoded from a key frame on."""
    container.seek(key[1], stream=stream, backward=True)
    yield from _taken(_since(container, stream, key[0]), stream, wanted)


def _from_start(path: str, wanted: dict[int, int]) -> Iterator[tuple[int, Image.Image]]:
    """The same without a key frame, or where none leads to them."""
    with _opened(path) as (container, stream):
        yield from _taken(container.demux(stream), stream, wanted)
    if wanted:
        raise Unreadable("frames cannot be decoded")


def _since(container: InputContainer, stream: VideoStream, key: int) -> Iterator[av.Packet]:
    """Packets from a key frame on; none where seeking has gone past it."""
    begun = False
    for packet in container.demux(stream):
        if not begun and packet.is_keyframe and packet.pts is not None:
            if packet.pts > key:
                return
            begun = packet.pts == key
        if begun:
            yield packet


def _taken(
    packets: Iterable[av.Packet], stream: VideoStream, wanted: dict[int, int]
) -> Iterator[tuple[int, Image.Image]]:
    """Frames of the stamps in `wanted`, which they leave, until none of them can come any more."""
    context, last, beyond = stream.codec_context, max(wanted), 0
    sparing = context.codec.name in REFERENCED

    def fed() -> Iterator[av.Packet]:
        for packet in packets:
            if sparing:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield packet

    for frame in _decoded(fed(), stream):
        number = wanted.pop(frame.pts, None) if frame.pts is not None else None
        if number is not None:
            yield number, picture(frame)
        beyond += frame.pts is not None and frame.pts > last
        if not wanted or beyond > REORDERED:
            return
