"""What an evidence page shows of one response, as plain values: pictures and times, no HTML.

The text is in `o3rl.evaluation.passages`. Claims have numbers, from 1; true objects letters.
Times are in seconds, positions on the timeline in its own units (`WIDTH` wide), boxes in the
frame's pixels. Boxes and times that a model wrote may be anything, infinities included: they are
cut to the frame and to the clip, or left out.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from o3rl.evaluation.passages import COLORS
from o3rl.text.boxes import BoxConvention
from o3rl.text.grammar import answer_of, interval_of, raw_boxes, thought_of, time_mentions
from o3rl.types import Box, Claim, FramePlan, KeyFrame, Reward, Row, Task

SAME_MOMENT = 0.5  # seconds, within which a key frame's boxes are those of a frame
MAX_SHOTS = 6
WIDTH = 1000  # of the timeline
MARGIN = 14
CROP_MARGIN = 0.15  # of a box's sides, around it in its crop
LEAST_CROP = 0.12  # of the frame's shorter side
ANSWER_BADGE = "★"

Named = tuple[str, tuple[Box, ...]]  # an object and its boxes


@dataclass(frozen=True, slots=True)
class Response:
    """Another response to the question of an entry; `model` is who gave it."""

    model: str
    text: str
    reward: Reward


@dataclass(frozen=True, slots=True)
class Entry:
    """One response with what it was asked and what it saw: `frames` is [F, H, W, 3] uint8.

    Beside it may stand what other models said (`others`), and what was said by who did not see
    these frames but blank ones or another video's (`unseen`). `clip` is the video as MP4 for a
    browser, whose times are the plan's; without it the frames are played.
    """

    row: Row
    plan: FramePlan
    frames: np.ndarray
    text: str
    reward: Reward
    heading: str
    notes: tuple[str, ...] = ()
    model: str = ""
    others: tuple[Response, ...] = ()
    unseen: tuple[Response, ...] = ()
    clip: bytes = b""

    def __post_init__(self):
        count = len(self.plan.times_F)
        shape, dtype = self.frames.shape, self.frames.dtype
        if len(shape) != 4 or shape[0] != count or shape[3] != 3 or dtype != np.uint8:
            raise ValueError(
                f"frames of row {self.row.id} are {dtype} {shape}; they must be uint8 "
                f"[{count}, height, width, 3]"
            )

    @property
    def is_scored(self) -> bool:
        """Whether there is a truth that it was held to."""
        return bool(self.reward.parts)


@dataclass(frozen=True, slots=True)
class Outline:
    """A box on a frame, in its pixels; `kind` is claim, answer or truth."""

    x: float
    y: float
    width: float
    height: float
    badge: str
    label: str
    kind: str
    color: int = 0
    faint: bool = False  # true boxes of another moment than the frame's


@dataclass(frozen=True, slots=True)
class Caption:
    """What a badge stands for; colour -1: of no claim."""

    badge: str
    words: str
    color: int = -1
    time: float | None = None  # at which the clip shows it


@dataclass(frozen=True, slots=True)
class Shot:
    """One frame with boxes on it; `key_time` of the key frame that a true picture is of."""

    frame: int
    time: float
    outlines: tuple[Outline, ...]
    captions: tuple[Caption, ...] = ()
    is_key: bool = False
    cited: tuple[int, ...] = ()  # colours of the claims nearest to it
    key_time: float | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A frame that is cited, and beside it the true ones that its claims are held to."""

    cited: Shot
    true: tuple[Shot, ...] = ()


@dataclass(frozen=True, slots=True)
class Crop:
    """What a claim's first box shows: a window (x, y, width, height) on a frame, in pixels."""

    badge: str
    color: int
    frame: int
    window: tuple[float, float, float, float]
    words: str


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


def pairs(entry: Entry, *, convention: BoxConvention) -> tuple[Pair, ...]:
    """The frames nearest the claims, at most `MAX_SHOTS`, and the true ones beside them."""
    if entry.row.task is Task.VISUAL:
        return (_image_pair(entry, convention),)
    by_frame: dict[int, list[tuple[int, Claim]]] = {}
    for number, claim in enumerate(entry.reward.claims):
        by_frame.setdefault(nearest_frame(entry.plan, claim.time), []).append((number, claim))
    chosen = sorted(list(by_frame.items())[:MAX_SHOTS])
    return tuple(_claim_pair(entry, frame, claims) for frame, claims in chosen)


def crops(entry: Entry) -> dict[int, Crop]:
    """By the number of the claim, from 0: its first box, if any part of that can be seen."""
    height, width = entry.frames.shape[1:3]
    least = LEAST_CROP * min(width, height)
    found = {}
    for number, claim in enumerate(entry.reward.claims):
        color, badge = number % COLORS, str(number + 1)
        for one in list(_outlines(entry, claim.boxes[:1], badge, claim.name, "claim")):
            wide = min(max(one.width * (1 + 2 * CROP_MARGIN), least), width)
            high = min(max(one.height * (1 + 2 * CROP_MARGIN), least), height)
            x = min(max(one.x + (one.width - wide) / 2, 0.0), width - wide)
            y = min(max(one.y + (one.height - high) / 2, 0.0), height - high)
            window = (round(x, 1), round(y, 1), round(wide, 1), round(high, 1))
            frame = nearest_frame(entry.plan, claim.time)
            found[number] = Crop(badge, color, frame, window, claim_words(entry, claim))
    return found


def key_shots(entry: Entry) -> tuple[Shot, ...]:
    """The frames nearest the key frames, with the true boxes."""
    return tuple(_true_shot(entry, key) for key in entry.row.truth.key_frames)


def claim_words(entry: Entry, claim: Claim) -> str:
    """Its name, and for a video its time."""
    if entry.row.task is Task.VISUAL:
        return claim.name or "box without a name"
    return f"{claim.name} at {claim.time:g} s"


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
        out.append(
            Shot(frame, time, outlines, is_key=bool(keys), cited=tuple(cited.get(frame, ())))
        )
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


def _claim_pair(entry: Entry, frame: int, claims: Sequence[tuple[int, Claim]]) -> Pair:
    time = entry.plan.times_F[frame]
    compared = {claim.key_time for _, claim in claims if claim.key_time is not None}
    keys = [key for key in entry.row.truth.key_frames if key.time in compared]
    here = [key for key in keys if _is_at(key, time)]
    true = [outline for key in here for outline in _true_outlines(entry, key, time)]
    said = [
        outline
        for number, claim in claims
        for outline in _outlines(
            *(entry, claim.boxes, str(number + 1), claim.name, "claim"), color=number % COLORS
        )
    ]
    captions = tuple(
        Caption(str(number + 1), claim_words(entry, claim), number % COLORS, _playable(claim.time))
        for number, claim in claims
    )
    cited = Shot(frame, time, (*true, *said), captions, is_key=bool(here))
    return Pair(cited, tuple(_true_shot(entry, key) for key in keys))


def _true_shot(entry: Entry, key: KeyFrame) -> Shot:
    frame = nearest_frame(entry.plan, key.time)
    time = entry.plan.times_F[frame]
    captions = tuple(
        Caption(badge, name, time=key.time) for badge, (name, _) in _lettered(key.objects)
    )
    outlines = tuple(_true_outlines(entry, key, time))
    return Shot(frame, time, outlines, captions, is_key=_is_at(key, time), key_time=key.time)


def _image_pair(entry: Entry, convention: BoxConvention) -> Pair:
    outlines, captions = [], []
    for number, claim in enumerate(entry.reward.claims[:MAX_SHOTS]):
        badge, color = str(number + 1), number % COLORS
        outlines += _outlines(entry, claim.boxes, badge, claim.name, "claim", color=color)
        captions.append(Caption(badge, claim_words(entry, claim), color))
    for box in list(_boxes_of(answer_of(entry.text) or "", entry.plan, convention))[:1]:
        outlines += _outlines(entry, (box,), ANSWER_BADGE, "answer", "answer")
        captions.append(Caption(ANSWER_BADGE, "the answer", 5))
    cited = Shot(0, 0.0, tuple(outlines), tuple(captions))
    truth = entry.row.truth.box
    if truth is None:
        return Pair(cited)
    true = tuple(_outlines(entry, (truth,), "a", "true box", "truth"))
    return Pair(cited, (Shot(0, 0.0, true, (Caption("a", "true box"),), is_key=True),))


def _playable(time: float) -> float | None:
    return time if math.isfinite(time) else None


def _lettered(things: Sequence[Named]) -> Iterator[tuple[str, Named]]:
    """Each with a letter; behind z none has its own."""
    yield from ((chr(ord("a") + min(i, 25)), thing) for i, thing in enumerate(things))


def _boxes_of(text: str, plan: FramePlan, convention: BoxConvention) -> Iterator[Box]:
    for raw in raw_boxes(text):
        numbers = re.findall(r"-?\d+(?:\.\d+)?", raw.numbers)
        if len(numbers) == 4:
            yield convention.read([float(number) for number in numbers], plan.size)


def _true_outlines(entry: Entry, key: KeyFrame, time: float) -> Iterator[Outline]:
    faint = not _is_at(key, time)
    for badge, (name, boxes) in _lettered(key.objects):
        label = f"{name}, {key.time:g} s" if faint else name
        yield from _outlines(entry, boxes, badge, label, "truth", faint=faint)


def _outlines(
    entry: Entry,
    boxes: Sequence[Box],
    badge: str,
    label: str,
    kind: str,
    *,
    color: int = 0,
    faint: bool = False,
) -> Iterator[Outline]:
    """The boxes cut to the frame, without those of which no part can be seen."""
    height, width = entry.frames.shape[1:3]
    for box in boxes:
        if not all(math.isfinite(edge) for edge in box):
            continue
        x1, y1, x2, y2 = (min(max(edge, 0.0), 1.0) for edge in box)
        if x2 <= x1 or y2 <= y1:
            continue
        x, y = round(x1 * width, 1), round(y1 * height, 1)
        wide, high = round((x2 - x1) * width, 1), round((y2 - y1) * height, 1)
        yield Outline(x, y, wide, high, badge, label, kind, color, faint)


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
                yield claim.time, number % COLORS, claim_words(entry, claim)
    for mention in time_mentions(thought_of(entry.text) or ""):
        if re.fullmatch(r"\d+\.?\d*", mention):
            time = float(mention)
            if time in of_claims:
                of_claims.remove(time)
            else:
                yield time, -1, f"cites {time:g} s"
