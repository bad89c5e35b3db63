"""The strikes of `make faults`: each strikes a run, shows whether that did something, and
undoes what would not end by itself.

    begin ─► shown? shown? shown? … (polled, while the run trains on) ─► undo

`shown` takes a moment only and never waits, except where a node or a server is started; it raises
StruckInVain where it can tell that nothing will come of it.
"""

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tests.faults.site import ACTORS, Site

KINDS = (
    *(
        f"{strike} {victim}"
        for victim in (*ACTORS, "driver", "mlflow")
        for strike in ("kill", "freeze")
    ),
    "kill node",
    "fill disk",
)
FULL_DISK_BYTES = 2**16  # that a file of the rank may grow to, while its disk is "full"
DISK_STRIKES = 3  # of ranks, where each is lost before it was to write
TOLD_SECONDS = 10.0  # for a line of the log: the driver brings it a moment later
FROZEN_SECONDS = 5.0  # of a driver, whom nobody misses so soon
RETURN_SECONDS = 15.0  # for the pool to hear a replica that woke up, or to say that it did not


class StruckInVain(RuntimeError):
    """Nothing came of a strike."""


class Progress(Protocol):
    """What a strike sees of its run."""

    @property
    def step(self) -> int:
        """The last one that was logged."""
        ...

    @property
    def log(self) -> str:
        """What the driver has said so far."""
        ...


class Strike(Protocol):
    """One strike; `stepped`: a step that began after it was trained."""

    def begin(self) -> None:
        """Strike. Raises ProcessLookupError where the victim ended just now."""
        ...

    def shown(self, *, stepped: bool) -> bool:
        """Whether it has done something, and the run is whole again."""
        ...

    def undo(self) -> None:
        """At the trial's end, whatever became of it."""
        ...


def strike_of(kind: str, site: Site, run: Progress, *, every: int, luck: random.Random) -> Strike:
    """The strike of a kind of `KINDS` on a run that writes a checkpoint `every` so many steps."""
    special: dict[str, Callable[[], Strike]] = {
        "freeze replica": lambda: FrozenReplica(site, run, luck=luck),
        "kill driver": lambda: KilledDriver(site),
        "freeze driver": lambda: FrozenDriver(site, run),
        "kill mlflow": lambda: StruckServer(site, signal.SIGKILL, site.start_server),
        "freeze mlflow": lambda: StruckServer(
            site, signal.SIGSTOP, lambda: site.strike_server(signal.SIGCONT)
        ),
        "kill node": lambda: LostNode(site),
        "fill disk": lambda: FullDisk(lambda: site.find(ACTORS["learner"]), run, every=every),
    }
    if kind in special:
        return special[kind]()
    verb, victim = kind.split()
    return (Killed if verb == "kill" else Frozen)(site, victim, luck=luck)


def is_there(pid: int) -> bool:
    """Whether a process lives."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Killed:
    """An actor is killed: a successor of its title appears."""

    def __init__(self, site: Site, victim: str, *, luck: random.Random):
        self._site, self._title, self._luck = site, ACTORS[victim], luck
        self._before: frozenset[int] = frozenset()
        self.pid = 0

    def begin(self) -> None:
        """Strike one of its kind."""
        self._before = frozenset(self._site.find(self._title))
        if not self._before:
            raise ProcessLookupError(f"no {self._title}")
        self.pid = self._luck.choice(sorted(self._before))
        os.kill(self.pid, self._signal)

    def shown(self, *, stepped: bool) -> bool:
        """A new one is there."""
        del stepped
        return self._succeeded()

    def undo(self) -> None:
        """It is dead."""

    _signal = signal.SIGKILL

    def _succeeded(self) -> bool:
        return bool(set(self._site.find(self._title)) - self._before)


class Frozen(Killed):
    """An actor is frozen: a successor appears, and then it wakes up."""

    _signal = signal.SIGSTOP

    def shown(self, *, stepped: bool) -> bool:
        """A new one is there."""
        if not super().shown(stepped=stepped):
            return False
        self.undo()
        return True

    def undo(self) -> None:
        """Wake it, unless Ray has ended it."""
        with suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, signal.SIGCONT)


class FrozenReplica(Frozen):
    """A replica is frozen until it is given up: its late answers come when others have its prompts.

    Then either a successor appears, or it was in time with its answer to the pool's ping, and
    serves again.
    """

    def __init__(self, site: Site, run: Progress, *, luck: random.Random):
        super().__init__(site, "replica", luck=luck)
        self._run = run
        self._place = 0  # in the log
        self._woken: float | None = None

    def begin(self) -> None:
        """Strike one."""
        self._place = len(self._run.log)
        super().begin()

    def shown(self, *, stepped: bool) -> bool:
        """The pool has given it up, and has a replica in its place or has it back."""
        del stepped
        succeeded = self._succeeded()
        said = self._run.log[self._place :]
        name = f"pid {self.pid}"
        late, unloaded = f"{name}: no group within" in said, f"{name} did not load" in said
        if self._woken is None and (succeeded or late or unloaded):
            self.undo()
            self._woken = time.monotonic()
        if succeeded or self._woken is None:
            return succeeded
        ended = unloaded or "and no answer since" in said or not is_there(self.pid)
        return not ended and time.monotonic() - self._woken > RETURN_SECONDS


class KilledDriver:
    """The driver is killed: it is started again, as Kubernetes would."""

    def __init__(self, site: Site):
        self._site = site
        self._pid = 0

    def begin(self) -> None:
        """Strike."""
        self._pid = self._site.driver.pid
        self._site.driver.kill()
        self._site.driver.wait()

    def shown(self, *, stepped: bool) -> bool:
        """There is another one."""
        del stepped
        return self._site.driver.pid != self._pid

    def undo(self) -> None:
        """It is dead."""


class FrozenDriver:
    """The driver is frozen for a while; the run trains on without it, and with it again."""

    def __init__(self, site: Site, run: Progress):
        self._site, self._run = site, run
        self._pid = 0
        self._wakes = 0.0
        self._step: int | None = None  # when it woke up

    def begin(self) -> None:
        """Strike."""
        self._pid = self._site.driver.pid
        os.kill(self._pid, signal.SIGSTOP)
        self._wakes = time.monotonic() + FROZEN_SECONDS

    def shown(self, *, stepped: bool) -> bool:
        """Two steps were trained since it woke up."""
        del stepped
        if self._step is None and time.monotonic() > self._wakes:
            self.undo()
            self._step = self._run.step
        return self._step is not None and self._run.step >= self._step + 2

    def undo(self) -> None:
        """Wake it."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)


class StruckServer:
    """MLflow's server is struck: the run trains on without it, and then it is there again."""

    def __init__(self, site: Site, strike: signal.Signals, undo: Callable[[], None]):
        self._site, self._signal = site, strike
        self.undo = undo

    def begin(self) -> None:
        """Strike."""
        self._site.strike_server(self._signal)

    def shown(self, *, stepped: bool) -> bool:
        """The run trained on without it."""
        return stepped


class LostNode:
    """A node goes, with the replica on it; another one comes when the run has trained on."""

    def __init__(self, site: Site):
        self._site = site
        self._there: frozenset[int] | None = None  # replicas, when the new node came

    def begin(self) -> None:
        """Strike."""
        self._site.lose_node()

    def shown(self, *, stepped: bool) -> bool:
        """A replica has started since another node came."""
        if not stepped:
            return False
        self.undo()
        assert self._there is not None
        return bool(set(self._site.find(ACTORS["replica"])) - self._there)

    def undo(self) -> None:
        """Add a node, once."""
        if self._there is None:
            self._there = frozenset(self._site.find(ACTORS["replica"]))
            self._site.add_node()


class FullDisk:
    """No file that the learner writes can grow, until a checkpoint has failed of it.

    A learner that is lost before then is struck again, as the new one that it becomes.
    """

    def __init__(
        self,
        find: Callable[[], Sequence[int]],
        run: Progress,
        *,
        every: int,
        size: int = FULL_DISK_BYTES,
    ):
        self._find, self._run, self._every, self._size = find, run, every, size
        self._pid = 0
        self._before = (0, 0)
        self._place = self._strikes = self._step = 0
        self._due: float | None = None  # when the line about it must be there

    def begin(self) -> None:
        """Strike the rank that is there."""
        found = self._find()
        if not found:
            raise ProcessLookupError("no learner")
        before = resource.prlimit(found[0], resource.RLIMIT_FSIZE)
        resource.prlimit(found[0], resource.RLIMIT_FSIZE, (self._size, before[1]))
        self._pid, self._before = found[0], before
        self._place = self._place or len(self._run.log)
        self._strikes += 1
        self._step, self._due = self._run.step, None

    def shown(self, *, stepped: bool) -> bool:
        """A checkpoint could not be written."""
        if "could not be written" in self._run.log[self._place :]:
            self.undo()
            return stepped
        if not is_there(self._pid):
            if self._strikes == DISK_STRIKES:
                raise StruckInVain(f"{DISK_STRIKES} learners ended before a checkpoint was due")
            with suppress(ProcessLookupError):  # the next one is not there yet
                self.begin()
            return False
        if self._due is None and self._run.step > self._step + self._every:
            self._due = time.monotonic() + TOLD_SECONDS
        if self._due is not None and time.monotonic() > self._due:
            raise StruckInVain(f"no checkpoint failed by step {self._run.step} on a full disk")
        return False

    def undo(self) -> None:
        """Room again."""
        with suppress(ProcessLookupError):
            if self._pid:
                resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._before)
