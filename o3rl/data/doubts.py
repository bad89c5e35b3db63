"""What is odd about rows that pass, and which convention would fit a file that mostly does not.

A doubt keeps its row: evidence that can earn nothing, or that its reasoning contradicts. Advice is
of the file: when most of its boxes or times make no sense as what they should be, but nearly all do
in another convention, one sentence says which.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from o3rl.text.answers import TruthError, parse_interval, parse_seconds
from o3rl.text.boxes import box_iou
from o3rl.text.grammar import raw_boxes, raw_claims
from o3rl.types import Box, KeyFrame, Row, Task

SMALLEST = 2.0  # pixels; a side below it is no box that anybody drew
SMALLEST_SHARE = 0.002  # the same of a frame whose size is not known
NEAR = 1.0  # seconds between a claim of the reasoning and its key frame
SAME = 0.5  # IoU of a box of the reasoning and its true box

_LIST = re.compile(r"<box>\s*\[([^\[\]]*)\]")


def doubts_of(row: Row) -> Iterator[tuple[str, object]]:
    """Each doubt by a reason that can be counted, and the value that raised it."""
    truth = row.truth
    if truth.interval is not None and truth.interval[0] == truth.interval[1]:
        yield "interval has no length: nothing can overlap it", truth.interval
    width, height = row.image_size or (1, 1)
    least = SMALLEST if row.image_size else SMALLEST_SHARE
    boxes = [truth.box] if truth.box else []
    boxes += [box for frame in truth.key_frames for _, of in frame.objects for box in of]
    for box in boxes:
        if min((box[2] - box[0]) * width, (box[3] - box[1]) * height) < least:
            yield "box is under 2 px: normalised where pixels are meant?", box
            break
    if row.reasoning is None:
        return
    if row.image_size is not None:
        for raw in raw_boxes(row.reasoning):
            left, top, right, bottom = json.loads(raw.numbers)
            if min((right - left) * width, (bottom - top) * height) < SMALLEST:
                yield (
                    "reasoning: box is under 2 px: normalised where pixels are meant?",
                    raw.numbers,
                )
                break
    if row.task is Task.TEMPORAL_SPATIAL:
        yield from _contradictions(row.reasoning, truth.key_frames)


def _contradictions(reasoning: str, key_frames: Sequence[KeyFrame]) -> Iterator[tuple[str, object]]:
    """The first claim at no key frame, of no object of its key frame, and of another box."""
    told: set[str] = set()
    for claim in raw_claims(reasoning):
        reason = _contradiction(claim.name, claim.boxes, claim.time, key_frames)
        if reason and reason not in told:
            told.add(reason)
            yield reason, f"{claim.name} at {claim.time}"


def _contradiction(name: str, boxes: str, time: str, key_frames: Sequence[KeyFrame]) -> str:
    try:
        seconds = float(time)
    except ValueError:
        return "reasoning: a claim's time is no number"
    near = [frame for frame in key_frames if abs(frame.time - seconds) <= NEAR]
    if not near:
        return "reasoning: a claim is at the time of no key frame"
    named = [of for frame in near for known, of in frame.objects if _same(known, name)]
    if not named:
        return "reasoning: a claim names no object of its key frame"
    said = [json.loads(raw.numbers) for raw in raw_boxes(boxes)]
    if said and not any(box_iou(one, box) >= SAME for one in said for of in named for box in of):
        return "reasoning: a claim's box is none of its object's"
    return ""


def _same(known: str, said: str) -> bool:
    return known.strip().casefold() == said.strip().casefold()


# Advice

FIRST, EVERY, MOST = 2000, 16, 20_000  # records that are looked at, then one of 16; kept samples
FEWEST = 3  # samples to judge by
FAILED, FITTING = 0.2, 0.95  # share that must fail as it is, and fit otherwise
HOUR, SECONDS_LIKE = 3600.0, 1000.0

_Size = tuple[float, float]
_Form = Callable[[Sequence[float]], Box]

FORMS: dict[str, _Form] = {
    "": lambda b: (b[0], b[1], b[2], b[3]),
    "corner and size (x, y, w, h)": lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]),
    "y before x (y1, x1, y2, x2)": lambda b: (b[1], b[0], b[3], b[2]),
    "center and size": lambda b: (b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2,
                                  b[1] + b[3] / 2),
}  # fmt: skip


@dataclass(slots=True)
class Conventions:
    """Samples of what a file writes, by kind; `advice` is what they come to."""

    _seen: int = 0
    _shares: dict[str, list[tuple[Sequence[float], _Size | None]]] = field(default_factory=dict)
    _pixels: dict[str, list[tuple[Sequence[float], _Size | None]]] = field(default_factory=dict)
    _times: dict[str, list[float]] = field(default_factory=dict)

    def see(self, record: Mapping[str, Any]) -> None:
        """Look at a record, accepted or not."""
        self._seen += 1
        if self._seen > FIRST and self._seen % EVERY:
            return
        task, size = record.get("task"), _size_of(record.get("image_size"))
        if task == Task.VISUAL:
            self._keep(self._pixels, "answer", _boxes_in(record.get("answer")), size)
            self._keep(self._pixels, "reasoning", _boxes_in(record.get("reasoning_process")), size)
        elif task == Task.TEMPORAL_SPATIAL:
            self._keep(self._shares, "key_items", _boxes_of(record.get("key_items")), None)
            self._keep(self._shares, "reasoning", _boxes_in(record.get("reasoning_process")), None)
            frames = record.get("key_frames")
            for frame in frames if isinstance(frames, list) else ():
                self._time("key_frames", frame.get("time") if isinstance(frame, Mapping) else None)
        elif task in (Task.TEMPORAL, Task.TEMPORAL_MCQ):
            self._interval(str(record.get("answer")))

    def advice(self) -> list[str]:
        """A sentence for each kind that is written otherwise than it should be."""
        said = [_of_boxes(name, found, in_pixels=False) for name, found in self._shares.items()]
        said += [_of_boxes(name, found, in_pixels=True) for name, found in self._pixels.items()]
        said += [_of_times(name, found) for name, found in self._times.items()]
        return [each for each in said if each]

    def _keep(self, kind: dict, name: str, boxes: list, size: _Size | None) -> None:
        kept = kind.setdefault(name, [])
        if len(kept) < MOST:
            kept.extend((box, size) for box in boxes)

    def _time(self, name: str, time: object) -> None:
        kept = self._times.setdefault(name, [])
        try:
            if len(kept) < MOST:
                kept.append(parse_seconds(time, ""))
        except TruthError:
            return

    def _interval(self, answer: str) -> None:
        first, _, rest = answer.partition("\n")
        try:
            self._time("intervals", parse_interval(rest or first)[1])
        except TruthError:
            return


def _of_boxes(
    name: str, found: Sequence[tuple[Sequence[float], _Size | None]], *, in_pixels: bool
) -> str:
    samples = [(box, size) for box, size in found if size or not in_pixels]
    if len(samples) < FEWEST:
        return ""

    def fitting(form: _Form, scale: float | None) -> float:
        return sum(_fits(form(b), size if scale is None else (scale, scale)) for b, size in samples
                   ) / len(samples)  # fmt: skip

    largest = max(max(box) for box, _ in samples)
    meant = "pixels of the image" if in_pixels else "shares of the frame in [0, 1]"
    as_meant = fitting(FORMS[""], None if in_pixels else 1.0)
    crowded = in_pixels and _crowded(samples, largest)
    if 1 - as_meant < FAILED and not crowded:
        return ""
    for unit, scale in _units(largest, samples, in_pixels=in_pixels, crowded=crowded):
        for form, function in FORMS.items():
            if (unit or form) and fitting(function, scale) >= FITTING:
                words = ", ".join(filter(None, (unit, form)))
                return (
                    f"{name}: of {len(samples)} boxes {round(100 * (1 - as_meant))} % make no "
                    f"sense as corners (x1, y1, x2, y2) in {meant}; they would as {words}: "
                    "convert them and import again"
                )
    return ""


def _units(
    largest: float, samples: Sequence, *, in_pixels: bool, crowded: bool
) -> Iterator[tuple[str, float | None]]:
    """Units that the numbers can be in, the likeliest first: what it is called, what is 1."""
    if in_pixels and not crowded and largest > 1.5:
        yield "", None
    if largest <= 1.01:
        yield ("shares of the image in [0, 1]" if in_pixels else ""), 1.0
    elif largest <= 101:
        yield "percent", 100.0
    elif largest <= 1010 and (in_pixels or _square(samples)):
        yield "thousandths", 1000.0
    if not in_pixels and largest > 1.01:
        yield "pixels", largest


def _square(samples: Sequence[tuple[Sequence[float], _Size | None]]) -> bool:
    """Whether x and y both go up to nearly 1000, which pixels of a video do not."""
    xs = max(max(box[0], box[2]) for box, _ in samples)
    ys = max(max(box[1], box[3]) for box, _ in samples)
    return min(xs, ys) > 0.8 * 1000


def _crowded(samples: Sequence[tuple[Sequence[float], _Size | None]], largest: float) -> bool:
    """Whether all boxes lie in a corner: percent or thousandths in far larger images."""
    if len(samples) < 2 * FEWEST:
        return False
    sides = median(min(size) for _, size in samples if size)
    return (largest <= 101 and sides > 300) or (900 < largest <= 1010 and sides > 1400)


def _fits(box: Box, scale: _Size | None) -> bool:
    width, height = scale or (1.0, 1.0)
    least = SMALLEST if width > 1.5 else SMALLEST_SHARE
    left, top, right, bottom = box
    return (
        min(right - left, bottom - top) >= least
        and min(left / width, top / height) >= -0.01
        and max(right / width, bottom / height) <= 1.01
    )


def _of_times(name: str, times: Sequence[float]) -> str:
    if len(times) < FEWEST:
        return ""
    middle = median(times)
    whole = all(time == int(time) for time in times)
    if middle > HOUR or (whole and middle > SECONDS_LIKE):
        return f"{name}: half of {len(times)} times are later than {middle:g} s: milliseconds?"
    if max(times) <= 1.0 and middle > 0:
        return f"{name}: none of {len(times)} times is later than 1 s: shares of the clip?"
    return ""


def _size_of(size: object) -> _Size | None:
    if isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_number, size)):
        return (float(size[0]), float(size[1])) if min(size) > 0 else None
    return None


def _boxes_in(text: object) -> list[Sequence[float]]:
    """The lists of four numbers between box tags."""
    return (
        _four([match.split(",") for match in _LIST.findall(text)]) if isinstance(text, str) else []
    )


def _boxes_of(items: object) -> list[Sequence[float]]:
    """The lists of four numbers anywhere in `key_items`, three levels down at most."""
    if not isinstance(items, Mapping):
        return []
    lists = [boxes for of in items.values() if isinstance(of, Mapping) for boxes in of.values()]
    lists = [boxes for boxes in lists if isinstance(boxes, list)]
    return _four([box for boxes in lists for box in ([boxes] if len(boxes) == 4 and all(
        map(_is_number, boxes)) else boxes)])  # fmt: skip


def _four(lists: Sequence[object]) -> list[Sequence[float]]:
    found = []
    for each in lists:
        if isinstance(each, list) and len(each) == 4:
            try:
                numbers = [float(number) for number in each]
            except (TypeError, ValueError, OverflowError):
                continue
            if all(abs(number) < 1e9 for number in numbers):
                found.append(numbers)
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
