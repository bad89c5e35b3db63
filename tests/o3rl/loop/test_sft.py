"""The loop of the cold start on fakes: what it trains, and that going on changes nothing."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from o3rl.data.row_order import order_of
from o3rl.loop.prompt_source import PromptSource
from o3rl.loop.sft import ColdStart
from o3rl.persistence.checkpoints import CHECKPOINTS, Checkpoint, Checkpoints
from o3rl.persistence.ledger import SET_ASIDE, SKIPPED, TRAINED, Ledger
from o3rl.types import Failure, FailureKind, Prompt, Row
from tests.o3rl.made import PLAN, ListTracker, row

ROWS = [row(number, reasoning="because") for number in range(7)]
BATCH = 3


class Media:
    """Takes its time; row-1 and row-5 cannot be read."""

    def __init__(self):
        self.random = Random(0)

    async def prepare(self, row: Row, *, training: bool):
        assert training
        for _ in range(self.random.randrange(5)):
            await asyncio.sleep(0)
        broken = row.id in ("row-1", "row-5")
        return (
            Failure(None, None, "corrupt", FailureKind.FILE)
            if broken
            else (PLAN, f"key of {row.id}")
        )


class Learner:
    """Keeps what it was given; so slow that the next rows are read meanwhile. Refuses row-3."""

    def __init__(self):
        self.batches: list[list[tuple[int, str]]] = []
        self.failures: tuple[Failure, ...] = ()

    async def sft_step(self, prompts: list[Prompt]):
        for _ in range(50):
            await asyncio.sleep(0)
        self.batches.append([(prompt.group, prompt.row.id) for prompt in prompts])
        refused = [prompt for prompt in prompts if prompt.row.id == "row-3"]
        self.failures = tuple(
            Failure(prompt.group, None, "too long", FailureKind.SERVICE) for prompt in refused
        )
        return {"loss": 0.5, "learner/tokens": 10.0 * (len(prompts) - len(refused))}

    async def save(self, folder: Path) -> None:
        folder.mkdir()

    async def export(self, folder: Path) -> None:
        folder.mkdir()


class World:
    """A cold start of 8 steps in `folder`, with a checkpoint every 2."""

    def __init__(self, folder: Path, checkpoint: Checkpoint | None = None):
        self.learner, self.tracker = Learner(), ListTracker()
        self.ledger = Ledger.read(checkpoint.ledger) if checkpoint else Ledger()
        order = order_of(ROWS, 3, task_weights={})
        admission = PromptSource(ROWS, order, Media(), self.ledger, planned=8 * BATCH, ahead=BATCH)
        kept = Checkpoints(folder, self.learner, every=2, keep=9, tracker=self.tracker)
        self.loop = ColdStart(
            admission,
            self.ledger,
            self.learner,
            kept,
            batch=BATCH,
            tracker=self.tracker,
            show=lambda *_: None,
        )
        if checkpoint:
            self.loop.restore(checkpoint.state())

    def run(self) -> "World":
        asyncio.run(asyncio.wait_for(self.loop.run(8), 30))
        return self


def test_each_row_is_trained_once_an_epoch_or_listed_with_its_reason(tmp_path):
    world = World(tmp_path).run()
    entries = {entry.group: entry for entry in world.ledger.entries()}
    assert list(entries) == list(range(len(entries)))
    given = [prompt for batch in world.learner.batches for prompt in batch]
    assert len({group for group, _ in given}) == len(given) == 8 * BATCH
    for group, entry in entries.items():
        expected = {"row-1": SKIPPED, "row-5": SKIPPED, "row-3": SET_ASIDE}.get(entry.row, TRAINED)
        assert entry.outcome == expected, entry
        assert ((group, entry.row) in given) == (expected != SKIPPED)
    assert {e.reason for e in entries.values() if e.outcome == SET_ASIDE} == {
        "refused by the learner: too long"
    }
    for epoch in range(4):  # 24 of 5 readable rows an epoch: four whole ones and a part
        assert sorted(world.ledger.rows_of(epoch)) == sorted(row.id for row in ROWS)
    assert world.loop.samples == sum(row != "row-3" for _, row in given)
    assert world.loop.tokens == 10 * world.loop.samples
    assert [step for step, _ in world.tracker.lines] == list(range(1, 9))


@pytest.mark.parametrize("step", [2, 4, 6, 8])
def test_from_any_checkpoint_it_goes_on_as_if_it_had_never_stopped(tmp_path, step):
    straight = World(tmp_path).run()
    checkpoint = Checkpoint(tmp_path / CHECKPOINTS / f"step-{step:06d}")
    resumed = World(tmp_path / "again", checkpoint).run()
    assert straight.learner.batches[step:] == resumed.learner.batches
    assert straight.tracker.lines[step:] == resumed.tracker.lines
    assert (resumed.loop.samples, resumed.loop.tokens) == (
        straight.loop.samples,
        straight.loop.tokens,
    )
    pairs = zip(straight.ledger.entries(), resumed.ledger.entries(), strict=True)
    for before, after in pairs:
        assert (before.group, before.row, before.outcome) == (after.group, after.row, after.outcome)
        assert before.version == after.version
        if after.version > 0:  # no two updates have the same name
            assert after.incarnation == (after.version > step)
