"""Versioned weights on their way from the learner to the rollout replicas.

A version is a manifest and its buckets. A bucket holds whole engine layers (q, k, v and gate, up
are fused by the engine: a layer sent in part would be left part uninitialised), its payload is
safetensors bytes, and the manifest names each tensor with the digest of its bytes. The learner
writes to a `WeightSink`, a replica pulls from a `WeightSource`.

Laws: a version is readable only after `commit`; it never names two sets of weights. No torch here:
tensors are named bytes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import prod
from typing import Protocol

from o3rl.flow import Version

_ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4}
_CODES = {
    "float64": "F64",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
}
_DTYPES = {code: name for name, code in _CODES.items()}


def digest_of(buffer: bytes | bytearray | memoryview) -> str:
    """16 hex digits (BLAKE2b, 64 bits) of a contiguous buffer's bytes."""
    return blake2b(buffer, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as named bytes, C-contiguous, little-endian; `dtype` as torch names it.

    >>> RawTensor("lm_head.weight", "float32", (2,), b"\\0" * 8)
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    def __post_init__(self):
        if self.dtype not in _ITEM_BYTES:
            raise ValueError(
                f"{self.name} has dtype {self.dtype!r}; weights travel as one of "
                f"{', '.join(sorted(_ITEM_BYTES))}"
            )
        expected = prod(self.shape) * _ITEM_BYTES[self.dtype]
        size = memoryview(self.data).nbytes
        if size != expected:
            raise ValueError(
                f"{self.name} {self.dtype}{list(self.shape)} has {size} bytes, not {expected}"
            )

    @property
    def item_bytes(self) -> int:
        """Of one value."""
        return _ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What a manifest says of one tensor; `digest` is of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors that travel together: whole engine layers. `size` is the payload's, in bytes."""

    index: int
    tensors: tuple[TensorEntry, ...]
    size: int

    def __post_init__(self):
        if not self.tensors:
            raise ValueError(f"bucket {self.index} holds no tensor")


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


def pack(index: int, tensors: Sequence[RawTensor]) -> tuple[Bucket, bytes]:
    """A bucket and its payload."""
    payload = serialised(tensors)
    entries = tuple(TensorEntry(t.name, t.dtype, t.shape, digest_of(t.data)) for t in tensors)
    return Bucket(index, entries, len(payload)), payload


def serialised(tensors: Sequence[RawTensor]) -> bytes:
    """Safetensors, wide types first so that all data are aligned."""
    header: dict[str, dict[str, str | list[int]]] = {}
    parts: list[bytes | memoryview] = []
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: -tensor.item_bytes):
        start, end = end, end + memoryview(tensor.data).nbytes
        header[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        parts.append(tensor.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def unpack(payload: bytes | memoryview) -> dict[str, RawTensor]:
    """The tensors of a payload by name, as views of its bytes; nothing is copied.

    Raises ValueError if it is no safetensors, or is cut short.
    """
    view = memoryview(payload).cast("B")
    if view.nbytes < 8:
        raise ValueError(f"payload of {view.nbytes} bytes is no safetensors")
    start = 8 + int.from_bytes(view[:8], "little")
    if start > view.nbytes:
        raise ValueError(f"payload of {view.nbytes} bytes is cut short in its header")
    header = json.loads(bytes(view[8:start]))
    header.pop("__metadata__", None)
    tensors: dict[str, RawTensor] = {}
    for name, fields in header.items():
        first, end = fields["data_offsets"]
        if start + end > view.nbytes:
            raise ValueError(f"payload is cut short: {name} ends at byte {start + end}")
        dtype: str = _DTYPES.get(fields["dtype"]) or str(fields["dtype"])
        data = view[start + first : start + end]
        tensors[name] = RawTensor(name, dtype, tuple(fields["shape"]), data)
    return tensors


def verify(bucket: Bucket, payload: bytes | memoryview) -> dict[str, RawTensor]:
    """`unpack`, with every tensor held against the bucket's entry.

    Raises ValueError naming the first tensor that is missing, unexpected, or differs in type, shape
    or digest.
    """
    tensors = unpack(payload)
    expected = {entry.name: entry for entry in bucket.tensors}
    for name in expected.keys() - tensors.keys():
        raise ValueError(f"bucket {bucket.index}: the payload lacks {name}")
    for name in tensors.keys() - expected.keys():
        raise ValueError(f"bucket {bucket.index}: the manifest does not name {name}")
    for name, entry in expected.items():
        tensor = tensors[name]
        if (tensor.dtype, tensor.shape) != (entry.dtype, entry.shape):
            raise ValueError(
                f"bucket {bucket.index}: {name} is {tensor.dtype}{list(tensor.shape)}, the "
                f"manifest says {entry.dtype}{list(entry.shape)}"
            )
        digest = digest_of(tensor.data)
        if digest != entry.digest:
            raise ValueError(
                f"bucket {bucket.index}: bytes of {name} have digest {digest}, the manifest says "
                f"{entry.digest}"
            )
    return tensors


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
        """Take one bucket as what changed since `base` (`o3rl.patches`).

        Raises LookupError if `base` is not held, ValueError if it does not make the bucket.
        """
        ...

    def commit(self, manifest: Manifest) -> None:
        """Make the version readable. Raises ValueError if a bucket of it was not put."""
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
        bucket, payload = pack(index, [tensors[name] for name in names])
        sink.put(version, bucket, payload)
        buckets.append(bucket)
    manifest = Manifest(version, tuple(buckets))
    sink.commit(manifest)
    return manifest
