"""Manifests, buckets of whole layers, and the shelf of versions: no engine, no torch."""

from dataclasses import replace

import pytest

from o3rl.types import Version
from o3rl.weights.buckets import (
    Bucket,
    RawTensor,
    TensorEntry,
    digest_of,
    pack_bucket,
    unpack,
    verify,
)
from o3rl.weights.manifest import Manifest, layer_of, publish, split_layers
from o3rl.weights.versions import MemoryWeights, RetainedVersions

V1, V2, V3 = Version(0, 1), Version(0, 2), Version(1, 3)


def tensor(name: str, fill: int = 1) -> RawTensor:
    return RawTensor(name, "float32", (2, 2), bytes([fill]) * 16)


def weights(fill: int = 1) -> dict[str, RawTensor]:
    names = ("model.layers.0.q.weight", "model.layers.0.k.weight", "model.norm.weight")
    return {name: tensor(name, fill) for name in names}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "model.layers.3"),
        ("visual.blocks.11.mlp.gate_proj.bias", "visual.blocks.11"),
        ("model.layers.3.mlp.experts.7.w1", "model.layers.3"),
        ("model.norm.weight", "model.norm"),
        ("visual.merger.mlp.0.weight", "visual.merger.mlp.0"),
    ],
)
def test_a_layer_ends_at_the_first_number(name, layer):
    assert layer_of(name) == layer


def test_buckets_hold_whole_layers():
    sizes = [("l.0.q", 4), ("l.1.q", 4), ("l.0.k", 4), ("l.1.k", 4), ("n.w", 1), ("big.w", 99)]
    # layers: l.0 = 8, l.1 = 8, n = 1, big = 99; at most 9 a bucket, a larger layer is alone
    assert split_layers(sizes, 9) == (("l.0.q", "l.0.k"), ("l.1.q", "l.1.k", "n.w"), ("big.w",))
    assert split_layers(sizes, 8) == (("l.0.q", "l.0.k"), ("l.1.q", "l.1.k"), ("n.w",), ("big.w",))
    with pytest.raises(ValueError, match="0 bytes"):
        split_layers(sizes, 0)


def test_a_payload_is_safetensors_and_comes_back_as_it_was():
    from safetensors.numpy import load

    mixed = [
        RawTensor("a", "bfloat16", (3,), b"abcdef"),
        RawTensor("b", "float32", (), b"wxyz"),
        RawTensor("c", "float32", (0, 4), b""),
    ]
    bucket, payload = pack_bucket(0, mixed)
    assert bucket.size == len(payload)
    back = unpack(payload)
    assert {n: (t.dtype, t.shape, bytes(t.data)) for n, t in back.items()} == {
        t.name: (t.dtype, t.shape, t.data) for t in mixed
    }
    _, plain = pack_bucket(0, mixed[1:])
    assert load(plain)["b"].tobytes() == b"wxyz"  # an independent reader agrees
    assert load(plain)["c"].shape == (0, 4)


def test_a_tensor_must_have_the_bytes_of_its_shape():
    with pytest.raises(ValueError, match=r"q float32\[2, 2\] has 15 bytes, not 16"):
        RawTensor("q", "float32", (2, 2), b"\0" * 15)
    with pytest.raises(ValueError, match="q has dtype 'int3'"):
        RawTensor("q", "int3", (2,), b"\0" * 2)


def test_verify_names_the_tensor_that_differs():
    bucket, payload = pack_bucket(0, [tensor("a"), tensor("b")])
    assert set(verify(bucket, payload)) == {"a", "b"}
    assert bucket.tensors[0].digest == digest_of(b"\1" * 16)

    flipped = payload[:-1] + b"\2"  # the last byte belongs to b
    with pytest.raises(ValueError, match="bytes of b have digest"):
        verify(bucket, flipped)
    _, less = pack_bucket(0, [tensor("a")])
    with pytest.raises(ValueError, match="the payload lacks b"):
        verify(bucket, less)
    _, more = pack_bucket(0, [tensor("a"), tensor("b"), tensor("c")])
    with pytest.raises(ValueError, match="does not name c"):
        verify(bucket, more)
    _, turned = pack_bucket(0, [tensor("a"), RawTensor("b", "float32", (4,), b"\1" * 16)])
    with pytest.raises(ValueError, match=r"b is float32\[4\], the manifest says float32\[2, 2\]"):
        verify(bucket, turned)


@pytest.mark.parametrize("end", [0, 7, 20, -1])
def test_a_cut_payload_is_refused(end):
    _, payload = pack_bucket(0, [tensor("a")])
    with pytest.raises(ValueError, match=r"no safetensors|cut short"):
        unpack(payload[:end])


def bucket(index: int, *names: str) -> Bucket:
    return Bucket(index, tuple(TensorEntry(n, "float32", (1,), "0" * 16) for n in names), 4)


def test_a_manifest_refuses_gaps_repeats_and_split_layers():
    with pytest.raises(ValueError, match=r"are \[0, 2\]"):
        Manifest(V1, (bucket(0, "a.w"), bucket(2, "b.w")))
    with pytest.raises(ValueError, match=r"names a\.w twice"):
        Manifest(V1, (bucket(0, "a.w"), bucket(1, "a.w")))
    with pytest.raises(ValueError, match=r"splits layer l\.0 over buckets 0 and 1 \(l\.0\.k\)"):
        Manifest(V1, (bucket(0, "l.0.q"), bucket(1, "l.0.k")))
    with pytest.raises(ValueError, match="need 0, 1"):
        Manifest(V1, ())


def test_the_digest_is_of_the_weights_not_of_their_buckets():
    sink = MemoryWeights(keep=9)
    whole = publish(weights(), sink, version=V1, limit=1000)
    cut = publish(weights(), sink, version=V2, limit=1)
    other = publish(weights(fill=2), sink, version=V3, limit=1)
    assert (len(whole.buckets), len(cut.buckets)) == (1, 2)
    assert whole.digest == cut.digest != other.digest
    assert set(whole.names) == set(weights())
    assert cut.size == sum(len(sink.payload(V2, index)) for index in (0, 1))


def test_a_version_is_readable_only_after_commit():
    sink = MemoryWeights()
    with pytest.raises(LookupError, match="no weights were published"):
        sink.manifest()
    one, payload = pack_bucket(0, [tensor("a.w")])
    sink.put(V1, one, payload)
    with pytest.raises(LookupError):
        sink.payload(V1, 0)
    sink.commit(Manifest(V1, (one,)))
    assert sink.manifest().version == V1
    assert sink.payload(V1, 0) == payload


def test_a_shelf_keeps_the_newest_two():
    sink = MemoryWeights(keep=2)
    for version in (V1, V2, V3):
        publish(weights(), sink, version=version, limit=1000)
    assert sink.manifest().version == V3
    assert sink.manifest(V2).version == V2
    with pytest.raises(LookupError, match=r"version 0\.1 are not held; held: 0\.2, 1\.3"):
        sink.manifest(V1)
    with pytest.raises(LookupError, match="no bucket 5"):
        sink.payload(V3, 5)


def test_a_version_never_names_two_sets_of_weights():
    shelf: RetainedVersions[bytes] = RetainedVersions()
    one, payload = pack_bucket(0, [tensor("a.w")])
    two, _ = pack_bucket(0, [tensor("a.w", fill=2)])
    shelf.put(V2, one, payload)
    with pytest.raises(LookupError, match="bucket 0 of the manifest was not put"):
        shelf.commit(Manifest(V2, (two,)))
    shelf.commit(Manifest(V2, (one,)))
    shelf.commit(Manifest(V2, (one,)))  # a repeated call, after an answer was lost
    for version in (V1, V2):
        with pytest.raises(ValueError, match="not newer"):
            shelf.put(version, two, payload)
        with pytest.raises(ValueError, match="not newer"):
            shelf.commit(Manifest(version, (two,)))
    shelf.put(replace(V2, incarnation=1, n=0), two, payload)  # a learner that restarted is newer


def test_memory_weights_check_what_they_take():
    bucket, payload = pack_bucket(0, [tensor("a.w")])
    with pytest.raises(ValueError, match=r"bytes of a\.w"):
        MemoryWeights().put(V1, bucket, payload[:-1] + b"\2")
