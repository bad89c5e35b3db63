"""Carries what a run has written to a store that may be slow, or away; never holds up the run.

    run ── log ──► metrics.jsonl ──┐  (by byte offset: nothing of it can be lost)
    run ── artifacts, tables ──► queue (bounded) ──► one thread ──► Store

Laws: no call here waits for the store but `close`, and that for a limited time; metrics arrive in
order and at least once, again from the file after a restart; a store that is away is asked again
with a growing pause, and the run is told once, and at the end how much is missing; an item that the
store refuses is dropped, counted and named; of a step that is trained again after a resume the
store keeps what it has got, the file what is true. Left out: what a store is (tracking.py has
MLflow's).
"""

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from o3rl.files import write_text
from o3rl.tracking.metrics_log import MetricsLog, MetricsRecord

log = logging.getLogger(__name__)

LINES_PER_REQUEST = 200
SLOWEST = 10e6  # bytes a second; files that take longer at a run's end are given up


class Refused(Exception):
    """The store is there and will never take this item."""


class RunStore(Protocol):
    """Where a run's numbers and files are shown. All but `Refused` means: try again later."""

    def open(self, run_id: str) -> str:
        """Connect; continue `run_id`, or begin a run if that is empty or gone; return its id."""
        ...

    def last_step(self) -> int:
        """The highest step that it has metrics of; -1 if it has none."""
        ...

    def metrics(self, lines: Sequence[MetricsRecord]) -> None:
        """Take the metrics of these steps."""
        ...

    def params(self, params: Mapping[str, str]) -> None:
        """Take parameters; those that it has already are left as they are."""
        ...

    def artifact(self, path: Path, folder: str) -> None:
        """Take a file or a folder under `folder`."""
        ...

    def table(self, path: Path, name: str) -> None:
        """Take the table of JSON lines at `path` in place of its older state."""
        ...

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        ...


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters by flat name."""

    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file or folder to show under `folder`."""

    path: Path
    folder: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table that lies as JSON lines at `path`."""

    path: Path
    name: str


Item = Params | Artifact | Table


@dataclass(frozen=True, slots=True)
class UploadOffset:
    """How far a store has got, kept in the run's folder: which run, and bytes of the metrics log.

    Up to `step` it has points already, of training that was rolled back.
    """

    store: str
    run_id: str
    delivered: int
    step: int = -1

    def write(self, path: Path) -> None:
        """Replace the file at `path`."""
        write_text(path, json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path, *, store: str, run_id: str = "") -> "UploadOffset":
        """The mark at `path`; a fresh one, of `run_id`, if there is none or none for this store."""
        if not path.exists():
            return UploadOffset(store, run_id, 0)
        fields = json.loads(path.read_text())
        if fields["store"] != store:
            return UploadOffset(store, run_id, 0)
        return UploadOffset(**fields)


class Uploader:
    """One thread between a run's folder and a store, named `name` for the mark and messages.

    `run_id` is the store's run to go on with where the mark names none. `after` is the step that
    the run goes on from: what was logged later is cut off the metrics log.
    """

    def __init__(
        self,
        store: RunStore,
        metrics: MetricsLog,
        *,
        name: str,
        mark: Path,
        run_id: str = "",
        after: int | None = None,
        capacity: int = 1000,
        pause: tuple[float, float] = (1.0, 60.0),
    ):
        self._store = store
        self._metrics = metrics
        self._name = name
        self._mark_path = mark
        self._mark = UploadOffset.read(mark, store=name, run_id=run_id)
        self._rewound = after is not None
        if after is not None:
            self._rewind(after)
        self._capacity = capacity
        self._pause = pause
        self._queue: deque[Item] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._status = "FINISHED"
        self._is_open = False
        self._deadline = math.inf  # once it is to be closed
        self._told = False
        self._lost = 0
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str:
        """The run's id in the store; empty until the store has answered."""
        return self._mark.run_id

    def notify(self) -> None:
        """Say that the metrics log has grown."""
        self._wake.set()

    def send(self, item: Item) -> None:
        """Queue an item. A full queue drops it, which is counted and told at the end."""
        with self._lock:
            if len(self._queue) >= self._capacity:
                self._lost += 1
                return
            self._queue.append(item)
        self._wake.set()

    def close(self, status: str, *, seconds: float) -> None:
        """Deliver what is left, end the run, and say what did not arrive.

        A store that is away is waited for at most `seconds`; files that are on their way, as long
        as they take at `SLOWEST`.
        """
        self._status = status
        self._deadline = time.monotonic() + seconds
        self._closing.set()
        self._wake.set()
        with self._lock:
            paths = [item.path for item in self._queue if isinstance(item, Artifact)]
        size = sum(map(_size, paths))
        self._thread.join(seconds + size / SLOWEST)
        missing = self._missing()
        if missing:
            log.warning("%s did not get %s; the run's folder has it all", self._name, missing)

    def _rewind(self, step: int) -> None:
        """Cut the metrics log behind `step`; the mark moves first, or a kill could lose lines."""
        end, delivered = self._metrics.end_of(step), self._mark.delivered
        told = max(self._mark.step, self._metrics.last_step(delivered))
        self._move_mark(replace(self._mark, delivered=min(delivered, end), step=told))
        self._metrics.cut(end)

    def _work(self) -> None:
        pause = self._pause[0]
        while True:
            closing = self._closing.is_set()
            self._wake.clear()
            try:
                self._deliver()
                if closing:
                    self._store.close(self._status)
                    return
            # A store brings clients of its own (HTTP, SQL, object stores) with errors of their own;
            # none of them may end this thread or the run, and all are told.
            except Exception as error:
                if time.monotonic() + self._pause[0] > self._deadline:
                    log.warning("%s: %s", self._name, _first_line(error))
                    return
                self._tell(error, pause)
                if closing:  # there is a little time left
                    time.sleep(self._pause[0])
                else:
                    self._closing.wait(pause)
                    pause = min(2 * pause, self._pause[1])
                continue
            pause = self._pause[0]
            if not self._closing.is_set():
                self._wake.wait()

    def _deliver(self) -> None:
        if not self._is_open:
            run_id = self._store.open(self._mark.run_id)
            if run_id != self._mark.run_id:
                self._move_mark(UploadOffset(self._name, run_id, 0))
            if self._rewound:  # it may have got a step of which the mark was never told
                told = max(self._mark.step, self._store.last_step())
                self._move_mark(replace(self._mark, step=told))
            self._is_open = True
        while self._deliver_lines() or self._deliver_item():
            pass
        if self._told:
            log.warning("%s is back and has everything so far", self._name)
            self._told = False

    def _deliver_lines(self) -> bool:
        lines, offset = self._metrics.after(self._mark.delivered, limit=LINES_PER_REQUEST)
        if offset == self._mark.delivered:
            return False
        new = [line for line in lines if line.step > self._mark.step]
        try:
            self._store.metrics(new)
        except Refused as error:
            self._refused(f"metrics of {len(new)} steps", error)
        self._move_mark(replace(self._mark, delivered=offset))
        return True

    def _deliver_item(self) -> bool:
        if not self._queue:
            return False
        item = self._queue[0]
        try:
            match item:
                case Params(params):
                    self._store.params(params)
                case Artifact(path, folder):
                    self._store.artifact(path, folder)
                case Table(path, name):
                    self._store.table(path, name)
        except (Refused, FileNotFoundError) as error:
            self._refused(_named(item), error)
        except BaseException:
            with self._lock:  # to the end, so that one item alone cannot hold up the others
                self._queue.rotate(-1)
            raise
        with self._lock:
            self._queue.popleft()
        return True

    def _move_mark(self, mark: UploadOffset) -> None:
        mark.write(self._mark_path)
        self._mark = mark

    def _refused(self, what: str, error: Exception) -> None:
        with self._lock:
            self._lost += 1
        log.warning("%s refused %s: %s", self._name, what, _first_line(error))

    def _tell(self, error: Exception, pause: float) -> None:
        if not self._told:
            log.warning(
                "%s is away (%s); the run goes on, its numbers are kept in %s, and it is asked "
                "again every %.0f to %.0f s",
                self._name,
                _first_line(error),
                self._metrics.path,
                pause,
                self._pause[1],
            )
        self._told = True

    def _missing(self) -> str:
        lines, offset = 0, self._mark.delivered
        while True:
            some, offset = self._metrics.after(offset, limit=LINES_PER_REQUEST)
            if not some:
                break
            lines += len(some)
        items = len(self._queue) + self._lost
        parts = [f"{lines} metric lines"] * (lines > 0) + [f"{items} other items"] * (items > 0)
        return " and ".join(parts)


def _named(item: Params | Artifact | Table) -> str:
    match item:
        case Params():
            return "the run's parameters"
        case Artifact(path, _):
            return str(path)
        case Table(_, name):
            return f"table {name}"


def _size(path: Path) -> int:
    """Bytes of a file, or of all below a folder; 0 where they cannot be told."""
    try:
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:  # deleted meanwhile, or out of reach: who sends it will say so
        return 0


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__
