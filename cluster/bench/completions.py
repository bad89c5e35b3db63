"""Completions to time scoring on: what a model writes about rows of `o3rl.synth`, all six tasks.

A third each as it writes when it is right, when it is wrong, when it goes on to its token limit.
"""

from dataclasses import dataclass, replace
from itertools import cycle
from random import Random

from o3rl.data.media_paths import MediaRoots
from o3rl.data.stgr import row_of
from o3rl.synth.questions import PERFECT, Teacher, ask, row
from o3rl.synth.world import random_picture, random_scene, split_combinations
from o3rl.text.boxes import ABSOLUTE
from o3rl.text.prompts import target
from o3rl.types import FramePlan, Row, Task

FRAME = (420, 224)  # a 720p frame as the model sees it
LONG = 2500  # characters of a completion of 768 tokens, about


@dataclass(frozen=True, slots=True)
class CompletionCase:
    """A completion and the row that it is to be scored against."""

    row: Row
    text: str


def cases(task: Task, *, count: int, seed: int = 0) -> list[CompletionCase]:
    """`count` completions of different rows: right, wrong and long ones in turn."""
    rng = Random(f"{seed}/{task}")
    made = zip(range(count), cycle((_right, _wrong, _long)), strict=False)
    return [write(rng, task, number) for number, write in made]


def _right(rng: Random, task: Task, number: int) -> CompletionCase:
    right = _row(rng, task, number)
    return CompletionCase(right, _written(right))


def _wrong(rng: Random, task: Task, number: int) -> CompletionCase:
    """What an erring teacher writes about another video."""
    return CompletionCase(_row(rng, task, number), _written(_row(rng, task, number, Teacher())))


def _long(rng: Random, task: Task, number: int) -> CompletionCase:
    """A right one whose thought goes on and on, with the evidence of other rows."""
    right = _row(rng, task, number)
    thoughts = [right.reasoning or ""]
    while sum(map(len, thoughts)) < LONG:
        thoughts.append(_row(rng, task, number).reasoning or "")
    return CompletionCase(right, _written(replace(right, reasoning=" ".join(thoughts))))


def _row(rng: Random, task: Task, number: int, teacher: Teacher = PERFECT) -> Row:
    combinations, _ = split_combinations()
    still = task is Task.VISUAL
    scene = random_picture(rng, combinations) if still else random_scene(rng, combinations)
    asked = ask(rng, scene, wanted="shape" if still else None)
    record = row(rng, asked, task, name=f"{number}", media=f"{number}", teacher=teacher)
    return row_of(record, MediaRoots({}))


def _written(told: Row) -> str:
    plan = FramePlan((0,), (0.0,), FRAME, 0.0)
    return target(told, plan, convention=ABSOLUTE)
