"""The video with its evidence drawn in: boxes and names around each cited moment, a bar of time,
and below it the sentence that cites.

MP4 of H.264 that any browser plays from its first bytes on, or a GIF of the cited moments alone.
"""

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import av
import matplotlib
from PIL import Image, ImageDraw, ImageFont

from o3rl.evaluation.cards import plain_answer
from o3rl.evaluation.evidence import Entry
from o3rl.evaluation.passages import passages
from o3rl.media import pyav_reader
from o3rl.types import Box, Task

MAX_SIDE = 960  # pixels, of the picture
GIF_SIDE = 480
LEAST = 2 / 3  # of these, to which a smaller picture is enlarged, or its words could not be read
RATE = 15  # frames a second, at most
GIF_RATE = 5
HELD = 1.0  # seconds around a cited moment in which its boxes are drawn
GIF_FRAMES = 120
MAX_SECONDS = 180.0  # of a longer video only what is around the cited moments is written
AROUND = 5.0  # seconds, there

COLORS = ("#4c8dff", "#ff8a3d", "#c77dff", "#ff6b9d", "#3bd6e4", "#ffd43b")
INK, QUIET, PAPER, LINE = "#e8edf4", "#9aa8b8", "#0e131a", "#39465a"


@dataclass(frozen=True, slots=True)
class Moment:
    """A claim as it is drawn: when, what, where, and the sentence that it stands in."""

    time: float
    name: str
    boxes: tuple[Box, ...]
    sentence: str
    number: int

    @property
    def color(self) -> str:
        """As on a page."""
        return COLORS[self.number % len(COLORS)]


def write_clip(path: Path, video: Path, entry: Entry) -> None:
    """Write the clip as MP4. Raises Unreadable if the video is, ValueError for an image."""
    frames = _drawn(video, entry, side=MAX_SIDE, rate=RATE, parts=_parts(entry))
    first = next(frames)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height = first.size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "preset": "veryfast"}
        for image in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))


def write_gif(path: Path, video: Path, entry: Entry) -> None:
    """Write what is around the cited moments as a GIF; of a text that cites nothing, all of it."""
    around = 1.5 * HELD
    parts = tuple((m.time - around, m.time + around) for m in moments_of(entry))
    rate = GIF_RATE if parts else min(GIF_RATE, GIF_FRAMES / max(entry.plan.duration, 1.0))
    frames = islice(_drawn(video, entry, side=GIF_SIDE, rate=rate, parts=parts), GIF_FRAMES)
    first, *others = [image.quantize(128, dither=Image.Dither.NONE) for image in frames]
    lasts = 1000 // GIF_RATE  # milliseconds
    first.save(path, "GIF", save_all=True, append_images=others, duration=lasts, loop=0)


def plays_whole(entry: Entry) -> bool:
    """Whether the times of the clip are those of the video."""
    return entry.plan.duration <= MAX_SECONDS


def moments_of(entry: Entry) -> tuple[Moment, ...]:
    """The claims whose time lies in the video, in order of time."""
    claims = entry.reward.claims
    sentences: dict[int, str] = {}
    for passage in passages(entry.text, claims, is_image=False):
        kept = (s.text for s in passage.segments if s.kind not in ("tag", "box"))
        words = " ".join(" ".join(kept).split()).replace(" .", ".")
        sentences |= dict.fromkeys(passage.claims, words)
    found = [
        Moment(claim.time, claim.name, claim.boxes, sentences.get(number, claim.name), number)
        for number, claim in enumerate(claims)
        if 0 <= claim.time <= entry.plan.duration
    ]
    return tuple(sorted(found, key=lambda moment: moment.time))


def _parts(entry: Entry) -> tuple[tuple[float, float], ...]:
    """Which parts of the video are written, (start, end) in seconds; none: all."""
    if plays_whole(entry):
        return ()
    found = tuple((m.time - AROUND, m.time + AROUND) for m in moments_of(entry))
    return found or ((0.0, MAX_SECONDS),)


def _drawn(
    video: Path, entry: Entry, *, side: int, rate: float, parts: Sequence[tuple[float, float]]
) -> Iterator[Image.Image]:
    """`rate` frames a second of these parts, none: of all, drawn upon.

    Each is the one that the video shows at that time.
    """
    if entry.row.task is Task.VISUAL:
        raise ValueError(f"{video} is asked about as an image; a clip is of a video")
    moments, tick, held = moments_of(entry), 0, None
    last = max((end for _, end in parts), default=math.inf)
    end = (max(entry.plan.duration, 1 / rate), None)
    for time, picture in chain(pyav_reader.shown(str(video)), [end]):
        while held is not None and tick / rate < min(time, last):
            now = tick / rate
            if not parts or any(start <= now <= stop for start, stop in parts):
                yield _canvas(held, now, moments, entry, side)
            tick += 1
        if time >= last:
            return
        held = picture


def _canvas(
    picture: Image.Image, time: float, moments: Sequence[Moment], entry: Entry, side: int
) -> Image.Image:
    """The frame, a bar of time below it, and room for three lines of words."""
    scale = min(max(1.0, LEAST * side / max(picture.size)), side / max(picture.size))
    width = max(2, round(picture.width * scale) // 2 * 2)
    height = max(2, round(picture.height * scale) // 2 * 2)
    wide = max(width, 280)  # or no words would fit
    size = max(12, round(wide / 34))
    canvas = Image.new("RGB", (wide, height + 2 * round(2.9 * size)), PAPER)
    left = (wide - width) // 2
    canvas.paste(picture.resize((width, height)), (left, 0))
    pen, shown = ImageDraw.Draw(canvas), [m for m in moments if abs(m.time - time) <= HELD]
    for moment in shown:
        _boxes(pen, moment, (left, width, height), size)
    _bar(pen, time, entry.plan.duration, moments, (wide, height, size))
    _words(pen, shown, time, entry, (wide, height, size))
    return canvas


def _boxes(
    pen: ImageDraw.ImageDraw, moment: Moment, place: tuple[int, int, int], size: int
) -> None:
    left, width, height = place
    font = _font(size)
    for box in moment.boxes:
        edges = [min(max(edge, 0.0), 1.0) if edge == edge else 0.0 for edge in box]
        x1, x2 = (left + edge * (width - 1) for edge in edges[::2])
        y1, y2 = (edge * (height - 1) for edge in edges[1::2])
        if x2 <= x1 or y2 <= y1:
            continue
        pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=size // 4 + 2)
        pen.rectangle((x1, y1, x2, y2), outline=moment.color, width=max(2, size // 5))
        label = textwrap.shorten(moment.name, 36, placeholder="…") or "?"
        wide, high = pen.textlength(label, font) + size * 0.7, size * 1.4
        x = min(max(x1, left), max(left + width - wide, left))
        y = y1 - high if y1 >= high else min(y2, height - high)
        pen.rounded_rectangle((x, y, x + wide, y + high), size // 4, fill=moment.color)
        pen.text((x + size * 0.35, y + size * 0.12), label, "#0b1016", font)


def _bar(
    pen: ImageDraw.ImageDraw,
    time: float,
    duration: float,
    moments: Sequence[Moment],
    place: tuple[int, int, int],
) -> None:
    wide, top, size = place
    y, first, last = top + round(0.9 * size), size, wide - 6 * size
    pen.line((first, y, last, y), LINE, max(2, size // 4))

    def at(seconds: float) -> float:
        return first + (last - first) * min(max(seconds / max(duration, 1e-9), 0.0), 1.0)

    pen.line((first, y, at(time), y), INK, max(2, size // 4))
    for moment in moments:
        r = size * (0.42 if abs(moment.time - time) <= HELD else 0.28)
        x = at(moment.time)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=moment.color)
    pen.line((at(time), y - size * 0.6, at(time), y + size * 0.6), INK, 2)
    words = f"{time:.1f} / {duration:.1f} s"
    font = _font(round(size * 0.72))
    pen.text((wide - size * 0.5, y), words, QUIET, font, anchor="rm")


def _words(
    pen: ImageDraw.ImageDraw,
    shown: Sequence[Moment],
    time: float,
    entry: Entry,
    place: tuple[int, int, int],
) -> None:
    """The sentence of the moment nearest, else question and answer."""
    wide, top, size = place
    lines = [(entry.row.question, QUIET, 2), (plain_answer(entry.text) or "no answer", INK, 1)]
    if shown:
        nearest = min(shown, key=lambda moment: abs(moment.time - time))
        lines = [(nearest.sentence, INK, 3)]
    font, y = _font(size), top + 1.75 * size
    for words, color, most in lines:
        for line in _wrapped(pen, words, font, wide - 2 * size)[:most]:
            pen.text((size, y), line, color, font)
            y += 1.28 * size


def _wrapped(
    pen: ImageDraw.ImageDraw, words: str, font: ImageFont.FreeTypeFont, room: float
) -> list[str]:
    """Lines of at most `room` pixels, but for words that are wider."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and pen.textlength(longer, font) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib: Latin, Greek, Cyrillic, Arabic and more."""
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )
