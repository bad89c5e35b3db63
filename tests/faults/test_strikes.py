"""Strikes on processes of our own, and what a site copies and counts as its own: no Ray here."""

import os
import random
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from o3rl.code_digest import PACKAGES
from tests.faults import strikes
from tests.faults.site import ACTORS, RAYS_OWN, Site, copy_source
from tests.faults.strikes import KINDS, FrozenReplica, FullDisk, StruckInVain, strike_of


class Story:
    """A run as far as a strike sees it."""

    step = 4
    log = "before\n"


class Place(Site):
    """A site of which only the processes that it finds are there."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.found: list[int] = []

    def find(self, title: str) -> list[int]:
        return list(self.found) if title == ACTORS["replica"] else []


@pytest.fixture
def sleeper():
    """Starts processes that sleep."""
    started = []

    def start() -> subprocess.Popen:
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def becomes(process: subprocess.Popen, letter: str) -> bool:
    """R, S, T …, soon: a signal takes a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        if stat.rpartition(")")[2].split()[0] == letter:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_a_strike(kind, tmp_path):
    strike_of(kind, Place(tmp_path), Story(), every=3, luck=random.Random(0))


def test_a_replica_that_is_killed_needs_a_successor(tmp_path, sleeper):
    site, victim = Place(tmp_path), sleeper()
    strike = strike_of("kill replica", site, Story(), every=3, luck=random.Random(0))
    with pytest.raises(ProcessLookupError):
        strike.begin()
    site.found = [victim.pid]
    strike.begin()
    assert victim.wait(5) == -9
    site.found = []
    assert not strike.shown(stepped=True)
    site.found = [sleeper().pid]
    assert strike.shown(stepped=False)


def test_a_frozen_replica_wakes_when_it_is_given_up_and_may_be_taken_back(
    tmp_path, sleeper, monkeypatch
):
    monkeypatch.setattr(strikes, "RETURN_SECONDS", 0.0)
    site, story, victim = Place(tmp_path), Story(), sleeper()
    site.found = [victim.pid]
    strike = FrozenReplica(site, story, luck=random.Random(0))
    strike.begin()
    assert not strike.shown(stepped=True)
    assert becomes(victim, "T")
    story.log += f"prompt 3 again: rollout replica 0 on h, pid {victim.pid}: no group within 8 s\n"
    strike.shown(stepped=True)
    assert becomes(victim, "S")
    assert strike.shown(stepped=True)  # it lives, and nobody gave it up for good


@pytest.mark.parametrize("said", ["no group within 8 s, and no answer since", "did not load"])
def test_one_that_was_given_up_for_good_needs_a_successor(tmp_path, sleeper, monkeypatch, said):
    monkeypatch.setattr(strikes, "RETURN_SECONDS", 0.0)
    site, story, victim = Place(tmp_path), Story(), sleeper()
    site.found = [victim.pid]
    strike = FrozenReplica(site, story, luck=random.Random(0))
    strike.begin()
    story.log += f"pid {victim.pid}{'' if 'load' in said else ':'} {said}\n"
    assert not strike.shown(stepped=True)
    assert becomes(victim, "S")
    assert not strike.shown(stepped=True)
    site.found.append(sleeper().pid)
    assert strike.shown(stepped=True)


def limit(process: subprocess.Popen) -> int:
    """Of the size of its files."""
    return resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[0]


def test_a_full_disk_stays_full_until_the_log_tells_of_it(sleeper):
    story, victim = Story(), sleeper()
    before = limit(victim)
    strike = FullDisk(lambda: [victim.pid], story, every=3, size=4096)
    strike.begin()
    assert limit(victim) == 4096
    assert not strike.shown(stepped=True)
    story.log += "checkpoint step-000006 could not be written: [Errno 27] File too large\n"
    assert not strike.shown(stepped=False)
    assert strike.shown(stepped=True)
    assert limit(victim) == before


def test_a_learner_that_is_lost_is_struck_again_three_times_at_most(sleeper):
    story, ranks = Story(), [sleeper(), sleeper(), sleeper()]
    there: list[int] = []
    strike = FullDisk(lambda: there, story, every=3, size=4096)
    with pytest.raises(ProcessLookupError):
        strike.begin()
    there.append(ranks[0].pid)
    strike.begin()
    for old, new in pairwise(ranks):
        old.kill()
        old.wait()
        there[:] = []
        assert not strike.shown(stepped=True)  # it is starting
        there[:] = [new.pid]
        assert not strike.shown(stepped=True)
        assert limit(new) == 4096
    ranks[2].kill()
    ranks[2].wait()
    with pytest.raises(StruckInVain, match="3 learners ended"):
        strike.shown(stepped=True)


def test_a_checkpoint_that_did_not_fail_is_told(sleeper, monkeypatch):
    monkeypatch.setattr(strikes, "TOLD_SECONDS", 0.0)
    story, victim = Story(), sleeper()
    strike = FullDisk(lambda: [victim.pid], story, every=3)
    strike.begin()
    story.step = 7  # its checkpoint may be on its way
    assert not strike.shown(stepped=True)
    story.step = 8
    with pytest.raises(StruckInVain, match="no checkpoint failed by step 8"):
        strike.shown(stepped=True)


def test_what_is_started_imports_a_copy(tmp_path):
    copy_source(tmp_path / "source")
    code = (
        "import importlib, sys; from o3rl.config import shipped;"
        "names = sys.argv[1:];"
        "print(*(importlib.import_module(name).__file__ for name in names), sep='\\n');"
        "print(shipped.find('tiny_demo'), shipped.model_path('tiny'), sep='\\n')"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "source")}
    command = [sys.executable, "-c", code, *PACKAGES, "tests.faults.reward"]
    done = subprocess.run(
        command,
        env=environment,
        cwd=tmp_path / "source",
        capture_output=True,
        text=True,
        check=True,
    )
    paths = done.stdout.split()
    assert len(paths) == len(PACKAGES) + 3
    assert all(path.startswith(str(tmp_path / "source")) for path in paths)
    assert all(Path(path).exists() for path in paths)


@pytest.mark.parametrize(
    ("title", "left"),
    [
        ("ray::Replica", True),
        ("ray::_Actor.score", True),
        ("python -m cluster.commands.cli train tiny_demo", True),
        ("python -P /x/o3rl/media/decoder_process.py 5", True),
        ("ray::IDLE_SpillWorker", False),
        ("/x/ray/core/src/ray/raylet/raylet --y", False),
        ("python /x/ray/_private/workers/default_worker.py", False),
        ("python -m huey.bin.huey_consumer mlflow.server.jobs.x", False),
    ],
)
def test_what_counts_as_left_of_a_run(tmp_path, monkeypatch, title, left):
    site = Site(tmp_path)
    monkeypatch.setattr(site, "_pids", lambda: iter([os.getpid()]))
    monkeypatch.setattr("tests.faults.site.title_of", lambda _: title)
    assert site.left_of_run() == ([title] if left else [])
    assert not any(part.startswith(each) for part in ACTORS.values() for each in RAYS_OWN)


@pytest.mark.parametrize("kind", ["fill disk", "freeze scorer", "freeze replica"])
def test_what_was_never_begun_is_undone_by_nothing(tmp_path, kind):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    strike_of(kind, Place(tmp_path), Story(), every=3, luck=random.Random(0)).undo()
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
