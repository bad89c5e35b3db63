"""Evaluation on fakes: one answer a row, in order, at p = 1; a fault is never a zero."""

import asyncio
from dataclasses import replace

import pytest

from o3rl.evaluation.evaluator import GREEDY, SAMPLED, Answered, Decoding, Evaluator, spread
from o3rl.evaluation.measures import summary
from o3rl.types import (
    PART_WORDS,
    Failure,
    FailureKind,
    Group,
    Prompt,
    Reward,
    Task,
    Truth,
)
from tests.o3rl.made import PLAN, group_of, reward, row


class Media:
    async def prepare(self, row, *, training: bool):
        assert not training
        return (
            Failure(None, None, "corrupt", FailureKind.FILE)
            if row.id == "row-1"
            else (PLAN, f"key of {row.id}")
        )


class Answerer:
    """The later asked, the sooner done; row-3 finds no engine."""

    def __init__(self):
        self.asked: list[tuple[Prompt, int, float]] = []
        self.busy = self.most = 0

    async def sample_group(self, prompt: Prompt, *, n: int, temperature: float):
        self.asked.append((prompt, n, temperature))
        self.busy += 1
        self.most = max(self.most, self.busy)
        for _ in range(20 - 2 * prompt.group):
            await asyncio.sleep(0)
        self.busy -= 1
        if prompt.row.id == "row-3":
            return Failure(prompt.group, None, "no engine", FailureKind.SERVICE)
        return group_of(prompt, samples=n)


class Scorers:
    """Each gets its row's number; the second answer of row-5 kills its scorer."""

    async def score(self, group: Group):
        return tuple(
            Failure(group.prompt.group, i, "scorer died", FailureKind.SERVICE)
            if group.prompt.row.id == "row-5" and i == 1
            else scored_as(float(group.prompt.group))
            for i in range(len(group.rollouts_G))
        )


def scored_as(total: float) -> Reward:
    return Reward(dict.fromkeys(PART_WORDS, 0.0) | {"ans_acc": total}, total)


def run(decoding: Decoding, *, at_once: int = 32):
    answerer, told = Answerer(), []
    evaluator = Evaluator(Media(), answerer, Scorers(), at_once)
    rows = [row(i, task=Task.FREE_FORM) for i in range(8)]
    answered = asyncio.run(evaluator.run(rows, decoding, lambda: told.append(1)))
    assert [each.row for each in answered] == rows
    assert len(told) == len(rows)
    return answered, answerer


def test_every_row_in_order_and_failures_with_their_reason():
    answered, _ = run(SAMPLED)
    assert {each.row.id: each.reason for each in answered if each.reason} == {
        "row-1": "corrupt",
        "row-3": "no engine",
        "row-5": "scorer died",
    }
    for number, each in enumerate(answered):
        if each.reason:
            assert (each.group, each.rewards, each.scored) == (None, (), ())
        else:
            assert [reward.total for reward in each.rewards] == [number] * 4
            assert [one.text for one in each.scored] == ["text"] * 4


def test_greedy_is_one_answer_at_temperature_zero_and_p_is_one():
    answered, answerer = run(GREEDY)
    assert {len(each.rewards) for each in answered if not each.reason} == {1}
    assert answered[5].reason == ""  # its second answer alone is bad
    assert {(samples, temperature) for _, samples, temperature in answerer.asked} == {(1, 0.0)}
    assert {prompt.progress for prompt, *_ in answerer.asked} == {1.0}
    asked = [(prompt.group, prompt.attempt) for prompt, *_ in answerer.asked]
    once = [(group, 0) for group in (0, 2, 4, 5, 6, 7)]
    assert sorted(asked) == sorted([*once, (3, 0), (3, 1), (3, 2)]), "an engine may come back"


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_than_asked_for_are_in_flight(at_once):
    _, answerer = run(SAMPLED, at_once=at_once)
    assert answerer.most == at_once


def test_failed_rows_do_not_lower_the_mean():
    answered, _ = run(SAMPLED)
    numbers = summary([each.scored for each in answered], seed=0)
    assert numbers["total"] == pytest.approx((0 + 2 + 4 + 6 + 7) / 5)
    assert (numbers["rows"], numbers["rows_failed"]) == (5, 3)


@pytest.mark.parametrize(
    ("count", "tasks"),
    [
        (0, []),
        (3, [Task.MCQ, Task.VISUAL, Task.MCQ]),
        (4, [Task.MCQ, Task.VISUAL, Task.MCQ, Task.MCQ]),
        (9, [Task.MCQ, Task.VISUAL, Task.MCQ, Task.MCQ]),
    ],
)
def test_spread_takes_the_tasks_in_turn(count, tasks):
    box = Truth("<box>[0,0,1,1]</box>", box=(0.0, 0.0, 1.0, 1.0))
    rows = [row(0), row(1), row(2), row(9, task=Task.VISUAL)]  # what only teaches is passed over
    rows.append(replace(row(3, task=Task.VISUAL), truth=box))
    assert [each.task for each in spread(rows, count)] == tasks
    assert len({each.id for each in spread(rows, count)}) == len(tasks)


def test_a_bug_is_raised_as_itself():
    class Broken:
        async def score(self, group):
            raise KeyError(group.prompt.row.id)

    evaluator = Evaluator(Media(), Answerer(), Broken())
    with pytest.raises(KeyError, match="row-0"):
        asyncio.run(evaluator.run([row(0)], GREEDY))


def test_an_answered_row_needs_a_reward_for_each_response():
    each = Answered(row(0), group_of(Prompt(0, row(0), PLAN, "k", 1.0)), (reward(1.0),))
    with pytest.raises(ValueError, match="shorter"):
        _ = each.scored
