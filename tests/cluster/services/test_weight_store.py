"""The weight store: its mirror by itself, and the actor on a local Ray."""

import os
import signal
import time

import numpy as np
import pytest

from cluster.services.weight_store import Mirror, WeightStore, start_store
from o3rl.types import Version
from o3rl.weights.buckets import RawTensor, pack, verify
from o3rl.weights.delta import difference
from o3rl.weights.manifest import Manifest, publish

V1, V2, V3 = Version(0, 1), Version(0, 2), Version(1, 3)


def weights(fill: int) -> dict[str, RawTensor]:
    names = ("l.0.q", "l.0.k", "l.1.q", "norm.w")
    return {name: RawTensor(name, "float32", (64,), bytes([fill]) * 256) for name in names}


def test_the_mirror_gives_back_what_was_written_whole(tmp_path):
    mirror = Mirror(tmp_path / "weights")
    assert mirror.versions() == []
    bucket, payload = pack(0, list(weights(1).values()))
    mirror.put(V2, bucket, np.frombuffer(payload, dtype=np.uint8))
    [(back, bytes_back)] = mirror.buckets(V2)
    assert back == bucket
    assert bytes_back.tobytes() == payload
    assert mirror.committed(V2) is None
    mirror.commit(Manifest(V2, (bucket,), base=True))
    assert mirror.committed(V2) == {"buckets": 1, "base": True}
    mirror.put(V3, bucket, np.frombuffer(payload, dtype=np.uint8))
    (tmp_path / "weights" / str(V3) / "00000.json").unlink()  # as if killed before the entries
    assert mirror.buckets(V3) == []
    assert mirror.versions() == [V2, V3]
    mirror.drop(V2)
    assert mirror.versions() == [V3]


def test_what_is_half_deleted_is_no_version(tmp_path, monkeypatch):
    mirror = Mirror(tmp_path / "weights")
    bucket, payload = pack(0, list(weights(1).values()))
    mirror.put(V1, bucket, np.frombuffer(payload, dtype=np.uint8))
    monkeypatch.setattr(
        "cluster.services.weight_store.shutil.rmtree", lambda *_, **__: None
    )  # killed in it
    mirror.drop(V1)
    monkeypatch.undo()
    assert mirror.versions() == []
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["0.1.dropped"]
    assert Mirror(tmp_path / "weights").versions() == []
    assert list((tmp_path / "weights").iterdir()) == []
    mirror.drop(V1)  # one that is not there


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def store(cluster, tmp_path):
    assert cluster.is_initialized()
    started = start_store(tmp_path / "weights", seconds=60)
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
def test_what_changed_is_put_and_pulled_beside_the_whole(cluster, store):
    old, new = weights(1), weights(1) | {"l.1.q": weights(2)["l.1.q"]}
    bucket, payload = pack(0, list(old.values()))
    store.put(V1, bucket, payload)
    store.commit(Manifest(V1, (bucket,), base=True))
    assert store.patch(V1, 0) is None

    bucket, after = pack(0, list(new.values()))
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

    pid = cluster.get(store.actor.pid.remote(), timeout=60)
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    assert store.patch(V2, 0) is None, "a restart keeps what is whole"
    store.commit(Manifest(V2, (bucket,), base=True))  # as Ray repeats a call without an answer
    assert store.manifest().base
    assert bytes(store.payload(V2, 0)) == after


@pytest.mark.e2e
def test_two_versions_are_kept_in_memory_and_on_disk(store, tmp_path):
    for fill, version in enumerate((V1, V2, V3)):
        publish(weights(fill), store, version=version, limit=700)
    with pytest.raises(LookupError, match=r"0\.1 are not held"):
        store.manifest(V1)
    assert store.manifest().version == V3
    assert Mirror(tmp_path / "weights").versions() == [V2, V3]


@pytest.mark.e2e
def test_a_killed_store_goes_on_from_its_mirror(cluster, store):
    publish(weights(1), store, version=V1, limit=700)
    bucket, payload = pack(0, list(weights(2).values()))
    store.put(V2, bucket, payload)  # acknowledged, not committed

    pid = cluster.get(store.actor.pid.remote(), timeout=60)
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)

    manifest = store.manifest()
    assert manifest.version == V1
    tensors = verify(manifest.buckets[0], store.payload(V1, 0))
    assert bytes(tensors["l.0.q"].data) == b"\1" * 256
    store.commit(Manifest(V2, (bucket,)))
    assert verify(bucket, store.payload(V2, 0))
    assert cluster.get(store.actor.pid.remote(), timeout=60) != pid


@pytest.mark.e2e
def test_what_cannot_be_read_back_hinders_no_start_and_goes_with_the_next_version(
    cluster, tmp_path
):
    """A version without its file, one that was never committed, and one that is whole."""
    assert cluster.is_initialized()
    folder = tmp_path / "weights"
    first = start_store(folder, seconds=60)
    for fill, version in enumerate((V1, V2)):
        publish(weights(fill), first, version=version, limit=700)
    bucket, payload = pack(0, list(weights(9).values()))
    first.put(V3, bucket, payload)
    first.close()
    (folder / str(V1) / "00000.safetensors").unlink()
    second = start_store(folder, seconds=60)
    try:
        assert second.manifest().version == V2
        with pytest.raises(LookupError, match=r"0\.1 are not held"):
            second.manifest(V1)
        assert Mirror(folder).versions() == [V2, V3]
        newest = Version(2, 4)
        publish(weights(4), second, version=newest, limit=700)
        assert Mirror(folder).versions() == [V2, newest]
    finally:
        second.close()


@pytest.mark.e2e
def test_a_disk_that_refuses_leaves_the_version_in_memory(store, tmp_path):
    publish(weights(1), store, version=V1, limit=700)
    (tmp_path / "weights" / str(V2)).write_text("a file where a folder is to be")
    publish(weights(2), store, version=V2, limit=700)
    assert verify(store.manifest().buckets[0], store.payload(V2, 0))
    publish(weights(3), store, version=V3, limit=700)
    assert store.manifest().version == V3
    assert Mirror(tmp_path / "weights").versions() == [V3], "the first one made room"


def test_a_version_that_cannot_be_removed_stays_and_is_told(tmp_path, monkeypatch, caplog):
    mirror = Mirror(tmp_path)
    (tmp_path / str(V1)).mkdir()

    def read_only(folder):
        raise OSError(30, "Read-only file system", str(folder))

    monkeypatch.setattr("cluster.services.weight_store.put_aside", read_only)
    mirror.drop(V1)
    assert mirror.versions() == [V1]
    assert "weights of version 0.1 cannot be removed" in caplog.text


@pytest.mark.e2e
def test_a_store_that_does_not_answer_is_named(cluster, store):
    pid = cluster.get(store.actor.pid.remote(), timeout=60)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError, match="weight store: no answer to 'manifest' within 1 s"):
            WeightStore(store.actor, 1.0).manifest()
    finally:
        os.kill(pid, signal.SIGCONT)
