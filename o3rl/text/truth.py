"""From an STGR record's answer and evidence to a `Truth`, or a countable reason why not.

`parse_truth` is what import uses: it accepts only what every reward can be computed on. The parsers
of each piece are public for those who must cope with rows that import would reject. No files, no
media: those are checked where they are read.
"""

import json
import math
import reprlib
from collections.abc import Mapping, Sequence

from o3rl.types import Box, Interval, KeyFrame, Task, Truth

CLIP_SLACK = 0.01  # share of the frame by which annotators' boxes may overshoot; clipped, not kept


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlist = _SHORT.maxdict = 4


def shown(value: object) -> str:
    """A value of a file for a message: short, whatever its size and depth."""
    return _SHORT.repr(value)[:200]


class TruthError(ValueError):
    """A row whose truth cannot be used. `reason` is short and free of values, so it can be counted;
    the message adds the value."""

    def __init__(self, reason: str, value: object = None):
        super().__init__(reason if value is None else f"{reason}: {shown(value)}")
        self.reason = reason


def parse_truth(
    task: Task | str,
    answer: str,
    *,
    key_frames: Sequence[Mapping] | None = None,
    key_items: Mapping[str, Mapping] | None = None,
    image_size: Sequence[float] | None = None,
) -> Truth:
    """The truth of one row. `image_size` is [W, H] of the original image (visual QA) in pixels.

    Key frames come out sorted by time (stable), boxes normalised and clipped to [0, 1].
    Raises TruthError.
    """
    try:
        task = Task(task)
    except ValueError:
        raise TruthError("unknown task", task) from None
    if not isinstance(answer, str):
        raise TruthError("answer is no text", answer)
    if not answer.strip():
        raise TruthError("answer is empty")
    if task is Task.MCQ:
        return Truth(answer, letter=parse_letter(answer))
    if task is Task.TEMPORAL:
        return Truth(answer, interval=parse_interval(answer))
    if task is Task.TEMPORAL_MCQ:
        first, _, rest = answer.strip().partition("\n")
        return Truth(answer, letter=parse_letter(first), interval=parse_interval(rest))
    if task is Task.VISUAL:
        return Truth(answer, box=clipped(parse_answer_box(answer, image_size)))
    if task is Task.TEMPORAL_SPATIAL:
        return Truth(answer, key_frames=parse_key_frames(key_frames, key_items))
    return Truth(answer)


def parse_letter(text: str) -> str:
    """One option letter, blanks around it allowed. Raises TruthError."""
    letter = text.strip()
    if len(letter) != 1 or not (letter.isascii() and letter.isalpha()):
        raise TruthError("answer is no option letter", text)
    return letter


def parse_interval(text: str) -> Interval:
    """`[s, e]` in seconds, 0 <= s <= e. Raises TruthError."""
    try:
        numbers = json.loads(text)
    except (ValueError, RecursionError):
        raise TruthError("answer has no interval", text) from None
    if not isinstance(numbers, list) or len(numbers) != 2:
        raise TruthError("answer has no interval", text)
    start, end = (finite(number, "interval is no pair of numbers") for number in numbers)
    if start < 0 or end < start:
        raise TruthError("interval is negative or reversed", text)
    return start, end


def parse_answer_box(answer: str, image_size: Sequence[float] | None) -> Box:
    """The first `<box>[x1,y1,x2,y2]</box>`, in original pixels, normalised. Raises TruthError."""
    start = answer.find("<box>")
    end = answer.find("</box>", start)
    if start < 0 or end < 0:
        raise TruthError("answer has no box", answer)
    try:
        numbers = json.loads(answer[start + len("<box>") : end])
    except (ValueError, RecursionError):
        raise TruthError("box is no list of four numbers", answer) from None
    left, top, right, bottom = parse_box(numbers)
    width, height = parse_size(image_size)
    return left / width, top / height, right / width, bottom / height


def parse_size(size: Sequence[float] | None) -> tuple[float, float]:
    """Width and height, both positive. Raises TruthError."""
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise TruthError("no image_size", size)
    width, height = (finite(number, "image_size is no pair of numbers") for number in size)
    if width <= 0 or height <= 0:
        raise TruthError("image_size is not positive", size)
    return width, height


def parse_key_frames(
    key_frames: Sequence[Mapping] | None, key_items: Mapping[str, Mapping] | None
) -> tuple[KeyFrame, ...]:
    """Every key frame with its boxes (clipped), sorted by time. Raises TruthError."""
    if not isinstance(key_frames, Sequence) or not key_frames:
        raise TruthError("no key frames", key_frames)
    if not isinstance(key_items, Mapping) or not key_items:
        raise TruthError("no key_items", key_items)
    frames = []
    for frame in key_frames:
        time = parse_time(frame)
        if str(frame.get("idx")) not in key_items:
            raise TruthError("key_items lacks idx", frame.get("idx"))
        objects = parse_objects(key_items[str(frame["idx"])])
        if not any(boxes for _, boxes in objects):
            raise TruthError("key frame has no boxes", frame["idx"])
        path = frame.get("path")
        frames.append(
            KeyFrame(
                time,
                tuple((name, tuple(clipped(box) for box in boxes)) for name, boxes in objects),
                path if isinstance(path, str) and path else None,
            )
        )
    return tuple(sorted(frames, key=lambda frame: frame.time))


def parse_time(frame: Mapping) -> float:
    """The time of a key frame record in seconds, >= 0. Raises TruthError."""
    if not isinstance(frame, Mapping):
        raise TruthError("key frame is no record", frame)
    time = finite(frame.get("time"), "key frame has no time")
    if time < 0:
        raise TruthError("key frame time is negative", time)
    return time


def parse_objects(items: Mapping) -> tuple[tuple[str, tuple[Box, ...]], ...]:
    """`{name: [[x1,y1,x2,y2], …]}` as the file has it, unclipped. Raises TruthError."""
    if not isinstance(items, Mapping):
        raise TruthError("key_items entry is no record", items)
    for name, boxes in items.items():
        if not isinstance(boxes, list | tuple):
            raise TruthError("boxes of an object are no list", {name: boxes})
    return tuple((str(name), tuple(map(parse_box, boxes))) for name, boxes in items.items())


def parse_box(numbers: object) -> Box:
    """Four finite numbers, x1 < x2 and y1 < y2, in the unit they came in. Raises TruthError."""
    if not isinstance(numbers, list | tuple) or len(numbers) != 4:
        raise TruthError("box is no list of four numbers", numbers)
    left, top, right, bottom = (
        finite(number, "box is no list of four numbers") for number in numbers
    )
    if right <= left or bottom <= top:
        raise TruthError("box has no area", numbers)
    return left, top, right, bottom


def clipped(box: Box) -> Box:
    """The box in [0, 1]. Raises TruthError if it overshoots by more than `CLIP_SLACK`."""
    if min(box) < -CLIP_SLACK or max(box) > 1 + CLIP_SLACK:
        raise TruthError("box lies outside the frame", box)
    left, top, right, bottom = (min(max(number, 0.0), 1.0) for number in box)
    if right <= left or bottom <= top:
        raise TruthError("box has no area", box)
    return left, top, right, bottom


def finite(number: object, reason: str) -> float:
    """A finite float; numeric strings pass, booleans do not. Raises TruthError with `reason`."""
    if isinstance(number, bool) or not isinstance(number, int | float | str):
        raise TruthError(reason, number)
    try:
        value = float(number)
    except (ValueError, OverflowError):
        raise TruthError(reason, number) from None
    if not math.isfinite(value):
        raise TruthError(reason, number)
    return value
