"""The lease on a run's folder: one holder, numbers that only grow, and who counts as gone."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from o3rl.persistence.lease import LOST, LeaseLost, holder_of, take


def rewrite(folder, **changes) -> None:
    """What another machine or process would have written as the last attempt."""
    last = holder_of(folder)
    text = json.dumps(asdict(replace(last, **changes)))
    (folder / "attempts" / f"{last.attempt:06d}.json").write_text(text)


def test_numbers_grow_and_tell_how_each_attempt_ended(tmp_path):
    with take(tmp_path) as first:
        assert first.attempt == 1
        assert holder_of(tmp_path).ended == ""
    assert holder_of(tmp_path).ended == "finished"
    with pytest.raises(KeyError), take(tmp_path):
        raise KeyError
    assert (holder_of(tmp_path).attempt, holder_of(tmp_path).ended) == (2, "KeyError")


def test_a_living_holder_on_this_machine_is_named_and_refused_at_once(tmp_path):
    take(tmp_path)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"attempt 1 on .*, pid \d+ trains in .*stop it first"):
        take(tmp_path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "changes", [{"pid": 2**22 + 1}, {"born": "1"}], ids=["gone", "its number is reused"]
)
def test_a_holder_whose_process_is_gone_is_followed_at_once(tmp_path, changes):
    take(tmp_path)
    rewrite(tmp_path, **changes)
    assert take(tmp_path, stale_seconds=1000).attempt == 2


def test_a_silent_holder_elsewhere_is_followed_after_the_limit(tmp_path):
    take(tmp_path)
    rewrite(tmp_path, machine="another", beat=time.time() + 1e6)  # its clock is of no account
    began = time.monotonic()
    assert take(tmp_path, stale_seconds=0.5).attempt == 2
    assert time.monotonic() - began >= 0.5


def test_a_holder_elsewhere_that_beats_is_refused(tmp_path):
    take(tmp_path)
    rewrite(tmp_path, machine="another", beat=1.0)
    beats = threading.Timer(0.3, rewrite, [tmp_path], {"beat": 2.0})
    beats.start()
    with pytest.raises(ValueError, match="attempt 1 on"):
        take(tmp_path, stale_seconds=30)
    beats.join()


def test_an_older_attempt_sees_the_newer_one_and_leaves_its_file_alone(tmp_path):
    old = take(tmp_path)
    old.beat()
    rewrite(tmp_path, pid=2**22 + 1)
    new = take(tmp_path)
    with pytest.raises(LeaseLost, match="attempt 2 has taken"):
        old.beat()
    new.beat()
    assert holder_of(tmp_path).attempt == 2


def test_an_owner_goes_on_after_its_own_attempts_but_not_after_anothers(tmp_path):
    with take(tmp_path):
        pass
    for _ in range(2):
        with take(tmp_path, owner="we", after=1):
            pass
    with take(tmp_path, owner="another", after=3):
        pass
    with pytest.raises(ValueError, match=r"attempt 4 on .* has taken .* over; we began after .* 1"):
        take(tmp_path, owner="we", after=1)


def test_an_owner_supersedes_its_last_attempt_that_still_lives(tmp_path):
    frozen = take(tmp_path, owner="we")
    frozen.check()
    assert take(tmp_path, owner="we", after=0).attempt == 2
    with pytest.raises(LeaseLost, match="attempt 2 has taken"):
        frozen.check()
    with pytest.raises(ValueError, match=r"attempt 2 on .* trains in"):
        take(tmp_path, owner="another")


def test_of_many_that_take_it_at_once_one_gets_it(tmp_path):
    with take(tmp_path):
        pass
    got = []

    def try_it():
        try:
            got.append(take(tmp_path).attempt)
        except ValueError:
            got.append(None)

    threads = [threading.Thread(target=try_it) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got, key=str) == [2] + [None] * 15


def test_a_process_that_lost_its_lease_ends_and_writes_nothing(tmp_path):
    code = (
        "import sys, time, o3rl.persistence.lease as lease\n"
        "from pathlib import Path\n"
        "lease.BEAT_SECONDS = 0.05\n"
        "with lease.take(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        rewrite(tmp_path, pid=2**22 + 1)  # as if it had been taken for dead
        assert take(tmp_path).attempt == 2
        assert process.wait(timeout=30) == LOST
    assert holder_of(tmp_path).ended == ""
