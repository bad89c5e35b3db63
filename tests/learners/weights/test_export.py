"""A rank's tensors as they are sent, and the connection that they are sent by."""

from dataclasses import replace

import pytest
import torch

from learners.model.policy import load_policy
from learners.weights import export
from learners.weights.device_source import Direct, PolicyWeights
from o3rl.types import Version
from o3rl.weights.checksum import checksum, in_hex

V = Version(0, 1)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_walk_is_what_the_entries_say_and_the_manifest_has_its_sums(model, lora_rank):
    policy = load_policy(replace(model, lora_rank=lora_rank))
    weights = PolicyWeights(policy, torch.device("cpu"), limit=100_000)
    said = [(e.name, e.dtype, e.shape) for e in weights.entries()]
    seen = dict(weights)
    assert said == [
        (name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in seen.items()
    ]
    assert not any("lora" in name for name in seen)
    manifest = weights.manifest(V)
    assert manifest.version == V
    assert manifest.size == sum(tensor.nbytes for tensor in seen.values())
    [bucket] = manifest.buckets
    for entry in bucket.tensors:
        assert [entry.digest] == in_hex([checksum(seen[entry.name])]), entry.name


class Receivers:
    """Notes what is made and what is sent."""

    def __init__(self, *members: str):
        self.members = members
        self.log: list[str] = []
        self.broken = False

    def sender(self, weights, *, rank, place):
        del weights
        self.log.append(f"connect {rank} {place[1]}")
        return self

    def send(self, version):
        if self.broken:
            raise RuntimeError("lost")
        self.log.append(f"send {version}")
        return ["report"]

    def close(self):
        self.log.append("close")


def test_a_connection_lasts_as_long_as_the_receivers_are_the_same():
    weights = PolicyWeights(torch.nn.Linear(1, 1), torch.device("cpu"))  # pyright: ignore
    direct, first, other = Direct(weights), Receivers("a", "b"), Receivers("a")
    place = ("host", 5)
    assert direct.send(V, first, place) == ["report"]
    direct.send(Version(0, 2), Receivers("a", "b"), place)
    assert first.log == ["connect 0 5", "send 0.1", "send 0.2"]
    direct.send(V, other, place)
    assert (first.log[-1], other.log) == ("close", ["connect 0 5", "send 0.1"])
    other.broken = True
    with pytest.raises(RuntimeError, match="lost"):
        direct.send(V, other, place)
    other.broken = False
    direct.send(V, other, place)
    assert other.log[2:] == ["close", "connect 0 5", "send 0.1"]
    direct.close()
    direct.close()
    assert other.log[-2:] == ["send 0.1", "close"]


class Stops:
    """A sender that takes so many tensors, and then says that it cannot go on."""

    members = ("a",)

    def __init__(self, after: int | None):
        self.after, self.taken, self.closed = after, [], False

    def sender(self, weights, *, rank, place):
        del rank, place
        self.weights = weights
        if self.after is None:
            raise ConnectionError("no way")
        return self

    def send(self, version):
        del version
        for name, _ in self.weights:
            if len(self.taken) == self.after:
                raise ConnectionError("no way")
            self.taken.append(name)
        raise ConnectionError("no way")

    def close(self):
        self.closed = True


@pytest.mark.parametrize("after", [None, 0, 9, 9999])
def test_a_walk_is_ended_once_wherever_the_sender_stops(model, monkeypatch, after):
    """The other ranks gather each bucket together with this one, and no bucket twice."""
    gathered = []

    def counted(found, **how):
        for tensors in export.layers(found, **how):
            gathered.append(set(tensors))
            yield tensors

    monkeypatch.setattr("learners.weights.device_source.layers", counted)
    weights = PolicyWeights(load_policy(model), torch.device("cpu"), limit=100_000)
    stops = Stops(after)
    with pytest.raises(ConnectionError, match="no way"):
        Direct(weights).send(V, stops, ("host", 5))
    names = {entry.name for entry in weights.entries()}
    assert len(gathered) > 3
    assert set().union(*gathered) == names
    assert sum(map(len, gathered)) == len(names)
    assert stops.closed is (after is not None)


def test_a_walk_that_fails_itself_is_told_and_the_connection_ended(model, monkeypatch):
    def breaks(found, **how):
        yield from export.layers(found, **how)
        raise RuntimeError("gathering failed")

    monkeypatch.setattr("learners.weights.device_source.layers", breaks)
    stops = Stops(2)
    with pytest.raises(RuntimeError, match="gathering failed"):
        Direct(PolicyWeights(load_policy(model), torch.device("cpu"))).send(V, stops, ("host", 5))
    assert stops.closed
