"""The reasoning of an SFT record as a row keeps it: the thought alone, its boxes normalised.

Records differ in whether `<think>` and `<answer>` stand in the text. A row's has neither:
`o3rl.text.prompts.target` writes each once.
"""

import json
import re
from dataclasses import dataclass

from o3rl.text.grammar import thought_of
from o3rl.text.truth import TruthError, clipped, parse_box
from o3rl.types import Box

CUT = "reasoning boxes cut at the frame's edge"
UNTAGGED = "reasoning's own tags of thought or answer taken away"

_ANSWER = re.compile(r"<answer>.*?</answer>", re.DOTALL)
_BOX = re.compile(r"<box>(.*?)</box>", re.DOTALL)
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
    thought = _thought(said)
    if not thought.count("<box>") == thought.count("</box>") == len(_BOX.findall(thought)):
        raise TruthError("reasoning has an unpaired box", said)
    boxes = [_box(match[1], size) for match in _BOX.finditer(thought)]
    plain = iter([_plain(within) for _, within in boxes])
    text = _BOX.sub(lambda _: f"<box>{next(plain)}</box>", thought)
    faults = ((UNTAGGED, thought != said), (CUT, any(box != within for box, within in boxes)))
    return Reasoning(text if text.strip() else None, tuple(name for name, found in faults if found))


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
