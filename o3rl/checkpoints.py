"""Checkpoints of a stage: all that it goes on from, in a folder that has its name only when whole.

    FOLDER/checkpoints/step-000020/learner           weights, optimiser, random states, by rank
                                   model             a Hugging Face folder
                                   ledger.parquet    what became of each prompt
                                   state.json        where loop and admission are, as plain values

A stage begins anew in a folder of its own, or goes on from the last checkpoint in it.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from o3rl.files import write_text

if TYPE_CHECKING:  # commands look for a checkpoint before they import what takes time
    from o3rl.ledger import Ledger

CHECKPOINTS = "checkpoints"
STATE = "state.json"
LEDGER = "ledger.parquet"


class Store(Protocol):
    """Where the learner's state and its model go."""

    async def save(self, folder: Path) -> None:
        """All that learning needs to go on."""
        ...

    async def export(self, folder: Path) -> None:
        """A Hugging Face folder."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole one.

    >>> Checkpoint(Path("runs/demo/rl/checkpoints/step-000020")).step
    20
    """

    path: Path

    @property
    def step(self) -> int:
        """After which it was taken."""
        return int(self.path.name.removeprefix("step-"))

    @property
    def learner(self) -> Path:
        """What the learner restores from."""
        return self.path / "learner"

    @property
    def ledger(self) -> Path:
        """The ledger as it was."""
        return self.path / LEDGER

    def state(self) -> dict[str, Any]:
        """Of loop and admission."""
        return json.loads((self.path / STATE).read_text())


class Checkpoints:
    """Those of the stage in `folder`: one every `every` steps (0: none), of which `keep` stay."""

    def __init__(self, folder: Path, learner: Store, *, every: int, keep: int):
        self._folder = folder / CHECKPOINTS
        self._learner = learner
        self._every = every
        self._keep = keep

    def due(self, step: int) -> bool:
        """Whether one is to be taken after `step`."""
        return self._every > 0 and step % self._every == 0

    async def save(self, step: int, state: Mapping[str, Any], *, ledger: "Ledger") -> Checkpoint:
        """Take the one of `step`; it replaces an older one of that step.

        Ledger and state are of this moment: prompts go on being admitted while the learner saves.
        """
        final = self._folder / f"step-{step:06d}"
        aside = final.with_suffix(".writing")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        ledger.write(aside / LEDGER)
        write_text(aside / STATE, json.dumps(state, indent=1))
        await self._learner.save(aside / "learner")
        await self._learner.export(aside / "model")
        if final.exists():
            _discard(final)
        aside.rename(final)
        for old in _whole(self._folder)[: -self._keep]:
            if old.path != final:
                _discard(old.path)
        return Checkpoint(final)


def start_from(folder: Path, *, resume: bool) -> Checkpoint | None:
    """What the stage in `folder` goes on from: its last checkpoint, or None to begin anew.

    Raises ValueError where there is none to resume, and where a new run would mix with an old one.
    """
    if resume:
        found = last_of(folder)
        if found is None:
            raise ValueError(
                f"there is no checkpoint in {folder / CHECKPOINTS} to resume from; begin anew, "
                "without --resume and in another folder=…"
            )
        return found
    metrics = folder / "metrics.jsonl"
    if metrics.is_file() and metrics.stat().st_size:
        raise ValueError(
            f"a run lies in {folder}; go on with it by --resume, or name another folder=…"
        )
    return None


def last_of(folder: Path) -> Checkpoint | None:
    """The last checkpoint of the stage in `folder`, if there is one."""
    return next(reversed(_whole(folder / CHECKPOINTS)), None)


def state_of(folder: Path, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """What loop and admission of the stage in `folder` go on from; empty to begin anew.

    Each start is an incarnation of its own, also where two starts go on from the same checkpoint,
    or where a run begins again that had none yet: that changes nothing else of the parts. The last
    one's number is kept in the folder.
    """
    last = folder / "incarnation"
    before = int(last.read_text()) if last.is_file() else -1
    if checkpoint is None and before < 0:
        write_text(last, "0\n")
        return {}
    state = checkpoint.state() if checkpoint else {"loop": {}, "admission": {}}
    number = max(before, state["loop"].get("incarnation", 0))
    write_text(last, f"{number + 1}\n")
    for part in ("loop", "admission"):
        state[part]["incarnation"] = number
    return state


def _discard(path: Path) -> None:
    """Delete a checkpoint; what is half deleted does not have its name any more."""
    dropped = path.with_suffix(".dropped")
    shutil.rmtree(dropped, ignore_errors=True)
    path.rename(dropped)
    shutil.rmtree(dropped)


def _whole(folder: Path) -> list[Checkpoint]:
    """Oldest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(map(Checkpoint, found), key=lambda each: each.step)
