"""Checkpoints of a stage: all that it goes on from, in a folder that has its name only when whole.

    FOLDER/checkpoints/step-000020/learner           weights, optimiser, random states, by rank
                                   model             a Hugging Face folder
                                   ledger.parquet    what became of each prompt
                                   state.json        where loop and admission are, as plain values
                                   digests.json      of each file

A stage begins anew in a folder of its own, or goes on from the last checkpoint in it that is as it
was written. One that cannot be written ends no run.
"""

import asyncio
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from o3rl.files import put_aside, replace_folder, write_text

if TYPE_CHECKING:  # commands look for a checkpoint before they import what takes time
    from o3rl.persistence.ledger import Ledger
    from o3rl.tracking.tracker import Tracker

CHECKPOINTS = "checkpoints"
STATE = "state.json"
LEDGER = "ledger.parquet"
DIGESTS = "digests.json"
READERS = 4  # files that are digested at once

logger = logging.getLogger(__name__)


class Unsaved(ValueError):
    """A checkpoint could not be written, by the disk's fault; what was there before still is."""


class CheckpointStore(Protocol):
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

    def described(self) -> dict[str, Any]:
        """Plain values: step, path, bytes, and a digest over those of its files."""
        size = sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())
        return {
            "step": self.step,
            "path": str(self.path.absolute()),
            "bytes": size,
            "digest": _digest(self.path / DIGESTS),
        }

    def damage(self) -> str:
        """What is not as it was written, or empty; reads every file.

        Raises OSError where they cannot be read now, which says nothing of the checkpoint.
        """
        try:
            written = json.loads((self.path / DIGESTS).read_text())
        except (FileNotFoundError, ValueError) as error:
            return str(error)
        found = _digests(self.path)
        differs = sorted(name for name in written if found.get(name) != written[name])
        return f"not as it was written: {', '.join(differs)}" if differs else ""


class Checkpoints:
    """Those of the stage in `folder`: one every `every` steps (0: none), of which `keep` stay.

    Each that was taken is entered in the `tracker`'s table of checkpoints. `fence` ends an attempt
    that has been superseded.
    """

    def __init__(
        self,
        folder: Path,
        learner: CheckpointStore,
        *,
        every: int,
        keep: int,
        tracker: "Tracker",
        fence: Callable[[], None] = lambda: None,
    ):
        self._folder = folder / CHECKPOINTS
        self._learner = learner
        self._every = every
        self._keep = keep
        self._tracker = tracker
        self._fence = fence
        self._taken: Checkpoint | None = None  # the last one, by this start of the stage

    def due(self, step: int) -> bool:
        """Whether one is to be taken after `step`."""
        return self._every > 0 and step % self._every == 0

    async def save_due(
        self, step: int, state: Callable[[], Mapping[str, Any]], *, ledger: "Ledger"
    ) -> None:
        """Take the one of `step` if one is due. A full disk ends no run: it is told."""
        if not self.due(step):
            return
        try:
            await self.save(step, state(), ledger=ledger)
        except Unsaved as error:
            logger.error("%s; the run goes on without it", error)

    async def save(self, step: int, state: Mapping[str, Any], *, ledger: "Ledger") -> Checkpoint:
        """Take the one of `step`, if this start has not; it replaces one of an earlier start.

        Ledger and state are of this moment: prompts go on being admitted while the learner saves.
        Raises Unsaved where the disk refuses; what the learner raises comes through.
        """
        if self._taken is not None and self._taken.step == step:
            return self._taken
        final = self._folder / f"step-{step:06d}"
        aside = final.with_suffix(".writing")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            ledger.write(aside / LEDGER)
            write_text(aside / STATE, json.dumps(state, indent=1))
            await self._learner.save(aside / "learner")
            await self._learner.export(aside / "model")
            await asyncio.to_thread(self._finish, aside, final)
        except OSError as error:
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)
            raise Unsaved(f"checkpoint {final} could not be written: {error}") from error
        self._taken = taken = Checkpoint(final)
        try:  # it is there, whatever becomes of the rest
            await asyncio.to_thread(self._thin_out, taken)
            self._tracker.table([taken.described()], "checkpoints")
        except OSError as error:
            logger.error("after checkpoint %s: %s", final, error)
        return taken

    def _finish(self, aside: Path, final: Path) -> None:
        self._fence()
        write_text(aside / DIGESTS, json.dumps(_digests(aside), indent=1))
        self._fence()
        replace_folder(final, aside)

    def _thin_out(self, taken: Checkpoint) -> None:
        for old in _whole(self._folder)[: -self._keep]:
            if old.path != taken.path:
                shutil.rmtree(put_aside(old.path))


def start_from(folder: Path, *, resume: bool) -> Checkpoint | None:
    """What the stage in `folder` goes on from: its last checkpoint, or None to begin anew.

    Whether it is sound `sound_of` finds out. Raises ValueError where there is none to resume, and
    where a new run would mix with an old one.
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


def sound_of(folder: Path) -> Checkpoint | None:
    """The last checkpoint that is as it was written; damaged ones are put aside, and told.

    Only for who holds the folder. Raises ValueError where all that there were are damaged.
    """
    while found := last_of(folder):
        damage = found.damage()
        if not damage:
            return found
        aside = found.path.with_suffix(".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        found.path.rename(aside)
        logger.error("checkpoint %s is damaged (%s); it lies in %s", found.path, damage, aside)
    if list((folder / CHECKPOINTS).glob("step-*.damaged")):
        raise ValueError(
            f"all checkpoints in {folder / CHECKPOINTS} are damaged; begin anew in another folder=…"
        )
    return None


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


def _digests(folder: Path) -> dict[str, str]:
    """By file, as seen from `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS)
    with ThreadPoolExecutor(READERS) as readers:
        return dict(
            zip(
                (str(f.relative_to(folder)) for f in files),
                readers.map(_digest, files),
                strict=True,
            )
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _whole(folder: Path) -> list[Checkpoint]:
    """Oldest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(map(Checkpoint, found), key=lambda each: each.step)
