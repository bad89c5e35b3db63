"""The pool on a real local Ray: parallel groups, dying and hanging scorers, custom faults."""

import asyncio
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.exceptions import RaySystemError
from spatial_row import DOG, TRUTH, claim

from o3rl.code_digest import source_digest
from o3rl.config import Profile, RewardsConfig
from o3rl.types import (
    Failure,
    FailureKind,
    FinishReason,
    FramePlan,
    Group,
    Prompt,
    Reward,
    Rollout,
    Row,
    Task,
    Version,
)
from rewards.custom import CustomRewardError
from rewards.pool import ScorerPool

pytestmark = pytest.mark.e2e

ROW = Row("r1", Task.TEMPORAL_SPATIAL, "STR_plm", "What?", "v.mp4", TRUTH)
PLAN = FramePlan((0, 1), (0.0, 1.0), (100, 100), 20.0)
GOOD = f"<think>{claim('dog', 5.0, DOG)}</think><answer>a dog</answer>"
POISON = {"poison": "custom_rewards:poison"}


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    """A Ray of two processors whose workers find the custom rewards beside this file."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
    )
    yield
    ray.shutdown()


def group_of(*texts: str, number: int = 0) -> Group:
    prompt = Prompt(number, ROW, PLAN, "key", 1.0)
    rollouts = tuple(
        Rollout(number, sample, (1,), (-0.5,), ((0, Version(0, 0)),), FinishReason.STOP, text)
        for sample, text in enumerate(texts)
    )
    return Group(prompt, rollouts, (1, 2), "digest")


def pool_of(**settings) -> ScorerPool:
    rewards = replace(RewardsConfig(seconds=20.0), **settings)
    return ScorerPool(rewards, model_type="qwen2_5_vl", source=source_digest())


def run(pool: ScorerPool, *groups: Group):
    async def scored():
        try:
            async with asyncio.timeout(240):
                return await asyncio.gather(*map(pool.score, groups))
        finally:
            await pool.close()

    return asyncio.run(scored())


def test_groups_are_scored_in_order_and_in_parallel():
    groups = [group_of(GOOD, "nothing", GOOD, number=number) for number in range(12)]
    results = run(pool_of(workers=2, profile=Profile.strict), *groups)
    assert len(results) == 12
    for first, second, third in results:
        assert isinstance(first, Reward)
        assert first == third
        assert first.parts["thk_spatial"] == pytest.approx(0.5)
        assert second.total == 0


def test_a_poisonous_completion_fails_alone(caplog):
    pool = pool_of(custom=POISON, seconds=2.0)
    start = time.monotonic()
    [outcomes, others] = run(
        pool, group_of(GOOD, "hang", GOOD, "die", GOOD), group_of(GOOD, number=1)
    )
    assert [type(outcome) for outcome in outcomes] == [Reward, Failure, Reward, Failure, Reward]
    assert outcomes[1] == Failure(
        0, 1, "scoring one completion took longer than 2 s", FailureKind.SERVICE
    )
    assert "process died" in outcomes[3].reason
    assert isinstance(others[0], Reward)
    assert pool.replaced == 6  # three attempts each
    shown = [line for line in caplog.messages if "says nothing; it is here:" in line]
    assert len(shown) == 3
    for line in shown:
        assert "poison" in line or "its stacks cannot be had" in line
    assert time.monotonic() - start < 200


def test_a_scorer_killed_in_the_middle_is_replaced_and_nothing_is_lost():
    pool = pool_of()

    async def scenario():
        await pool.score(group_of(GOOD))  # up and warm
        [worker] = pool._workers
        work = asyncio.create_task(pool.score(group_of(*[GOOD] * 400)))
        await asyncio.sleep(0.05)
        ray.kill(worker.actor)
        try:
            async with asyncio.timeout(120):
                return await work
        finally:
            await pool.close()

    outcomes = asyncio.run(scenario())
    assert len(outcomes) == 400
    assert all(isinstance(outcome, Reward) for outcome in outcomes)
    assert pool.replaced == 1


def test_a_custom_exception_fails_the_group_and_enough_of_them_the_run():
    with pytest.raises(CustomRewardError, match=r"1 distinct.*'poison' raised KeyError"):
        run(pool_of(custom=POISON, custom_errors=1), group_of(GOOD, "raise"))
    [outcomes, others] = run(
        pool_of(custom=POISON, custom_errors=2),
        group_of(GOOD, "raise", "raise"),
        group_of("raise", GOOD, number=1),  # the same fault again: not a distinct one
    )
    assert [type(outcome) for outcome in (*outcomes, *others)] == [Failure] * 5
    assert "KeyError" in outcomes[0].reason


def roomy(cpus: float, *, workers: int = 1, seconds: float = 20.0) -> ScorerPool:
    return ScorerPool(
        RewardsConfig(workers=workers),
        model_type="qwen2_5_vl",
        source=source_digest(),
        cpus=cpus,
        start_seconds=seconds,
        patience=0.2,
    )


def test_a_start_without_room_tells_what_is_free(caplog):
    pool = roomy(64, seconds=1.0)

    async def scenario():
        try:
            await pool.start()
        finally:
            await pool.close()

    with pytest.raises(TimeoutError, match="no scorer has started within 1 s: each takes CPU 64"):
        asyncio.run(scenario())
    [line] = [line for line in caplog.messages if "no scorer has started" in line]
    assert re.search(r"within 0.2 s: each takes CPU 64; free: CPU [12](\.\d)?, ", line)


def test_groups_that_no_worker_starts_for_fail_and_one_without_room_holds_none_up():
    [outcomes, others] = run(roomy(64, seconds=0.3), group_of(GOOD, GOOD), group_of("x", number=1))
    reason = "the start of a scorer took longer than 0.3 s"
    assert outcomes == tuple(Failure(0, i, reason, FailureKind.SERVICE) for i in range(2))
    assert others == (Failure(1, 0, reason, FailureKind.SERVICE),)
    results = run(roomy(1.5, workers=2), *(group_of(GOOD, number=n) for n in range(4)))
    assert [type(outcome) for [outcome] in results] == [Reward] * 4


def test_a_worker_of_other_source_ends_the_run():
    pool = ScorerPool(RewardsConfig(), model_type="qwen2_5_vl", source="another")
    with pytest.raises(ValueError, match="the driver another: install one wheel"):
        run(pool, group_of(GOOD), group_of(GOOD, number=1))


def test_whatever_a_start_raises_reaches_all_who_wait(monkeypatch):
    async def unreadable(*_):
        raise RaySystemError("its answer cannot be read")

    monkeypatch.setattr("rewards.pool._within", unreadable)
    pool = pool_of()

    async def scenario():
        groups = (pool.score(group_of(GOOD, number=number)) for number in range(3))
        found = await asyncio.gather(*groups, return_exceptions=True)
        await pool.close()
        return found

    assert [type(error) for error in asyncio.run(scenario())] == [RaySystemError] * 3


def test_a_worker_without_room_is_the_first_to_go():
    pool = roomy(1.5, workers=2)

    async def scenario():
        await pool.start()
        [serving] = pool._idle
        await pool.resize(1)
        assert pool._workers == {serving}
        [outcome] = await pool.score(group_of(GOOD))
        await pool.close()
        return outcome

    assert isinstance(asyncio.run(scenario()), Reward)
    assert pool.replaced == 0


def test_resizing():
    pool = pool_of()

    async def scenario():
        await pool.resize(2)
        assert len(pool._workers) == 2
        await asyncio.gather(*(pool.score(group_of(GOOD, number=n)) for n in range(4)))
        at_work = [
            asyncio.create_task(pool.score(group_of(*[GOOD] * 50, number=n))) for n in range(2)
        ]
        await asyncio.sleep(0)
        assert not pool._idle
        await pool.resize(1)
        for outcomes in await asyncio.gather(*at_work):  # those at work finish first
            assert all(isinstance(outcome, Reward) for outcome in outcomes)
        assert len(pool._workers) == 1
        assert pool.replaced == 0
        assert pool.seconds > 0
        [outcome] = await pool.score(group_of(GOOD))
        with pytest.raises(ValueError, match="at least 1"):
            await pool.resize(0)
        await pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.score(group_of(GOOD))
        return outcome

    assert isinstance(asyncio.run(scenario()), Reward)


def test_other_source_is_refused():
    pool = ScorerPool(RewardsConfig(), model_type="qwen2_5_vl", source="0123")
    with pytest.raises(ValueError, match="the driver 0123"):
        run(pool, group_of(GOOD))


def test_what_no_worker_could_take_is_refused_at_once():
    with pytest.raises(ValueError, match="llava"):
        ScorerPool(RewardsConfig(), model_type="llava", source="")
    with pytest.raises(ValueError, match=r"rewards.custom.mine"):
        pool_of(custom={"mine": "no_such_module:f"})
