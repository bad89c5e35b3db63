"""What changed between two versions of a bucket, and the new bucket made from the old, bit by bit.

bfloat16 weights made from float32 masters hardly change at a learning rate of 1e-6: most updates
are below a value's last bit. A patch holds, for each tensor that changed, where and the new values,
or the whole tensor where that is shorter; its payload is safetensors, as a bucket's. Bits are
compared, so nothing is lost: a patched payload is the full one, byte for byte, and its tensors
answer to the same digests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from o3rl.weights.buckets import RawTensor, serialised, unpack

AT = "@at"  # suffix: int32, the places of changed values in the flat tensor
TO = "@to"  # suffix: their new values, in the tensor's own type
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_MOST_PLACES = 2**31


@dataclass(frozen=True, slots=True)
class Delta:
    """Its payload; how many of a bucket's values changed, and how many it has."""

    payload: bytes
    changed: int
    values: int


def difference(old: bytes | memoryview, new: bytes | memoryview) -> Delta:
    """From one payload to another of the same tensors, types and shapes.

    Raises ValueError naming a tensor in which the two differ in more than values.
    """
    before, after = unpack(old), unpack(new)
    _check_same(before, after)
    parts: list[RawTensor] = []
    changed = values = 0
    for name, tensor in after.items():
        bits = _bits(tensor)
        values += bits.size
        places = np.flatnonzero(_bits(before[name]) != bits)
        changed += places.size
        if not places.size:
            continue
        if places.size * (4 + bits.itemsize) >= bits.nbytes or bits.size > _MOST_PLACES:
            parts.append(tensor)
            continue
        shape = (places.size,)
        at = places.astype("<i4").tobytes()
        parts.append(RawTensor(f"{name}{AT}", "int32", shape, at))
        parts.append(RawTensor(f"{name}{TO}", tensor.dtype, shape, bits[places].tobytes()))
    return Delta(serialised(parts), changed, values)


def patched(old: bytes | memoryview, patch: bytes | memoryview) -> bytearray:
    """The new payload. Hold it against its bucket before use: any old one of that form is taken.

    Raises ValueError naming a tensor that the old payload lacks or that the patch does not fit.
    """
    payload = bytearray(old)
    tensors = unpack(memoryview(payload))
    parts = unpack(patch)
    for name, part in parts.items():
        target = name.removesuffix(AT).removesuffix(TO)
        if target not in tensors:
            raise ValueError(f"a patch of {target}, which the base does not hold")
        if name.endswith(AT):
            _replace(tensors[target], parts.get(f"{target}{TO}"), np.frombuffer(part.data, "<i4"))
        elif name == target:
            _replace(tensors[target], part, None)
    return payload


def _replace(tensor: RawTensor, values: RawTensor | None, places: np.ndarray | None) -> None:
    """In place, in the bytes that the tensor is a view of; `places` None: all of them."""
    bits = _bits(tensor)
    asked = bits.size if places is None else places.size
    inside = places is None or not asked or 0 <= places.min() <= places.max() < bits.size
    given = values is not None and values.dtype == tensor.dtype and prod(values.shape) == asked
    if values is None or not (inside and given):
        raise ValueError(
            f"the patch of {tensor.name} does not fit it: {tensor.dtype}{list(tensor.shape)}"
        )
    bits[slice(None) if places is None else places] = _bits(values)


def _bits(tensor: RawTensor) -> np.ndarray:
    return np.frombuffer(tensor.data, dtype=_BITS[tensor.item_bytes])


def _check_same(before: Mapping[str, RawTensor], after: Mapping[str, RawTensor]) -> None:
    for name in before.keys() ^ after.keys():
        raise ValueError(f"{name} is in one of two versions only")
    for name, tensor in after.items():
        old = before[name]
        if (old.dtype, old.shape) != (tensor.dtype, tensor.shape):
            raise ValueError(
                f"{name} was {old.dtype}{list(old.shape)} and is {tensor.dtype}{list(tensor.shape)}"
            )
