"""One run under strikes: from its first step to its audit, struck as often as its steps allow.

A driver that fails is started again with `--again`, whoever waits for what meanwhile.
"""

import json
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from o3rl.tracking.metrics_log import read_series
from tests.faults import moments
from tests.faults.audit import audit
from tests.faults.moments import Moment
from tests.faults.site import ACTORS, Site
from tests.faults.strikes import Strike, StruckInVain, strike_of

GROUPS = 4
STALENESS = 1
CHECKPOINT_EVERY = 3
REPLICAS = 2
SETTINGS = (
    f"loop.groups={GROUPS}",
    f"loop.max_staleness={STALENESS}",
    f"loop.checkpoint_every={CHECKPOINT_EVERY}",
    "loop.max_attempts=4",
    "loop.validate_every=0",
    "sampling.group_size=4",
    "rewards.custom.chaos=tests.faults.reward:reward",
    "rewards.seconds=5",
    "rollouts.engine=tests.faults.fake_engine:Slow",
    f"rollouts.replicas={REPLICAS}",
    "rollouts.start_seconds=120",
    "rollouts.seconds=8",
    "rollouts.load_seconds=8",
    "learning.seconds=20",
    "frames.decode_seconds=5",
    "cluster.service_seconds=20",  # an actor that Ray starts again needs 5 to 15 on busy cores
    "cluster.controller_restarts=5",
    "cluster.controller_seconds=10",
    "tracking.rollouts=0",
    "tracking.model=false",
    "tracking.experiment=chaos",
)
AT_MOST = {"replica": REPLICAS, "learner": 1, "controller": 1, "store": 1, "media": 1}
POLL_SECONDS = 0.1
RECOVERY_SECONDS = 300.0  # until another step is trained; until a strike has shown
STARTS = 4  # of a driver without a step between them
LEFT_SECONDS = 30.0  # for processes to end after the driver
SETTLED_SECONDS = 60.0  # for processes to be no more than a run has


class ChaosError(RuntimeError):
    """A run did not go on, or its audit found something wrong."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was done, and what became of it: seconds until a step that began after it was trained.

    >>> Trial("kill store", "publication", run=1, step=4, seconds=7.5, resumed=False)
    """

    kind: str
    moment: str  # of `moments`, that it was right after the strike
    run: int
    step: int
    seconds: float
    resumed: bool  # the driver had ended and was started again


@dataclass(frozen=True, slots=True)
class Data:
    """What the runs train: rows, some of them marked."""

    model: str  # a folder, or a shipped model's name
    rows: Path
    media: Path
    ids: frozenset[str]  # of all rows
    marked: dict[str, str]  # mark by row


class StruckRun:
    """The run `number` below the site's folder. `calm`: seconds of steps that no strike touched."""

    def __init__(self, site: Site, data: Data, *, number: int, luck: random.Random):
        self.calm: list[float] = []
        self._site, self._data, self._number, self._random = site, data, number, luck
        self.folder = site.folder / f"run-{number:03d}"
        self.folder.mkdir()
        self._starts = 0  # of the driver since it last came further
        self._reached = 0
        self._touched = 0  # the last step that a strike may have touched

    @property
    def step(self) -> int:
        """The last one that was logged."""
        path = self.folder / "rl" / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        for line in reversed(lines[-2:]):
            with suppress(json.JSONDecodeError):  # the last line, while it is being written
                return json.loads(line)["step"]
        return 0

    @property
    def log(self) -> str:
        """What the driver has said so far."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def trials(self, todo: list[tuple[str, str]]) -> Iterator[Trial]:
        """Takes from `todo` (kind, moment) what it does. Raises ChaosError naming its folder."""
        self._start()
        self._beyond(0)
        while todo and self.step < self._steps - 2 * CHECKPOINT_EVERY and not self._ended:
            trial = self._trial(*todo[0])
            if trial is None:  # the run has ended before the strike showed: another one is struck
                break
            todo.pop(0)
            yield trial
        while not self._ended:
            self._beyond(self.step)
        self._await_none_left()
        wrong = audit(
            self.folder / "rl",
            self._data.ids,
            batches=self.folder / "batches",
            steps=self._steps,
            groups=GROUPS,
            staleness=STALENESS,
            marked=self._data.marked,
            tracked=self._tracked(),
        )
        if wrong:
            raise self._error("; ".join(wrong))
        series = read_series(self.folder / "rl" / "metrics.jsonl")["seconds/step"]
        self.calm = [seconds for step, seconds in series if step > self._touched]

    @property
    def _ended(self) -> bool:
        """Whether the driver has ended well."""
        return self._site.driver.poll() == 0

    @property
    def _steps(self) -> int:
        """Of one epoch."""
        return len(self._data.ids) // GROUPS

    def _start(self) -> None:
        settings = [
            f"folder={self.folder}",
            f"name=chaos-{self._number}",
            f"model.path={self._data.model}",
            f"data.train={self._data.rows}",
            f"data.media={self._data.media}",
            f"loop.steps={self._steps}",
            *SETTINGS,
            *self._site.settings,
        ]
        options = ["--again", "--record", str(self.folder / "batches")]
        self._site.drive(["tiny_demo", *settings, *options], self.folder / "log.txt")

    def _trial(self, kind: str, moment: str) -> Trial | None:
        """Strike; wait until that has shown, and a step that began after it was trained.

        None where the run ends well before both.
        """
        drawn = self._await(moment)
        if self._ended:
            return None
        strike = strike_of(kind, self._site, self, every=CHECKPOINT_EVERY, luck=self._random)
        began = self._struck(strike, kind)
        hit = moment if drawn.is_here() else "any"
        at, resumed = self.step, False
        seconds: float | None = None
        shown, waits = False, began
        try:
            while not shown and not self._ended:
                resumed = self._watched() or resumed
                # The step after `at` may have been on its way.
                if seconds is None and self.step > at + 1:
                    waits = time.monotonic()
                    seconds = waits - began
                shown = self._shown(strike, kind, stepped=seconds is not None)
                shown = shown and seconds is not None
                if not shown and time.monotonic() - waits > RECOVERY_SECONDS:
                    what = "did nothing" if seconds else f"no step after {at + 1}"
                    raise self._error(f"{kind}: {what} in {RECOVERY_SECONDS:g} s")
                time.sleep(POLL_SECONDS)
        finally:
            strike.undo()
        self._settle(kind)
        self._touched = self.step + 1
        if not shown or not seconds:
            return None
        return Trial(kind, hit, self._number, at, seconds, resumed)

    def _await(self, name: str) -> Moment:
        moment = Moment(name, self.folder / "rl", luck=self._random)
        deadline = time.monotonic() + RECOVERY_SECONDS
        while not (moment.is_here() or self._ended):
            self._watched()
            if time.monotonic() > deadline:
                raise self._error(f"there was no {name} in {RECOVERY_SECONDS:g} s")
            time.sleep(moments.POLL_SECONDS)
        return moment

    def _struck(self, strike: Strike, kind: str) -> float:
        """Strike as soon as there is a victim; when that was."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            began = time.monotonic()
            with suppress(ProcessLookupError):  # it ended by itself, or is starting
                strike.begin()
                return began
            self._watched()
            time.sleep(POLL_SECONDS)
        raise self._error(f"{kind}: there was none to strike for {RECOVERY_SECONDS:g} s")

    def _shown(self, strike: Strike, kind: str, *, stepped: bool) -> bool:
        try:
            return strike.shown(stepped=stepped)
        except StruckInVain as error:
            raise self._error(f"{kind}: {error}") from error

    def _settle(self, kind: str) -> None:
        """Wait until there are no more processes of a kind than a run has, while it goes on."""
        deadline = time.monotonic() + SETTLED_SECONDS
        while (found := self._too_many()) and not self._ended:
            self._watched()
            if time.monotonic() > deadline:
                raise self._error(f"{kind}: {SETTLED_SECONDS:g} s later there are still {found}")
            time.sleep(POLL_SECONDS)

    def _too_many(self) -> dict[str, int]:
        counts = {each: len(self._site.find(ACTORS[each])) for each in AT_MOST}
        return {each: count for each, count in counts.items() if count > AT_MOST[each]}

    def _beyond(self, step: int) -> None:
        """Until a later step is logged, or the run has ended."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while self.step <= step and not self._ended:
            self._watched()
            if time.monotonic() > deadline:
                raise self._error(f"no step after {step} in {RECOVERY_SECONDS:g} s")
            time.sleep(POLL_SECONDS)

    def _watched(self) -> bool:
        """Start the driver again where it has failed; whether it had."""
        if self._site.driver.poll() in (None, 0):
            return False
        further = self.step > self._reached
        self._starts = 1 if further else self._starts + 1
        self._reached = max(self.step, self._reached)
        if self._starts > STARTS:
            raise self._error("the driver ends each time; see log.txt")
        self._await_none_left()
        self._start()
        return True

    def _await_none_left(self) -> None:
        deadline = time.monotonic() + LEFT_SECONDS
        while left := self._site.left_of_run():
            if time.monotonic() > deadline:
                raise self._error(f"the driver has ended and left {left}")
            time.sleep(POLL_SECONDS)

    def _tracked(self) -> list[int]:
        """The steps of one metric of this run in MLflow's database."""
        query = (
            "select step from metrics join tags on metrics.run_uuid = tags.run_uuid where "
            "metrics.key = 'reward/total' and tags.key = 'mlflow.runName' and tags.value = ?"
        )
        with sqlite3.connect(self._site.folder / "mlflow.db") as database:
            return [step for (step,) in database.execute(query, (f"chaos-{self._number}-rl",))]

    def _error(self, what: str) -> ChaosError:
        return ChaosError(f"{self.folder}: {what}")
