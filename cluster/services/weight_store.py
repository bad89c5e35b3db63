"""The weight store: a small actor, outside the learner group, that owns published weights.

    learner ── put, commit ──► store (objects) ◄── manifest, payload ── replicas

Laws: objects die with their owner, so the store puts them itself; two versions are kept. A store
that Ray starts again holds nothing: the learner publishes again (`weight_transfer`). Payloads cross
as arrays, which Ray maps instead of copying.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError

from o3rl.ray_calls import answer_within, beside_us
from o3rl.types import Version
from o3rl.weights.buckets import Bucket, verify
from o3rl.weights.delta import patched
from o3rl.weights.manifest import Manifest
from o3rl.weights.versions import RetainedVersions

KEEP = 2


class StoreActor:
    """What runs in the store's process; `WeightStore` is what others hold."""

    def __init__(self, *, keep: int = KEEP):
        self._retained: RetainedVersions[ray.ObjectRef] = RetainedVersions(keep)

    def put(self, version: Version, bucket: Bucket, payload: np.ndarray) -> None:
        """Take one bucket."""
        self._retained.put(version, bucket, ray.put(payload))

    def put_patch(self, version: Version, bucket: Bucket, base: Version, patch: np.ndarray) -> None:
        """Take one bucket as what changed: made whole here, checked, and kept in both forms."""
        old = ray.get(self._retained.payload(base, bucket.index))
        payload = patched(old.data, patch.data)
        verify(bucket, memoryview(payload))
        self.put(version, bucket, np.frombuffer(payload, dtype=np.uint8))
        self._retained.note_patch(version, bucket.index, base, ray.put(patch))

    def commit(self, manifest: Manifest) -> None:
        """Make a version readable and forget what is too old."""
        self._retained.commit(manifest)

    def manifest(self, version: Version | None) -> Manifest:
        """Of `version` or the newest."""
        return self._retained.manifest(version)

    def payload(self, version: Version, index: int) -> list[ray.ObjectRef]:
        """Where one bucket lies; in a list, so that Ray hands on the reference."""
        return [self._retained.payload(version, index)]

    def patch(self, version: Version, index: int) -> tuple[Version, ray.ObjectRef] | None:
        """Where what changed in one bucket lies, and since when it changed."""
        return self._retained.patch(version, index)

    def pid(self) -> int:
        """Of the store's process."""
        return os.getpid()


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

        What died with a store is asked for once more, of the one that was started in its place.
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
        """End the store."""
        ray.kill(self.actor)

    def _answer(self, reference: Any, what: str) -> Any:
        return answer_within(reference, self.seconds, who="weight store", what=what)


def start_store(*, seconds: float) -> WeightStore:
    """Start the store, which Ray starts again, empty, should it die."""
    actor = (
        ray.remote(StoreActor)
        .options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,  # while it starts again; callers have their own limits
            scheduling_strategy=beside_us(),
        )
        .remote()
    )
    return WeightStore(actor, seconds)
