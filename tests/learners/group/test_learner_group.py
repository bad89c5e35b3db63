"""The learner on Ray: two ranks do what one does, and what befalls them has a name."""

import asyncio
import os
import pickle
import re
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import folder_sink
import pytest
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from safetensors.torch import load, load_file

from learners.group.answers import LearnerLost, all_answers
from learners.group.learner_group import LearnerGroup
from learners.rank.worker import RankWorker
from o3rl.config import ClusterConfig
from o3rl.types import Version
from o3rl.weights.buckets import verify
from o3rl.weights.device_protocol import TrainedOn

pytestmark = pytest.mark.e2e
CLUSTER = ClusterConfig(cpus_per_rank=1, gpus_per_rank=0, start_seconds=240)


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.cloudpickle.register_pickle_by_value(folder_sink)  # ranks cannot import from tests
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@contextmanager
def full_disk(pid: int, *, size: int) -> Iterator[None]:
    """No file that the process writes can grow beyond `size` bytes."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("zero", [2, 3])
@pytest.mark.usefixtures("rank_alone")
def test_two_ranks_do_what_one_does(zero, settings, groups, prompts, fetch, tmp_path, caplog):
    # Batches of 6 and then 1 group: in the second a rank has nothing and runs dummies.
    batches = [groups, groups[4:5]]
    alone = RankWorker(settings(zero=2), fetch)
    expected = [alone.update([groups[:3], groups[3:]]), alone.update([groups[4:5]])]
    expected.append(alone.sft_step(prompts))
    alone.export(tmp_path / "alone")

    async def scenario() -> list[dict[str, float]]:
        learner = LearnerGroup(
            settings(zero=zero, ranks=2, seconds=120.0),
            CLUSTER,
            fetch=fetch,
            sink=folder_sink.FolderSink(tmp_path),
        )
        await learner.start()
        try:
            found = [await learner.update(batch) for batch in batches]
            for rank, write in ((1, learner.save), (0, learner.save), (0, learner.export)):
                pid = (await learner.pids())[rank]
                with full_disk(pid, size=2**10), pytest.raises(OSError, match=rf"rank {rank}: "):
                    await write(tmp_path / "full")
            await learner.save(tmp_path / "state")
            found.append(await learner.sft_step(prompts))
            await learner.export(tmp_path / "together")
            await learner.restore(tmp_path / "state")
            again = await learner.sft_step(prompts)
            assert again["loss"] == found[-1]["loss"]
            await learner.export(tmp_path / "again")
            broken = replace(groups[0], group=replace(groups[0].group, frames_digest="0" * 16))
            published = await learner.publish(Version(0, 1))
            assert published["sync/bytes"] > 2**20
            receivers = folder_sink.FolderReceivers(tmp_path)
            [(sender, _, sums)] = await learner.send(Version(0, 1), receivers)
            assert (sender, sums.version) == (0, Version(0, 1))
            with pytest.raises(TrainedOn, match=r"version 0\.2 is not held"):
                await learner.send(Version(0, 2), receivers)
            learner.name(Version(0, 2))
            await learner.send(Version(0, 2), receivers)
            for where in ("connect", "end"):  # the other rank is with it afterwards
                gone = replace(receivers, breaks=where, members=(where,))
                with pytest.raises(RayTaskError, match=f"gone at {where}"):
                    await learner.send(Version(0, 2), gone)
            refused = await learner.update([broken, groups[1]])
            assert refused["learner/refused"] == 1
            assert [failure.group for failure in learner.failures] == [0]
            with pytest.raises(TrainedOn, match="has trained on"):
                await learner.send(Version(0, 2), receivers)
            pid = (await learner.pids())[1]
            if zero == 2:
                updating = asyncio.ensure_future(learner.update(groups))
                os.kill(pid, signal.SIGKILL)
                with pytest.raises(LearnerLost, match=r"learner update: rank 1 died"):
                    await updating
                return found
            os.kill(pid, signal.SIGSTOP)
            learner._settings = settings(zero=zero, ranks=2, seconds=5.0)
            try:
                with pytest.raises(LearnerLost, match=r"within 5 s from ranks \[0, 1\]"):
                    await learner.update(groups)
            finally:
                os.kill(pid, signal.SIGCONT)
            shown = [line for line in caplog.messages if "says nothing; it is here:" in line]
            assert len(shown) == 2
            for line in shown:
                assert re.search("_Rank.call|main_loop|its stacks cannot be had", line)
            return found
        finally:
            await learner.close()

    found = asyncio.run(scenario())
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("loss", "gradient/norm", "learner/sequences", "learner/tokens", "entropy"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-6), name
    together = load_file(tmp_path / "together" / "model.safetensors")
    started = load_file(tmp_path / "alone" / "model.safetensors")
    for name, tensor in started.items():
        # Adam turns rounding into steps where a gradient is all but zero; three steps of 1e-3.
        assert (together[name] - tensor).abs().mean() < 1e-4, name
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert [name for name in again if not torch.equal(again[name], together[name])] == []
    manifest = pickle.loads((tmp_path / "0.1").read_bytes())
    for bucket in manifest.buckets:
        payload = (tmp_path / f"0.1-{bucket.index}").read_bytes()
        verify(bucket, payload)
        for name, tensor in load(payload).items():
            assert torch.equal(tensor, again[name]), name
    sent = torch.load(tmp_path / "0.1-sent", weights_only=True)
    assert sent.keys() == again.keys()
    assert all(torch.equal(sent[name], again[name]) for name in sent)


def test_no_room_says_what_there_is(settings, fetch):
    small = ClusterConfig(cpus_per_rank=64, gpus_per_rank=0, start_seconds=1)

    async def scenario() -> None:
        with pytest.raises(TimeoutError, match=r"no room for 2 learner ranks .* free: CPU 2"):
            await LearnerGroup(settings(ranks=2), small, fetch=fetch).start()

    asyncio.run(scenario())


def test_a_bad_model_path_ends_the_start_with_its_own_error(settings, model, fetch):
    async def scenario() -> None:
        missing = replace(model, path="/nowhere/model")
        learner = LearnerGroup(settings(model=missing), CLUSTER, fetch=fetch)
        with pytest.raises(Exception, match="/nowhere/model"):
            await learner.start()
        assert learner._ranks == []

    asyncio.run(scenario())


class Answer:
    """An answer of a rank: Ray's reference, as far as it is used."""

    def __init__(self, *, result: object = None, error: Exception | None = None):
        self._future: Future[object] = Future()
        if error is not None:
            self._future.set_exception(error)
        elif result is not None:
            self._future.set_result(result)

    def future(self) -> Future[object]:
        return self._future


def test_late_ranks_are_named():
    calls = [Answer(result=1), Answer(), Answer()]
    with pytest.raises(
        LearnerLost, match=r"learner save: no answer within 0 s from ranks \[1, 2\]"
    ):
        asyncio.run(all_answers(calls, what="learner save", seconds=0.1))


def test_a_death_is_told_rather_than_what_it_did_to_the_others():
    calls = [Answer(error=RuntimeError("connection closed by peer")), Answer(error=RayActorError())]
    with pytest.raises(LearnerLost, match="learner update: rank 1 died"):
        asyncio.run(all_answers(calls, what="learner update", seconds=1))


def test_a_failed_collective_is_a_loss_though_ray_tells_of_no_death_yet():
    told = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"
    with pytest.raises(LearnerLost, match="learner update: rank 0 lost the others"):
        asyncio.run(
            all_answers([Answer(error=RuntimeError(told))], what="learner update", seconds=1)
        )


def test_an_error_of_a_rank_is_its_own():
    with pytest.raises(ValueError, match="saved with"):
        asyncio.run(all_answers([Answer(error=ValueError("saved with"))], what="x", seconds=1))
