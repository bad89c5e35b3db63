"""A lease on a run's folder: one attempt at a time writes there, and an older one finds out.

    FOLDER/attempts/000001.json  ended        each attempt has a file of its own, made exclusively;
    FOLDER/attempts/000002.json  beats        the highest number holds the lease

Laws: a number is given once; an attempt that sees a higher number than its own (a frozen process
that woke up, a machine that was cut off) ends its process at once and tidies nothing up, for the
folder is another's; clocks of two machines are never compared: whether a holder elsewhere still
beats is seen by watching its file. A holder on this machine is known by its process.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from o3rl.files import write_text

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
LOST = 75  # exit code of a process whose run another one has taken over


class LeaseLost(RuntimeError):
    """A newer attempt holds the folder; nothing may be written there any more."""


@dataclass(frozen=True, slots=True)
class Holder:
    """One attempt as its file tells: `machine` and `born` tell processes with one pid apart.

    >>> Holder(2, "node-a", machine="6b0c…/4026531836", pid=4711, born="81234", beat=1.76e9)
    """

    attempt: int
    host: str
    machine: str  # since its start, and which process numbers it counts by
    pid: int
    born: str
    beat: float  # seconds since 1970, for people
    ended: str = ""  # how; empty while it runs or if it was killed
    owner: str = ""  # who had it started

    def __str__(self) -> str:
        return f"attempt {self.attempt} on {self.host}, pid {self.pid}"


class Lease:
    """Held by this process from `take` on, as long as nobody else takes a higher number.

    As a context it beats from a thread, ends the process as soon as the lease is lost, and tells
    at its end how the attempt ended.
    """

    def __init__(self, attempts: Path, holder: Holder):
        self.attempt = holder.attempt
        self._attempts = attempts
        self._holder = holder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._write(kind.__name__ if kind else "finished")

    def beat(self) -> None:
        """Show that we live. Raises LeaseLost if a newer attempt holds the folder."""
        self.check()
        self._write("")

    def fence(self) -> None:
        """To be called before a write that must not be another's: ends this process if it is.

        Nothing is tidied up then, for the folder, and all that a service of the old attempt could
        still do to it, is the new attempt's.
        """
        with self._fenced():
            self.check()

    def check(self) -> None:
        """Raises LeaseLost if a newer attempt holds the folder."""
        newest = max(_numbers(self._attempts))
        if newest > self.attempt:
            raise LeaseLost(
                f"attempt {newest} has taken {self._attempts.parent} over from {self._holder}"
            )

    def _keep(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with self._fenced():
                self.beat()

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        try:
            yield
        except LeaseLost as error:
            log.critical("%s; this process ends", error)
            os._exit(LOST)
        except (OSError, ValueError) as error:  # a file system that does not answer now
            log.warning("%s could not look at its lease: %s", self._holder, error)

    def _write(self, ended: str) -> None:
        holder = replace(self._holder, beat=time.time(), ended=ended)
        try:
            write_text(_path(self._attempts, self.attempt), json.dumps(asdict(holder)))
        except OSError as error:  # a full disk is the business of those who must write
            log.warning("%s could not renew its lease in %s: %s", holder, self._attempts, error)


def take(
    folder: Path,
    *,
    owner: str = "",
    after: int | None = None,
    stale_seconds: float = STALE_SECONDS,
) -> Lease:
    """The lease on `folder`, by the next number; waits at most `stale_seconds` for a silent holder.

    `after` was the last attempt when `owner` began: ValueError if another owner had one since.
    ValueError if an attempt holds the folder, naming it; but an owner's next attempt supersedes its
    last one, which may be frozen.
    """
    attempts = folder / "attempts"
    attempts.mkdir(parents=True, exist_ok=True)
    while True:
        last = holder_of(folder)
        if after is not None and last is not None and last.attempt > after and last.owner != owner:
            raise ValueError(f"{last} has taken {folder} over; we began after attempt {after}")
        ours_before = last is not None and owner and last.owner == owner
        if last is not None and not ours_before and _lives(last, folder, stale_seconds):
            raise ValueError(f"{last} trains in {folder}; stop it first, or name another folder=…")
        ours = replace(_ourselves((last.attempt if last else 0) + 1), owner=owner)
        with suppress(FileExistsError):  # another one was quicker: look at it
            _create(_path(attempts, ours.attempt), json.dumps(asdict(ours)))
            return Lease(attempts, ours)


def holder_of(folder: Path) -> Holder | None:
    """The last attempt on a run's folder."""
    attempts = folder / "attempts"
    numbers = _numbers(attempts)
    return _read(attempts, max(numbers)) if numbers else None


def living(folder: Path, *, stale_seconds: float = STALE_SECONDS) -> Holder | None:
    """The attempt that holds a run's folder now; of one elsewhere that is seen by watching it."""
    last = holder_of(folder)
    return last if last is not None and _lives(last, folder, stale_seconds) else None


def _lives(holder: Holder, folder: Path, seconds: float) -> bool:
    """Whether it still runs; of one elsewhere, whether its file changes within `seconds`."""
    if holder.ended:
        return False
    ours = _ourselves(holder.attempt)
    if holder.machine == ours.machine:
        return _born(holder.pid) == holder.born
    deadline = time.monotonic() + seconds
    log.warning("waiting up to %.0f s for a sign of %s in %s", seconds, holder, folder)
    while time.monotonic() < deadline:
        time.sleep(min(0.2, seconds))
        now = holder_of(folder)
        if now != holder:
            return not (now and now.ended)
    return False


def _ourselves(attempt: int) -> Holder:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    machine = f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    pid = os.getpid()
    return Holder(attempt, socket.gethostname(), machine, pid, _born(pid), time.time())


def _born(pid: int) -> str:
    """When a process of this machine began, in ticks since the machine did; empty if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return "" if state == "Z" else fields[18]


def _create(path: Path, text: str) -> None:
    """A whole file, or FileExistsError: a link is made in one step, on network file systems too."""
    who = f"{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
    aside = path.with_name(f".{path.name}.{who}")
    aside.write_text(text)
    try:
        os.link(aside, path)
    finally:
        aside.unlink()


def _numbers(attempts: Path) -> list[int]:
    return [int(path.stem) for path in attempts.glob("[0-9]*.json")]


def _read(attempts: Path, attempt: int) -> Holder:
    return Holder(**json.loads(_path(attempts, attempt).read_text()))


def _path(attempts: Path, attempt: int) -> Path:
    return attempts / f"{attempt:06d}.json"
