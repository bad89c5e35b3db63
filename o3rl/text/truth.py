"""From an STGR record's answer and evidence to a `Truth`, or a countable reason why not.

`parse_truth` is what import uses: it accepts only what every reward can be computed on. The parsers
of each piece are public for those who must cope with rows that import would reject. No files, no
media: those are checked where they are read. Answers are read in `o3rl.text.answers`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from math import inf

from o3rl.text.answers import (
    MARKER,
    TruthError,
    answer_text,
    finite,
    parse_interval,
    parse_letter,
    parse_seconds,
)
from o3rl.types import Box, KeyFrame, Row, Task, Truth

CLIP_SLACK = 0.01  # share of the frame by which annotators' boxes may overshoot; clipped, not kept
NO_BOX = "answer has no box"
CUT = "true box cut at the frame's edge"
REFORMED = "key_items: another form of idx or boxes"

_FLOATS = [float] * 4
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"),
            ("left", "top", "right", "bottom"))  # fmt: skip
_SIDES = (("x", "y", "w", "h"), ("x", "y", "width", "height"))
_LETTER_FIRST = re.compile(r"\s*([(\[]?[A-Za-z][)\].:,]*)\s+(\S.*)", re.DOTALL)


def only_teaches(row: Row) -> str:
    """Why a row is fit for SFT and not for RL; empty where RL can reward it."""
    return NO_BOX if row.task is Task.VISUAL and row.truth.box is None else ""


def parse_truth(
    task: Task | str,
    answer: object,
    *,
    key_frames: Sequence[Mapping] | None = None,
    key_items: Mapping[str, Mapping] | None = None,
    image_size: Sequence[float] | None = None,
    options: Mapping[str, str] | None = None,
    mended: list[str] | None = None,
) -> Truth:
    """The truth of one row. `image_size` is [W, H] of the original image (visual QA) in pixels.

    Key frames come out sorted by time (stable), boxes normalised and clipped to [0, 1]. `options`
    are their texts by letter, where they are known. What had to be mended is appended to `mended`,
    by reason. Raises TruthError.
    """
    mended = [] if mended is None else mended
    try:
        task = Task(task)
    except ValueError:
        raise TruthError("unknown task", task) from None
    text = answer_text(task, answer, mended)
    if task is Task.MCQ:
        return Truth(text, letter=parse_letter(text, options, mended))
    if task is Task.TEMPORAL:
        return Truth(text, interval=parse_interval(text, mended))
    if task is Task.TEMPORAL_MCQ:
        letter, interval = _letter_and_interval(text)
        return Truth(
            text,
            letter=parse_letter(letter, options, mended),
            interval=parse_interval(interval, mended),
        )
    if task is Task.VISUAL:
        return Truth(text, box=clipped(parse_answer_box(text, image_size), mended))
    if task is Task.TEMPORAL_SPATIAL:
        return Truth(text, key_frames=parse_key_frames(key_frames, key_items, mended))
    return Truth(text)


def parse_answer_box(answer: str, image_size: Sequence[float] | None) -> Box:
    """The first `<box>[x1,y1,x2,y2]</box>`, in original pixels, normalised. Raises TruthError."""
    start = answer.find("<box>")
    end = answer.find("</box>", start)
    if start < 0 or end < 0:
        raise TruthError(NO_BOX, answer)
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
    key_frames: Sequence[Mapping] | None,
    key_items: object,
    mended: list[str] | None = None,
) -> tuple[KeyFrame, ...]:
    """Every key frame with its boxes (clipped), sorted by time. Raises TruthError."""
    if not isinstance(key_frames, Sequence) or isinstance(key_frames, str) or not key_frames:
        raise TruthError("no key frames", key_frames)
    if _is_pairs(key_items):  # a map of Arrow
        key_items = dict(key_items)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if not isinstance(key_items, (dict, Mapping)) or not key_items:
        raise TruthError("no key_items", key_items)
    mended = [] if mended is None else mended
    frames = []
    for frame in key_frames:
        time = parse_time(frame)
        objects = parse_objects(_items_of(frame.get("idx"), key_items, mended), mended)
        if not any(boxes for _, boxes in objects):
            raise TruthError("key frame has no boxes", frame["idx"])
        path = frame.get("path")
        frames.append(
            KeyFrame(
                time,
                tuple(
                    (name, tuple(clipped(box, mended) for box in boxes)) for name, boxes in objects
                ),
                path if isinstance(path, str) and path else None,
            )
        )
    return tuple(sorted(frames, key=lambda frame: frame.time))


def parse_time(frame: Mapping) -> float:
    """The time of a key frame record in seconds, >= 0. Raises TruthError."""
    if not isinstance(frame, (dict, Mapping)):
        raise TruthError("key frame is no record", frame)
    time = parse_seconds(frame.get("time"), "key frame has no time")
    if time < 0:
        raise TruthError("key frame time is negative", time)
    return time


def parse_objects(
    items: object, mended: list[str] | None = None
) -> tuple[tuple[str, tuple[Box, ...]], ...]:
    """`{name: [[x1,y1,x2,y2], …]}` as the file has it, unclipped. Raises TruthError.

    One box may stand for a list of one, and be a record of its corners or of corner and size;
    entries that are null are none.
    """
    if _is_pairs(items):
        items = dict(items)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if not isinstance(items, (dict, Mapping)):
        raise TruthError("key_items entry is no record", items)
    mended = [] if mended is None else mended
    return tuple(
        (str(name), tuple(parse_box(box, mended) for box in _boxes_of(name, boxes, mended)))
        for name, boxes in items.items()
        if boxes is not None
    )


def parse_box(numbers: object, mended: list[str] | None = None) -> Box:
    """Four finite numbers, x1 < x2 and y1 < y2, in the unit they came in. Raises TruthError."""
    if type(numbers) is list and list(map(type, numbers)) == _FLOATS:  # nearly every box
        left, top, right, bottom = numbers
        if -inf < left < right < inf and -inf < top < bottom < inf:
            return left, top, right, bottom
    if isinstance(numbers, Mapping):
        numbers = _corners(numbers)
        if mended is not None:
            mended.append(REFORMED)
    if not isinstance(numbers, list | tuple) or len(numbers) != 4:
        raise TruthError("box is no list of four numbers", numbers)
    left, top, right, bottom = (
        finite(number, "box is no list of four numbers") for number in numbers
    )
    if right <= left or bottom <= top:
        raise TruthError("box has no area", numbers)
    return left, top, right, bottom


def clipped(box: Box, mended: list[str] | None = None) -> Box:
    """The box in [0, 1]. Raises TruthError if it overshoots by more than `CLIP_SLACK`."""
    left, top, right, bottom = box
    if 0 <= left <= right <= 1 and 0 <= top <= bottom <= 1:
        return box
    if min(box) < -CLIP_SLACK or max(box) > 1 + CLIP_SLACK:
        raise TruthError("box lies outside the frame", box)
    left, top, right, bottom = (min(max(number, 0.0), 1.0) for number in box)
    if right <= left or bottom <= top:
        raise TruthError("box has no area", box)
    if mended is not None:
        mended.append(CUT)
    return left, top, right, bottom


def _letter_and_interval(text: str) -> tuple[str, str]:
    """Of `A\\n[2, 8]`, `A [2, 8]`, or `From …s to …s.\\nCorrect Option: A`."""
    if MARKER in text:
        interval, _, letter = text.partition(MARKER)
        return letter.strip().rstrip("."), interval.strip()
    first, line_break, rest = text.strip().partition("\n")
    if not line_break and (match := _LETTER_FIRST.fullmatch(first)):
        return match[1], match[2]
    return first, rest


def _items_of(idx: object, key_items: Mapping, mended: list[str]) -> object:
    """The entry of a key frame: by its idx as text, as a number, or with zeros before it."""
    items = key_items.get(str(idx))
    if items is None and isinstance(idx, int | str) and str(idx).isdecimal() and len(str(idx)) < 20:
        number = int(idx)
        items = next((value for key, value in key_items.items() if _number(key) == number), None)
        if items is not None:
            mended.append(REFORMED)
    if items is None and str(idx) not in key_items:
        raise TruthError("key_items lacks idx", idx)
    return items


def _number(key: object) -> int | None:
    text = str(key)
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _boxes_of(name: object, boxes: object, mended: list[str]) -> Sequence[object]:
    if type(boxes) is not list and isinstance(boxes, Mapping):
        return (boxes,)
    if not isinstance(boxes, list | tuple):
        raise TruthError("boxes of an object are no list", {name: boxes})
    if len(boxes) == 4 and not any(isinstance(box, list | tuple | Mapping) for box in boxes):
        mended.append(REFORMED)
        return (boxes,)
    return [box for box in boxes if box is not None] if len(boxes) > 1 else boxes


def _corners(box: Mapping) -> object:
    """A list of what a record says of a box: its corners, or a corner and its size."""
    for names in _CORNERS:
        if all(box.get(name) is not None for name in names):
            return [box[name] for name in names]
    for names in _SIDES:
        if all(box.get(name) is not None for name in names):
            x, y, w, h = (finite(box[name], "box is no list of four numbers") for name in names)
            return [x, y, x + w, y + h]
    return box


def _is_pairs(value: object) -> bool:
    """Whether it is a map as Arrow gives it: a list of pairs of key and value."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
    )
