"""The weight store: a small actor, outside the learner group, that owns published weights.

    learner ── put, commit ──► store (objects, mirror on disk) ◄── manifest, payload ── replicas

Laws: objects die with their owner, so the store puts them itself; what it acknowledged is on disk,
and a store that Ray starts again goes on from there; two versions are kept. A disk that refuses
ends no run by itself: that version is in memory only, and lost with the store. Payloads cross as
arrays, which Ray maps instead of copying.
"""

import json
import logging
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError

from o3rl.files import put_aside
from o3rl.ray_calls import answer_of, beside_us
from o3rl.types import Version
from o3rl.weights.buckets import Bucket, TensorEntry, verify
from o3rl.weights.delta import patched
from o3rl.weights.manifest import Manifest
from o3rl.weights.versions import RetainedVersions

KEEP = 2
MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


class Mirror:
    """Versions as files: `<folder>/<version>/<bucket>.safetensors`, its entries, the manifest.

    What is half deleted does not have a version's name any more.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        for dropped in folder.glob("*.dropped"):
            shutil.rmtree(dropped, ignore_errors=True)

    def put(self, version: Version, bucket: Bucket, payload: np.ndarray) -> None:
        """Write one bucket; its entries come last, so that a bucket with them is whole."""
        folder = self._folder / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / f"{bucket.index:05d}.safetensors", payload.data)
        _write(folder / f"{bucket.index:05d}.json", json.dumps(asdict(bucket)).encode())

    def commit(self, manifest: Manifest) -> None:
        """Mark a version as complete."""
        text = json.dumps({"buckets": len(manifest.buckets), "base": manifest.base})
        _write(self._folder / str(manifest.version) / MANIFEST, text.encode())

    def drop(self, version: Version) -> None:
        """Remove a version, if it is there."""
        try:
            dropped = put_aside(self._folder / str(version))
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("weights of version %s cannot be removed: %s", version, error)
            return
        shutil.rmtree(dropped, ignore_errors=True)

    def versions(self) -> list[Version]:
        """All that are there, complete or not, oldest first."""
        if not self._folder.is_dir():
            return []
        names = [re.fullmatch(r"(\d+)\.(\d+)", path.name) for path in self._folder.iterdir()]
        return sorted(Version(int(name[1]), int(name[2])) for name in names if name)

    def buckets(self, version: Version) -> list[tuple[Bucket, np.ndarray]]:
        """Those of a version that were written whole, in order. Raises OSError, ValueError."""
        found: list[tuple[Bucket, np.ndarray]] = []
        for path in sorted((self._folder / str(version)).glob("[0-9]*.json")):
            bucket = _bucket(json.loads(path.read_text()))
            payload = np.fromfile(path.with_suffix(".safetensors"), dtype=np.uint8)
            found.append((bucket, payload))
        return found

    def committed(self, version: Version) -> dict[str, Any] | None:
        """What `commit` noted of a version; None if it was not."""
        path = self._folder / str(version) / MANIFEST
        return json.loads(path.read_text()) if path.is_file() else None


class StoreActor:
    """What runs in the store's process; `WeightStore` is what others hold."""

    def __init__(self, folder: str, *, keep: int = KEEP):
        self._shelf: RetainedVersions[ray.ObjectRef] = RetainedVersions(keep)
        self._mirror = Mirror(Path(folder))
        self._refused: set[Version] = set()  # by the disk
        for version in self._mirror.versions():
            try:
                self._restore(version)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.error("weights of version %s cannot be read back: %s", version, error)

    def put(self, version: Version, bucket: Bucket, payload: np.ndarray) -> None:
        """Take one bucket, to disk too."""
        if version not in self._refused:
            try:
                self._mirror.put(version, bucket, payload)
            except OSError as error:
                self._refuse(version, error)
        self._shelf.put(version, bucket, ray.put(payload))

    def put_patch(self, version: Version, bucket: Bucket, base: Version, patch: np.ndarray) -> None:
        """Take one bucket as what changed: made whole here, checked, and kept in both forms."""
        old = ray.get(self._shelf.payload(base, bucket.index))
        payload = patched(old.data, patch.data)
        verify(bucket, memoryview(payload))
        self.put(version, bucket, np.frombuffer(payload, dtype=np.uint8))
        self._shelf.note_patch(version, bucket.index, base, ray.put(patch))

    def commit(self, manifest: Manifest) -> None:
        """Make a version readable and forget what is too old."""
        self._shelf.commit(manifest)
        if manifest.version not in self._refused:
            try:
                self._mirror.commit(manifest)
            except OSError as error:
                self._refuse(manifest.version, error)
        self._drop_old()

    def manifest(self, version: Version | None) -> Manifest:
        """Of `version` or the newest."""
        return self._shelf.manifest(version)

    def payload(self, version: Version, index: int) -> list[ray.ObjectRef]:
        """Where one bucket lies; in a list, so that Ray hands on the reference."""
        return [self._shelf.payload(version, index)]

    def patch(self, version: Version, index: int) -> tuple[Version, ray.ObjectRef] | None:
        """Where what changed in one bucket lies, and since when it changed."""
        return self._shelf.patch(version, index)

    def pid(self) -> int:
        """Of the store's process."""
        return os.getpid()

    def _restore(self, version: Version) -> None:
        """As it was: committed, or on its way. Raises OSError, ValueError where files are not."""
        buckets = self._mirror.buckets(version)
        noted = self._mirror.committed(version)
        if noted is not None and len(buckets) != noted["buckets"]:
            raise ValueError(f"{len(buckets)} of its {noted['buckets']} buckets are there")
        for bucket, payload in buckets:
            self._shelf.put(version, bucket, ray.put(payload))
        if noted is not None:
            manifest = Manifest(version, tuple(bucket for bucket, _ in buckets), noted["base"])
            self._shelf.commit(manifest)
            self._drop_old()

    def _drop_old(self) -> None:
        """Of what is on disk, all that is neither held nor on its way."""
        held = self._shelf.versions
        for version in self._mirror.versions():
            if version < held[-1] and version not in held:
                self._mirror.drop(version)
        self._refused = {version for version in self._refused if version >= held[0]}

    def _refuse(self, version: Version, error: OSError) -> None:
        log.error("weights of version %s are in memory only, the disk refuses: %s", version, error)
        self._refused.add(version)
        self._mirror.drop(version)


@dataclass(frozen=True)
class WeightStore:
    """Sink and source of weights, wherever it is sent; every call waits at most `seconds`.

    Raises TimeoutError naming the store if it does not answer in time, even after a restart; what
    `RetainedVersions` raises comes through.
    """

    actor: Any
    seconds: float

    def put(self, version: Version, bucket: Bucket, payload: bytes | memoryview) -> None:
        """Take one bucket."""
        array = np.frombuffer(payload, dtype=np.uint8)
        self._answer(self.actor.put.remote(version, bucket, array), f"put bucket {bucket.index}")

    def put_patch(
        self, version: Version, bucket: Bucket, base: Version, patch: bytes | memoryview
    ) -> None:
        """Take one bucket as what changed since `base`."""
        array = np.frombuffer(patch, dtype=np.uint8)
        what = f"put a patch of bucket {bucket.index}"
        self._answer(self.actor.put_patch.remote(version, bucket, base, array), what)

    def commit(self, manifest: Manifest) -> None:
        """Make a version readable."""
        self._answer(self.actor.commit.remote(manifest), f"commit version {manifest.version}")

    def manifest(self, version: Version | None = None) -> Manifest:
        """Of `version` or the newest."""
        return self._answer(self.actor.manifest.remote(version), "manifest")

    def payload(self, version: Version, index: int) -> memoryview:
        """Safetensors bytes of one bucket, mapped from the object store where that is local.

        A store that was started again while we read put the bucket anew, and is asked once more.
        """
        what = f"bucket {index} of version {version}"
        lost: ObjectLostError | None = None
        for _ in range(2):
            [reference] = self._answer(self.actor.payload.remote(version, index), what)
            try:
                return memoryview(self._answer(reference, what))
            except ObjectLostError as error:
                lost = error
        raise TimeoutError(f"weight store: {what} was lost twice while it was read") from lost

    def patch(self, version: Version, index: int) -> tuple[Version, memoryview] | None:
        """What changed in one bucket, and since when; None too where a restart has lost it."""
        what = f"what changed in bucket {index} of version {version}"
        found = self._answer(self.actor.patch.remote(version, index), what)
        if found is None:
            return None
        base, reference = found
        try:
            return base, memoryview(self._answer(reference, what))
        except ObjectLostError:
            return None

    def close(self) -> None:
        """End the store; its mirror stays."""
        ray.kill(self.actor)

    def _answer(self, reference: Any, what: str) -> Any:
        return answer_of(reference, self.seconds, who="weight store", what=what)


def start_store(folder: Path, *, seconds: float) -> WeightStore:
    """Start the store with its mirror at `folder`, going on from what lies there."""
    actor = (
        ray.remote(StoreActor)
        .options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,  # while it starts again; callers have their own limits
            scheduling_strategy=beside_us(),
        )
        .remote(str(folder.absolute()))
    )
    return WeightStore(actor, seconds)


def _write(path: Path, content: bytes | memoryview) -> None:
    aside = path.with_suffix(f"{path.suffix}.part")
    with aside.open("wb") as file:
        file.write(content)
    aside.rename(path)


def _bucket(fields: dict[str, Any]) -> Bucket:
    tensors = tuple(
        TensorEntry(t["name"], t["dtype"], tuple(t["shape"]), t["digest"])
        for t in fields["tensors"]
    )
    return Bucket(fields["index"], tensors, fields["size"])
