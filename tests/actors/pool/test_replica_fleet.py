"""Replicas that join, leave, freeze and die on a Ray of three nodes; the engines have no model."""

import asyncio
import logging
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import ray.util
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from ray.exceptions import RayTaskError

from actors.pool import replica_fleet
from actors.pool.replica_state import State
from actors.pool.rollout_pool import RolloutPool
from actors.weights.update_stream import HandOverFailed, Loaded
from cluster.services.device_broadcast import ReplicaReceivers
from cluster.services.weight_transfer import DeviceTransfer
from o3rl.config import Placement, RolloutsConfig, Transfer
from o3rl.types import Failure, Group, Version
from o3rl.weights.device_protocol import TrainedOn
from tests.actors.conftest import (
    ROLLOUTS,
    SAMPLING,
    SEED,
    frames,
    locations,
    model,
    prompt,
    published,
    states,
    tensors,
)
from tests.faults.fake_engine import DIES

pytestmark = pytest.mark.e2e

QUICK = replace(
    ROLLOUTS,
    engine="tests.faults.fake_engine:FakeEngine",
    start_seconds=60,
    seconds=8,
    load_seconds=20,
    leave_seconds=5,
)


def fetch(key: str):
    return frames(key)


@pytest.fixture(scope="module")
def source(policies):
    """Version 0.0; `version` adds more."""
    return published(tensors(policies.base), Version(0, 0))


@pytest.fixture
def version(policies, source):
    """Publishes the same weights as another version."""
    from o3rl.weights.manifest import publish

    def published_as(n: int) -> Version:
        publish(tensors(policies.base), source, version=Version(0, n), limit=500_000)
        return Version(0, n)

    return published_as


@pytest.fixture(scope="module")
def cluster():
    """Three nodes of one CPU for replicas each, on this machine."""
    here = Path(__file__)
    path = os.pathsep.join([str(here.parents[3]), str(here.parent)])  # where `fetch` is found
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    ray.init(
        address=nodes.address,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def made(policies, source, rollouts: RolloutsConfig) -> RolloutPool:
    return RolloutPool(
        model(policies.base),
        sampling=SAMPLING,
        rollouts=rollouts,
        fetch=fetch,
        source=source,
        seed=SEED,
    )


@pytest.fixture(scope="module")
def pool(run, cluster, policies, source):
    assert len(cluster.list_all_nodes()) == 3
    started = made(policies, source, QUICK)
    run(started.fleet.start())
    run(started.weights.load(Version(0, 0)))
    yield started
    run(started.fleet.close())


async def many(pool: RolloutPool, count: int) -> list[Group | Failure]:
    return await asyncio.gather(*(pool.sample(prompt(number)) for number in range(count)))


def versions(groups: list[Group | Failure]) -> set[Version]:
    assert all(isinstance(group, Group) for group in groups), groups
    return {v for g in groups for r in g.rollouts_G for _, v in r.spans}  # pyright: ignore


def test_one_that_shares_the_learners_gpu_stays_alone(pool, run, monkeypatch):
    colocated = replace(QUICK, placement=Placement.colocated)
    monkeypatch.setattr(pool.fleet, "_rollouts", colocated)
    with pytest.raises(ValueError, match=r"2 replicas are wanted; rollouts\.placement"):
        run(pool.fleet.scale(2))


def test_replicas_join_while_others_serve(pool, run):
    async def grow():
        scaling = asyncio.create_task(pool.fleet.scale(3))
        served = 0
        while not scaling.done():
            assert versions(await many(pool, 2)) == {Version(0, 0)}
            served += 2
        assert await scaling == ()
        return served

    assert run(grow()) > 0
    assert states(pool) == (State.HEALTHY,) * 3
    assert {place["version"] for place in pool.fleet.describe()} == {"0.0"}
    assert len({place["node"] for place in pool.fleet.describe()}) == 1  # one machine
    assert pool.counts["joined"] == 2


@pytest.mark.usefixtures("pool")
def test_where_there_is_no_room_it_says_what_was_asked(policies, source, run):
    """A fourth on three nodes; `pool` holds the others."""
    lonely = made(policies, source, replace(QUICK, start_seconds=1))
    with pytest.raises(TimeoutError, match=r"no room for rollout replica 0 within 1 s: asked"):
        run(lonely.fleet.start())


def test_all_take_a_version_and_serve_it(pool, run, version):
    reports = run(pool.weights.load(version(1)))
    assert [report.version for report in reports] == [Version(0, 1)] * 3
    assert versions(run(many(pool, 6))) == {Version(0, 1)}


def test_one_that_leaves_finishes_its_prompts(pool, run):
    async def shrink():
        sampling = asyncio.create_task(many(pool, 6))
        await asyncio.sleep(0.1)
        assert await pool.fleet.scale(2) == ()
        return await sampling

    assert versions(run(shrink())) == {Version(0, 1)}
    assert states(pool) == (State.HEALTHY,) * 2
    assert pool.counts["left"] == 1


def test_a_run_starts_with_those_that_have_room_and_the_others_join_later(
    policies, source, run, pool, monkeypatch
):
    """Two on the one node that `pool` leaves; then on the one that it gives back, at second try."""
    monkeypatch.setattr(replica_fleet, "ROOM_SECONDS", 2.0)
    monkeypatch.setattr(replica_fleet, "RETRY_SECONDS", 0.5)
    begin, begun = replica_fleet.Fleet._begin, []

    async def begin_second_time(self, replica):
        begun.append(replica.index)
        if begun == [0, 1]:
            raise TimeoutError("vLLM did not start")
        await begin(self, replica)

    monkeypatch.setattr(replica_fleet.Fleet, "_begin", begin_second_time)
    two = made(policies, source, replace(QUICK, replicas=2))

    async def grow() -> list[Group | Failure]:
        await two.fleet.start()
        await two.weights.load(Version(0, 1))
        assert states(two) == (State.HEALTHY, State.STARTING)
        groups = await many(two, 2)
        assert await pool.fleet.scale(1) == ()
        async with asyncio.timeout(60):
            while states(two) != (State.HEALTHY,) * 2:
                await asyncio.sleep(0.1)
        return groups + await many(two, 4)

    try:
        assert versions(run(grow())) == {Version(0, 1)}
        assert two.counts["joined"] == 1
        assert begun == [0, 1, 1]
    finally:
        run(two.fleet.close())
        assert run(pool.fleet.scale(2)) == ()


def test_a_killed_one_hands_its_prompts_back_and_takes_the_version_of_the_day(pool, run, version):
    async def kill():
        sampling = asyncio.create_task(many(pool, 8))
        await asyncio.sleep(0.1)
        victim = locations(pool)[0]
        os.kill(victim.pid, signal.SIGKILL)
        groups = await sampling
        lost = [group for group in groups if isinstance(group, Failure)]
        assert lost
        assert all(f"pid {victim.pid} died" in failure.reason for failure in lost)
        await pool.weights.load(version(2))  # while it is starting again
        while states(pool) != (State.HEALTHY,) * 2:
            await asyncio.sleep(0.1)
        return await many(pool, 8)

    assert versions(run(kill())) == {Version(0, 2)}
    assert {place["version"] for place in pool.fleet.describe()} == {"0.2"}
    assert pool.counts["deaths"] == 1


class Sending:
    """A learner that sends what it has been told it holds, as rank 0 would; the engines count."""

    def __init__(self) -> None:
        self.version: Version | None = None
        self.sent: list[tuple[Version, int]] = []  # with how many took part
        self.meanwhile = lambda: None
        self._turn = asyncio.Lock()

    async def send(self, version: Version, replicas: ReplicaReceivers) -> list[Loaded]:
        async with self._turn:
            if version != self.version:
                raise TrainedOn(f"version {version} is not held")
            self.sent.append((version, len(replicas.members)))
            try:
                return await asyncio.to_thread(self._drive, version, replicas)
            except HandOverFailed as error:  # as it comes from a rank
                raise RayTaskError("send", str(error), error) from error

    def _drive(self, version: Version, replicas: ReplicaReceivers) -> list[Loaded]:
        replicas.link({})
        replicas.open(version, ["a", "b"])
        self.meanwhile()
        replicas.feed({"n": 1})
        return replicas.finish("digest")


@pytest.fixture
def sending(pool):
    """The pool takes its weights straight from it, for a while."""
    learner = Sending()
    before = pool.weights.provider
    direct = replace(QUICK, transfer=Transfer.nccl)
    DeviceTransfer(learner, pool.weights, direct)  # pyright: ignore[reportArgumentType]
    yield learner
    pool.weights.provider = before


def test_all_take_what_the_learner_sends_together(pool, run, sending):
    sending.version = Version(0, 3)
    reports = run(pool.weights.load(Version(0, 3)))
    assert [(report.version, report.digest) for report in reports] == [
        (Version(0, 3), "digest")
    ] * 2
    assert sending.sent == [(Version(0, 3), 2)]
    assert versions(run(many(pool, 4))) == {Version(0, 3)}


def test_one_that_dies_as_it_takes_weights_costs_those_with_it_a_restart(pool, run, sending):
    victim = locations(pool)[0]

    def kill() -> None:
        sending.meanwhile = lambda: None
        os.kill(victim.pid, signal.SIGKILL)

    async def load():
        sending.version, sending.meanwhile = Version(0, 4), kill
        await pool.weights.load(Version(0, 4))
        async with asyncio.timeout(60):
            while states(pool) != (State.HEALTHY,) * 2:
                await asyncio.sleep(0.1)
        return await many(pool, 4)

    before = pool.counts["deaths"]
    assert versions(run(load())) == {Version(0, 4)}
    assert pool.counts["deaths"] == before + 2
    assert sending.sent[0] == (Version(0, 4), 2)


def test_one_that_comes_when_the_learner_has_trained_on_takes_the_next(pool, run, sending, caplog):
    caplog.set_level(logging.INFO)
    sending.version = Version(0, 4)

    async def come():
        os.kill(locations(pool)[0].pid, signal.SIGKILL)
        lost = []
        async with asyncio.timeout(30):
            while not lost:
                lost = [each for each in await many(pool, 2) if isinstance(each, Failure)]
        sending.version = None  # it learns
        async with asyncio.timeout(60):
            while State.STALE not in states(pool):
                await asyncio.sleep(0.1)
        assert State.HEALTHY in states(pool)
        assert versions(await many(pool, 2)) == {Version(0, 4)}
        assert State.STALE in states(pool)
        sending.version = Version(0, 5)
        await pool.weights.load(Version(0, 5))
        assert states(pool) == (State.HEALTHY,) * 2
        return await many(pool, 4)

    assert versions(run(come())) == {Version(0, 5)}
    assert "the learner has trained on from version 0.4" in caplog.text
    assert "could not be seen to" not in caplog.text


def test_one_that_waits_in_vain_for_a_version_is_started_again(
    pool, run, sending, monkeypatch, caplog
):
    monkeypatch.setattr(pool.weights, "_rollouts", replace(QUICK, load_seconds=0.5))

    async def come():
        os.kill(locations(pool)[0].pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while "named no version after 0.5 in time" not in caplog.text:
                await many(pool, 2)
                await asyncio.sleep(0.1)
            sending.version = Version(0, 5)
            while states(pool) != (State.HEALTHY,) * 2:
                await asyncio.sleep(0.1)
        return await many(pool, 4)

    assert versions(run(come())) == {Version(0, 5)}


def test_what_goes_through_the_store_is_taken_again(pool, run, version):
    run(pool.weights.load(version(6)))
    assert states(pool) == (State.HEALTHY,) * 2


def test_a_prompt_that_kills_its_replica_costs_no_other_its_attempts(pool, run):
    async def tried(asked) -> Group | Failure:
        for attempt in range(3):
            found = await pool.sample(replace(asked, attempt=attempt))
            if isinstance(found, Group):
                break
        return found

    async def together():
        poison = prompt(50, question=f"Where? {DIES}")
        found = await asyncio.gather(tried(poison), *(tried(prompt(n)) for n in range(51, 56)))
        while states(pool) != (State.HEALTHY,) * 2:
            await asyncio.sleep(0.1)
        return found

    poisoned, *others = run(together())
    assert isinstance(poisoned, Failure)
    assert "died" in poisoned.reason
    assert len(versions(others)) == 1


def test_a_frozen_one_is_named_shown_and_replaced(pool, run, caplog, monkeypatch):
    monkeypatch.setattr("actors.pool.rollout_pool.PING_SECONDS", 3.0)
    name = ""

    async def freeze():
        victim = locations(pool)[1]
        number = pool.fleet.describe()[1]["replica"]
        nonlocal name
        name = f"rollout replica {number} on {victim.node}, pid {victim.pid}"
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            groups = await many(pool, 6)
            assert time.monotonic() - began < QUICK.seconds + 15
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        late = [group for group in groups if isinstance(group, Failure)]
        assert 1 <= len(late) <= 3
        assert {failure.reason for failure in late} == {f"{name}: no group within 8 s"}
        while states(pool) != (State.HEALTHY,) * 2:
            await asyncio.sleep(0.1)
        assert locations(pool)[1].pid != victim.pid
        return await many(pool, 6)

    assert versions(run(freeze())) == {Version(0, 6)}
    assert f"{name} says nothing; it is here:\n" in caplog.text
    assert "Worker.main_loop" in caplog.text or "its stacks cannot be had" in caplog.text


def test_a_cancelled_prompt_frees_its_replica(pool, run):
    async def cancel():
        sampling = asyncio.create_task(many(pool, 4))
        await asyncio.sleep(0.1)
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        assert {place["prompts"] for place in pool.fleet.describe()} == {0}

    run(cancel())


def used_nodes() -> set[str]:
    """Ids of the nodes with replicas."""
    groups = ray.util.placement_group_table().values()
    created = [group for group in groups if group["state"] == "CREATED"]
    return {node for group in created for node in group["bundles_to_node_id"].values()}


def test_a_lost_node_costs_its_prompts_and_its_replica_moves(pool, run, cluster):
    """A node is taken away with the replica on it; where there is room the replica starts again."""

    async def lose():
        victim = next(node for node in cluster.worker_nodes if node.node_id in used_nodes())
        await asyncio.to_thread(cluster.remove_node, victim, allow_graceful=False)
        lost = []
        async with asyncio.timeout(60):
            while not lost:
                lost = [each for each in await many(pool, 6) if isinstance(each, Failure)]
        assert {failure.sample for failure in lost} == {None}
        async with asyncio.timeout(60):
            while states(pool) != (State.HEALTHY,) * 2:
                await asyncio.sleep(0.1)
        return await many(pool, 6)

    assert versions(run(lose())) == {Version(0, 6)}


def test_what_sleeps_serves_again_with_the_next_weights(pool, run, version):
    async def sleep_and_load():
        await pool.weights.sleep()
        asleep = states(pool)
        late = asyncio.create_task(pool.sample(prompt(0)))
        await asyncio.sleep(0.5)
        waits = not late.done()
        await pool.weights.load(version(7))
        return asleep, waits, await late

    asleep, waits, group = run(sleep_and_load())
    assert set(asleep) == {State.STALE}
    assert waits
    assert versions([group]) == {Version(0, 7)}


def test_a_replica_leaves_a_node_that_is_to_go_and_costs_no_prompt(pool, run, cluster):
    """Ray is told of a preemption: another replica joins elsewhere, this one finishes its own."""
    cluster.add_node(num_cpus=1)
    before = pool.counts

    async def drain():
        victim = next(node for node in cluster.worker_nodes if node.node_id in used_nodes())
        deadline = time.time_ns() // 10**6 + 300_000
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        gcs = GcsClient(address=cluster.address)
        assert gcs.drain_node(victim.node_id, reason, "taken back", deadline)[0]
        groups = []
        async with asyncio.timeout(60):
            while victim.node_id in used_nodes() or states(pool) != (State.HEALTHY,) * 2:
                groups += await many(pool, 4)
        return groups

    assert versions(run(drain())) == {Version(0, 7)}
    changed = {name: pool.counts[name] - before[name] for name in ("joined", "left", "deaths")}
    assert changed == {"joined": 1, "left": 1, "deaths": 0}
