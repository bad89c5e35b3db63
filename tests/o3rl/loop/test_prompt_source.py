"""Admission: rows to prompts in order, what cannot be read skipped and counted."""

import asyncio
import json
from dataclasses import replace

import pytest

from o3rl.data.row_order import RowOrder
from o3rl.loop.prompt_source import PromptSource, cannot_teach, longer_than
from o3rl.persistence.ledger import SKIPPED, Ledger
from o3rl.types import Failure, FailureKind, Row, Task
from tests.o3rl.made import PLAN, row


class Media:
    """Reads every row but the `broken` ones; the first asked for takes longest."""

    def __init__(self, broken: set[str] = frozenset()):
        self.broken = broken
        self.asked = 0

    async def prepare(self, row: Row, *, training: bool):
        assert training
        self.asked += 1
        for _ in range(20 - self.asked % 20):
            await asyncio.sleep(0)
        return (
            Failure(None, None, "corrupt", FailureKind.FILE)
            if row.id in self.broken
            else (PLAN, f"key of {row.id}")
        )


def admission(count: int, *, broken: set[str] = frozenset(), planned: int = 10):
    rows = [row(i) for i in range(count)]
    ledger = Ledger()
    order = RowOrder([each.task for each in rows], 0)
    return PromptSource(rows, order, Media(broken), ledger, planned=planned), ledger


def admit(admission: PromptSource, count: int):
    async def one_by_one():
        return [await admission.next() for _ in range(count)]

    return asyncio.run(one_by_one())


def test_an_epoch_of_prompts():
    source, ledger = admission(5)
    prompts = admit(source, 5)
    assert [prompt.group for prompt in prompts] == [0, 1, 2, 3, 4]
    assert sorted(prompt.row.id for prompt in prompts) == [f"row-{i}" for i in range(5)]
    assert {prompt.media_key for prompt in prompts} == {f"key of row-{i}" for i in range(5)}
    assert [entry.row for entry in ledger.entries()] == [prompt.row.id for prompt in prompts]


def test_progress_is_admitted_of_planned():
    source, _ = admission(5, planned=4)
    assert [prompt.progress for prompt in admit(source, 6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_at_once_the_prompts_are_those_of_one_by_one():
    async def at_once():
        return await asyncio.gather(*(source.next() for _ in range(8)))

    source, _ = admission(8)
    together = asyncio.run(at_once())
    alone, _ = admission(8)
    assert sorted(together, key=lambda prompt: prompt.group) == admit(alone, 8)


def test_broken_rows_are_skipped_counted_and_entered():
    source, ledger = admission(4, broken={"row-1", "row-2"})
    prompts = admit(source, 4)
    assert {prompt.row.id for prompt in prompts} == {"row-0", "row-3"}
    assert source.skipped == ledger.counts()[SKIPPED]
    assert source.skipped >= 2
    skipped = [entry for entry in ledger.entries() if entry.outcome == SKIPPED]
    assert {(entry.row, entry.reason) for entry in skipped} == {
        ("row-1", "corrupt"),
        ("row-2", "corrupt"),
    }
    assert [prompt.progress for prompt in prompts] == [0, 0.1, 0.2, 0.3]


def test_the_ledger_says_which_rows_an_epoch_has_used():
    source, ledger = admission(4, broken={"row-1"})
    admit(source, 5)  # 3 of the first epoch, where row-1 is skipped, and 2 of the second
    order = RowOrder([Task.MCQ] * 4, 0)
    assert ledger.rows_of(0) == tuple(f"row-{i}" for i in order.rows_of(0))
    second = tuple(f"row-{i}" for i in order.rows_of(1))
    assert ledger.rows_of(1) == second[: len(ledger.rows_of(1))]
    assert 2 <= len(ledger.rows_of(1)) <= 3
    assert ledger.rows_of(2) == ()


def test_unfit_rows_are_skipped_with_their_reason():
    """The frames of PLAN are 2 · (112 / 28)² = 32 tokens."""
    rows = [row(0, reasoning="So."), row(1), row(2, reasoning="<think>So.</think>")]
    order = RowOrder([each.task for each in rows], 0)
    assert PLAN.tokens(28) == 32
    ledger = Ledger()
    source = PromptSource(rows, order, Media(), ledger, planned=3, unfit=cannot_teach)
    assert {prompt.row.id for prompt in admit(source, 3)} == {"row-0"}
    skipped = [entry for entry in ledger.entries() if entry.outcome == SKIPPED]
    assert {(entry.row, entry.reason) for entry in skipped} == {
        ("row-1", "no reasoning_process"),
        ("row-2", "its reasoning holds <think>: import it again"),
    }
    assert source.skipped == len(skipped)


@pytest.mark.parametrize(("tokens", "fits"), [(32, True), (31, False)])
def test_frames_that_are_too_many_tokens_are_skipped(tokens, fits):
    order = RowOrder([Task.MCQ], 0)
    unfit = longer_than(tokens, side=28)
    source = PromptSource([row()], order, Media(), Ledger(), planned=1, unfit=unfit)
    if fits:
        assert [prompt.row.id for prompt in admit(source, 1)] == ["row-0"]
        return
    with pytest.raises(ValueError, match=r"frames take 32 tokens; .* allow a prompt 31"):
        admit(source, 1)


@pytest.mark.parametrize(("failing", "asked", "read"), [(0, 1, True), (2, 3, True), (3, 3, False)])
def test_what_is_no_fault_of_the_file_is_read_again_later(failing, asked, read):
    class Busy:
        def __init__(self):
            self.asked: list[str] = []

        async def prepare(self, row: Row, *, training: bool):
            assert training
            self.asked.append(row.id)
            if row.id == "row-0" and self.asked.count("row-0") <= failing:
                return Failure(None, None, "no room", FailureKind.SERVICE)
            return PLAN, f"key of {row.id}"

    media, ledger = Busy(), Ledger()
    rows, order = [row(0), row(1)], RowOrder([Task.MCQ] * 2, 0)
    source = PromptSource(rows, order, media, ledger, planned=2, attempts=3, pause=0.001)
    first = [rows[i].id for i in order.rows_of(0)]
    prompts = admit(source, 2 if read else 1)
    assert media.asked.count("row-0") == asked
    taken = [prompt.row.id for prompt in prompts]
    assert taken == (first if read else ["row-1"])  # a row that waits keeps its place


def test_all_broken_is_an_error_that_names_the_setting():
    source, ledger = admission(3, broken={"row-0", "row-1", "row-2"})
    with pytest.raises(ValueError, match=r"none of.* 3 rows .*corrupt.*data\.media"):
        admit(source, 1)
    assert ledger.counts().keys() == {SKIPPED}
    assert {entry.row for entry in ledger.entries()} == {"row-0", "row-1", "row-2"}


def test_rows_read_in_between_are_no_error():
    source, _ = admission(3, broken={"row-0", "row-1"})
    assert {prompt.row.id for prompt in admit(source, 9)} == {"row-2"}


def test_it_goes_on_where_it_was():
    source, _ = admission(5, broken={"row-2"})
    for prompt in admit(source, 3):
        source.settle(prompt)
    other, _ = admission(5, broken={"row-2"})
    other.restore(source.state())
    went_on = [replace(prompt, incarnation=1) for prompt in admit(source, 4)]
    assert admit(other, 4) == went_on
    assert other.skipped == source.skipped


def test_what_was_open_is_admitted_again_first():
    source, ledger = admission(6)
    first, *opened = admit(source, 3)
    source.settle(first)
    state = json.loads(json.dumps(source.state()))
    following = admit(source, 1)
    other = PromptSource(
        [row(i) for i in range(6)],
        RowOrder([Task.MCQ] * 6, 0),
        Media(),
        Ledger(e for e in ledger.entries() if e.group < 3),
        planned=10,
    )
    other.restore(state)
    again = admit(other, 3)
    assert again == [replace(prompt, incarnation=1) for prompt in [*opened, *following]]
    assert other.state()["open"] == source.state()["open"]


def test_what_was_open_and_cannot_be_read_any_more_is_entered():
    source, ledger = admission(4)
    opened = admit(source, 1)[0]
    media = Media({opened.row.id})
    other = PromptSource(
        [row(i) for i in range(4)], RowOrder([Task.MCQ] * 4, 0), media, ledger, planned=10
    )
    other.restore(source.state())
    assert admit(other, 1)[0].group == 1
    [entry, _] = ledger.entries()
    assert (entry.outcome, entry.reason) == (SKIPPED, "corrupt")
    assert other.skipped == 1
    assert [each["group"] for each in other.state()["open"]] == [1]


def test_media_are_read_ahead_and_nothing_else_changes():
    rows = [row(i) for i in range(8)]
    media, ledger = Media({"row-3"}), Ledger()
    order = RowOrder([Task.MCQ] * 8, 0)
    source = PromptSource(rows, order, media, ledger, planned=6, ahead=3)

    async def some():
        first = [await source.next() for _ in range(2)]
        admitted = [entry.group for entry in ledger.entries() if entry.outcome != SKIPPED]
        assert admitted == [prompt.group for prompt in first]
        state, asked = source.state(), media.asked
        await asyncio.sleep(0.05)
        last = [await source.next() for _ in range(4)]
        await source.close()
        return first, last, state, asked

    first, last, state, asked = asyncio.run(some())
    assert 3 <= asked <= 6
    assert 6 <= media.asked <= 7  # those planned, one of them skipped for another
    alone, _ = admission(8, broken={"row-3"}, planned=6)
    assert [*first, *last] == admit(alone, 6)
    assert [each["group"] for each in state["open"]] == [prompt.group for prompt in first]
    other, _ = admission(8, broken={"row-3"}, planned=6)
    other.restore(state)
    assert admit(other, 6) == [replace(prompt, incarnation=1) for prompt in [*first, *last]]


def test_nothing_to_train_on_is_refused():
    order = RowOrder([Task.MCQ], 0)
    with pytest.raises(ValueError, match="no rows"):
        PromptSource([], order, Media(), Ledger(), planned=1)
    with pytest.raises(ValueError, match="0 prompts are planned"):
        PromptSource([row()], order, Media(), Ledger(), planned=0)
