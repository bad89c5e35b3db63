"""What a sender makes of vLLM's trainer engines that fail, and what it sends to receivers."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch.distributed import DistStoreError
from vllm.distributed.weight_transfer import (
    TrainerWeightTransferEngine,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.base import TrainerInitInfo

from actors.weights.device_sender import VllmSender
from actors.weights.ipc_handles import rebuilt
from actors.weights.update_stream import HandOverFailed
from o3rl.types import Version
from o3rl.weights.buckets import Bucket, TensorEntry
from o3rl.weights.manifest import Manifest
from tests.actors.weights.test_ipc_handles import HANDLE

V = Version(0, 1)


@dataclass
class Init(TrainerInitInfo):
    backend: ClassVar[str] = "failing"
    connects: Exception | None = None


class Trainer(TrainerWeightTransferEngine[Init]):
    """Feeds one update, then fails as it is told; NCCL's has such a group."""

    init_info_cls = Init
    error: Exception | None = None
    model_update_group: Any = None

    @classmethod
    def trainer_init(cls, init_info, *, client, source=None):
        try:
            client.init_weight_transfer_engine({})
        except ValueError:  # in another thread, while this one waits for those who do not come
            assert init_info.connects is not None
        if init_info.connects is not None:
            raise init_info.connects
        return cls(client=client, source=source)

    def send_weights(self) -> None:
        self.client.start_weight_update()
        try:
            self.client.update_weights({"names": ["a"], "ipc_handles": {"GPU-1": HANDLE}})
        except ValueError:
            assert self.error is not None, "the broadcast goes on in another thread"
        if self.error is not None:
            raise self.error
        self.client.finish_weight_update()


WeightTransferTrainerFactory.register_engine("failing", Trainer)


class Weights:
    def entries(self):
        return [TensorEntry("a", "float32", (2,), "")]

    def __iter__(self):
        return iter([("a", torch.zeros(2))])

    def manifest(self, version):
        return Manifest(version, (Bucket(0, (TensorEntry("a", "float32", (2,), "5" * 16),), 8),))


class Receivers:
    members = ("replica 0", "replica 1")

    def __init__(self):
        self.log: list[Any] = []
        self.error: Exception | None = None

    def link(self, init):
        del init
        if self.error is not None:
            raise self.error

    def open(self, version, names):
        self.log.append((version, names))

    def feed(self, update):
        if self.error is not None:
            raise self.error
        self.log.append(update)

    def finish(self, digest):
        self.log.append(digest)
        return ["loaded"]


@pytest.fixture
def receivers():
    return Receivers()


@pytest.fixture
def sender(receivers):
    return VllmSender(Init(rank=0), Weights(), receivers)  # pyright: ignore


def test_receivers_get_names_then_plain_updates_then_the_sums(sender, receivers):
    assert sender.send(V) == ["loaded"]
    opened, update, sums, digest = receivers.log
    assert opened == (V, ["a"])
    assert rebuilt(update["ipc_handles"]["GPU-1"]) == HANDLE
    assert sums == {"sums": {"a": "5" * 16}}
    assert digest == Weights().manifest(V).digest


def test_those_who_did_not_connect_are_named(receivers):
    late = Init(rank=0, connects=DistStoreError("timed out after 300 s"))
    with pytest.raises(HandOverFailed, match=r"replica 0, replica 1 did not connect: timed out"):
        VllmSender(late, Weights(), receivers)  # pyright: ignore


@pytest.mark.parametrize("late", [DistStoreError("timed out"), OSError("address in use")])
def test_one_that_refuses_to_connect_is_told_rather_than_the_wait_for_it(receivers, late):
    receivers.error = ValueError("replica 1 will not")
    with pytest.raises(ValueError, match="replica 1 will not"):
        VllmSender(Init(rank=0, connects=late), Weights(), receivers)  # pyright: ignore


def test_what_is_wrong_with_the_weights_is_no_fault_of_the_way(sender, monkeypatch):
    def breaks(_):
        yield "a", torch.zeros(2)
        raise RuntimeError("gathering failed")

    monkeypatch.setattr(Weights, "__iter__", breaks)
    monkeypatch.setattr(Trainer, "send_weights", lambda self: [None for _ in self.source])
    with pytest.raises(RuntimeError, match=r"^gathering failed"):
        sender.send(V)


def test_what_a_receiver_said_first_is_told_rather_than_what_it_did_to_the_broadcast(
    sender, receivers, monkeypatch
):
    """The broadcast is aborted once, and whoever is in it makes no other."""
    aborted = []
    monkeypatch.setattr(torch.accelerator, "device_index", lambda _: torch.no_grad())
    group = SimpleNamespace(disabled=False, comm=7, device=torch.device("cuda", 0))
    group.nccl = SimpleNamespace(ncclCommAbort=aborted.append)
    sender._trainer.model_update_group = group
    sender._trainer.error = RuntimeError("NCCL error: invalid argument")
    receivers.error = ValueError("replica 1 refuses it")
    for _ in range(2):
        with pytest.raises(ValueError, match="replica 1 refuses it"):
            sender.send(V)
    assert (aborted, group.disabled) == ([7], True)


def test_a_lost_way_is_no_fault_of_the_learner_but_its_memory_is(sender):
    sender._trainer.error = RuntimeError("NCCL error: remote process exited")
    with pytest.raises(HandOverFailed, match=r"version 0\.1 could not be sent: NCCL error"):
        sender.send(V)
    sender._trainer.error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        sender.send(V)


def test_a_connection_that_is_ended_is_ended_once(sender, monkeypatch):
    """vLLM's own end of it would not know of ours."""
    aborted = []
    monkeypatch.setattr(torch.accelerator, "device_index", lambda _: torch.no_grad())
    group = SimpleNamespace(disabled=False, comm=7, device=torch.device("cuda", 0))
    group.nccl = SimpleNamespace(ncclCommAbort=aborted.append)
    sender._trainer.model_update_group = group
    sender.close()
    sender.close()
    assert (aborted, group.disabled) == ([7], True)


def test_an_engine_serves_nothing_before_the_sums_have_come():
    from actors.weights.device_receiver import HeldToSums

    engine = SimpleNamespace(_held=False)
    with pytest.raises(ValueError, match="before the sums of its tensors have come"):
        HeldToSums.finish_weight_update(engine)  # pyright: ignore[reportArgumentType]
