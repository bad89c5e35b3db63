"""Tensors as bytes: packed into buckets, each with a digest, and read back without a copy."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import prod

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


def pack_bucket(index: int, tensors: Sequence[RawTensor]) -> tuple[Bucket, bytes]:
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
