"""Weights as files of a node: checked, removed, and swept where a killed process left them."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.engine.child_processes import Processes
from actors.weights.node_cache import Stage
from o3rl.types import Version
from o3rl.weights.buckets import RawTensor, pack_bucket
from o3rl.weights.delta import difference
from o3rl.weights.manifest import Manifest, publish
from o3rl.weights.versions import MemoryWeights

ROOT = Path(__file__).parents[3]
OWN = os.getpid().to_bytes(4, "little")


def source() -> MemoryWeights:
    return made(1)


def made(fill: int) -> MemoryWeights:
    """Other weights in each process: files are found by what is in them."""
    weights = MemoryWeights()
    tensors = {
        f"l.{n}.w": RawTensor(f"l.{n}.w", "int32", (8,), OWN + bytes([n * fill]) * 28)
        for n in (1, 2)
    }
    publish(tensors, weights, version=Version(0, 1), limit=32)
    return weights


def changing(
    weights: MemoryWeights, version: Version, data: bytes, *, base: Manifest | None = None
) -> Manifest:
    """Publishes one tensor as `version`, as what changed since `base`."""
    data = OWN + data[4:]
    bucket, payload = pack_bucket(0, [RawTensor("l.0.w", "float32", (len(data) // 4,), data)])
    if base is None:
        weights.put(version, bucket, payload)
    else:
        patch = difference(weights.payload(base.version, 0), payload)
        weights.put_patch(version, bucket, base.version, patch.payload)
    manifest = Manifest(version, (bucket,), base=True)
    weights.commit(manifest)
    return manifest


def stage() -> Stage:
    return Stage(seconds=30)


def contents(paths: Sequence[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def payloads(weights: MemoryWeights, manifest: Manifest) -> list[bytes]:
    return [weights.payload(manifest.version, bucket.index) for bucket in manifest.buckets]


def test_files_hold_the_payloads_and_go_when_done():
    weights = source()
    manifest = weights.manifest()
    with stage().files(weights, manifest) as ours:
        assert contents(ours.paths) == payloads(weights, manifest)
        assert ours.fetched == manifest.size
        folder = ours.paths[0].parent
        with stage().files(weights, manifest) as theirs:  # a second replica of this node
            assert theirs.paths == ours.paths
            assert theirs.fetched == 0
        assert folder.exists()
    assert not folder.exists()


@pytest.mark.parametrize("behind", [False, True])
def test_files_are_made_of_the_last_ones_and_what_changed(behind):
    weights = MemoryWeights()
    first = changing(weights, Version(0, 1), bytes(4096))
    ours = stage()
    with ours.files(weights, first) as old:
        folder = old.paths[0].parent
    assert folder.exists(), "the next version is made of it"
    if behind:  # a version that this replica did not take
        changing(weights, Version(0, 2), b"\1" * 4096, base=first)
        first = weights.manifest()
    second = changing(weights, Version(0, 3), bytes(4092) + b"\7\0\0\0", base=first)
    with ours.files(weights, second) as new:
        assert contents(new.paths) == payloads(weights, second)
        assert (new.fetched < second.size / 4) == (not behind)
    assert not folder.exists()
    ours.close()
    assert not new.paths[0].parent.exists()


def test_a_base_that_was_damaged_is_fetched_whole():
    weights = MemoryWeights()
    first = changing(weights, Version(0, 1), bytes(4096))
    ours = stage()
    with ours.files(weights, first) as old:
        pass
    old.paths[0].write_bytes(old.paths[0].read_bytes()[:-8] + b"\1" * 8)
    second = changing(weights, Version(0, 2), bytes(4) + b"\7" + bytes(4091), base=first)
    with ours.files(weights, second) as new:
        assert contents(new.paths) == payloads(weights, second)
        assert new.fetched > second.size
    ours.close()


def test_many_replicas_that_come_and_go_at_once_never_lose_a_file():
    versions = [made(fill) for fill in (1, 2)]
    fetched: list[int] = []

    def come_and_go(number: int) -> None:
        replica = stage()
        for turn in range(20):
            weights = versions[(number + turn) % 2]
            with replica.files(weights, weights.manifest()) as files:
                assert contents(files.paths) == payloads(weights, weights.manifest())
                time.sleep(0.002)
                fetched.append(files.fetched)

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(come_and_go, number) for number in range(8)]:
            done.result(60)
    assert len(fetched) == 160
    assert 0 in fetched, "one made what another read"


def test_what_a_frozen_neighbour_does_not_finish_holds_nobody_up():
    weights = source()
    with stage().files(weights, weights.manifest()) as files:
        folder = files.paths[0].parent
    folder.mkdir()
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with Stage(seconds=0.4).files(weights, weights.manifest()) as files:
            assert files.paths[0].parent != folder
            assert contents(files.paths) == payloads(weights, weights.manifest())
        assert not files.paths[0].exists()
        assert folder.exists()
    finally:
        os.close(lock)
    with stage().files(weights, weights.manifest()) as files:
        assert files.paths[0].parent == folder
        assert contents(files.paths) == payloads(weights, weights.manifest())


def test_what_lies_in_the_folder_on_disk_is_found_there_and_swept_there(monkeypatch, tmp_path):
    weights = source()
    full = shutil.disk_usage("/")._replace(free=0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: full)
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        ours = stage().files(weights, weights.manifest())
        with ours as files:
            assert files.paths[0].is_relative_to(tmp_path)
            patch.undo()
            patch.setattr(tempfile, "tempdir", str(tmp_path))
            with stage().files(weights, weights.manifest()) as theirs:
                assert theirs.paths == files.paths
        left = tmp_path / "o3rl-weights-left"
        left.mkdir()
        (left / "lock").touch()
        with stage().files(weights, weights.manifest()):
            assert not left.exists()


def test_bytes_that_differ_are_refused_and_leave_nothing():
    class Tampered(MemoryWeights):
        def payload(self, version, index):
            return super().payload(version, index)[:-1] + b"\xff"

    weights = Tampered()
    tensors = {"l.1.w": RawTensor("l.1.w", "float32", (8,), bytes(32))}
    publish(tensors, weights, version=Version(0, 1), limit=32)
    before = folders()
    with (
        pytest.raises(ValueError, match=r"bytes of l\.1\.w have digest"),
        stage().files(weights, weights.manifest()),
    ):
        pass
    assert folders() <= before


def test_who_is_closed_in_the_middle_of_a_load_leaves_nothing_and_loads_no_more():
    weights = source()
    ours = stage()
    with ours.files(weights, weights.manifest()) as files:
        folder = files.paths[0].parent
        with stage().files(weights, weights.manifest()):
            ours.close()
            assert folder.exists(), "a neighbour has it"
        assert not folder.exists()
        ours.close()
    with (
        pytest.raises(ValueError, match="the replica was closed"),
        ours.files(weights, weights.manifest()),
    ):
        pass
    assert not folder.exists()


def test_who_is_closed_while_it_fetches_leaves_nothing():
    class Closing(MemoryWeights):
        def payload(self, version, index):
            ours.close()
            return super().payload(version, index)

    weights = Closing()
    tensors = {"l.1.w": RawTensor("l.1.w", "float32", (8,), OWN * 8)}
    publish(tensors, weights, version=Version(0, 1), limit=32)
    before = folders()
    ours = stage()
    with (
        pytest.raises(ValueError, match="the replica was closed"),
        ours.files(weights, weights.manifest()),
    ):
        pass
    assert folders() <= before


def test_what_a_killed_process_left_is_swept():
    program = (
        "import time\n"
        "from tests.actors.weights.test_node_cache import source, stage\n"
        "weights = source()\n"
        "with stage().files(weights, weights.manifest()) as files:\n"
        "    print(files.paths[0].parent, flush=True)\n"
        "    time.sleep(600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout
    folder = Path(child.stdout.readline().strip())
    weights = made(2)
    with stage().files(weights, weights.manifest()):
        assert folder.exists(), "its process lives"
    child.kill()
    child.wait(30)
    with stage().files(weights, weights.manifest()):
        assert not folder.exists()


def folders() -> set[Path]:
    """Staging folders of this machine."""
    return {path for root in ("/dev/shm", "/tmp") for path in Path(root).glob("o3rl-weights-*")}


def test_shared_memory_goes_with_a_process_that_is_killed():
    program = (
        "from multiprocessing import resource_tracker, shared_memory\n"
        "made = shared_memory.SharedMemory(create=True, size=4096)\n"
        "resource_tracker.unregister(made._name, 'shared_memory')  # else Python removes it\n"
        "print(made.name, flush=True); import time; time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    file = Path("/dev/shm") / child.stdout.readline().strip()
    assert file.is_file()
    processes = Processes()
    processes.add([child.pid])
    processes.kill(30)
    assert child.wait(30) == -signal.SIGKILL
    assert not file.exists()


def test_a_process_ends_with_its_owner_however_that_ends():
    """Owner → engine (no code of ours) → worker, which watches."""
    worker = (
        "from actors.engine.child_processes import die_with_owner; die_with_owner()\n"
        "print('up', flush=True); import time; time.sleep(600)"
    )
    engine = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    owner = (
        "import os, subprocess, sys\n"
        "os.environ['O3RL_ENGINE_OWNER'] = str(os.getpid())\n"
        f"engine = subprocess.Popen([sys.executable, '-c', {engine!r}])\n"
        "print(engine.pid, flush=True)\n"
        "engine.wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", owner],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout
    engine_pid = int(process.stdout.readline())
    assert process.stdout.readline().strip() == "up"
    [worker_pid] = map(
        int, Path(f"/proc/{engine_pid}/task/{engine_pid}/children").read_text().split()
    )
    process.kill()
    process.wait(30)
    deadline = time.monotonic() + 30
    while left := [pid for pid in (engine_pid, worker_pid) if alive(pid)]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
