"""What an evidence page shows of one response, as plain values: geometry and words, no HTML.

Times are in seconds, positions on the timeline in its own units (`WIDTH` wide), boxes in the
frame's pixels. Boxes and times that a model wrote may be anything, infinities included: they are
cut to the frame and to the clip, or left out.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from o3rl.text.boxes import BoxConvention
from o3rl.text.grammar import (
    answer_of,
    interval_of,
    raw_boxes,
    raw_claims,
    thought_of,
    time_mentions,
)
from o3rl.types import PART_WORDS, Box, Claim, FramePlan, KeyFrame, Reward, Row, Task

COLORS = 6  # of claims, in the style sheet
SAME_MOMENT = 0.5  # seconds, within which a key frame's boxes are those of a frame
MAX_SHOTS = 6
WIDTH = 1000  # of the timeline
MARGIN = 14

_TAG = re.compile(r"(</?(?:think|answer|obj|box|t)>)")
_KIND = {"<obj>": "obj", "<box>": "box", "<t>": "time"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One response with what it was asked and what it saw: `frames` is [F, H, W, 3] uint8."""

    row: Row
    plan: FramePlan
    frames: np.ndarray
    text: str
    reward: Reward
    heading: str
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        count = len(self.plan.times_F)
        shape, dtype = self.frames.shape, self.frames.dtype
        if len(shape) != 4 or shape[0] != count or shape[3] != 3 or dtype != np.uint8:
            raise ValueError(
                f"frames of row {self.row.id} are {dtype} {shape}; they must be uint8 "
                f"[{count}, height, width, 3]"
            )


@dataclass(frozen=True, slots=True)
class Outline:
    """A box on a frame, in its pixels; `kind` is claim, answer or truth."""

    x: float
    y: float
    width: float
    height: float
    label: str
    kind: str
    color: int = 0
    faint: bool = False  # true boxes of another moment than the frame's

    @property
    def label_width(self) -> float:
        """Of its label, about, in font sizes; East Asian signs are as wide as high."""
        wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in self.label)
        return 1.05 * wide + 0.64 * (len(self.label) - wide)


@dataclass(frozen=True, slots=True)
class Shot:
    """One frame with boxes on it."""

    frame: int
    time: float
    outlines: tuple[Outline, ...]
    words: tuple[tuple[int, str], ...] = ()  # colour and caption of each claim
    is_key: bool = False
    cited: tuple[int, ...] = ()  # colours of the claims nearest to it


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the response: `kind` is plain, tag, obj, box or time; colour -1: of no claim."""

    text: str
    kind: str
    color: int = -1


@dataclass(frozen=True, slots=True)
class Cited:
    """A time on the timeline; `outside` if it lies behind the clip's end."""

    x: float
    time: float
    color: int
    label: str
    outside: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    """Positions along the clip. Bands are (x, width, words)."""

    ticks: tuple[tuple[float, str], ...]
    frames: tuple[float, ...]
    keys: tuple[tuple[float, str], ...]
    true_band: tuple[float, float, str] | None
    said_band: tuple[float, float, str] | None
    cited: tuple[Cited, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of the reward: its name, its words, its value, and how full its bar is in percent."""

    name: str
    words: str
    value: float
    percent: float


def shots(entry: Entry, *, convention: BoxConvention) -> tuple[Shot, ...]:
    """The frames nearest the claims, at most `MAX_SHOTS`, with claimed and true boxes."""
    if entry.row.task is Task.VISUAL:
        return (_image_shot(entry, convention),)
    by_frame: dict[int, list[tuple[int, Claim]]] = {}
    for number, claim in enumerate(entry.reward.claims):
        by_frame.setdefault(nearest_frame(entry.plan, claim.time), []).append((number, claim))
    chosen = sorted(list(by_frame.items())[:MAX_SHOTS])
    return tuple(_claim_shot(entry, frame, claims) for frame, claims in chosen)


def strip(entry: Entry) -> tuple[Shot, ...]:
    """Every frame that the model saw, with the true boxes of its moment and who cites it."""
    cited: dict[int, list[int]] = {}
    for number, claim in enumerate(entry.reward.claims):
        frame = nearest_frame(entry.plan, claim.time)
        cited.setdefault(frame, []).append(number % COLORS)
    out = []
    for frame, time in enumerate(entry.plan.times_F):
        keys = [key for key in entry.row.truth.key_frames if _is_at(key, time)]
        outlines = tuple(o for key in keys for o in _true_outlines(entry, key, time))
        out.append(Shot(frame, time, outlines, (), bool(keys), tuple(cited.get(frame, ()))))
    return tuple(out)


def nearest_frame(plan: FramePlan, time: float) -> int:
    """The frame whose time is nearest; the last for a time that is no finite number."""
    if not math.isfinite(time):
        return len(plan.times_F) - 1
    return min(range(len(plan.times_F)), key=lambda frame: abs(plan.times_F[frame] - time))


def timeline(entry: Entry) -> Timeline | None:
    """Where truth, claims and answer lie in the clip; None for an image."""
    duration = entry.plan.duration
    if duration <= 0:
        return None

    def at(time: float) -> float:
        inside = min(max(time, 0.0), duration)
        return round(MARGIN + (WIDTH - 2 * MARGIN) * inside / duration, 1)

    def band(start: float, end: float) -> tuple[float, float, str] | None:
        if end < start:
            return None
        return (at(start), round(max(3.0, at(end) - at(start)), 1), f"{start:g} s to {end:g} s")

    truth, said = entry.row.truth, _interval_said(entry.text)
    cited = [
        Cited(at(time), time, color, label, not 0 <= time <= duration + SAME_MOMENT)
        for time, color, label in _cited(entry)
    ]
    return Timeline(
        tuple((at(time), f"{time:g} s") for time in ticks(duration)),
        tuple(at(time) for time in entry.plan.times_F),
        tuple((at(key.time), f"key frame at {key.time:g} s") for key in truth.key_frames),
        band(*truth.interval) if truth.interval else None,
        band(*said) if said else None,
        tuple(cited),
    )


def ticks(duration: float) -> list[float]:
    """Round times from 0 to `duration`, about eight of them."""
    for step in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600):
        if duration / step <= 10:
            return [index * step for index in range(int(duration / step) + 1)]
    return [0.0, duration]


def segments(text: str) -> Iterator[Segment]:
    """The whole text in pieces by tag; the pieces of a claim have its colour."""
    spans = list(_claim_spans(text))
    position, kind = 0, "plain"
    for piece in _TAG.split(text):
        color = next((c for start, end, c in spans if start <= position < end), -1)
        if _TAG.fullmatch(piece):
            kind = _KIND.get(piece, "plain")
            yield Segment(piece, "tag", color)
        elif piece:
            yield Segment(piece, kind, color)
        position += len(piece)


def bars(reward: Reward) -> tuple[Bar, ...]:
    """The parts of a reward in the order in which it names them."""
    return tuple(
        Bar(name, PART_WORDS.get(name, name), value, round(100 * min(max(value, 0.0), 1.0), 1))
        for name, value in reward.parts.items()
    )


def _claim_shot(entry: Entry, frame: int, claims: Sequence[tuple[int, Claim]]) -> Shot:
    time = entry.plan.times_F[frame]
    compared = {claim.key_time for _, claim in claims if claim.key_time is not None}
    keys = [key for key in entry.row.truth.key_frames if key.time in compared]
    true = [outline for key in keys for outline in _true_outlines(entry, key, time)]
    said = [
        outline
        for number, claim in claims
        for box in claim.boxes
        for outline in _outline(entry, box, claim.name, "claim", color=number % COLORS)
    ]
    words = tuple((number % COLORS, _claim_words(claim)) for number, claim in claims)
    return Shot(frame, time, (*true, *said), words, any(_is_at(key, time) for key in keys))


def _claim_words(claim: Claim) -> str:
    return f"{claim.name} at {claim.time:g} s"


def _image_shot(entry: Entry, convention: BoxConvention) -> Shot:
    truth = entry.row.truth.box
    outlines = list(_outline(entry, truth, "true box", "truth")) if truth else []
    words = []
    for number, claim in enumerate(entry.reward.claims[:MAX_SHOTS]):
        for box in claim.boxes:
            outlines += _outline(entry, box, claim.name, "claim", color=number % COLORS)
        words.append((number % COLORS, claim.name or "box without a name"))
    for box in list(_boxes_of(answer_of(entry.text) or "", entry.plan, convention))[:1]:
        outlines += _outline(entry, box, "answer", "answer")
    return Shot(0, 0.0, tuple(outlines), tuple(words), bool(truth))


def _boxes_of(text: str, plan: FramePlan, convention: BoxConvention) -> Iterator[Box]:
    for raw in raw_boxes(text):
        numbers = re.findall(r"-?\d+(?:\.\d+)?", raw.numbers)
        if len(numbers) == 4:
            yield convention.read([float(number) for number in numbers], plan.size)


def _true_outlines(entry: Entry, key: KeyFrame, time: float) -> Iterator[Outline]:
    faint = not _is_at(key, time)
    for name, boxes in key.objects:
        label = f"{name}, {key.time:g} s" if faint else name
        for box in boxes:
            yield from _outline(entry, box, label, "truth", faint=faint)


def _outline(
    entry: Entry, box: Box, label: str, kind: str, *, color: int = 0, faint: bool = False
) -> Iterator[Outline]:
    """The box cut to the frame; nothing if no part of it can be seen."""
    if not all(math.isfinite(edge) for edge in box):
        return
    height, width = entry.frames.shape[1:3]
    x1, y1, x2, y2 = (min(max(edge, 0.0), 1.0) for edge in box)
    if x2 <= x1 or y2 <= y1:
        return
    x, y = round(x1 * width, 1), round(y1 * height, 1)
    wide, high = round((x2 - x1) * width, 1), round((y2 - y1) * height, 1)
    yield Outline(x, y, wide, high, label[:40], kind, color, faint)


def _is_at(key: KeyFrame, time: float) -> bool:
    return abs(key.time - time) <= SAME_MOMENT


def _interval_said(text: str) -> tuple[float, float] | None:
    found = interval_of(answer_of(text) or "")
    return None if found is None else (float(found[0]), float(found[1]))


def _cited(entry: Entry) -> Iterator[tuple[float, int, str]]:
    """Time, colour and words of each claim, and of each time mention that is no claim's."""
    of_claims = []
    if entry.row.task is not Task.VISUAL:
        for number, claim in enumerate(entry.reward.claims):
            if math.isfinite(claim.time):
                of_claims.append(claim.time)
                yield claim.time, number % COLORS, _claim_words(claim)
    for mention in time_mentions(thought_of(entry.text) or ""):
        if re.fullmatch(r"\d+\.?\d*", mention):
            time = float(mention)
            if time in of_claims:
                of_claims.remove(time)
            else:
                yield time, -1, f"cites {time:g} s"


def _claim_spans(text: str) -> Iterator[tuple[int, int, int]]:
    """Start, end and colour of each claim that parses, in the whole text."""
    thought = thought_of(text)
    if thought is None:
        return
    position, number = text.find("<think>"), 0
    for raw in raw_claims(thought):
        written = f"<obj>{raw.name}</obj>{raw.boxes}at<t>{raw.time}</t>s"
        start = text.find(written, position)
        position = start + len(written)
        if _is_number(raw.time):
            yield start, position, number % COLORS
            number += 1


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
