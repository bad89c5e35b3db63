"""What a reply says, as a careful reader takes it: its answer, an interval, boxes by second.

Used by `ours`; what the published scorers read stands beside each benchmark. Nothing here raises on
any text, and time is linear in it. What can be read in two ways is not read.
"""

import json
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

from o3rl.text.boxes import numbers_of
from o3rl.text.grammar import answer_of, interval_of, raw_boxes, raw_claims
from o3rl.types import Interval

Boxes = dict[float, list[tuple[float, ...]]]  # seconds to boxes of four numbers, as written

_DIGITS = r"\d++(?:\.\d*+)?+(?:[eE][+-]?+\d++)?+"
_UNIT = r"(?:\s?+(?:seconds?+|secs?+|sec|s|秒钟?+)|st|nd|rd|th)?+"
_TIME = re.compile(
    rf"(?<![A-Za-z\d.:])(?:(?:(\d++):)?(\d++):)?+({_DIGITS}){_UNIT}(?![A-Za-z\d:])", re.ASCII
)
_JOINED = re.compile(
    r"[\s\"'*]*+(?:to|until|till|through|->|[-–—−~〜→]|到|至)(?:\s++(?:the|about|around))?+[\s\"'*]*+",
    re.IGNORECASE,
)
_MINUTES = re.compile(r"(?<![\d.])(\d++)\s?+(?:minutes?+|mins?+|m)(?:\s++and)?+\s*+(?=\d)")
_NO_SECONDS = re.compile(r"\d\s?+min", re.IGNORECASE)
_NOT_BEFORE = re.compile(r"(?:\bframes?\s*+|\d,|(?<!\d)(?<!\d[.s])[-−])\Z", re.IGNORECASE)
_BETWEEN = re.compile(r"\b(?:between|from)(?:\s++the)?+\s*+\Z", re.IGNORECASE)
_AND = re.compile(r"\s*+and(?:\s++the)?+\s*+", re.IGNORECASE)
_ENDS = tuple(
    re.compile(rf"\b{word}(?:s|_?time)?+(?:\W{{1,5}}(?:at|is))?\W{{1,5}}+\Z", re.IGNORECASE)
    for word in ("start", "end")
)
_WORDS = re.compile(r"[^\W\d_]+")
_BARE = {"start", "end", "from", "at", "and", "is", "seconds", "second", "s", "starts", "ends"}

_NUMBER = r"\s*+[\"']?(-?\d++(?:\.\d*+)?+)[\"']?\s*+"
_BOX = re.compile(rf"(?<![\d.])(?<!\d, )(?<!\d,){','.join([_NUMBER] * 4)}(?!,\s*+\d)")
_KEY = re.compile(
    r"(?<![\w.:])((?:\d++:){0,2}\d++(?:\.\d*+)?+)\s*+s?+(?:ec(?:onds?+)?+)?+\s*+"
    r"(?:[\"']?\s*+:|[\"']?\s*+,(?=\s*+[\[(]))"
)
_FENCE = re.compile(r"```\w*+\s([^`]*+)```")
_TIME_NAMES = ("time", "timestamp", "second", "seconds", "t")
_BOX_NAMES = ("bbox", "bbox_2d", "box", "boxes", "bboxes")
_CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
_DEPTH = 6  # of nested lists and objects; a reply that means something has three


def answer_part(text: str) -> str:
    """Inside of the first `<answer>…</answer>`, else what follows `</think>`, else the whole text.

    >>> answer_part("<think>A or B.</think> B")
    'B'
    """
    tagged = answer_of(text)
    if tagged is not None:
        return tagged
    return text.rpartition("</think>")[2].strip().removeprefix("<answer>").strip()


def read_interval(text: str) -> Interval | None:
    """Start and end in seconds; reversed ones as they are; None where it is not said which.

    Tags first, then two times that are joined (`12.5s - 17.8s`, `1:05 to 1:20`, `between 3 and 5`),
    a start and an end by name, or two bare numbers. A sign, or a third time joined on, gives None.
    """
    part = unicodedata.normalize("NFKC", answer_part(text))
    part = re.sub(r"<(/?)t>", r"<\1t>", part.replace("<t> ", "<t>").replace(" </t>", "</t>"))
    tagged = interval_of(part)
    if tagged is not None:
        return _finite((float(tagged[0]), float(tagged[1])))
    part = _MINUTES.sub(r"\1:", re.sub(r"</?t>|[*_`]", "", part))
    if _NO_SECONDS.search(part):
        return None
    times = list(_TIME.finditer(part))
    for pairs in (_joined(part, times), _between(part, times), _named(part, times)):
        if pairs is None or len({_values(pair) for pair in pairs}) > 1:
            return None
        if pairs:
            return _values(pairs[0]) if all(_plain(part, time) for time in pairs[0]) else None
    bare = len(times) == 2 and all(_plain(part, time, bare=True) for time in times)
    if bare and {word.lower() for word in _WORDS.findall(part)} <= _BARE:
        return _values((times[0], times[1]))
    return None


def boxes_by_second(text: str) -> Boxes:
    """Boxes by the second that they are given for: evidence tags, JSON, or `12s: x, y, x, y`.

    Seconds are numbers: `"12"`, `12`, `"12.0"`, `"012"`, `"12s"` and `"0:12"` are one.
    """
    part = unicodedata.normalize("NFKC", answer_part(text))
    for read in (_tagged_boxes, _json_boxes, _scanned_boxes):
        found = read(part)
        if found:
            return found
    return {}


def seconds_of(text: object) -> float | None:
    """A time as a number of seconds; None if this is no time or is not finite."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return _number(text)
    found = _TIME.fullmatch(text.strip()) if isinstance(text, str) else None
    return None if found is None else _finite_number(_value(found))


Pair = tuple[re.Match[str], re.Match[str]]


def _joined(part: str, times: list[re.Match[str]]) -> list[Pair] | None:
    """Neighbours that are joined as from-to; None where one belongs to two of them."""
    pairs = [
        pair for pair in pairwise(times) if _JOINED.fullmatch(part, pair[0].end(), pair[1].start())
    ]
    chained = any(one[1] is other[0] for one, other in pairwise(pairs))
    return None if chained else pairs


def _between(part: str, times: list[re.Match[str]]) -> list[Pair]:
    return [
        (first, second)
        for first, second in pairwise(times)
        if _AND.fullmatch(part, first.end(), second.start())
        and _BETWEEN.search(part[max(0, first.start() - 20) : first.start()])
    ]


def _named(part: str, times: list[re.Match[str]]) -> list[Pair]:
    starts, ends = (
        [time for time in times if name.search(part[max(0, time.start() - 20) : time.start()])]
        for name in _ENDS
    )
    return list(zip(starts, ends, strict=True)) if len(starts) == len(ends) else []


def _plain(part: str, time: re.Match[str], *, bare: bool = False) -> bool:
    """Whether no sign, no `frame` and no decimal comma stands before it (`bare`: a comma may)."""
    before = _NOT_BEFORE.search(part[max(0, time.start() - 8) : time.start()])
    if bare:
        return before is None or before[0][-1] == ","
    return before is None and not re.match(r",\d", part[time.end() : time.end() + 2])


def _values(pair: Pair) -> Interval | None:
    return _finite((_value(pair[0]), _value(pair[1])))


def _value(time: re.Match[str]) -> float:
    hours, minutes, seconds = (float(group or 0) for group in time.groups())
    return hours * 3600 + minutes * 60 + seconds


def _finite(pair: Interval) -> Interval | None:
    return pair if math.isfinite(pair[0]) and math.isfinite(pair[1]) else None


def _finite_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: object) -> float | None:
    """A finite float of a JSON number or numeric text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return _finite_number(float(value))
    except (ValueError, OverflowError):
        return None


def _tagged_boxes(part: str) -> Boxes:
    found: Boxes = {}
    for claim in raw_claims(part):
        second = seconds_of(claim.time)
        written = [numbers_of(box.numbers) for box in raw_boxes(claim.boxes)]
        boxes = [tuple(numbers) for numbers in written if numbers]
        if second is not None and boxes:
            found.setdefault(second, []).extend(boxes)
    return found


def _json_boxes(part: str) -> Boxes:
    """The first piece that is JSON and holds boxes: fenced ones, then the widest {…}, then […]."""
    pieces = [*_FENCE.findall(part)]
    for opening, closing in ("{}", "[]"):
        start, end = part.find(opening), part.rfind(closing)
        if 0 <= start < end:
            pieces.append(part[start : end + 1])
    for piece in pieces:
        try:
            value = json.loads(piece)
        except (ValueError, RecursionError):
            continue
        found: Boxes = {}
        _walk(value, None, found, _DEPTH)
        if found:
            return found
    return {}


def _walk(value: object, second: float | None, found: Boxes, depth: int) -> None:
    """Put the boxes below `value` into `found`, by the second that stands nearest above them."""
    if depth == 0:
        return
    box = _box_of(value)
    if box is not None:
        if second is not None:
            found.setdefault(second, []).append(box)
    elif isinstance(value, dict):
        _walk_object(value, second, found, depth)
    elif isinstance(value, list):
        time = seconds_of(value[0]) if len(value) == 2 and isinstance(value[1], list) else None
        for each in value[1:] if time is not None else value:
            _walk(each, second if time is None else time, found, depth - 1)


def _walk_object(value: dict, second: float | None, found: Boxes, depth: int) -> None:
    time = next((seconds_of(value[name]) for name in _TIME_NAMES if name in value), None)
    for key, each in value.items():
        if time is not None:
            if key in _BOX_NAMES:
                _walk(each, time, found, depth - 1)
        elif (own := seconds_of(key)) is not None:
            boxes: Boxes = {}
            _walk(each, own, boxes, depth - 1)
            found.update(boxes)  # said again: the later one counts
        elif key in _BOX_NAMES:
            _walk(each, second, found, depth - 1)


def _box_of(value: object) -> tuple[float, ...] | None:
    """Four numbers as a list, as an object of corners, or as the text of a list."""
    if isinstance(value, str):
        return tuple(numbers_of(value) or ()) or None
    if isinstance(value, dict):
        value = next(
            ([value[name] for name in names] for names in _CORNERS if value.keys() >= set(names)),
            None,
        )
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [_number(each) for each in value]
    return (
        tuple(number for number in numbers if number is not None) if None not in numbers else None
    )


def _scanned_boxes(part: str) -> Boxes:
    """Groups of four numbers under the last `second:` before them: cut, loose or no JSON."""
    keys = list(_keys(part))
    starts = [start for start, _ in keys]
    found: Boxes = {}
    for match in _BOX.finditer(part):
        at = bisect_right(starts, match.start()) - 1
        if at >= 0:
            found.setdefault(keys[at][1], []).append(tuple(map(float, match.groups())))
    return found


def _keys(part: str) -> Iterator[tuple[int, float]]:
    for match in _KEY.finditer(part):
        second = seconds_of(match[1])
        if second is not None:
            yield match.end(), second
