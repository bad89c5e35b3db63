"""The reasoning of an SFT record as a row keeps it: the thought alone, its boxes normalised.

Records differ in whether `<think>` and `<answer>` stand in the text. A row's has neither:
`o3rl.text.prompts.target` writes each once.
"""

import json
import re
from dataclasses import dataclass

from o3rl.text.answers import TruthError, parse_seconds
from o3rl.text.grammar import thought_of
from o3rl.text.truth import clipped, parse_box
from o3rl.types import Box

CUT = "reasoning boxes cut at the frame's edge"
UNTAGGED = "reasoning's own tags of thought or answer taken away"

TIGHTENED = "reasoning: blanks inside claims and times taken away"
CLOCKED = "reasoning: minutes and seconds in <t> turned into seconds"

_ANSWER = re.compile(r"<answer>.*?</answer>", re.DOTALL)
_BOX = re.compile(r"<box>(.*?)</box>", re.DOTALL)
_BLANKS = (  # between the parts of a claim, and around a time
    (re.compile(r"</obj>\s+<box>"), "</obj><box>"),
    (re.compile(r"</box>\s+(?=<box>|at\s*<t>)"), "</box>"),
    (re.compile(r"</box>at\s+<t>"), "</box>at<t>"),
    (re.compile(r"<t>\s*([\d:.]+)\s*s?\s*</t>(?:\s*s\b)?"), r"<t>\1</t>s"),
)
_CLOCK = re.compile(r"<t>(\d+(?::\d{1,2}){1,2}(?:\.\d+)?)</t>")
_PAIRS = (("<think>", "</think>"), ("<answer>", "</answer>"))


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The thought, None if there is none, and what was mended in it, each by a countable reason.

    >>> Reasoning("A <obj>dog</obj><box>[0.1,0.1,0.3,1.0]</box>at<t>2.0</t>s runs.", (CUT,))
    """

    text: str | None
    mended: tuple[str, ...] = ()


def read_reasoning(said: object, size: tuple[int, int] | None) -> Reasoning:
    """What a record's `reasoning_process` says; boxes are in pixels of `size`, or normalised.

    Every box comes out as four plain numbers in [0, 1]. Raises TruthError.
    """
    if said is None:
        return Reasoning(None)
    if not isinstance(said, str):
        raise TruthError("reasoning is no text", said)
    mended: list[str] = []
    thought = _thought(said)
    if thought != said:
        mended.append(UNTAGGED)
    if "<" not in thought:
        return Reasoning(thought if thought.strip() else None, tuple(mended))
    thought = _with_plain_times(thought, mended)
    if not thought.count("<box>") == thought.count("</box>") == len(_BOX.findall(thought)):
        raise TruthError("reasoning has an unpaired box", said)
    boxes = [_box(match[1], size) for match in _BOX.finditer(thought)]
    plain = iter([_plain(within) for _, within in boxes])
    text = _BOX.sub(lambda _: f"<box>{next(plain)}</box>", thought)
    if any(box != within for box, within in boxes):
        mended.append(CUT)
    return Reasoning(text if text.strip() else None, tuple(mended))


def _with_plain_times(thought: str, mended: list[str]) -> str:
    """Claims without blanks in them, times in seconds."""
    tight = thought
    for blanks, without in _BLANKS:
        tight = blanks.sub(without, tight)
    if tight != thought:
        mended.append(TIGHTENED)
    plain = _CLOCK.sub(lambda t: f"<t>{parse_seconds(t[1], 'no time'):.10g}</t>", tight)
    if plain != tight:
        mended.append(CLOCKED)
    return plain


def _thought(said: str) -> str:
    """Without the tags of thought and answer, and without what the second pair holds."""
    for opening, closing in _PAIRS:
        if not said.count(opening) == said.count(closing) <= 1:
            raise TruthError("reasoning has an unpaired or repeated tag", said)
    between = thought_of(said)
    thought = _ANSWER.sub("", said if between is None else between)
    if any(tag in thought for pair in _PAIRS for tag in pair):
        raise TruthError("reasoning has an unpaired or repeated tag", said)
    return thought if thought == said else thought.strip()


def _box(written: str, size: tuple[int, int] | None) -> tuple[Box, Box]:
    """Normalised as it is, and cut at the frame's edge."""
    width, height = size or (1, 1)
    try:
        left, top, right, bottom = parse_box(json.loads(written))
        box = (left / width, top / height, right / width, bottom / height)
        return box, clipped(box)
    except TruthError as error:
        raise TruthError(f"reasoning {error.reason}", written) from error
    except (ValueError, RecursionError) as error:
        raise TruthError("reasoning box is no list of four numbers", written) from error


def _plain(box: Box) -> str:
    return json.dumps([round(number, 5) for number in box], separators=(",", ":"))
