"""The weight store's actor on a local Ray."""

import os
import signal
import time

import pytest

from cluster.services.weight_store import WeightStore, start_store
from o3rl.types import Version
from o3rl.weights.buckets import RawTensor, pack_bucket, verify
from o3rl.weights.delta import difference
from o3rl.weights.manifest import Manifest, publish

V1, V2, V3 = Version(0, 1), Version(0, 2), Version(1, 3)


def weights(fill: int) -> dict[str, RawTensor]:
    names = ("l.0.q", "l.0.k", "l.1.q", "norm.w")
    return {name: RawTensor(name, "float32", (64,), bytes([fill]) * 256) for name in names}


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def store(cluster):
    assert cluster.is_initialized()
    started = start_store(seconds=60)
    yield started
    started.close()


@pytest.mark.e2e
def test_what_is_published_can_be_pulled(store):
    with pytest.raises(LookupError, match="no weights were published"):
        store.manifest()
    manifest = publish(weights(1), store, version=V1, limit=700)
    assert store.manifest() == manifest
    assert len(manifest.buckets) == 2
    for bucket in manifest.buckets:
        assert verify(bucket, store.payload(V1, bucket.index))
    with pytest.raises(ValueError, match="not newer"):
        store.put(V1, manifest.buckets[0], b"")


@pytest.mark.e2e
def test_what_changed_is_put_and_pulled_beside_the_whole(store):
    old, new = weights(1), weights(1) | {"l.1.q": weights(2)["l.1.q"]}
    bucket, payload = pack_bucket(0, list(old.values()))
    store.put(V1, bucket, payload)
    store.commit(Manifest(V1, (bucket,), base=True))
    assert store.patch(V1, 0) is None

    bucket, after = pack_bucket(0, list(new.values()))
    patch = difference(payload, after).payload
    with pytest.raises(LookupError, match=r"version 1\.3 are not held"):
        store.put_patch(V2, bucket, V3, patch)
    with pytest.raises(ValueError, match=r"bytes of l\.1\.q have digest"):
        store.put_patch(V2, bucket, V1, difference(payload, payload).payload)
    store.put_patch(V2, bucket, V1, patch)
    store.commit(Manifest(V2, (bucket,), base=True))
    assert bytes(store.payload(V2, 0)) == after
    base, pulled = store.patch(V2, 0)
    assert (base, bytes(pulled)) == (V1, patch)


@pytest.mark.e2e
def test_two_versions_are_kept(store):
    for fill, version in enumerate((V1, V2, V3)):
        publish(weights(fill), store, version=version, limit=700)
    with pytest.raises(LookupError, match=r"0\.1 are not held"):
        store.manifest(V1)
    assert store.manifest(V2).version == V2
    assert store.manifest().version == V3


@pytest.mark.e2e
def test_a_killed_store_comes_back_empty_and_takes_the_same_version_again(cluster, store):
    publish(weights(1), store, version=V1, limit=700)
    bucket, payload = pack_bucket(0, list(weights(2).values()))
    store.put(V2, bucket, payload)  # not committed

    pid = cluster.get(store.actor.pid.remote(), timeout=60)
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)

    with pytest.raises(LookupError, match="no weights were published"):
        store.manifest(V1)
    with pytest.raises(LookupError, match="bucket 0 of the manifest was not put"):
        store.commit(Manifest(V2, (bucket,)))
    manifest = publish(weights(1), store, version=V1, limit=700)
    tensors = verify(manifest.buckets[0], store.payload(V1, 0))
    assert bytes(tensors["l.0.q"].data) == b"\1" * 256
    assert cluster.get(store.actor.pid.remote(), timeout=60) != pid


@pytest.mark.e2e
def test_a_store_that_does_not_answer_is_named(cluster, store):
    pid = cluster.get(store.actor.pid.remote(), timeout=60)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError, match="weight store: no answer to 'manifest' within 1 s"):
            WeightStore(store.actor, 1.0).manifest()
    finally:
        os.kill(pid, signal.SIGCONT)
