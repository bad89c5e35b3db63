"""The format part: 1 with the structure that the task demands, 0.5 without, 0 if tags are broken.

A reader that fills a page with evidence needs no more than this; whether the evidence is right is
for the other parts.
"""

from collections.abc import Callable

from o3rl.text.grammar import PAIRED_IN_TEXT, PAIRED_IN_THOUGHT, answer_of, thought_of, unpaired
from o3rl.types import Task

GENERAL = (Task.MCQ, Task.FREE_FORM)
TEMPORAL = (Task.TEMPORAL, Task.TEMPORAL_MCQ)


def structure(task: Task, text: str, *, has_named_box: Callable[[str], bool]) -> float:
    """0, 0.5 or 1. `has_named_box` says whether the text holds a name with its box (visual QA)."""
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
