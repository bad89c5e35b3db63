"""Claims of a thought as numbers, the key frame each belongs to, and how well its boxes fit.

A *gate* finds the key frame that a claim's time belongs to, or none. Times in seconds, boxes
normalised. Nothing here raises on any text.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from o3rl.text.boxes import BoxConvention, box_iou, numbers_of
from o3rl.text.grammar import RawBox, RawClaim, raw_claims
from o3rl.types import Box, KeyFrame

Gate = Callable[[float, Sequence[KeyFrame], float], KeyFrame | None]
Lists = Callable[[str], list[str]]  # the lists of numbers in a claim's box tags

RELEASED_GATE_SECONDS = 1.0
ROUNDING = 1e-9  # seconds: 7.4 − 4.4 is more than 3 in floating point
MET_IOU = 0.5  # a true box is met by a claim that fits it so well


@dataclass(frozen=True, slots=True)
class Stated:
    """A claim that parses. `boxes` are those with four numbers, of `written` in the text."""

    name: str
    time: float  # may be inf or NaN: `float` reads them
    boxes: tuple[Box, ...]
    written: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim and the key frame that the gate gave it; `iou` is the fit before the gate."""

    stated: Stated
    passed: KeyFrame | None
    nearest: KeyFrame  # `passed`, or where that is None the nearest in time
    iou: float


def stated_claims(
    thought: str, lists: Lists, *, size: tuple[int, int], convention: BoxConvention
) -> tuple[list[Stated], int]:
    """The claims whose time and boxes parse, and the number of those that do not."""
    read = [_stated(raw, lists, size, convention) for raw in raw_claims(thought)]
    claims = [claim for claim in read if claim is not None]
    return claims, len(read) - len(claims)


def stated_boxes(
    boxes: Iterable[RawBox], *, size: tuple[int, int], convention: BoxConvention
) -> list[tuple[str, Box]]:
    """Every box with four numbers, with the name right before it (visual QA needs no time)."""
    named = ((raw.name, numbers_of(raw.numbers)) for raw in boxes)
    return [(name, convention.read(numbers, size)) for name, numbers in named if numbers]


def nearest(time: float, key_frames: Sequence[KeyFrame]) -> KeyFrame:
    """The key frame nearest in time; of two equally near the first."""
    return min(key_frames, key=lambda frame: abs(frame.time - time))


def late_gate(time: float, key_frames: Sequence[KeyFrame], _seconds: float) -> KeyFrame | None:
    """The published gate: nearest of those with gt − t < 1, signed, so that late claims pass.

    A time of `inf` is near none.
    """
    if not math.isfinite(time):
        return None
    near = [frame for frame in key_frames if frame.time - time < RELEASED_GATE_SECONDS]
    return nearest(time, near) if near else None


def near_gate(time: float, key_frames: Sequence[KeyFrame], seconds: float) -> KeyFrame | None:
    """The paper's gate: the nearest key frame, if |t − gt| <= τ = `seconds`."""
    frame = open_gate(time, key_frames, seconds)
    return frame if frame is not None and is_near(time, frame, seconds) else None


def open_gate(time: float, key_frames: Sequence[KeyFrame], _seconds: float) -> KeyFrame | None:
    """No gate (an ablation of the paper): the nearest key frame, however far."""
    return nearest(time, key_frames) if key_frames and math.isfinite(time) else None


def mean_fit(stated: Stated, frame: KeyFrame) -> float:
    """As published: mean over an object's true boxes of the best IoU, maximum over objects."""
    fits = (
        sum(_best(stated.boxes, true) for true in boxes) / len(boxes)
        for _, boxes in frame.objects
        if boxes
    )
    return max(fits, default=0.0)


def best_fit(stated: Stated, frame: KeyFrame) -> float:
    """As in the paper: the best IoU over the claim's and the key frame's boxes."""
    fits = (_best(stated.boxes, true) for _, boxes in frame.objects for true in boxes)
    return max(fits, default=0.0)


def recall(claims: Sequence[Stated], key_frames: Sequence[KeyFrame], *, seconds: float) -> float:
    """Share of true boxes met by a claim: within `seconds` of their key frame, IoU >= 0.5.

    Names are not compared. One number for all profiles and gates. 0 without true boxes.
    """
    met = [
        any(
            is_near(claim.time, frame, seconds) and _best(claim.boxes, true) >= MET_IOU
            for claim in claims
        )
        for frame in key_frames
        for _, boxes in frame.objects
        for true in boxes
    ]
    return sum(met) / len(met) if met else 0.0


def recall_key_frames(
    claims: Sequence[Stated], key_frames: Sequence[KeyFrame], *, seconds: float
) -> float:
    """Share of key frames met by a claim: within `seconds`, wherever its boxes lie.

    One number for all profiles and gates. 0 without key frames.
    """
    met = [any(is_near(claim.time, frame, seconds) for claim in claims) for frame in key_frames]
    return sum(met) / len(met) if met else 0.0


def is_near(time: float, frame: KeyFrame, seconds: float) -> bool:
    """Whether a time is within `seconds` of a key frame, both ends included."""
    return abs(time - frame.time) <= seconds + ROUNDING


def _stated(
    raw: RawClaim, lists: Lists, size: tuple[int, int], convention: BoxConvention
) -> Stated | None:
    try:
        time = float(raw.time)
    except ValueError:
        return None
    written = [numbers_of(numbers) for numbers in lists(raw.boxes)]
    if any(numbers is None for numbers in written):
        return None
    boxes = tuple(convention.read(numbers, size) for numbers in written if numbers)
    return Stated(raw.name, time, boxes, len(written))


def _best(boxes: Sequence[Box], true: Box) -> float:
    return max((box_iou(box, true) for box in boxes), default=0.0)
