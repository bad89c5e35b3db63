"""A process that must not outlive the one that owns it.

vLLM's engine and its workers are descendants of the rollout actor, and Ray or a kernel may kill the
actor without a chance to tidy up. Each worker waits, in a thread and without polling, for its
owner's end (a pid descriptor: numbers are not reused, any ancestor will do) and then kills itself
and its parent, the engine, in which no code of ours runs.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

OWNER = "O3RL_ENGINE_OWNER"  # pid, in the environment of the owner's descendants


def die_with_owner() -> None:
    """End this process, and its parent, when the owner named in the environment ends.

    At once if it has ended. Does nothing in the owner itself and where no owner is named.
    """
    owner = int(os.environ.get(OWNER, "0"))
    if owner in (0, os.getpid()):
        return
    parent = os.getppid()
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        _end(parent, owner)
        return
    wait = threading.Thread(
        target=_wait, args=(descriptor, parent, owner), name="die-with-owner", daemon=True
    )
    wait.start()


class Processes:
    """Processes to be ended for certain, held by descriptors: their numbers may be reused.

    Shared memory that they map goes with them.
    """

    def __init__(self):
        self._descriptors: list[int] = []
        self._segments: set[Path] = set()

    def add(self, pids: Iterable[int]) -> None:
        """Those of `pids` that live."""
        for pid in pids:
            with suppress(ProcessLookupError):
                self._descriptors.append(os.pidfd_open(pid))
                self._segments |= shared_segments(pid)

    def kill(self, seconds: float) -> None:
        """End them all. Raises TimeoutError if one is still there after `seconds`."""
        deadline = time.monotonic() + seconds
        for descriptor in self._descriptors:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        for descriptor in self._descriptors:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"a process of vLLM did not end within {seconds:.0f} s")
            os.close(descriptor)
        self._descriptors = []
        _remove(self._segments)


def shared_segments(pid: int) -> set[Path]:
    """Python's shared-memory files that a process maps: vLLM's message queues, up to 240 MiB each.

    Whoever made them is to remove them, and cannot when it is killed.
    """
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    paths = (line.split()[-1] for line in maps.splitlines())
    return {Path(path) for path in paths if path.startswith("/dev/shm/psm_")}


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _wait(descriptor: int, parent: int, owner: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    _end(parent, owner)


def _end(parent: int, owner: int) -> None:
    """Kill the parent if it stands between the owner and us (and still lives), then ourselves.

    Shared memory is removed if we live to do it: whoever ended the owner may end us as well.
    """
    mapped = shared_segments(os.getpid())
    if parent not in (owner, 1) and os.getppid() == parent:
        mapped |= shared_segments(parent)
        os.kill(parent, signal.SIGKILL)
    _remove(mapped)
    os.kill(os.getpid(), signal.SIGKILL)
