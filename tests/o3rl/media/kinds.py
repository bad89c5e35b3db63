"""Video files of many kinds whose frames carry their own numbers, and the slow way to read them.

A frame shows its number as twelve blocks, light for 1, in three rows of four; the block at the top
left is bit 0. A red and a blue bar at the left and the top tell which way up it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

COLUMNS, ROWS, BLOCK, BAR = 4, 3, 28, 12
WIDTH, HEIGHT = COLUMNS * BLOCK + BAR, ROWS * BLOCK + BAR  # 124 × 96
DARK, LIGHT = 40, 215


def drawn(number: int, *, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """The picture of a number, uint8 [height, width, 3]."""
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, :BAR], pixels[:BAR, :] = (255, 0, 0), (0, 0, 255)
    for bit in range(COLUMNS * ROWS):
        top, left = BAR + bit // COLUMNS * BLOCK, BAR + bit % COLUMNS * BLOCK
        pixels[top : top + BLOCK, left : left + BLOCK] = LIGHT if number >> bit & 1 else DARK
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))


def number_of(pixels: np.ndarray) -> int:
    """The number that a picture shows, upright and of any size; -1 where it shows none."""
    height, width = pixels.shape[:2]
    number = 0
    for bit in range(COLUMNS * ROWS):
        y = (BAR + (bit // COLUMNS + 0.5) * BLOCK) / HEIGHT * height
        x = (BAR + (bit % COLUMNS + 0.5) * BLOCK) / WIDTH * width
        number |= int(pixels[int(y), int(x)].mean() > (DARK + LIGHT) / 2) << bit
    red = pixels[int(height * 0.6), int(BAR / 2 / WIDTH * width)].astype(int)
    blue = pixels[int(BAR / 2 / HEIGHT * height), int(width * 0.6)].astype(int)
    upright = red[0] > red[2] + 60 and blue[2] > blue[0] + 60
    return number if upright else -1


def encode(
    path: Path,
    times: Sequence[float],
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    mux: dict[str, str] | None = None,
    rate: Fraction = Fraction(10),
    tick: Fraction | None = Fraction(1, 1000),
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pixels: str = "yuv420p",
    aspect: Fraction | None = None,
    sound: float = 0.0,
    flags: int = 0,
) -> Path:
    """Frame i shows the number i at `times[i]` seconds; `sound` seconds of silence beside it."""
    tick = tick or 1 / rate
    with av.open(str(path), "w", options=mux or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = tick
        stream.codec_context.flags |= flags
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(drawn(number, size=size), format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            for at in range(0, int(sound * 16000), 1024):
                quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                quiet.sample_rate, quiet.pts = 16000, at
                container.mux(audio.encode(quiet))
            container.mux(audio.encode())
    return path


def copied(
    source: Path,
    target: Path,
    *,
    start: float = 0.0,
    end: float = 1e9,
    shift: float = 0.0,
    skip: int = 0,
    mux: dict[str, str] | None = None,
) -> Path:
    """A stream copy, packets from the key frame before `start` (negative times, as cutting makes).

    `skip` packets are left out at its head, so that the first one may be no key frame.
    """
    with av.open(str(source)) as old, av.open(str(target), "w", options=mux or {}) as new:
        stream = old.streams.video[0]
        written = new.add_stream_from_template(stream)
        old.seek(int(start / stream.time_base), stream=stream)
        origin = round((start - shift) / stream.time_base)
        for packet in old.demux(stream):
            if packet.pts is None or (packet.pts * stream.time_base >= end):
                continue
            if skip:
                skip -= 1
                continue
            packet.pts -= origin
            if packet.dts is not None:
                packet.dts -= origin
            packet.stream = written
            new.mux(packet)
    return target


@dataclass(frozen=True)
class Shown:
    """A frame as the slow way reads it: seconds from the first one on, and the picture."""

    time: float
    number: int
    pixels: np.ndarray


def whole_decode(path: Path, *, rate: float = 0.0) -> list[Shown]:
    """Every frame as PyAV decodes it, in time order.

    With `rate`, of containers that keep no presentation times: in the order of the decoder, by the
    rate, since the times are guesses.
    """
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams.video if not s.disposition & 0x400)
        stream.codec_context.thread_count = 1
        frames = list(container.decode(stream))
        times = [i / rate if rate else frame.time for i, frame in enumerate(frames)]
    pictures = [frame.to_ndarray(format="rgb24") for frame in frames]
    shown = sorted(zip(times, pictures, strict=True), key=lambda each: each[0])
    return [Shown(time - shown[0][0], number_of(each), each) for time, each in shown]


def steady(count: int, rate: float = 10.0) -> list[float]:
    """Times of a constant rate."""
    return [i / rate for i in range(count)]
