"""Weights that a learner's rank sends straight into an engine: by bytes, IPC and NCCL.

Without a GPU the bytes travel within the updates (plain_transfer.py); all else is real.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from actors.weights.update_stream import EngineBroken, HandOverFailed
from o3rl.code_digest import source_digest
from o3rl.config import Placement, Transfer
from o3rl.types import Version
from tests.actors.conftest import (
    ROLLOUTS,
    SAMPLING,
    SEED,
    frames,
    model,
    prompt,
    reference_logprobs,
)

pytestmark = pytest.mark.e2e

FIRST, SECOND, THIRD = Version(0, 0), Version(0, 1), Version(0, 2)


class Local:
    """Receivers in this process; the engine lives on the event loop behind `run`."""

    def __init__(self, replica, run):
        self.members = ("rollout replica 0",)
        self._replica, self._run = replica, run

    def link(self, init: Mapping[str, Any]) -> None:
        self._run(self._replica.link(init))

    def open(self, version: Version, names: Sequence[str]) -> None:
        self._run(self._replica.open(version, names))

    def feed(self, update: Mapping[str, Any]) -> None:
        self._run(self._replica.feed(update))

    def finish(self, digest: str) -> list[Any]:
        return [self._run(self._replica.finish(digest))]


def made(policies, **rollouts):
    from actors.engine.replica import ReplicaActor

    return ReplicaActor(
        model(policies.base),
        sampling=SAMPLING,
        rollouts=replace(ROLLOUTS, **rollouts),
        fetch=frames,
        seed=SEED,
        source=source_digest(),
    )


def weights_of(folder, device: str = "cpu"):
    from transformers import AutoModelForImageTextToText

    from learners.weights.device_source import PolicyWeights

    policy = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return PolicyWeights(policy.to(device), torch.device(device), limit=500_000)


@pytest.fixture(scope="module")
def replica(run, policies):
    """One whose engine takes weights by `plain_transfer`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "actors.engine.vllm_arguments.EXTENSION",
            "tests.actors.weights.plain_transfer.Extension",
        )
        patch.setattr("actors.engine.vllm_arguments.BACKENDS", {Transfer.nccl: "plain"})
        started = made(policies, transfer=Transfer.nccl)
        run(started.start())
    run(started.adopt(FIRST))
    yield started
    run(started.close())


@pytest.fixture(scope="module")
def sender(replica, run, policies):
    from actors.weights.device_sender import VllmSender
    from tests.actors.weights.plain_transfer import PlainTrainerInit

    weights = weights_of(policies.changed)
    return VllmSender(PlainTrainerInit(rank=0), weights, Local(replica, run))


def sample(replica, run, number: int):
    return run(replica.sample(prompt(number), 1.0, SAMPLING.group_size))


def assert_logprobs(folder, group, *, atol: float = 1e-4) -> None:
    expected = reference_logprobs(folder, group)
    for rollout, values in zip(group.rollouts_G, expected, strict=True):
        assert rollout.logprobs_T == pytest.approx(values, abs=atol)


def test_what_does_not_fit_is_refused_by_name_and_the_old_weights_serve_on(replica, run, sender):
    names = [entry.name for entry in sender._client._weights.entries()]
    with pytest.raises(ValueError, match=r"version 0\.1: the manifest lacks tensors that .*embed"):
        run(replica.open(SECOND, [name for name in names if "embed" not in name]))
    with pytest.raises(ValueError, match=r"does not know: one\.more"):
        run(replica.open(SECOND, [*names, "one.more"]))
    assert {r.spans for r in sample(replica, run, 1).rollouts_G} == {((0, FIRST),)}


def test_the_engine_serves_what_was_sent_and_knows_it(replica, run, sender, policies):
    before = sample(replica, run, 0)
    assert_logprobs(policies.base, before)
    [loaded] = sender.send(SECOND)
    manifest = sender._client._weights.manifest(SECOND)
    assert (loaded.version, loaded.digest) == (SECOND, manifest.digest)
    assert (loaded.tensors, loaded.size) == (len(manifest.names), manifest.size)
    assert loaded.parameters > 0
    group = sample(replica, run, 0)
    assert_logprobs(policies.changed, group)
    assert {rollout.spans for rollout in group.rollouts_G} == {((0, SECOND),)}


def test_a_tensor_that_came_otherwise_than_it_was_sent_ends_the_engine(
    replica, run, sender, monkeypatch
):
    """The last test of this engine."""
    feed = Local.feed

    def flipped(self, update):
        if update.get("name", "").endswith("layers.1.mlp.down_proj.weight"):
            data = update["data"]
            update = {**update, "data": data[:-1] + bytes([data[-1] ^ 1])}
        feed(self, update)

    monkeypatch.setattr(Local, "feed", flipped)
    with pytest.raises(HandOverFailed, match=r"differ from those that were sent: .*layers\.1\."):
        sender.send(THIRD)
    with pytest.raises(EngineBroken, match=r"update to version 0\.2 failed"):
        sample(replica, run, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA IPC needs a GPU")
def test_over_ipc_into_the_engine_on_the_same_gpu(run, policies):
    from actors.weights.device_sender import over_ipc

    by_turns = {"gpus": 0.5, "memory_share": 0.3, "placement": Placement.colocated}
    replica = made(policies, transfer=Transfer.ipc, **by_turns)
    try:
        run(replica.start())
        run(replica.adopt(FIRST))
        run(replica.sleep())
        sender = over_ipc(weights_of(policies.changed, "cuda"), Local(replica, run), rank=0)
        for version in (SECOND, THIRD):
            [loaded] = sender.send(version)
            assert loaded.version == version
            assert_logprobs(policies.changed, sample(replica, run, version.n), atol=1e-2)
            run(replica.sleep())
    finally:
        run(replica.close())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs a GPU for each side")
def test_over_nccl_into_an_engine_on_another_gpu(run, policies, monkeypatch):
    """In several packs, which vLLM's sender makes on two streams by turns."""
    from actors.weights.device_sender import over_nccl

    monkeypatch.setattr("actors.weights.device_sender.AT_ONCE_BYTES", 300_000)

    replica = made(policies, transfer=Transfer.nccl, gpus=1.0, memory_share=0.3)
    try:
        with monkeypatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", "1")
            run(replica.start())
        run(replica.adopt(FIRST))
        with socket.socket() as found:
            found.bind(("", 0))
            place = ("127.0.0.1", found.getsockname()[1])
        weights = weights_of(policies.changed, "cuda:0")
        sender = over_nccl(weights, Local(replica, run), rank=0, place=place, engines=1)
        for version in (SECOND, THIRD):
            [loaded] = sender.send(version)
            assert loaded.version == version
            assert_logprobs(policies.changed, sample(replica, run, version.n), atol=1e-2)
        sender.close()
    finally:
        run(replica.close())
