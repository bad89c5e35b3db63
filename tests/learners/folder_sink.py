"""Where learner ranks can send weights to from their own processes: a folder."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class FolderReceivers:
    """Takes tensors straight from rank 0, as replicas would, and puts them into a file."""

    folder: Path
    members: tuple[str, ...] = ("folder",)

    def sender(self, weights: Any, *, rank: int, place: tuple[str, int]) -> "FolderSender":
        return FolderSender(self.folder, weights, rank, place[1])


@dataclass(frozen=True)
class FolderSender:
    folder: Path
    weights: Any
    rank: int
    port: int

    def send(self, version: Version) -> list[tuple[int, int, Manifest]]:
        import torch

        tensors = dict(self.weights)  # all ranks walk
        if self.rank != 0:
            assert not tensors
            return []
        torch.save(tensors, self.folder / f"{version}-sent")
        return [(self.rank, self.port, self.weights.manifest(version))]

    def close(self) -> None:
        """Nothing is held."""
