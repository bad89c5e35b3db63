"""Weights as files of a node: checked, removed, and swept where a killed process left them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.staging import staged
from actors.watch import Processes
from o3rl.flow import Version
from o3rl.weights import MemoryWeights, RawTensor, publish

ROOT = Path(__file__).parents[2]


def source() -> MemoryWeights:
    weights = MemoryWeights()
    tensors = {f"l.{n}.w": RawTensor(f"l.{n}.w", "float32", (8,), bytes([n]) * 32) for n in (1, 2)}
    publish(tensors, weights, version=Version(0, 1), limit=32)
    return weights


def test_files_hold_the_payloads_and_go_when_done():
    weights = source()
    manifest = weights.manifest()
    with staged(weights, manifest) as paths:
        assert [path.read_bytes() for path in paths] == [
            weights.payload(manifest.version, index) for index in (0, 1)
        ]
        folder = paths[0].parent
        with staged(weights, manifest):  # a second replica of this node
            assert paths[0].exists()
    assert not folder.exists()


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
        staged(weights, weights.manifest()),
    ):
        pass
    assert folders() <= before


def test_what_a_killed_process_left_is_swept():
    program = (
        "import time\n"
        "from tests.actors.test_staging import source\n"
        "from actors.staging import staged\n"
        "weights = source()\n"
        "with staged(weights, weights.manifest()) as paths:\n"
        "    print(paths[0].parent, flush=True)\n"
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
    weights = source()
    with staged(weights, weights.manifest()):
        assert folder.exists(), "its process lives"
    child.kill()
    child.wait(30)
    with staged(weights, weights.manifest()):
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
        "from actors.watch import die_with_owner; die_with_owner()\n"
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
