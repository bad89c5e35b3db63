"""A weight sink that learner ranks can write to from their own processes: a folder."""

import pickle
from dataclasses import dataclass
from pathlib import Path

from o3rl.flow import Version
from o3rl.weights import Bucket, Manifest


@dataclass(frozen=True)
class FolderSink:
    folder: Path

    def put(self, version: Version, bucket: Bucket, payload: bytes) -> None:
        (self.folder / f"{version}-{bucket.index}").write_bytes(payload)

    def put_patch(self, version: Version, bucket: Bucket, base: Version, patch: bytes) -> None:
        raise LookupError(f"{version}-{bucket.index}: {len(patch)} bytes, and no {base}")

    def commit(self, manifest: Manifest) -> None:
        (self.folder / f"{manifest.version}").write_bytes(pickle.dumps(manifest))
