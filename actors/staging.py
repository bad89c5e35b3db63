"""One version's buckets as files in this node's memory, for vLLM's workers to map.

The workers are children of the rollout actor and cannot read Ray's object store: the actor fetches
and checks, while the old weights go on serving, and names the files in the update. Files lie in
/dev/shm where there is room, else in the temporary folder. A lock held by the process that made
them tells those that a killed process left, and the next staging removes them.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from o3rl.weights import Manifest, WeightSource, verify

_PREFIX = "o3rl-weights-"
_UNLOCKED_SECONDS = 60.0  # a folder without a lock and younger than this is being made


@contextmanager
def staged(source: WeightSource, manifest: Manifest) -> Iterator[tuple[Path, ...]]:
    """Files of the manifest's payloads, every tensor checked; removed on leaving.

    Raises ValueError naming a tensor that differs from the manifest, LookupError if the source
    dropped the version meanwhile.
    """
    root = _root(manifest.size)
    _sweep(root)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield tuple(_write(source, manifest, index, folder) for index in _indices(manifest))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _indices(manifest: Manifest) -> range:
    return range(len(manifest.buckets))


def _write(source: WeightSource, manifest: Manifest, index: int, folder: Path) -> Path:
    payload = source.payload(manifest.version, index)
    verify(manifest.buckets[index], payload)
    path = folder / f"{index:05d}.safetensors"
    path.write_bytes(payload)
    return path


def _root(size: int) -> Path:
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 1.1 * size:
        return memory
    return Path(tempfile.gettempdir())


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError, PermissionError):  # another sweeper's, or another user's
            if _abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    path = folder / "lock"
    if not path.exists():
        return time.time() - folder.stat().st_mtime > _UNLOCKED_SECONDS
    lock = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
