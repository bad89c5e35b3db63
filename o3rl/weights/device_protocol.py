"""Weights straight from a rank's GPU into the engines', past the weight store.

    rank 0 ── open ─► feed … feed ─► finish ──► replicas (their engines take the bytes on the GPU)

Who sends drives those who receive: each call below waits until all of them have done it. The bytes
themselves go by CUDA IPC or NCCL, of which `feed` tells them; sums of what was sent come last.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from o3rl.types import Version
from o3rl.weights.buckets import TensorEntry
from o3rl.weights.manifest import Manifest

AT_ONCE_BYTES = 256 * 2**20  # on their way; as much as the largest tensor has, where that is more
SUMS = "sums"  # the key of the last update: every tensor's checksum by its name


class TrainedOn(LookupError):
    """The learner's weights are no longer the version that was asked for."""


class DeviceWeights(Protocol):
    """The plain model's tensors, whole, on a rank's device; all ranks walk through them together.

    Ranks other than 0 see none as they walk.
    """

    def entries(self) -> list[TensorEntry]:
        """Name, type and shape of each, in order of the walk; their digests are empty."""
        ...

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Names and tensors; a tensor may be kept."""
        ...

    def manifest(self, version: Version) -> Manifest:
        """Of what the last walk saw, in one bucket; digests are `checksum`'s. On rank 0."""
        ...


class Receivers(Protocol):
    """The replicas that take a version together.

    Each call raises what the first of them raises, by its name, or says who did not answer.
    """

    @property
    def members(self) -> Sequence[str]:
        """Who they are: a connection is good for these."""
        ...

    def link(self, init: Mapping[str, Any]) -> None:
        """Have their engines connect to the sender, as vLLM's back end wants it."""
        ...

    def open(self, version: Version, names: Sequence[str]) -> None:
        """Have them stand still, to take tensors of these names. ValueError if they do not fit."""
        ...

    def feed(self, update: Mapping[str, Any]) -> None:
        """Have them take in an update, of plain values."""
        ...

    def finish(self, digest: str) -> list[Any]:
        """Have them serve; what each reports of it (`update_stream.Loaded`), in order."""
        ...

    def sender(self, weights: DeviceWeights, *, rank: int, place: tuple[str, int]) -> "Sender":
        """Made in a rank's process; `place` is an address and a free port of rank 0's node."""
        ...


class Sender(Protocol):
    """Lives in a rank's process, with its connection to the receivers; all ranks enter."""

    def send(self, version: Version) -> list[Any]:
        """Send the weights as they are; what `Receivers.finish` returns, on rank 0."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...
