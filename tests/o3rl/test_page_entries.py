"""Which rows and whose responses come onto a page."""

import asyncio

import numpy as np

from o3rl.evaluation.evaluator import Answered
from o3rl.observers import entries_of
from o3rl.types import Task
from tests.o3rl.made import group_of, prompt, reward, row


def answered(*totals: float | None) -> list[Answered]:
    """One response a row, or none where there is no total."""
    return [
        Answered(row(i), None, (), "media: missing")
        if total is None
        else Answered(row(i), group_of(prompt(i), samples=1), (reward(total),))
        for i, total in enumerate(totals)
    ]


async def frames(key: str) -> np.ndarray:
    del key
    return np.zeros((2, 112, 112, 3), np.uint8)


def entries(by_model, **how):
    return asyncio.run(entries_of(by_model, frames, limit=2, **how))


def test_the_last_models_are_shown_and_the_others_beside():
    """Row 0 is not answered by RL; SFT lacks row 2."""
    by_model = {"base": answered(0.1, 0.2, 0.3), "sft": answered(0.4, 0.5, None)}
    found = entries(by_model | {"rl": answered(None, 0.8, 0.9)}, unseen={"blank": answered(0, 0.7)})
    assert [(each.row.id, each.model, each.reward.total) for each in found] == [
        ("row-1", "rl", 0.8),
        ("row-2", "rl", 0.9),
    ]
    first, second = found
    assert [(o.model, o.reward.total) for o in first.others] == [("base", 0.2), ("sft", 0.5)]
    assert [(o.model, o.reward.total) for o in second.others] == [("base", 0.3)]
    assert [(o.model, o.reward.total) for o in first.unseen] == [("blank", 0.7)]
    assert second.unseen == ()


def test_no_more_rows_than_asked_for_and_one_model_stands_alone():
    found = entries({"rl": answered(0.1, 0.2, 0.3)})
    assert [each.row.task for each in found] == [Task.MCQ, Task.MCQ]
    assert all(each.others == () for each in found)
