"""The format part: 1 with the structure that the task demands, 0.5 without, 0 if tags are broken.

A reader that fills a page with evidence needs no more than this; whether the evidence is right is
for the other parts.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from o3rl.text.boxes import numbers_of
from o3rl.text.grammar import (
    PAIRED_IN_TEXT,
    PAIRED_IN_THOUGHT,
    answer_of,
    lists_in_tags,
    raw_claims,
    tagged_boxes,
    thought_of,
    time_mentions,
    unpaired,
)
from o3rl.types import Task

GENERAL = (Task.MCQ, Task.FREE_FORM)
TEMPORAL = (Task.TEMPORAL, Task.TEMPORAL_MCQ)
MOST_BOXES = 8  # of a claim that counts in `strict`
LABEL = 0.05 + 1e-9  # seconds: frame lines say times with one decimal


def structure(
    task: Task, text: str, _seen: Sequence[float] = (), *, has_named_box: Callable[[str], bool]
) -> float:
    """0, 0.5 or 1, by tags alone.

    `has_named_box` says whether the text holds a name with its box (visual QA).
    """
    thought = thought_of(text)
    if thought is None or answer_of(text) is None:
        return 0.0
    if unpaired(text, PAIRED_IN_TEXT) or unpaired(thought, PAIRED_IN_THOUGHT):
        return 0.0
    if task in GENERAL:
        return 1.0
    if task in TEMPORAL:
        return 1.0 if thought.count("<t>") >= 2 else 0.5
    if all(tag in thought for tag in ("<obj>", "<t>", "<box>")):
        return 1.0
    return 1.0 if task is Task.VISUAL and has_named_box(text) else 0.5


def parsed_structure(
    task: Task, text: str, seen: Sequence[float] = (), *, has_named_box: Callable[[str], bool]
) -> float:
    """`structure`, with the thought's claims and times that parse in place of its tags.

    A time counts if a frame at it was `seen`, within half a line's spacing; any if that is not
    known. Temporal tasks ask for two different ones, and a thought that needs no evidence must not
    cite what nobody saw.
    """
    value, thought = structure(task, text, has_named_box=has_named_box), thought_of(text) or ""
    if value == 0.0:
        return value
    if task is Task.VISUAL:
        named = any(box.name.strip() and _is_box(box.numbers) for box in tagged_boxes(thought))
        return 1.0 if named else 0.5
    mentions = time_mentions(thought)
    good = {mention for mention in mentions if _is_seen(mention, seen)}
    if task in GENERAL:
        return 1.0 if len(good) == len(set(mentions)) and _claims(thought) <= good else 0.5
    if task in TEMPORAL:
        return 1.0 if len({float(time) for time in good}) >= 2 else 0.5
    return 1.0 if _claims(thought) & good else 0.5


def _claims(thought: str) -> set[str]:
    """The times of claims that have a name and one to `MOST_BOXES` boxes."""
    found = set()
    for claim in raw_claims(thought):
        boxes = lists_in_tags(claim.boxes)
        if claim.name.strip() and len(boxes) <= MOST_BOXES and boxes and all(map(_is_box, boxes)):
            found.add(claim.time)
    return found


def _is_box(written: str) -> bool:
    numbers = numbers_of(written)
    return bool(numbers) and numbers[0] < numbers[2] and numbers[1] < numbers[3]


def _is_seen(mention: str, seen: Sequence[float]) -> bool:
    try:
        time = float(mention)
    except ValueError:
        return False
    if not seen or not math.isfinite(time):
        return math.isfinite(time)
    times = sorted(seen)
    near = min(range(len(times)), key=lambda index: abs(times[index] - time))
    around = times[max(near - 1, 0) : near + 2]
    gap = max((after - before for before, after in pairwise(around)), default=0.0)
    return abs(times[near] - time) <= max(gap / 2, LABEL)
