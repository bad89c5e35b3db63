"""Versioned weights on their way from the learner to the rollout replicas.

A version is a manifest and its buckets. A bucket holds whole engine layers (q, k, v and gate, up
are fused by the engine: a layer sent in part would be left part uninitialised), its payload is
safetensors bytes, and the manifest names each tensor with the digest of its bytes. The learner
writes to a `WeightSink`, a replica pulls from a `WeightSource`.

Laws: a version is readable only after `commit`; it never names two sets of weights. No torch here:
tensors are named bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from o3rl.types import Version
from o3rl.weights.buckets import Bucket, RawTensor, digest_of, pack_bucket


@dataclass(frozen=True)
class Manifest:
    """All buckets of one version, in order of their index.

    `base`: the next version may come as a patch of this one, whose files are then worth keeping.

    Raises ValueError if a bucket is missing, a tensor is named twice or a layer is split over two
    buckets, naming it.
    """

    version: Version
    buckets: tuple[Bucket, ...]
    base: bool = False

    def __post_init__(self):
        indices = [bucket.index for bucket in self.buckets]
        if indices != list(range(len(indices))) or not indices:
            raise ValueError(f"buckets of version {self.version} are {indices}; need 0, 1, 2, …")
        seen: set[str] = set()
        home: dict[str, int] = {}
        for bucket in self.buckets:
            for entry in bucket.tensors:
                if entry.name in seen:
                    raise ValueError(f"version {self.version} names {entry.name} twice")
                seen.add(entry.name)
                layer = layer_of(entry.name)
                if home.setdefault(layer, bucket.index) != bucket.index:
                    raise ValueError(
                        f"version {self.version} splits layer {layer} over buckets {home[layer]} "
                        f"and {bucket.index} ({entry.name}); send whole layers"
                    )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every tensor's name, bucket by bucket."""
        return tuple(entry.name for bucket in self.buckets for entry in bucket.tensors)

    @cached_property
    def digest(self) -> str:
        """Of all names, types, shapes and bytes, whatever the buckets; the version is left out."""
        entries = (entry for bucket in self.buckets for entry in bucket.tensors)
        lines = sorted(f"{e.name} {e.dtype} {list(e.shape)} {e.digest}" for e in entries)
        return digest_of("\n".join(lines).encode())

    @property
    def size(self) -> int:
        """Bytes of all payloads."""
        return sum(bucket.size for bucket in self.buckets)


def layer_of(name: str) -> str:
    """The engine layer that a tensor belongs to: up to the first number, else its module.

    >>> layer_of("model.layers.3.self_attn.q_proj.weight")
    'model.layers.3'
    >>> layer_of("model.norm.weight")
    'model.norm'
    """
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: place + 1])
    return ".".join(parts[:-1])


def split_layers(sizes: Iterable[tuple[str, int]], limit: int) -> tuple[tuple[str, ...], ...]:
    """Names, with their sizes in bytes, cut into buckets of whole layers of at most `limit` bytes.

    Layers keep the order of their first tensor. A layer larger than `limit` is a bucket of its own.
    """
    if limit <= 0:
        raise ValueError(f"bucket limit is {limit} bytes; it must be more than 0")
    layers: dict[str, list[str]] = {}
    weight: dict[str, int] = {}
    for name, size in sizes:
        layer = layer_of(name)
        layers.setdefault(layer, []).append(name)
        weight[layer] = weight.get(layer, 0) + size
    buckets: list[list[str]] = []
    filled = 0
    for layer, names in layers.items():
        if not buckets or filled + weight[layer] > limit:
            buckets.append([])
            filled = 0
        buckets[-1] += names
        filled += weight[layer]
    return tuple(tuple(names) for names in buckets)


@dataclass(frozen=True, slots=True)
class Published:
    """A version that replicas can take; what it took to send it."""

    manifest: Manifest
    sent: int  # bytes, of `manifest.size`
    changed: float | None  # share of all values; None where nothing was compared


class WeightSink(Protocol):
    """Where the learner publishes: every bucket of a version, then its manifest."""

    def put(self, version: Version, bucket: Bucket, payload: bytes) -> None:
        """Take one bucket; not readable before `commit`."""
        ...

    def put_patch(self, version: Version, bucket: Bucket, base: Version, patch: bytes) -> None:
        """Take one bucket as what changed since `base` (`o3rl.weights.delta`).

        Raises LookupError if `base` is not held, ValueError if it does not make the bucket.
        """
        ...

    def commit(self, manifest: Manifest) -> None:
        """Make the version readable. Raises LookupError if a bucket of it was not put."""
        ...


class WeightSource(Protocol):
    """Where a replica pulls from."""

    def manifest(self, version: Version | None = None) -> Manifest:
        """Of `version`, or of the newest (None). Raises LookupError if it is not held."""
        ...

    def payload(self, version: Version, index: int) -> bytes | memoryview:
        """Safetensors bytes of one bucket. Raises LookupError if it is not held."""
        ...

    def patch(self, version: Version, index: int) -> tuple[Version, bytes | memoryview] | None:
        """What changed in one bucket, and since which version; None if it was put whole.

        Raises LookupError if the version is not held.
        """
        ...


def publish(
    tensors: Mapping[str, RawTensor], sink: WeightSink, *, version: Version, limit: int
) -> Manifest:
    """Send a whole version that is in memory, in buckets of at most `limit` bytes."""
    sizes = ((name, memoryview(tensor.data).nbytes) for name, tensor in tensors.items())
    buckets: list[Bucket] = []
    for index, names in enumerate(split_layers(sizes, limit)):
        bucket, payload = pack_bucket(index, [tensors[name] for name in names])
        sink.put(version, bucket, payload)
        buckets.append(bucket)
    manifest = Manifest(version, tuple(buckets))
    sink.commit(manifest)
    return manifest
