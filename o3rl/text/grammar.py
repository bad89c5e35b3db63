"""What a model writes, found in its text: answer and thought, claims, times, boxes, tag counts.

Every finder gives what the published regular expression in its docstring gives (`.` matches a
newline only where (s) is said) and takes time linear in the text, which those expressions do not:
positions are looked up with `str.find` and never behind the last one, and what is left to regular
expressions is possessive (`++`), so never tried twice. Nothing here raises on any text. Numbers
stay text: reward profiles differ in what they accept.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

PAIRED_IN_TEXT = ("think", "answer")
PAIRED_IN_THOUGHT = ("obj", "t", "box")

_TIME = re.compile(r"<t>([\d.]++)</t>s")
_INTERVAL = re.compile(r"<t>(\d++\.?+\d*+)</t>s to <t>(\d++\.?+\d*+)</t>s")
_WORD_THEN_BOX = re.compile(r"<obj>(\w++)</obj><box>\[")
_NAME_THEN_BOX = re.compile(r"<obj>([^<]++)</obj><box>\[")
_FLAT = re.compile(r"\[[^\[\]]*+\]")


@dataclass(frozen=True, slots=True)
class RawClaim:
    """A claim as written: its name, the text of its boxes (one or more), its time.

    >>> next(raw_claims("<obj>dog</obj><box>[1,2,3,4]</box>at<t>7.5</t>s"))
    RawClaim(name='dog', boxes='<box>[1,2,3,4]</box>', time='7.5')
    """

    name: str
    boxes: str
    time: str


@dataclass(frozen=True, slots=True)
class RawBox:
    """The text of one box, `[…]`, and the name right before it (empty: none)."""

    numbers: str
    name: str


def answer_of(text: str) -> str | None:
    r"""The first `<answer>\s*(.*?)\s*</answer>` (s), stripped; None without one."""
    between = _between(text, "<answer>", "</answer>")
    return None if between is None else between.strip()


def thought_of(text: str) -> str | None:
    """The first `<think>(.*?)</think>` (s); None without one."""
    return _between(text, "<think>", "</think>")


def interval_of(text: str) -> tuple[str, str] | None:
    r"""The first `<t>(\d+\.?\d*)</t>s to <t>(\d+\.?\d*)</t>s`."""
    found = _INTERVAL.search(text)
    return None if found is None else (found[1], found[2])


def time_mentions(text: str) -> list[str]:
    r"""All `<t>([\d.]+)</t>s`, as written."""
    return _TIME.findall(text)


def raw_claims(text: str) -> Iterator[RawClaim]:
    r"""All `<obj>(.*?)</obj>((?:<box>\[.*?\]</box>)+)at<t>(.*?)</t>s` (s).

    Each lazy part of that expression ends at the first place from which the rest can follow, and
    where the rest cannot follow there, it can follow nowhere later: so four look-ups find a claim.
    """
    position = 0
    while True:
        start = text.find("<obj>", position)
        name_end = text.find("</obj><box>[", start + 5) if start >= 0 else -1
        boxes = name_end + 6
        last = text.find("]</box>at<t>", boxes + 6) if name_end >= 0 else -1
        time = last + 12
        end = text.find("</t>s", time) if last >= 0 else -1
        if end < 0:
            return
        yield RawClaim(text[start + 5 : name_end], text[boxes : last + 7], text[time:end])
        position = end + 5


def raw_boxes(text: str) -> Iterator[RawBox]:
    r"""All `<box>(\[.*?\])</box>`, each with the `<obj>…</obj>` that stands right before it."""
    ends = _Ends(text)
    position = 0
    while (start := text.find("<box>[", position)) >= 0:
        end = ends.after(start + 6)
        if end is None:
            position = start + 6
            continue
        yield RawBox(text[start + 5 : end + 1], _name_before(text, position, start))
        position = end + 7


def lists_in_tags(text: str) -> list[str]:
    """The lists of `tagged_boxes`."""
    return [box.numbers for box in tagged_boxes(text)]


def lists_as_published(text: str) -> list[str]:
    r"""All `\[.*?\]`: from a bracket to the first closing one of its line."""
    found, ends, position = [], _Ends(text, "]"), 0
    while (start := text.find("[", position)) >= 0:
        end = ends.after(start + 1)
        position = start + 1
        if end is not None:
            found.append(text[start : end + 1])
            position = end + 1
    return found


def tagged_boxes(text: str) -> Iterator[RawBox]:
    r"""Each `\[[^\[\]]*\]` in each `<box>(.*?)</box>` (s), with the name right before the tag."""
    position = 0
    while (start := text.find("<box>", position)) >= 0:
        end = text.find("</box>", start + 5)
        if end < 0:
            return
        name = _name_before(text, position, start)
        yield from (RawBox(numbers, name) for numbers in _FLAT.findall(text[start + 5 : end]))
        position = end + 6


def one_word_named_box(text: str) -> bool:
    r"""Whether `<obj>(\w+)</obj><box>(\[.*?\])</box>` occurs."""
    return _occurs(_WORD_THEN_BOX, text)


def named_box(text: str) -> bool:
    r"""Whether `<obj>([^<]+)</obj><box>(\[.*?\])</box>` occurs: a name of any words and script."""
    return _occurs(_NAME_THEN_BOX, text)


def unpaired(text: str, tags: tuple[str, ...]) -> bool:
    """Whether a tag of `tags` is opened more or less often than it is closed."""
    return any(text.count(f"<{tag}>") != text.count(f"</{tag}>") for tag in tags)


def _between(text: str, opening: str, closing: str) -> str | None:
    start = text.find(opening)
    end = text.find(closing, start + len(opening)) if start >= 0 else -1
    return None if end < 0 else text[start + len(opening) : end]


def _occurs(head: re.Pattern[str], text: str) -> bool:
    ends = _Ends(text)
    return any(ends.after(found.end()) is not None for found in head.finditer(text))


def _name_before(text: str, position: int, box: int) -> str:
    if not text.endswith("</obj>", position, box):
        return ""
    start = text.rfind("<obj>", position, box)
    return "" if start < 0 else text[start + 5 : box - 6]


class _Ends:
    """The next `mark` on the same line. Asked at growing positions, it reads the text once."""

    def __init__(self, text: str, mark: str = "]</box>"):
        self._text = text
        self._mark = mark
        self._close = self._line_end = -1

    def after(self, position: int) -> int | None:
        """Where what begins before `position` has its `mark`; None if its line has none."""
        self._close = self._next(self._mark, position, self._close)
        self._line_end = self._next("\n", position, self._line_end)
        return self._close if self._close < min(self._line_end, len(self._text)) else None

    def _next(self, what: str, position: int, known: int) -> int:
        if known >= position:
            return known
        found = self._text.find(what, position)
        return len(self._text) if found < 0 else found
