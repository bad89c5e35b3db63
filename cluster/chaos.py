"""`o3rl bench chaos`: runs on stand-in engines whose processes are killed and frozen all the time.

A run of `o3rl train` goes on in a process of its own while one of its processes after another is
struck: ended by SIGKILL, or frozen by SIGSTOP and woken when the run has gone on without it, so
that its late answers arrive. A driver that ends is started again with `--resume`. At the end of
each run an audit reads what it left: every step trained and logged once, every prompt trained once
or listed with its reason, every epoch's rows all used, a model written, no process left behind.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from o3rl.ledger import SET_ASIDE, SKIPPED, TRAINED

VICTIMS = {
    "replica": "ray::Replica",
    "scorer": "ray::_Actor",
    "learner": "ray::_Rank",
    "store": "ray::StoreActor",
    "media": "ray::MediaActor",
    "controller": "ray::Controller",
    "driver": "",
}
STRIKES = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}
MARK = "O3RL_CHAOS"  # in the environment of all processes of a run
GROUPS = 4
STEPS = 24
SETTINGS = (
    f"loop.groups={GROUPS}",
    f"loop.steps={STEPS}",
    "loop.max_staleness=1",
    "loop.max_attempts=6",
    "loop.validate_every=0",
    "loop.checkpoint_every=3",
    "sampling.group_size=4",
    "rollouts.stand_in_seconds=0.2",
    "rollouts.replicas=2",
    "rollouts.cpus=0.5",
    "rollouts.start_seconds=120",
    "rollouts.seconds=8",
    "rollouts.load_seconds=8",
    "learning.seconds=30",
    "frames.decode_seconds=5",
    "cluster.cpus_per_rank=1",
    "cluster.controller_restarts=5",
    "cluster.controller_seconds=10",
    "tracking.rollouts=0",
    "tracking.model=false",
)
POLL_SECONDS = 0.1
RECOVERY_SECONDS = 300.0  # until another step is trained
STARTS = 4  # of a driver without a step between them
LEFT_SECONDS = 20.0  # for processes to end after the driver


class ChaosError(RuntimeError):
    """A run did not go on, or its audit found something wrong."""


@dataclass(frozen=True, slots=True)
class Struck:
    """One trial: what was done to whom, and the seconds until the next step was trained."""

    victim: str
    strike: str
    step: int
    recovery_seconds: float
    resumed: bool  # the driver had ended and was started again


class Chaos:
    """Strikes runs of `model` on `rows` until `trials` are done. Same seed, same order of strikes.

    Raises ChaosError naming the run's folder, which is then left as it is.
    """

    def __init__(self, *, model: Path, rows: Path, media: Path, folder: Path, seed: int):
        self._model, self._rows, self._media, self._folder = model, rows, media, folder
        self._random = random.Random(seed)
        self._runs = 0

    def trials(self, kinds: Sequence[tuple[str, str]], count: int) -> Iterator[Struck]:
        """`count` strikes of (victim, strike), the kinds in turn, in a shuffled order each time."""
        todo: list[tuple[str, str]] = []
        while len(todo) < count:
            todo += self._random.sample(list(kinds), len(kinds))
        todo = todo[:count]
        while todo:
            yield from self._run(todo)

    def _run(self, todo: list[tuple[str, str]]) -> Iterator[Struck]:
        """One run from its first step to its audit, struck as often as its steps allow."""
        self._runs += 1
        run = _Run(
            self._folder / f"run-{self._runs:03d}",
            [
                f"model.path={self._model}",
                f"data.train={self._rows}",
                f"data.media={self._media}",
                f"data.validation={self._rows}",
                *SETTINGS,
            ],
        )
        run.start()
        try:
            run.wait_beyond(0)
            while todo and run.step < STEPS - 3 and not run.ended:
                victim, strike = todo.pop(0)
                time.sleep(self._random.uniform(0.0, 1.0))
                yield run.strike(victim, strike, self._random)
            run.finish()
        finally:
            run.kill()
        run.audit()


class _Run:
    """`o3rl train` in a process of its own."""

    def __init__(self, folder: Path, settings: list[str]):
        self._folder = folder
        self._settings = settings
        self._token = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
        self._folder.mkdir(parents=True)

    @property
    def step(self) -> int:
        """The last one that was logged."""
        return max(self._steps(), default=0)

    @property
    def ended(self) -> bool:
        """Whether the driver has ended well."""
        return self._process is not None and self._process.poll() == 0

    def start(self, *, resume: bool = False) -> None:
        """The driver, for the first time or again."""
        command = [sys.executable, "-m", "cluster.cli", "train", "tiny_demo"]
        command += [f"folder={self._folder / 'run'}", f"name=chaos-{self._token[:8]}"]
        command += [*self._settings, *(["--resume"] if resume else [])]
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=os.environ | {MARK: self._token},
                start_new_session=True,
            )

    def strike(self, victim: str, strike: str, luck: random.Random) -> Struck:
        """Do it, and wait until the run has trained another step."""
        before, began = self.step, time.monotonic()
        pid = self._find(victim, luck)
        os.kill(pid, STRIKES[strike])
        try:
            resumed = self.wait_beyond(before)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return Struck(victim, strike, before, time.monotonic() - began, resumed)

    def wait_beyond(self, step: int) -> bool:
        """Until a later step is logged, or the run has ended; whether it had to be resumed."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        resumed, starts = False, 0
        while self.step <= step and not self.ended:
            if self._process is not None and self._process.poll() not in (None, 0):
                starts += 1
                if starts > STARTS:
                    raise ChaosError(f"{self._folder}: the driver ends each time; see log.txt")
                self._await_none_left()
                self.start(resume=(self._folder / "run" / "rl" / "checkpoints").exists())
                resumed = True
            if time.monotonic() > deadline:
                raise ChaosError(f"{self._folder}: no step after {step} in {RECOVERY_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        return resumed

    def finish(self) -> None:
        """To the end of the run."""
        while not self.ended:
            self.wait_beyond(self.step)

    def kill(self) -> None:
        """End whatever is left."""
        for pid in _marked(self._token):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def audit(self) -> None:
        """Raise ChaosError for anything that a run without faults would not leave."""
        self._await_none_left()
        steps = Counter(self._steps())
        wrong = []
        if steps != Counter(range(1, STEPS + 1)):
            wrong.append(f"steps logged: {sorted(steps.items())}")
        folder = self._folder / "run" / "rl"
        entries = pq.read_table(folder / "ledger.parquet").to_pylist()
        trained = Counter(e["version"] for e in entries if e["outcome"] == TRAINED)
        if trained != Counter(dict.fromkeys(range(1, STEPS + 1), GROUPS)):
            wrong.append(f"prompts trained by version: {sorted(trained.items())}")
        open_ = [e for e in entries if e["outcome"] not in (TRAINED, SET_ASIDE, SKIPPED)]
        if open_:
            wrong.append(f"prompts neither trained nor listed with a reason: {open_}")
        groups = Counter(entry["group"] for entry in entries)
        if set(groups) != set(range(len(entries))):
            wrong.append(f"group numbers: {sorted(groups.items())}")
        wrong += _epochs(entries)
        if not list((folder / "model").glob("*.safetensors")):
            wrong.append("no model was written")
        if wrong:
            raise ChaosError(f"{self._folder}: " + "; ".join(wrong))

    def _steps(self) -> list[int]:
        path = self._folder / "run" / "rl" / "metrics.jsonl"
        steps = []
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(json.JSONDecodeError):  # the last line, while it is being written
                steps.append(json.loads(line)["step"])
        return steps

    def _find(self, victim: str, luck: random.Random) -> int:
        """A process of that kind; waits while there is none, for it may be starting."""
        assert self._process is not None
        if victim == "driver":
            return self._process.pid
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            found = [pid for pid in _marked(self._token) if _title(pid).startswith(VICTIMS[victim])]
            if found:
                return luck.choice(sorted(found))
            time.sleep(POLL_SECONDS)
        raise ChaosError(f"{self._folder}: no {victim} was there for {RECOVERY_SECONDS:g} s")

    def _await_none_left(self) -> None:
        deadline = time.monotonic() + LEFT_SECONDS
        while left := [_title(pid) for pid in _marked(self._token)]:
            if time.monotonic() > deadline:
                raise ChaosError(f"{self._folder}: the driver has ended and left {left}")
            time.sleep(POLL_SECONDS)


def _epochs(entries: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with the rows of epochs that were followed by another: each is used once."""
    last = max(entry["epoch"] for entry in entries)
    whole = [Counter(e["row"] for e in entries if e["epoch"] == epoch) for epoch in range(last)]
    wrong = []
    for epoch, rows in enumerate(whole):
        if set(rows.values()) != {1} or rows != whole[0]:
            twice = [row for row, count in rows.items() if count > 1]
            missing = sorted(set(whole[0]) - set(rows))
            wrong.append(f"epoch {epoch} used {twice} more than once, {missing} never")
    return wrong


def _marked(token: str) -> list[int]:
    """The processes that live and carry the token of a run."""
    mark = f"{MARK}={token}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            alive = path.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if alive and mark in path.joinpath("environ").read_bytes():
                found.append(int(path.name))
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def prepared(folder: Path) -> dict[str, Path]:
    """Rows and media of a few synthetic videos below `folder`, for `Chaos`."""
    from cluster.configs import model_path
    from cluster.data import write_synthetic
    from o3rl.stgr import import_file
    from o3rl.synth.dataset import Size, write_dataset
    from o3rl.synth.questions import Teacher

    data = folder / "data"
    write_synthetic(data, Size(4, 3, 1, 1), seed=0, teacher=Teacher(), write=write_dataset)
    import_file(data / "STGR-RL.json", folder / "rows", media=data / "media")
    return {"model": Path(model_path("tiny")), "rows": folder / "rows", "media": data / "media"}


def workplace(out: Path | None) -> Path:
    """Where the runs go: `out`, or a folder that is kept, for what they left is the evidence."""
    if out is None:
        return Path(tempfile.mkdtemp(prefix="o3rl-chaos-"))
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out} is not empty; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    return out
