"""One version's buckets as files in this node's memory, for vLLM's workers to map.

The workers are children of the rollout actor and cannot read Ray's object store: the actor fetches
and checks, while the old weights go on serving, and names the files in the update. Files lie in
/dev/shm where there is room, else in the temporary folder, under a name made of their contents: the
first replica of a node makes them, the others find them. Where the learner publishes patches, a
replica holds on to the files it has loaded, and makes the next ones of them.

A folder is held by a shared lock, made under an exclusive one, and removed by whoever finds it
without any: its last holder, or, where that was killed, the next staging. A replica that ends in
the middle of a load lets go of that too.
"""

import fcntl
import logging
import math
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from o3rl.types import Version
from o3rl.weights.buckets import Bucket, digest_of, verify
from o3rl.weights.delta import patched
from o3rl.weights.manifest import Manifest, WeightSource

log = logging.getLogger(__name__)

PREFIX = "o3rl-weights-"
MADE = "made"  # its file says that a folder is whole
_LOOK_SECONDS = 0.05  # between two looks at a folder that another replica is making
_UNLOCKED_SECONDS = 60.0  # a folder without a lock and younger than this is being made


@dataclass(frozen=True, slots=True)
class Staged:
    """Files of a version, in the order of its buckets; the bytes that were fetched to make them."""

    paths: tuple[Path, ...]
    fetched: int


@dataclass
class _Hold:
    """A folder that is not removed while this lasts."""

    folder: Path
    lock: IO[bytes]

    def end(self) -> None:
        """Let go; the folder goes too if nobody else holds it. May be called again."""
        if not self.lock.closed:
            self.lock.close()
            with suppress(FileNotFoundError):
                _remove_unheld(self.folder)


class Stage:
    """One replica's way to the files of its node.

    It waits for a neighbour that makes them for a quarter of `seconds`, and then makes its own: one
    that is frozen holds up no other.
    """

    def __init__(self, *, seconds: float):
        self._patience = seconds / 4
        self._base: tuple[Version, _Hold] | None = None  # whose files the next may be made of
        self._current: _Hold | None = None  # of the load that goes on
        self._closed = False

    @contextmanager
    def files(self, source: WeightSource, manifest: Manifest) -> Iterator[Staged]:
        """Files of the manifest's payloads, every tensor checked.

        Raises ValueError naming a tensor that differs from the manifest, or if it was closed,
        LookupError if the source dropped the version meanwhile.
        """
        folder = _place(_name(manifest), manifest.size)
        hold: _Hold | None = None
        try:
            hold, fetched = self._held(folder, source, manifest)
            yield Staged(tuple(_path(hold.folder, b) for b in manifest.buckets), fetched)
        except BaseException as error:
            if hold is not None:
                hold.end()
            if isinstance(error, (OSError, ValueError)):  # of files that are gone, and locks
                self._refuse_closed(manifest, error)
            raise
        if self._base is not None:
            self._base[1].end()
            self._base = None
        if manifest.base:
            self._base = (manifest.version, hold)
        else:
            hold.end()

    def close(self) -> None:
        """Let go of what is held, also by a load that goes on; there is no further one."""
        self._closed = True
        for hold in (self._current, self._base and self._base[1]):
            if hold is not None:
                hold.end()

    def _held(self, folder: Path, source: WeightSource, manifest: Manifest) -> tuple[_Hold, int]:
        """The folder, made by us or by another, and the bytes that we fetched."""
        fetched, end = 0, time.monotonic() + self._patience
        while True:
            self._refuse_closed(manifest)
            if time.monotonic() > end:
                log.warning("%s is not finished by whoever makes it; we make our own", folder)
                folder, end = _apart(folder), math.inf
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                lock = _opened(folder / "lock", os.O_CREAT | os.O_RDWR)
            except (FileExistsError, FileNotFoundError):  # it was removed, just now
                continue
            hold = self._current = _Hold(folder, lock)
            try:
                self._refuse_closed(manifest)  # `close` has seen this hold, or we see that it came
                if _locked(lock, fcntl.LOCK_EX) and _is_ours(folder, lock):
                    fetched += self._make(source, manifest, folder)
                # From one lock to the other there is a moment without, in which a sweep may come.
                ours = _locked(lock, fcntl.LOCK_SH) and _is_ours(folder, lock)
                if ours and (folder / MADE).exists():
                    return hold, fetched
            except BaseException:
                hold.end()
                raise
            lock.close()
            time.sleep(_LOOK_SECONDS)

    def _refuse_closed(self, manifest: Manifest, error: Exception | None = None) -> None:
        if self._closed:
            told = f"version {manifest.version} is not staged: the replica was closed"
            raise ValueError(told) from error

    def _make(self, source: WeightSource, manifest: Manifest, folder: Path) -> int:
        """Write the files that are not there yet; returns the bytes fetched."""
        total = 0
        if not (folder / MADE).exists():
            for left in folder.glob("*.[0-9]*"):  # by who was killed as it wrote
                left.unlink()
            for bucket in manifest.buckets:
                payload, fetched = self._patched(source, manifest.version, bucket)
                if payload is None:
                    payload = source.payload(manifest.version, bucket.index)
                    verify(bucket, payload)
                    fetched += len(payload)
                # Who was closed has no lock any more: what another maps there now stays as it is.
                # (Not `o3rl.files.write_bytes`: it would make a folder again that was removed.)
                self._refuse_closed(manifest)
                aside = folder / f"{bucket.index}.{os.getpid()}"
                aside.write_bytes(payload)
                aside.replace(_path(folder, bucket))
                total += fetched
            self._refuse_closed(manifest)
            (folder / MADE).touch()
        return total

    def _patched(
        self, source: WeightSource, version: Version, bucket: Bucket
    ) -> tuple[bytearray | None, int]:
        """The payload made of our base and what changed since; None where that does not fit."""
        if self._base is None:
            return None, 0
        held, hold = self._base
        found = source.patch(version, bucket.index)
        if found is None or found[0] != held:
            return None, 0
        size = len(found[1])
        try:
            with _path(hold.folder, bucket).open("rb") as file:
                old = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            payload = patched(memoryview(old), found[1])
            verify(bucket, memoryview(payload))
        except (ValueError, OSError) as error:
            log.warning("bucket %d of %s is fetched whole: %s", bucket.index, version, error)
            return None, size
        return payload, size


def _name(manifest: Manifest) -> str:
    """By who may read it, what is in it, and how it is cut."""
    cut = digest_of(str([(b.index, b.size) for b in manifest.buckets]).encode())
    return f"{PREFIX}{os.getuid()}-{manifest.digest}-{cut}"


def _path(folder: Path, bucket: Bucket) -> Path:
    return folder / f"{bucket.index:05d}.safetensors"


def _place(name: str, size: int) -> Path:
    """Where a folder of that name is, or is to be: in memory where there is room."""
    roots = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    for root in roots:
        _sweep(root)
    for root in roots:
        if (root / name / MADE).exists():
            return root / name
    memory, disk = roots
    in_memory = memory.is_dir() and shutil.disk_usage(memory).free > 1.1 * size
    return (memory if in_memory else disk) / name


def _apart(folder: Path) -> Path:
    """A name beside it that nobody else has."""
    return folder.with_name(f"{folder.name}-{os.getpid()}-{time.monotonic_ns()}")


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError, PermissionError):  # another sweeper's, or another user's
            _remove_unheld(folder)


def _remove_unheld(folder: Path) -> None:
    path = folder / "lock"
    if not path.exists():
        if time.time() - folder.stat().st_mtime > _UNLOCKED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
        return
    with _opened(path, os.O_RDWR) as lock:
        if _locked(lock, fcntl.LOCK_EX) and _is_ours(folder, lock):
            # Renamed first: nobody may find half of it under its name.
            shutil.rmtree(folder.rename(_apart(folder)), ignore_errors=True)


def _opened(path: Path, flags: int) -> IO[bytes]:
    return os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)


def _locked(lock: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_ours(folder: Path, lock: IO[bytes]) -> bool:
    """Whether the lock is the folder's, not that of one that was removed under this name."""
    with suppress(FileNotFoundError):
        return os.fstat(lock.fileno()).st_ino == (folder / "lock").stat().st_ino
    return False
