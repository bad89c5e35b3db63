"""`o3rl bench chaos`: runs whose processes are killed and frozen all the time, and what they leave.

    trial: a kind is drawn ─► its process is struck, at any moment of a step ─► the run trains on
    run:   as many trials as its steps allow ─► it ends ─► `chaos_audit` reads what it left

A trial is over when another step has been trained; a frozen process wakes up then, so that its late
answers arrive. A driver that ends is started again with `--again`. The engine is the stand-in
(`rollouts.stand_in_seconds`); all else is real. Rows of the data make trouble too (`ENDS`).
"""

import json
import os
import random
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.chaos_audit import ENDS, audit
from cluster.chaos_site import ACTORS, Site

KINDS = (
    *(
        f"{strike} {victim}"
        for victim in (*ACTORS, "driver", "mlflow")
        for strike in ("kill", "freeze")
    ),
    "kill node",
    "fill disk",
)
GROUPS = 4
STALENESS = 1
CHECKPOINT_EVERY = 3
SETTINGS = (
    f"loop.groups={GROUPS}",
    f"loop.max_staleness={STALENESS}",
    f"loop.checkpoint_every={CHECKPOINT_EVERY}",
    "loop.max_attempts=6",
    "loop.validate_every=0",
    "sampling.group_size=4",
    "rewards.custom.chaos=cluster.chaos_reward:reward",
    "rewards.seconds=5",
    "rollouts.stand_in_seconds=0.2",
    "rollouts.replicas=2",
    "rollouts.start_seconds=120",
    "rollouts.seconds=8",
    "rollouts.load_seconds=8",
    "learning.seconds=30",
    "frames.decode_seconds=5",
    "cluster.service_seconds=10",
    "cluster.controller_restarts=5",
    "cluster.controller_seconds=10",
    "tracking.rollouts=0",
    "tracking.model=false",
    "tracking.experiment=chaos",
)
FULL_DISK_BYTES = 2**16  # that a file of the rank may grow to, while its disk is "full"
POLL_SECONDS = 0.1
RECOVERY_SECONDS = 300.0  # until another step is trained
STARTS = 4  # of a driver without a step between them
LEFT_SECONDS = 30.0  # for processes to end after the driver


class ChaosError(RuntimeError):
    """A run did not go on, or its audit found something wrong."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was done, and what became of it: seconds until the next step was trained."""

    kind: str
    run: int
    step: int
    seconds: float
    resumed: bool  # the driver had ended and was started again


@dataclass(frozen=True, slots=True)
class Data:
    """What the runs train: rows, some of them marked."""

    model: Path
    rows: Path
    media: Path
    ids: frozenset[str]  # of all rows
    marked: dict[str, str]  # mark by row


class Chaos:
    """Strikes runs below `folder`. The same seed draws the same kinds at the same moments."""

    def __init__(self, site: Site, data: Data, *, seed: int):
        self._site, self._data = site, data
        self._random = random.Random(seed)
        self._runs = 0

    def trials(self, kinds: Sequence[str], count: int) -> Iterator[Trial]:
        """`count` of them, the kinds in turn, in an order of its own each time.

        Raises ChaosError naming the run's folder, which is left as it is.
        """
        todo: list[str] = []
        while len(todo) < count:
            todo += self._random.sample(list(kinds), len(kinds))
        todo = todo[:count]
        while todo:
            self._runs += 1
            run = _Run(self._site, self._data, number=self._runs, luck=self._random)
            yield from run.trials(todo)


class _Run:
    """One run from its first step to its audit, struck as often as its steps allow."""

    def __init__(self, site: Site, data: Data, *, number: int, luck: random.Random):
        self._site, self._data, self._number, self._random = site, data, number, luck
        self._folder = site.folder / f"run-{number:03d}"
        self._folder.mkdir()

    def trials(self, todo: list[str]) -> Iterator[Trial]:
        """Takes from `todo` what it does."""
        self._start()
        self._beyond(0)
        while todo and self._step < self._steps - 2 * CHECKPOINT_EVERY and not self._ended:
            time.sleep(self._random.uniform(0.0, 1.0))
            yield self._trial(todo.pop(0))
        while not self._ended:
            self._beyond(self._step)
        self._await_none_left()
        wrong = audit(
            self._folder / "rl",
            self._data.ids,
            steps=self._steps,
            groups=GROUPS,
            staleness=STALENESS,
            marked=self._data.marked,
            tracked=self._tracked(),
        )
        if wrong:
            raise ChaosError(f"{self._folder}: " + "; ".join(wrong))

    @property
    def _ended(self) -> bool:
        """Whether the driver has ended well."""
        return self._site.driver.poll() == 0

    @property
    def _step(self) -> int:
        """The last one that was logged."""
        path = self._folder / "rl" / "metrics.jsonl"
        last = 0
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(json.JSONDecodeError):  # the last line, while it is being written
                last = json.loads(line)["step"]
        return last

    @property
    def _unsaved(self) -> int:
        """Checkpoints that could not be written."""
        return (self._folder / "log.txt").read_text().count("could not be written")

    @property
    def _steps(self) -> int:
        """Of one epoch."""
        return len(self._data.ids) // GROUPS

    def _start(self) -> None:
        settings = [
            f"folder={self._folder}",
            f"name=chaos-{self._number}",
            f"model.path={self._data.model}",
            f"data.train={self._data.rows}",
            f"data.media={self._data.media}",
            f"loop.steps={self._steps}",
            *SETTINGS,
            *self._site.settings,
        ]
        self._site.drive(["tiny_demo", *settings, "--again"], self._folder / "log.txt")

    def _trial(self, kind: str) -> Trial:
        """Strike, and wait for a step that began after it: one may have been on its way."""
        at, began = self._step, time.monotonic()
        with self._struck(kind):
            steps = CHECKPOINT_EVERY if kind == "fill disk" else 1
            resumed = self._beyond(self._step + steps)
            seconds = time.monotonic() - began
        return Trial(kind, self._number, at, seconds, resumed)

    @contextmanager
    def _struck(self, kind: str) -> Iterator[None]:
        """The strike, and at the end of the block what undoes it."""
        strike, victim = kind.split()
        if victim == "node":
            self._site.lose_node()
            self._site.add_node()
            yield
        elif victim == "mlflow":
            with _signalled(strike, self._site.strike_server):
                yield
            if strike == "kill":
                self._site.start_server()
        elif victim == "disk":
            before = self._unsaved
            with full_disk(self._find("learner")):
                yield
            if self._unsaved == before:
                raise ChaosError(f"{self._folder}: no checkpoint failed on a full disk")
        elif kind == "kill driver":
            self._site.driver.kill()
            self._site.driver.wait()
            yield
        else:
            pid = self._find(victim)
            with _signalled(strike, lambda number: os.kill(pid, number)):
                yield

    def _find(self, victim: str) -> int:
        """A process of that kind; waits while there is none, for it may be starting."""
        if victim == "driver":
            return self._site.driver.pid
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            if found := self._site.find(ACTORS[victim]):
                return self._random.choice(sorted(found))
            time.sleep(POLL_SECONDS)
        raise ChaosError(f"{self._folder}: no {victim} was there for {RECOVERY_SECONDS:g} s")

    def _beyond(self, step: int) -> bool:
        """Until a later step is logged, or the run has ended; whether it had to be resumed."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        starts = 0
        while True:
            if self._site.driver.poll() not in (None, 0):
                starts += 1
                if starts > STARTS:
                    raise ChaosError(f"{self._folder}: the driver ends each time; see log.txt")
                self._await_none_left()
                self._start()
            if self._step > step or self._ended:
                return starts > 0
            if time.monotonic() > deadline:
                raise ChaosError(f"{self._folder}: no step after {step} in {RECOVERY_SECONDS:g} s")
            time.sleep(POLL_SECONDS)

    def _await_none_left(self) -> None:
        deadline = time.monotonic() + LEFT_SECONDS
        while left := self._site.left_of_run():
            if time.monotonic() > deadline:
                raise ChaosError(f"{self._folder}: the driver has ended and left {left}")
            time.sleep(POLL_SECONDS)

    def _tracked(self) -> list[int]:
        """The steps of one metric of this run in MLflow's database."""
        query = (
            "select step from metrics join tags on metrics.run_uuid = tags.run_uuid where "
            "metrics.key = 'reward/total' and tags.key = 'mlflow.runName' and tags.value = ?"
        )
        with sqlite3.connect(self._site.folder / "mlflow.db") as database:
            return [step for (step,) in database.execute(query, (f"chaos-{self._number}-rl",))]


@contextmanager
def _signalled(strike: str, send: Callable[[int], None]) -> Iterator[None]:
    """Killed, or frozen until the end of the block."""
    with suppress(ProcessLookupError):  # it ended by itself, just now
        send(signal.SIGKILL if strike == "kill" else signal.SIGSTOP)
    try:
        yield
    finally:
        if strike == "freeze":
            with suppress(ProcessLookupError):  # it was ended meanwhile
                send(signal.SIGCONT)


@contextmanager
def full_disk(pid: int, *, size: int = FULL_DISK_BYTES) -> Iterator[None]:
    """No file that the process writes can grow beyond `size` bytes: as near to ENOSPC as one gets
    without a disk.
    """
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def prepared(folder: Path, *, videos: int, marks: Sequence[str] = tuple(ENDS)) -> Data:
    """Rows and media of synthetic videos below `folder`, one row for each of `marks` among them."""
    from cluster.configs import model_path
    from o3rl.stgr import import_file
    from o3rl.store import read_rows
    from o3rl.synth.dataset import Size, write_dataset
    from o3rl.synth.questions import Teacher

    data = folder / "data"
    for _ in write_dataset(data, Size(videos, 3, 1, 1), seed=0, teacher=Teacher()):
        pass
    file = data / "STGR-RL.json"
    records = json.loads(file.read_text())
    for record, mark in zip(records, marks, strict=False):
        record["question"] += f" {mark}"
    file.write_text(json.dumps(records))
    import_file(file, folder / "rows", media=data / "media")
    rows = read_rows(str(folder / "rows"))
    marked = {row.id: mark for row in rows for mark in marks if mark in row.question}
    ids = frozenset(row.id for row in rows)
    return Data(Path(model_path("tiny")), folder / "rows", data / "media", ids, marked)
