"""Where learner ranks can send weights to from their own processes: a folder."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from o3rl.types import Version
from o3rl.weights.buckets import Bucket
from o3rl.weights.manifest import Manifest


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
    """Takes tensors straight from rank 0, as replicas would, and puts them into a file.

    Where it `breaks`, it does so in rank 0 only.
    """

    folder: Path
    members: tuple[str, ...] = ("folder",)
    breaks: str = ""

    def sender(self, weights: Any, *, rank: int, place: tuple[str, int]) -> "FolderSender":
        sender = FolderSender(self, weights, rank, place[1])
        sender.fail_at("connect")
        return sender


@dataclass(frozen=True)
class FolderSender:
    receivers: FolderReceivers
    weights: Any
    rank: int
    port: int

    def send(self, version: Version) -> list[tuple[int, int, Manifest]]:
        import torch

        tensors = dict(self.weights)  # all ranks walk
        self.fail_at("end")
        if self.rank != 0:
            assert not tensors
            return []
        torch.save(tensors, self.receivers.folder / f"{version}-sent")
        return [(self.rank, self.port, self.weights.manifest(version))]

    def fail_at(self, step: str) -> None:
        if self.rank == 0 and self.receivers.breaks == step:
            raise ConnectionError(f"gone at {step}")

    def close(self) -> None:
        """Nothing is held."""
