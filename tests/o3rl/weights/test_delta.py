"""Patches: any change of any bits comes back exactly; what does not fit is refused by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o3rl.weights.buckets import RawTensor, pack_bucket, serialised, verify
from o3rl.weights.delta import difference, patched

BITS = {"bfloat16": np.uint16, "float32": np.uint32, "int64": np.uint64}


def tensors(rng: np.random.Generator) -> list[RawTensor]:
    """Random bits, NaN and negative zero among them."""
    found = []
    for number, dtype in enumerate(("bfloat16", "float32", "bfloat16", "int64")):
        data = rng.bytes(int(rng.integers(0, 300)) * np.dtype(BITS[dtype]).itemsize)
        size = len(data) // np.dtype(BITS[dtype]).itemsize
        found.append(RawTensor(f"l.{number}.w", dtype, (size,), data))
    return found


def changed(tensor: RawTensor, share: float, rng: np.random.Generator) -> RawTensor:
    bits = np.frombuffer(tensor.data, dtype=BITS[tensor.dtype]).copy()
    bits[rng.random(bits.size) < share] += 1
    return RawTensor(tensor.name, tensor.dtype, tensor.shape, bits.tobytes())


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 0.3, 1.0]))
def test_a_patched_payload_is_the_new_one_byte_for_byte(seed, share):
    rng = np.random.default_rng(seed)
    before = tensors(rng)
    after = [changed(tensor, share, rng) for tensor in before]
    old, new = serialised(before), serialised(after)
    patch = difference(old, new)
    assert patched(old, patch.payload) == new
    assert patch.values == sum(tensor.shape[0] for tensor in before)
    assert patch.changed == sum(
        np.count_nonzero(
            np.frombuffer(a.data, BITS[a.dtype]) != np.frombuffer(b.data, BITS[b.dtype])
        )
        for a, b in zip(before, after, strict=True)
    )
    if share == 0:
        assert patch.changed == 0
        assert len(patch.payload) < 32


def test_few_changes_are_few_bytes_and_many_are_never_more_than_all():
    old = RawTensor("l.0.w", "bfloat16", (10_000,), bytes(20_000))
    for share, most in ((0.01, 0.05), (0.3, 0.95), (1.0, 1.01)):
        new = changed(old, share, np.random.default_rng(0))
        patch = difference(serialised([old]), serialised([new]))
        assert len(patch.payload) < most * 20_000


def test_the_wrong_base_is_found_by_the_digests():
    old = RawTensor("l.0.w", "float32", (8,), bytes(32))
    other = RawTensor("l.0.w", "float32", (8,), bytes([1]) * 32)
    new = RawTensor("l.0.w", "float32", (8,), bytes(28) + b"\2\0\0\0")
    bucket, payload = pack_bucket(0, [new])
    patch = difference(serialised([old]), payload)
    assert verify(bucket, patched(serialised([old]), patch.payload))
    with pytest.raises(ValueError, match=r"bytes of l\.0\.w have digest"):
        verify(bucket, patched(serialised([other]), patch.payload))


def test_what_does_not_fit_is_refused_by_name():
    def one(name: str, dtype: str, data: bytes, count: int) -> bytes:
        return serialised([RawTensor(name, dtype, (count,), data)])

    old = one("l.0.w", "float32", bytes(32), 8)
    with pytest.raises(ValueError, match=r"is in one of two versions only"):
        difference(old, one("l.1.w", "float32", bytes(32), 8))
    with pytest.raises(ValueError, match=r"l\.0\.w was float32\[8\] and is bfloat16\[16\]"):
        difference(old, one("l.0.w", "bfloat16", bytes(32), 16))
    with pytest.raises(ValueError, match=r"a patch of l\.1\.w, which the base does not hold"):
        patched(old, one("l.1.w", "float32", bytes(32), 8))
    for at, to, count in (
        (8, "float32", 1),
        (-1, "float32", 1),
        (0, "int32", 1),
        (0, "float32", 2),
    ):
        places = RawTensor("l.0.w@at", "int32", (1,), at.to_bytes(4, "little", signed=True))
        values = RawTensor("l.0.w@to", to, (count,), bytes(4 * count))
        with pytest.raises(ValueError, match=r"the patch of l\.0\.w does not fit it"):
            patched(old, serialised([places, values]))
    with pytest.raises(ValueError, match=r"the patch of l\.0\.w does not fit it"):
        patched(old, serialised([places]))
    with pytest.raises(ValueError, match=r"the patch of l\.0\.w does not fit it"):
        patched(old, one("l.0.w", "float32", bytes(16), 4))
