"""The text of a response in pieces: by tag, by claim, and by the sentence that cites.

Every piece keeps its characters: together they are the text.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from o3rl.text.boxes import numbers_of
from o3rl.text.grammar import raw_boxes, raw_claims, thought_of
from o3rl.types import Claim

COLORS = 6  # of claims, in the style sheet

_TAG = re.compile(r"(</?(?:think|answer|obj|box|t)>)")
_KIND = {"<obj>": "obj", "<box>": "box", "<t>": "time"}
_SENTENCE_END = re.compile(r"[.!?…。！？](?:\s+|$)|\n+|(?=<answer>|</think>)")


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the response: `kind` is plain, tag, obj, box or time; `claim` is -1 for none."""

    text: str
    kind: str
    claim: int = -1

    @property
    def color(self) -> int:
        """Of its claim; -1 for none."""
        return self.claim % COLORS if self.claim >= 0 else -1

    @property
    def seconds(self) -> float | None:
        """The time that it is, where that is a number."""
        time = _number(self.text) if self.kind == "time" else None
        return time if time is not None and math.isfinite(time) else None


@dataclass(frozen=True, slots=True)
class Passage:
    """Some of the text, to the end of a sentence that cites, and the claims that it makes."""

    segments: tuple[Segment, ...]
    claims: tuple[int, ...]


def passages(text: str, claims: Sequence[Claim], *, is_image: bool) -> tuple[Passage, ...]:
    """The text, parted where a sentence with a claim begins and ends, and before the answer."""
    spans = list(_box_spans(text) if is_image else _claim_spans(text, claims))
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    ends = sorted({text.find("<think>") + len("<think>"), *ends, len(text)})
    cuts = {0, len(text), max(text.find("<answer>"), 0)}
    for start, end, _ in spans:
        cuts |= {ends[bisect_right(ends, start) - 1], ends[bisect_left(ends, end)]}
    edges = sorted(cut for cut in cuts if not any(a < cut < b for a, b, _ in spans))
    out = []
    for first, last in pairwise(edges):
        inside = [(a - first, b - first, n) for a, b, n in spans if first <= a < last]
        pieces = tuple(_segments(text[first:last], inside))
        out.append(Passage(pieces, tuple(number for *_, number in inside)))
    return tuple(out)


def _segments(text: str, spans: Sequence[tuple[int, int, int]]) -> Iterator[Segment]:
    position, kind = 0, "plain"
    for piece in _TAG.split(text):
        claim = next((number for a, b, number in spans if a <= position < b), -1)
        if _TAG.fullmatch(piece):
            kind = _KIND.get(piece, "plain")
            yield Segment(piece, "tag", claim)
        elif piece:
            yield Segment(piece, kind, claim)
        position += len(piece)


def _claim_spans(text: str, claims: Sequence[Claim]) -> Iterator[tuple[int, int, int]]:
    """Start, end and number of each of the claims, in the whole text.

    Those that the scorer could not read are in the text and not among the claims: they are passed
    over, as name and time tell.
    """
    position, number = text.find("<think>"), 0
    for raw in raw_claims(thought_of(text) or ""):
        written = f"<obj>{raw.name}</obj>{raw.boxes}at<t>{raw.time}</t>s"
        start = text.find(written, position)
        position = start + len(written)
        if number < len(claims) and _is_of(raw.name, raw.time, claims[number]):
            yield start, position, number
            number += 1


def _is_of(name: str, time: str, claim: Claim) -> bool:
    said = _number(time)
    same = said == claim.time or (said != said and claim.time != claim.time)  # NaN is NaN
    return same and name.strip() == claim.name.strip()


def _box_spans(text: str) -> Iterator[tuple[int, int, int]]:
    """The same of an image, whose claims are the boxes of the thought."""
    position = text.find("<think>")
    stated = (raw for raw in raw_boxes(thought_of(text) or "") if numbers_of(raw.numbers))
    for number, raw in enumerate(stated):
        name = f"<obj>{raw.name}</obj>" if raw.name else ""
        written = f"{name}<box>{raw.numbers}</box>"
        start = text.find(written, position)
        position = start + len(written)
        yield start, position, number


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
