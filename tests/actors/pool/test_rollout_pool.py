"""The pool on a local Ray: one replica, run for real, loaded, killed and brought back."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from actors.pool.replica_state import State
from actors.pool.rollout_pool import RolloutPool
from o3rl.benchmarks.runner import Sampling
from o3rl.config import Publish
from o3rl.media.decoder import MediaError
from o3rl.types import Failure, FailureKind, Group, Version
from o3rl.weights.versions import MemoryWeights
from tests.actors.conftest import (
    ROLLOUTS,
    SAMPLING,
    SEED,
    frames,
    locations,
    model,
    prompt,
    reference_logprobs,
    states,
)

pytestmark = pytest.mark.e2e


def fetch(key: str):
    if key == "key99":
        raise MediaError("v99.mp4", "missing")
    return frames(key)


@pytest.fixture(scope="module")
def source(policies):
    """Holds the changed weights as 0.1, the base's as 0.2, as the learner publishes them."""
    from learners.model.policy import load_policy
    from learners.weights.publisher import Publisher

    weights = MemoryWeights()
    for folder, n in ((policies.changed, 1), (policies.base, 2)):
        publisher = Publisher(load_policy(model(folder)), Publish.full, limit=500_000)
        publisher.send(Version(0, n), weights)
    return weights


@pytest.fixture(scope="module")
def pool(run, policies, source):
    """Started from the export of the changed weights."""
    import ray

    here = Path(__file__)
    path = os.pathsep.join([str(here.parents[3]), str(here.parent)])  # where `fetch` is found
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    started = RolloutPool(
        model(policies.changed),
        sampling=SAMPLING,
        rollouts=ROLLOUTS,
        fetch=fetch,
        source=source,
        seed=SEED,
    )
    try:
        run(started.fleet.start())
        yield started
        run(started.fleet.close())
    finally:
        ray.shutdown()


def descendants(pid: int) -> set[int]:
    """Of a process, by /proc."""
    children: dict[int, set[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), set()).add(int(path.parent.name))
    found, todo = set(), [pid]
    while todo:
        fresh = children.get(todo.pop(), set()) - found
        found |= fresh
        todo += fresh
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_new_replica_is_stale_and_serves_nothing(pool, run):
    assert states(pool) == (State.STALE,)
    with pytest.raises(ValueError, match="no weights were loaded or adopted"):
        run(pool.sample(prompt(0)))


def test_a_replica_serves_what_it_loaded_and_checked(pool, run, policies, source):
    started_from_export = run(pool.weights.checksums())
    [loaded] = run(pool.weights.load(Version(0, 2)))
    assert loaded.digest == source.manifest(Version(0, 2)).digest
    assert states(pool) == (State.HEALTHY,)
    group = run(pool.sample(prompt(0)))
    assert isinstance(group, Group)
    assert group.rollouts_G[0].version == Version(0, 2)
    for rollout, expected in zip(
        group.rollouts_G, reference_logprobs(policies.base, group), strict=True
    ):
        assert rollout.logprobs_T == pytest.approx(expected, abs=1e-4)

    # After a publication the replica equals an engine that loaded the learner's export of the same.
    assert run(pool.weights.checksums()) != started_from_export
    run(pool.weights.load(Version(0, 1)))
    assert run(pool.weights.checksums()) == started_from_export
    assert any(started_from_export[0][0].values())


def test_evaluation_is_greedy_where_asked(pool, run):
    one = run(pool.sample_group(prompt(3), n=1, temperature=0.0))
    two = run(pool.sample_group(prompt(3), n=2, temperature=0.0))
    assert [r.tokens_T for r in two.rollouts_G] == [one.rollouts_G[0].tokens_T] * 2


def test_anything_can_be_asked_with_pictures(pool, run):
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which?"}]
    chat, sampling = [{"role": "user", "content": content}], Sampling(2, 0, max_tokens=8, samples=2)
    pictures = list(frames("key3")[:2])
    texts = run(pool.ask(chat, pictures, sampling))
    assert len(texts) == 2
    assert texts[0] == texts[1]  # greedy
    with pytest.raises(ValueError, match="the messages show 2 images, 1 came"):
        run(pool.ask(chat, pictures[:1], sampling))


def test_frames_that_cannot_be_had_fail_the_prompt(pool, run):
    result = run(pool.sample(replace(prompt(0), media_key="key99")))
    assert result == Failure(0, None, "frames: v99.mp4: missing", FailureKind.FILE)


def test_a_version_that_is_not_there_is_refused(pool, run):
    with pytest.raises(LookupError, match=r"version 7\.7"):
        run(pool.weights.load(Version(7, 7)))
    run(pool.weights.load(Version(0, 1)))
    assert states(pool) == (State.HEALTHY,)


def test_a_killed_replica_leaves_nothing_hands_its_prompt_back_and_returns(pool, run):
    [place] = locations(pool)
    below = descendants(place.pid)
    assert below, "the engine"
    os.kill(place.pid, signal.SIGKILL)
    result = run(pool.sample(prompt(4)))
    assert isinstance(result, Failure)
    assert result.sample is None
    assert f"pid {place.pid} died" in result.reason
    deadline = time.monotonic() + 15
    while left := {pid for pid in below if alive(pid)}:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)

    group = run(pool.sample(prompt(4)))  # waits for the replica that is started in its place
    assert isinstance(group, Group)
    assert group.rollouts_G[0].version == Version(0, 1)
    assert pool.counts["deaths"] == 1
    assert locations(pool)[0].pid != place.pid


def test_an_engine_that_is_killed_under_its_replica_is_replaced(pool, run):
    [place] = locations(pool)
    below = descendants(place.pid)
    for pid in below:  # vLLM's processes; the replica lives on
        os.kill(pid, signal.SIGKILL)
    result = run(pool.sample(prompt(5)))
    assert isinstance(result, Failure)
    assert f"pid {place.pid}" in result.reason
    group = run(pool.sample(prompt(5)))
    assert isinstance(group, Group)
    assert group.rollouts_G[0].version == Version(0, 1)
    assert pool.counts["deaths"] == 2


def test_an_engine_that_hangs_is_no_healthy_replica_and_leaves_nothing(
    pool, run, monkeypatch, caplog
):
    [place] = locations(pool)
    below = descendants(place.pid)
    for pid in below:
        os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(pool, "_rollouts", replace(ROLLOUTS, seconds=3.0))
    result = run(pool.sample(prompt(5)))
    assert isinstance(result, Failure)
    assert "its engine has not answered for 6 s" in caplog.text
    assert pool.counts["deaths"] == 3
    assert states(pool) == (State.STARTING,)
    run(pool.fleet.close())
    gone({*below, place.pid})
    assert states(pool) == (State.DEAD,)


def gone(pids: set[int]) -> None:
    """All of them, soon."""
    deadline = time.monotonic() + 15
    while left := {pid for pid in pids if alive(pid)}:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)
