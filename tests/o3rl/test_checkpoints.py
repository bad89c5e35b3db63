"""Checkpoints: whole or not there, a few kept, and never two runs in one folder."""

import asyncio

import pytest
from made import prompt

from o3rl.checkpoints import Checkpoint, Checkpoints, start_from, state_of
from o3rl.ledger import Ledger


class Store:
    """Writes a file each; `dies` while it exports."""

    def __init__(self, *, dies: bool = False):
        self.dies = dies

    async def save(self, folder):
        folder.mkdir()
        (folder / "weights").write_text("of the learner")

    async def export(self, folder):
        if self.dies:
            raise RuntimeError("rank 0 died")
        folder.mkdir()
        (folder / "config.json").write_text("{}")


def save(folder, step: int, *, keep: int = 2, dies: bool = False) -> Checkpoint:
    kept = Checkpoints(folder, Store(dies=dies), every=5, keep=keep)
    return asyncio.run(kept.save(step, {"place": step}, ledger=Ledger()))


def test_one_every_so_many_steps_or_never(tmp_path):
    def due(every: int) -> list[int]:
        kept = Checkpoints(tmp_path, Store(), every=every, keep=1)
        return [step for step in range(1, 8) if kept.due(step)]

    assert (due(3), due(1), due(0)) == ([3, 6], [1, 2, 3, 4, 5, 6, 7], [])


def test_the_last_one_holds_what_was_saved_and_older_ones_go(tmp_path):
    for step in (5, 999_995, 1_000_000):  # whose names are not in the order of their steps
        save(tmp_path, step)
    found = start_from(tmp_path, resume=True)
    assert found is not None
    assert (found.step, found.state()) == (1_000_000, {"place": 1_000_000})
    assert (found.learner / "weights").read_text() == "of the learner"
    assert (found.path / "model" / "config.json").is_file()
    assert Ledger.read(found.ledger).entries() == ()
    assert len(list(found.path.parent.iterdir())) == 2


def test_one_that_was_never_finished_counts_for_nothing_and_is_written_anew(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(RuntimeError, match="died"):
        save(tmp_path, 10, dies=True)
    left = start_from(tmp_path, resume=True)
    assert left is not None
    assert left.step == 5
    assert save(tmp_path, 10).state() == {"place": 10}
    again = Ledger()
    again.admit(prompt(3))
    saved = asyncio.run(Checkpoints(tmp_path, Store(), every=5, keep=2).save(10, {}, ledger=again))
    assert len(Ledger.read(saved.ledger).entries()) == 1


def test_every_start_from_a_checkpoint_is_an_incarnation_of_its_own(tmp_path):
    """Also the second one from the same checkpoint: it would publish the same version numbers."""
    part = {"incarnation": 0, "n": 2}
    kept = Checkpoints(tmp_path, Store(), every=1, keep=2)
    state = {"loop": part, "admission": part}
    checkpoint = asyncio.run(kept.save(2, state, ledger=Ledger()))
    assert state_of(tmp_path, None) == {}
    for number in (0, 1, 2):  # `restore` makes it one more
        state = state_of(tmp_path, checkpoint)
        assert state["loop"]["incarnation"] == state["admission"]["incarnation"] == number


def test_without_one_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint in .*without --resume"):
        start_from(tmp_path, resume=True)


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path):
    assert start_from(tmp_path, resume=False) is None
    (tmp_path / "metrics.jsonl").write_text("")  # of a run that failed before its first step
    assert start_from(tmp_path, resume=False) is None
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"a run lies in .*--resume"):
        start_from(tmp_path, resume=False)


def test_a_run_that_begins_again_without_a_checkpoint_is_an_incarnation_of_its_own(tmp_path):
    assert state_of(tmp_path, None) == {}
    for number in (0, 1):  # `restore` makes it one more
        part = {"incarnation": number}
        assert state_of(tmp_path, None) == {"loop": part, "admission": part}
