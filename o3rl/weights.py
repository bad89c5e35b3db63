"""Versioned weights on their way from the learner to the rollout replicas.

A version is a manifest and its buckets. A bucket holds whole engine layers (q, k, v and gate, up
are fused by the engine: a layer sent in part would be left part uninitialised), its payload is
safetensors bytes, and the manifest names each tensor with the digest of its bytes. The learner
writes to a `WeightSink`, a replica pulls from a `WeightSource`.

Laws: a version is readable only after `commit`; it never names two sets of weights; a shelf keeps
the newest few versions. No torch here: tensors are named bytes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from math import prod
from typing import Generic, Protocol, TypeVar

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

    Raises ValueError if a bucket is missing, a tensor is named twice or a layer is split over two
    buckets, naming it.
    """

    version: Version
    buckets: tuple[Bucket, ...]

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
    """A bucket and its payload: safetensors, wide types first so that all data are aligned."""
    header: dict[str, dict[str, str | list[int]]] = {}
    parts: list[bytes | memoryview] = []
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: -_ITEM_BYTES[tensor.dtype]):
        start, end = end, end + memoryview(tensor.data).nbytes
        header[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        parts.append(tensor.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    payload = b"".join([len(text).to_bytes(8, "little"), text, *parts])
    entries = tuple(TensorEntry(t.name, t.dtype, t.shape, digest_of(t.data)) for t in tensors)
    return Bucket(index, entries, len(payload)), payload


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


class WeightSink(Protocol):
    """Where the learner publishes: every bucket of a version, then its manifest."""

    def put(self, version: Version, bucket: Bucket, payload: bytes) -> None:
        """Take one bucket; not readable before `commit`."""
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


Payload = TypeVar("Payload")


@dataclass
class Shelf(Generic[Payload]):
    """The newest `keep` versions: manifests, and payloads in whatever form their holder has them.

    State only, no transport: the in-memory weights below and the Ray store both hold one.
    """

    keep: int = 2
    _open: dict[Version, dict[int, tuple[Bucket, Payload]]] = field(default_factory=dict)
    _held: dict[Version, tuple[Manifest, tuple[Payload, ...]]] = field(default_factory=dict)

    @property
    def versions(self) -> tuple[Version, ...]:
        """Readable versions, oldest first."""
        return tuple(sorted(self._held))

    def put(self, version: Version, bucket: Bucket, payload: Payload) -> None:
        """Take one bucket of a version that is not committed yet; a repeat replaces.

        Raises ValueError if the version is not newer than those held.
        """
        self._refuse_old(version)
        self._open.setdefault(version, {})[bucket.index] = (bucket, payload)

    def commit(self, manifest: Manifest) -> tuple[Version, ...]:
        """Make a version readable; returns the versions that made room for it.

        A repeat changes nothing. Raises ValueError if its buckets are not those that were put, or
        if another manifest as new is held.
        """
        if manifest.version in self._held and self._held[manifest.version][0] == manifest:
            return ()
        self._refuse_old(manifest.version)
        put = self._open.get(manifest.version, {})
        for bucket in manifest.buckets:
            if bucket.index not in put or put[bucket.index][0] != bucket:
                raise ValueError(
                    f"version {manifest.version}: bucket {bucket.index} of the manifest was not put"
                )
        payloads = tuple(put[bucket.index][1] for bucket in manifest.buckets)
        self._held[manifest.version] = (manifest, payloads)
        self._open = {v: b for v, b in self._open.items() if v > manifest.version}
        dropped = self.versions[: -self.keep]
        for version in dropped:
            del self._held[version]
        return dropped

    def manifest(self, version: Version | None = None) -> Manifest:
        """Of `version` or the newest. Raises LookupError naming what is held."""
        return self._find(version)[0]

    def payload(self, version: Version, index: int) -> Payload:
        """Of one bucket. Raises LookupError naming what is held."""
        payloads = self._find(version)[1]
        if not 0 <= index < len(payloads):
            raise LookupError(f"version {version} has {len(payloads)} buckets; no bucket {index}")
        return payloads[index]

    def _find(self, version: Version | None) -> tuple[Manifest, tuple[Payload, ...]]:
        if not self._held:
            raise LookupError("no weights were published yet")
        wanted = max(self._held) if version is None else version
        if wanted not in self._held:
            held = ", ".join(str(v) for v in self.versions)
            raise LookupError(f"weights of version {wanted} are not held; held: {held}")
        return self._held[wanted]

    def _refuse_old(self, version: Version) -> None:
        if self._held and version <= max(self._held):
            raise ValueError(
                f"version {version} is not newer than {max(self._held)}; no version may name two "
                "sets of weights"
            )


class MemoryWeights:
    """Sink and source in one process, every payload checked as it is put."""

    def __init__(self, *, keep: int = 2):
        self._shelf: Shelf[bytes] = Shelf(keep)

    def put(self, version: Version, bucket: Bucket, payload: bytes) -> None:
        """Take one bucket. Raises ValueError naming a tensor that differs from its entry."""
        verify(bucket, payload)
        self._shelf.put(version, bucket, payload)

    def commit(self, manifest: Manifest) -> None:
        """Make the version readable."""
        self._shelf.commit(manifest)

    def manifest(self, version: Version | None = None) -> Manifest:
        """Of `version` or the newest."""
        return self._shelf.manifest(version)

    def payload(self, version: Version, index: int) -> bytes:
        """Safetensors bytes of one bucket."""
        return self._shelf.payload(version, index)


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
