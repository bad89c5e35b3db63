"""Checkpoints: whole or not there, a few kept, and never two runs in one folder."""

import asyncio
import errno
from pathlib import Path

import pytest

from o3rl.persistence.checkpoints import (
    Checkpoint,
    Checkpoints,
    Unsaved,
    sound_of,
    start_from,
    state_of,
)
from o3rl.persistence.ledger import Ledger
from tests.o3rl.made import ListTracker, prompt


class Store:
    """Writes a file each; raises `dies` while it exports."""

    def __init__(self, *, dies: Exception | None = None):
        self.dies = dies

    async def save(self, folder):
        folder.mkdir()
        (folder / "weights").write_text("of the learner")

    async def export(self, folder):
        if self.dies:
            raise self.dies
        folder.mkdir()
        (folder / "config.json").write_text("{}")


def save(folder, step: int, *, keep: int = 2, dies: Exception | None = None) -> Checkpoint:
    kept = Checkpoints(folder, Store(dies=dies), every=5, keep=keep, tracker=ListTracker())
    return asyncio.run(kept.save(step, {"place": step}, ledger=Ledger()))


def test_one_every_so_many_steps_or_never(tmp_path):
    def due(every: int) -> list[int]:
        kept = Checkpoints(tmp_path, Store(), every=every, keep=1, tracker=ListTracker())
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


def test_each_is_entered_in_a_table(tmp_path):
    tracker = ListTracker()
    kept = Checkpoints(tmp_path, Store(), every=5, keep=1, tracker=tracker)
    for step in (5, 10):
        asyncio.run(kept.save(step, {}, ledger=Ledger()))
    first, second = tracker.tables["checkpoints"]
    assert (first["step"], second["step"]) == (5, 10)
    path = tmp_path / "checkpoints" / "step-000010"
    assert second["path"] == str(path)
    assert second["bytes"] == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def test_one_that_was_never_finished_counts_for_nothing_and_is_written_anew(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(RuntimeError, match="died"):
        save(tmp_path, 10, dies=RuntimeError("rank 0 died"))
    left = start_from(tmp_path, resume=True)
    assert left is not None
    assert left.step == 5
    assert save(tmp_path, 10).state() == {"place": 10}
    again = Ledger()
    again.admit(prompt(3))
    saved = asyncio.run(
        Checkpoints(tmp_path, Store(), every=5, keep=2, tracker=ListTracker()).save(
            10, {}, ledger=again
        )
    )
    assert len(Ledger.read(saved.ledger).entries()) == 1


def test_this_starts_own_one_stands_and_one_of_an_earlier_start_is_replaced(tmp_path, monkeypatch):
    save(tmp_path, 5)
    kept = Checkpoints(tmp_path, Store(), every=5, keep=2, tracker=ListTracker())

    def killed(self, target):
        if self.name.endswith(".dropped") or target.name == "step-000005":
            raise KeyboardInterrupt
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(kept.save(5, {"place": "new"}, ledger=Ledger()))
    monkeypatch.undo()
    folder = tmp_path / "checkpoints"
    names = {path.name for path in folder.iterdir()}
    assert names == {"step-000005.dropped", "step-000005.writing"}, "both are still there"

    saved = asyncio.run(kept.save(5, {"place": "new"}, ledger=Ledger()))
    assert saved.state() == {"place": "new"}
    asyncio.run(kept.save(5, {"place": "newer"}, ledger=Ledger()))  # a stop after a due step
    assert saved.state() == {"place": "new"}
    assert [path.name for path in folder.iterdir()] == ["step-000005"]


def test_a_full_disk_leaves_the_one_before_and_ends_no_run(tmp_path, caplog):
    save(tmp_path, 5)
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(Unsaved, match=r"step-000010 could not be written: .*No space left"):
        save(tmp_path, 10, dies=full)
    kept = Checkpoints(tmp_path, Store(dies=full), every=5, keep=2, tracker=ListTracker())
    asyncio.run(kept.save_due(15, dict, ledger=Ledger()))
    assert "step-000015 could not be written" in caplog.text
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000005"]


def test_a_damaged_one_is_put_aside_and_the_one_before_is_taken(tmp_path, caplog):
    for step in (5, 10):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / "step-000010" / "learner" / "weights").write_text("of nobody")
    found = sound_of(tmp_path)
    assert found is not None
    assert (found.step, found.damage()) == (5, "")
    assert "step-000010 is damaged (not as it was written: learner/weights)" in caplog.text
    assert (tmp_path / "checkpoints" / "step-000010.damaged").is_dir()
    (found.path / "state.json").unlink()
    for _ in range(2):  # the second start does not take the folder for a new one
        with pytest.raises(ValueError, match=r"all checkpoints in .* are damaged"):
            sound_of(tmp_path)


def test_one_that_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch):
    save(tmp_path, 5)

    def away(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("o3rl.persistence.checkpoints._digest", away)
    with pytest.raises(OSError, match="Stale"):
        sound_of(tmp_path)
    monkeypatch.undo()
    assert sound_of(tmp_path).step == 5


def test_a_superseded_attempt_leaves_the_other_ones_checkpoint(tmp_path):
    class Superseded(Exception):
        pass

    def fence():
        raise Superseded

    kept = Checkpoints(tmp_path, Store(), every=5, keep=2, tracker=ListTracker(), fence=fence)
    with pytest.raises(Superseded):
        asyncio.run(kept.save(5, {}, ledger=Ledger()))
    assert not (tmp_path / "checkpoints" / "step-000005").exists()


def test_every_start_from_a_checkpoint_is_an_incarnation_of_its_own(tmp_path):
    """Also the second one from the same checkpoint: it would publish the same version numbers."""
    part = {"incarnation": 0, "n": 2}
    kept = Checkpoints(tmp_path, Store(), every=1, keep=2, tracker=ListTracker())
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
